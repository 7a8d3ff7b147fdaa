"""NIP-47, Nostr Wallet Connect: the address of a wallet, what is asked of it, and what it may answer.

Source: NIP-47. A note that is not from the wallet, not to us or about nothing we asked is no answer at all.
"""

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl, urlsplit

import orjson
from pydantic import Field, JsonValue

from swarmc.contracts.canonical import Contract
from swarmc.contracts.market import Encryption
from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.contracts.wallet import Network
from swarmc.nostr.encryption import decrypt_any, encrypt_as
from swarmc.nostr.keys import SecretKey, parse_pubkey

INFO = 13194
REQUEST = 23194
RESPONSE = 23195
NOTIFICATION: dict[Encryption, int] = {"nip04": 23196, "nip44": 23197}

MOST_RELAYS = 20
LONGEST_URI = 8192

Method = Literal["pay_invoice", "make_invoice", "lookup_invoice", "get_balance", "get_info", "list_transactions"]

ErrorCode = Literal[
    "RATE_LIMITED",
    "NOT_IMPLEMENTED",
    "INSUFFICIENT_BALANCE",
    "QUOTA_EXCEEDED",
    "RESTRICTED",
    "UNAUTHORIZED",
    "INTERNAL",
    "UNSUPPORTED_ENCRYPTION",
    "PAYMENT_FAILED",
    "NOT_FOUND",
    "OTHER",
]

_SCHEMES: dict[str, Encryption] = {"nip44_v2": "nip44", "nip04": "nip04"}
_WORDS = {scheme: word for word, scheme in _SCHEMES.items()}
_NETWORKS: dict[str, Network] = {
    "mainnet": "bitcoin",
    "bitcoin": "bitcoin",
    "testnet": "testnet",
    "signet": "signet",
    "regtest": "regtest",
}


@dataclass(frozen=True, slots=True)
class WalletUri:
    """Where a wallet is asked, and the key it knows us by. Its text form does not show that key.

    Attributes:
        service: The wallet's public key in hex.
        relays: Where it listens, each once.
        key: Signs what we ask; its public key names this connection.
        lud16: A lightning address of the wallet, where it has one.
    """

    service: str
    relays: tuple[str, ...]
    key: SecretKey
    lud16: str = ""


class ServiceInfo(Contract):
    """What a wallet says of itself (kind 13194).

    Attributes:
        methods: What it can be asked, words that NIP-47 does not know included.
        schemes: How it can be spoken with, the better one first.
        notifications: What it tells of without being asked.
    """

    methods: tuple[str, ...]
    schemes: tuple[Encryption, ...] = Field(min_length=1)
    notifications: tuple[str, ...] = ()


class Fault(Contract):
    """Why a wallet did not do what it was asked."""

    code: ErrorCode
    message: str = ""


class Response(Contract):
    """A wallet's answer to one request: a fault, or a result.

    Attributes:
        request_id: The event that asked.
        method: What the wallet says it was asked.
    """

    request_id: str
    method: str
    result: dict[str, JsonValue] = Field(default={})
    fault: Fault | None = None


class Notification(Contract):
    """What a wallet tells unasked: `payment_received`, `payment_sent`."""

    what: str
    body: dict[str, JsonValue]


class Transaction(Contract):
    """An invoice or a payment as a wallet tells of it. Nothing in it is checked yet but its types.

    Attributes:
        direction: `incoming` to this wallet, or `outgoing`; empty where the wallet does not say.
        settled: The money moved.
        failed: It says that it never will.
        preimage: 64 hex digits, or empty.
    """

    payment_hash: str
    direction: Literal["incoming", "outgoing", ""] = ""
    settled: bool = False
    failed: bool = False
    amount_msats: int = 0
    fee_msats: int = 0
    preimage: str = ""
    invoice: str = ""
    settled_at: int | None = None


def parse_uri(text: str) -> WalletUri:
    """Read ``nostr+walletconnect://<pubkey>?relay=wss://...&secret=<64 hex digits>``; several relays may be given.

    Raises:
        ValueError: it is not such an address. No part of it is repeated.
    """
    scheme, _, rest = text.strip().partition(":")
    place, _, query = rest.removeprefix("//").partition("?")
    if scheme.lower() != "nostr+walletconnect" or not query or len(text) > LONGEST_URI:
        raise ValueError("a wallet's address is nostr+walletconnect://<public key>?relay=...&secret=...; this is not")
    try:
        given = parse_qsl(query, max_num_fields=2 * MOST_RELAYS)
    except ValueError:
        raise ValueError("the wallet's address has too many parts, or they cannot be read") from None
    found = [value for name, value in given if name == "secret"]
    if len(found) != 1:
        raise ValueError(f"the wallet's address has {len(found)} secrets; it must have one")
    relays = [_relay(value) for name, value in given if name == "relay"]
    if not 1 <= len(relays) <= MOST_RELAYS:
        raise ValueError(f"the wallet's address names {len(relays)} relays; it must name 1 to {MOST_RELAYS}")
    lud16 = next((value for name, value in given if name == "lud16"), "")
    return WalletUri(_service(place), tuple(dict.fromkeys(relays)), SecretKey.parse(found[0]), lud16)


def read_info(event: NostrEvent, service: str) -> ServiceInfo | None:
    """What a wallet says of itself; nothing when the note is another's, or names no scheme that we speak.

    A wallet without an `encryption` tag speaks NIP-04 alone.
    """
    if event.kind != INFO or event.pubkey != service:
        return None
    offered = " ".join(event.values("encryption")) or "nip04"
    words = offered.replace(",", " ").split()
    schemes: list[Encryption] = [scheme for word, scheme in _SCHEMES.items() if word in words]
    if not schemes:
        return None
    notifications = " ".join(event.values("notifications")).split()
    methods = tuple(dict.fromkeys(event.content.split()))
    return ServiceInfo(methods=methods, schemes=tuple(schemes), notifications=tuple(notifications))


def request_note(
    uri: WalletUri, method: Method, params: dict[str, JsonValue], *, scheme: Encryption, now_s: int, until_s: int
) -> UnsignedNote:
    """A request, to be signed with `uri.key`.

    Args:
        uri: Whom to ask.
        method: What to do.
        params: With what, as NIP-47 names it; money in msats.
        scheme: One that the wallet offers.
        now_s: Unix time.
        until_s: Unix time after which the wallet is not to act on it any more.
    """
    text = orjson.dumps({"method": method, "params": params}).decode()
    tags = (("p", uri.service), ("encryption", _WORDS[scheme]), ("expiration", str(until_s)))
    content = encrypt_as(scheme, text, uri.key, uri.service)
    return UnsignedNote(kind=REQUEST, created_at=now_s, tags=tags, content=content)


def answered_request(event: NostrEvent, uri: WalletUri) -> str | None:
    """The request that a note answers; nothing when it is no answer of this wallet to this connection.

    It costs no decryption, so whatever strangers send is cheap to leave.
    """
    asked = event.values("e")
    if event.kind != RESPONSE or event.pubkey != uri.service or len(asked) != 1:
        return None
    return asked[0] if event.values("p") == (uri.key.pubkey,) else None


def read_response(event: NostrEvent, uri: WalletUri) -> Response:
    """Read a note for which `answered_request` gave a request that still waits.

    Raises:
        ValueError: the wallet wrote what is no answer. What it did is then not known.
    """
    request_id = answered_request(event, uri)
    body = _opened(event, uri)
    method, error, result = body.get("result_type"), body.get("error"), body.get("result")
    if request_id is None or not isinstance(method, str):
        raise ValueError("the wallet's answer does not say what was asked")
    if isinstance(error, dict):
        return Response(request_id=request_id, method=method, fault=_fault(error))
    if error is not None or not isinstance(result, dict):
        raise ValueError("the wallet's answer has neither a result nor an error")
    return Response.model_construct(request_id=request_id, method=method, result=result, fault=None)


def read_notification(event: NostrEvent, uri: WalletUri) -> Notification | None:
    """What the wallet tells unasked; nothing when the note is another's, not to us or cannot be read."""
    if event.kind not in NOTIFICATION.values() or event.pubkey != uri.service:
        return None
    if event.values("p") != (uri.key.pubkey,):
        return None
    try:
        body = _opened(event, uri)
    except ValueError:
        return None
    what, told = body.get("notification_type"), body.get("notification")
    return Notification(what=what, body=told) if isinstance(what, str) and isinstance(told, dict) else None


def read_transaction(body: dict[str, JsonValue]) -> Transaction:
    """A transaction as `make_invoice`, `lookup_invoice`, `list_transactions` and notifications give it.

    Raises:
        ValueError: a field has a type or a size that it cannot have.
    """
    state, settled_at = _text(body, "state"), _number(body, "settled_at")
    direction = _text(body, "type")
    return Transaction(
        payment_hash=_text(body, "payment_hash"),
        direction="incoming" if direction == "incoming" else "outgoing" if direction == "outgoing" else "",
        # Older wallets tell no state, only when it settled.
        settled=state == "settled" if state else bool(settled_at),
        failed=state in ("failed", "expired"),
        amount_msats=_number(body, "amount"),
        fee_msats=_number(body, "fees_paid"),
        preimage=_text(body, "preimage"),
        invoice=_text(body, "invoice"),
        settled_at=settled_at or None,
    )


def read_network(body: dict[str, JsonValue]) -> Network | None:
    """The network in the answer to `get_info`; nothing where the wallet names none that we know."""
    return _NETWORKS.get(_text(body, "network").lower())


def _relay(url: str) -> str:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("ws", "wss") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ValueError("a relay in the wallet's address is none; it is written wss://host or ws://host:port")
    return url.rstrip("/")


def _service(place: str) -> str:
    try:
        return parse_pubkey(place.rstrip("/"))
    except ValueError:
        raise ValueError("the wallet's address must begin with the wallet's public key, 64 hex digits") from None


def _opened(event: NostrEvent, uri: WalletUri) -> dict[str, JsonValue]:
    text, _ = decrypt_any(event.content, uri.key, uri.service)
    try:
        body = orjson.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ValueError("what the wallet wrote is no JSON object")
    return body


def _fault(error: dict[str, JsonValue]) -> Fault:
    given, message = error.get("code"), error.get("message")
    code: ErrorCode = next((word for word in get_args(ErrorCode) if word == given), "OTHER")
    text = message[:300] if isinstance(message, str) else ""
    return Fault(code=code, message="".join(letter if letter.isprintable() else " " for letter in text))


def _text(body: dict[str, JsonValue], name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"the wallet's {name!r} is no text")
    return value


def _number(body: dict[str, JsonValue], name: str) -> int:
    value = body.get(name)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"the wallet's {name!r} is no whole number of at least 0")
    return value
