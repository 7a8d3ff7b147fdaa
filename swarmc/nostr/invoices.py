"""BOLT-11: what a Lightning invoice says and who signed it, and the writing of our own.

Source: https://github.com/lightning/bolts/blob/master/11-payment-encoding.md
"""

import hashlib
import hmac
import re
from base64 import b32encode
from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn, final

from coincurve import PrivateKey, PublicKey

from swarmc.contracts.wallet import Invoice, Network

MAX_INVOICE_LETTERS = 8192
"""Of the text; with several private routes an invoice has some 1,500."""

MAX_MSATS = 2_100_000_000_000_000_000
MAX_TIME_S = 2**53 - 1
MAX_CREATED_AT = 2**35 - 1
MAX_DESCRIPTION_BYTES = 639
"""What a `d` field holds. Of a longer description an invoice carries the SHA-256."""

DEFAULT_EXPIRY_S = 3600
FINAL_CLTV_BLOCKS = 18
KNOWN_FEATURES = frozenset({8, 14, 16, 24, 36, 48})
"""BOLT-9's even bits for invoices: onion format, payment secret, parts, blinded routes, attribution, metadata."""

_FIELD_BITS = 1023 * 5
_UNKNOWN_DEMANDS = sum(1 << bit for bit in range(0, _FIELD_BITS, 2) if bit not in KNOWN_FEATURES)

_LETTERS = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_DIGITS = b"0123456789abcdefghijklmnopqrstuv"  # As Python's int(text, 32) reads them, in one pass of C.
_VALUES = bytes(range(32))
_VALUE_OF_LETTER = bytes.maketrans(_LETTERS, _VALUES)
_DIGIT_OF_VALUE = bytes.maketrans(_VALUES, _DIGITS)
_LETTER_OF_VALUE = bytes.maketrans(_VALUES, _LETTERS)
_VALUE_OF_RFC4648 = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _VALUES)

_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CARRY = tuple(
    (_GENERATOR[0] if top & 1 else 0)
    ^ (_GENERATOR[1] if top & 2 else 0)
    ^ (_GENERATOR[2] if top & 4 else 0)
    ^ (_GENERATOR[3] if top & 8 else 0)
    ^ (_GENERATOR[4] if top & 16 else 0)
    for top in range(32)
)
_CHECKSUM_LETTERS = 6
_TIME_LETTERS = 7
_SIGNATURE_LETTERS = 104

_PREFIXES: Mapping[Network, str] = MappingProxyType(
    {"bitcoin": "lnbc", "testnet": "lntb", "signet": "lntbs", "regtest": "lnbcrt"}
)
_NETWORKS: Mapping[str, Network] = MappingProxyType({prefix: network for network, prefix in _PREFIXES.items()})
_PREFIX = re.compile(r"(lnbcrt|lnbc|lntbs|lntb)(?:([1-9][0-9]{0,19})([munp]?))?")
_MSATS = (("", 100_000_000_000), ("m", 100_000_000), ("u", 100_000), ("n", 100))
"""What one unit of each multiplier is worth, largest first; below them is `p`, of which ten make one msat."""

_PAYMENT_HASH, _SECRET, _DESCRIPTION, _EXPIRY, _CLTV, _PAYEE, _DESCRIPTION_HASH, _FEATURES = 1, 16, 13, 6, 24, 19, 23, 5
_LENGTHS: Mapping[int, int] = MappingProxyType({_PAYMENT_HASH: 52, _SECRET: 52, _DESCRIPTION_HASH: 52, _PAYEE: 53})
_READ = frozenset({_PAYMENT_HASH, _SECRET, _DESCRIPTION, _EXPIRY, _PAYEE, _DESCRIPTION_HASH, _FEATURES})
_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_HIGHEST_LOW_S = _ORDER // 2


@final
class Node:
    """The key that signs a node's invoices, and the network it is on. Its text forms do not show the key.

    Attributes:
        network: Which money its invoices ask for.
        pubkey: The node's id: its compressed public key in hex.
    """

    __slots__ = ("_key", "network", "pubkey")

    def __init__(self, secret: bytes, network: Network) -> None:
        """Take 32 bytes.

        Raises:
            ValueError: another length, zero, or beyond the order of the curve.
        """
        if len(secret) != 32 or not any(secret):
            raise ValueError("a node's key is 32 bytes that are not all zero")
        try:
            self._key = PrivateKey(secret)
        except ValueError:
            # Without the cause, whose traceback would hold the bytes.
            raise ValueError("a node's key is below the order of secp256k1; this one is not") from None
        self.network: Network = network
        self.pubkey = self._key.public_key.format().hex()

    def sign(self, digest: bytes) -> bytes:
        """The 64 bytes of an ECDSA signature of a 32-byte digest, and the byte from which its key is recovered."""
        return self._key.sign_recoverable(digest, hasher=None)

    def payment_secret(self, payment_hash: str) -> bytes:
        """32 bytes that only this node can make, another for every payment."""
        return hmac.new(self._key.secret, f"payment secret {payment_hash}".encode(), hashlib.sha256).digest()

    def __repr__(self) -> str:
        return f"Node({self.pubkey} on {self.network})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a node's key is not pickled: it would lie about in plain bytes")


def decode_invoice(text: str) -> Invoice:
    """Read an invoice that a stranger wrote and check who signed it.

    Fields that say nothing to us (`c`, `f`, `r`, `m`, unknown ones, and those of another length than they must
    have) are skipped; of a field that comes twice the first counts. Whether it may be paid is not asked here.

    Args:
        text: The invoice, all in one case; `lightning:` before it and white space around it are dropped.

    Raises:
        ValueError: it is no invoice as BOLT-11 wants it, of an unknown network, its checksum or signature does
            not hold, or it demands a feature that we do not know.
    """
    written = _bare(text)
    prefix, _, letters = written.rpartition("1")
    network, amount_msats = _asked(prefix)
    values = _checked_values(prefix, letters)
    signed, signature = values[:-_SIGNATURE_LETTERS], _octets(values[-_SIGNATURE_LETTERS:])
    created_at = _number(signed[:_TIME_LETTERS])
    fields = _fields(signed)
    _check_fields(fields)
    description_hash = fields.get(_DESCRIPTION_HASH)
    return Invoice(
        bolt11=written,
        payment_hash=_octets(fields[_PAYMENT_HASH]).hex(),
        amount_msats=amount_msats,
        network=network,
        payee=_payee(_digest(prefix, signed), signature, fields.get(_PAYEE)),
        created_at=created_at,
        expires_at=_expires_at(created_at, fields.get(_EXPIRY)),
        description=_text(fields.get(_DESCRIPTION, b"")),
        description_hash=None if description_hash is None else _octets(description_hash).hex(),
    )


def make_invoice(
    node: Node, payment_hash: str, amount_msats: int | None, *, created_at: int, expiry_s: int, description: str = ""
) -> Invoice:
    """Write and sign an invoice. What `decode_invoice` reads from it is what this returns.

    Args:
        node: Who is paid, and on which network.
        payment_hash: SHA-256, in hex, of the preimage that will prove the payment.
        amount_msats: What is asked for; `None` leaves it open.
        created_at: Unix time.
        expiry_s: From `created_at` on.
        description: For people; above `MAX_DESCRIPTION_BYTES` in UTF-8 the invoice carries its hash alone.

    Raises:
        ValueError: a number out of its range, a hash that is none, or half a character in the description.
    """
    _check_terms(payment_hash, amount_msats, created_at, expiry_s)
    told = _utf8(description)
    hashed = hashlib.sha256(told).digest() if len(told) > MAX_DESCRIPTION_BYTES else None
    prefix = _PREFIXES[node.network] + _amount(amount_msats)
    signed = b"".join(
        (
            _quintets(created_at, _TIME_LETTERS),
            _field(_PAYMENT_HASH, _values_of(bytes.fromhex(payment_hash))),
            _field(_DESCRIPTION, _values_of(told)) if hashed is None else _field(_DESCRIPTION_HASH, _values_of(hashed)),
            _field(_EXPIRY, _shortest(expiry_s)),
            _field(_CLTV, _shortest(FINAL_CLTV_BLOCKS)),
            _field(_SECRET, _values_of(node.payment_secret(payment_hash))),
            _field(_FEATURES, _shortest(1 << 8 | 1 << 14)),
        )
    )
    values = signed + _values_of(node.sign(_digest(prefix, signed)))
    checksum = _quintets(_remainder(prefix, values + bytes(_CHECKSUM_LETTERS)) ^ 1, _CHECKSUM_LETTERS)
    letters = (values + checksum).translate(_LETTER_OF_VALUE).decode()
    return Invoice(
        bolt11=f"{prefix}1{letters}",
        payment_hash=payment_hash,
        amount_msats=amount_msats,
        network=node.network,
        payee=node.pubkey,
        created_at=created_at,
        expires_at=created_at + expiry_s,
        description=description if hashed is None else "",
        description_hash=None if hashed is None else hashed.hex(),
    )


def _bare(text: str) -> str:
    """The invoice in lower case, without what may stand around it."""
    if len(text) > MAX_INVOICE_LETTERS:
        raise ValueError(f"an invoice of {len(text)} letters is not read: the most are {MAX_INVOICE_LETTERS}")
    word = text.strip()
    if word[:10].lower() == "lightning:":
        word = word[10:]
    lower = word.lower()
    if not word.isascii() or word not in (lower, word.upper()):
        raise ValueError("an invoice is written in ASCII letters, all lower case or all upper case; this text is not")
    return lower


def _asked(prefix: str) -> tuple[Network, int | None]:
    """The network and the msats, if any, that the human-readable part asks for."""
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        shown = prefix[:30] + "..." if len(prefix) > 30 else prefix
        raise ValueError(f"{shown!r} is no beginning of an invoice: lnbc, lntb, lntbs or lnbcrt and an amount is")
    word, digits, unit = match.groups()
    if digits is None:
        return _NETWORKS[word], None
    if unit == "p":
        msats, rest = divmod(int(digits), 10)
        if rest:
            raise ValueError(f"the invoice asks for {digits}p, which is no whole number of msats")
    else:
        msats = int(digits) * dict(_MSATS)[unit]
    if msats > MAX_MSATS:
        raise ValueError(f"the invoice asks for {msats} msats, more than there will ever be")
    return _NETWORKS[word], msats


def _checked_values(prefix: str, letters: str) -> bytes:
    """The 5-bit values of time, fields and signature, after their checksum was found right and dropped."""
    raw = letters.encode()
    if len(raw) < _TIME_LETTERS + _SIGNATURE_LETTERS + _CHECKSUM_LETTERS:
        raise ValueError(f"the invoice is cut short: {len(raw)} letters follow its amount, fewer than a signature has")
    if raw.translate(None, _LETTERS):
        raise ValueError("the invoice holds a letter that bech32 does not know")
    values = raw.translate(_VALUE_OF_LETTER)
    if _remainder(prefix, values) != 1:
        raise ValueError("the invoice's checksum is wrong: it was changed or cut on its way")
    return values[:-_CHECKSUM_LETTERS]


def _remainder(prefix: str, values: bytes) -> int:
    """BIP-173's checksum polynomial over the prefix and what follows; 1 says that nothing was changed."""
    raw = prefix.encode()
    rest = 1
    for value in bytes(letter >> 5 for letter in raw) + b"\0" + bytes(letter & 31 for letter in raw) + values:
        rest = (rest & 0x1FFFFFF) << 5 ^ value ^ _CARRY[rest >> 25]
    return rest


def _fields(signed: bytes) -> dict[int, bytes]:
    """The fields that we read, each by its type as 5-bit values: the first of every kind."""
    fields: dict[int, bytes] = {}
    at, end = _TIME_LETTERS, len(signed)
    while at < end:
        if at + 3 > end:
            raise ValueError("the invoice ends within the head of a field")
        kind, length = signed[at], signed[at + 1] << 5 | signed[at + 2]
        at += 3
        if at + length > end:
            raise ValueError(f"the invoice ends within a field: {length} letters are announced, {end - at} are left")
        if kind in _READ and kind not in fields and _LENGTHS.get(kind, length) == length:
            fields[kind] = signed[at : at + length]
        at += length
    return fields


def _check_fields(fields: Mapping[int, bytes]) -> None:
    if _PAYMENT_HASH not in fields:
        raise ValueError("the invoice names no payment hash: nothing could prove that it was paid")
    if _SECRET not in fields:
        raise ValueError("the invoice has no payment secret, without which no payment arrives")
    if (_DESCRIPTION in fields) == (_DESCRIPTION_HASH in fields):
        raise ValueError("an invoice has a description or a description's hash, and not both; this one breaks that")
    demanded = _number(fields.get(_FEATURES, b"")) & _UNKNOWN_DEMANDS
    if demanded:
        feature = demanded.bit_length() - 1
        raise ValueError(f"the invoice demands feature {feature}, which we do not know: it cannot be paid")


def _payee(digest: bytes, signature: bytes, named: bytes | None) -> str:
    """The public key, in hex, of whoever signed, who must be the one that is named, if one is."""
    try:
        signer = PublicKey.from_signature_and_message(signature, digest, hasher=None).format().hex()
    except ValueError:
        raise ValueError("the invoice's signature is no signature: no key can have made it") from None
    if named is not None:
        payee = _octets(named).hex()
        if payee != signer:
            raise ValueError(f"the invoice names {payee} as payee, but {signer} signed it")
        if int.from_bytes(signature[32:64], "big") > _HIGHEST_LOW_S:
            raise ValueError("the invoice's signature is the mirrored one (high S), which BOLT-11 refuses beside `n`")
    return signer


def _digest(prefix: str, signed: bytes) -> bytes:
    bits = 5 * len(signed)
    fill = -bits % 8
    data = (_number(signed) << fill).to_bytes((bits + fill) // 8, "big")
    return hashlib.sha256(prefix.encode() + data).digest()


def _expires_at(created_at: int, values: bytes | None) -> int:
    expires_at = created_at + (DEFAULT_EXPIRY_S if values is None else _number(values))
    if expires_at > MAX_TIME_S:
        raise ValueError("the invoice expires later than any date that can be written")
    return expires_at


def _text(values: bytes) -> str:
    try:
        return _octets(values).decode()
    except UnicodeDecodeError:
        raise ValueError("the invoice's description is no UTF-8") from None


def _number(values: bytes) -> int:
    return int(values.translate(_DIGIT_OF_VALUE), 32) if values else 0


def _octets(values: bytes) -> bytes:
    """The whole bytes in 5-bit values; what is left at their end is fill."""
    size, fill = divmod(5 * len(values), 8)
    return (_number(values) >> fill).to_bytes(size, "big")


def _values_of(data: bytes) -> bytes:
    """Bytes as 5-bit values, zeros filled in at the end."""
    return b32encode(data).rstrip(b"=").translate(_VALUE_OF_RFC4648)


def _quintets(number: int, length: int) -> bytes:
    return bytes(number >> 5 * place & 31 for place in reversed(range(length)))


def _shortest(number: int) -> bytes:
    return _quintets(number, (number.bit_length() + 4) // 5)


def _field(kind: int, values: bytes) -> bytes:
    return bytes((kind, len(values) >> 5, len(values) & 31)) + values


def _amount(amount_msats: int | None) -> str:
    """The shortest way to write it."""
    if amount_msats is None:
        return ""
    for unit, worth in _MSATS:
        if amount_msats % worth == 0:
            return f"{amount_msats // worth}{unit}"
    return f"{amount_msats}0p"


def _check_terms(payment_hash: str, amount_msats: int | None, created_at: int, expiry_s: int) -> None:
    if re.fullmatch("[0-9a-f]{64}", payment_hash) is None:
        raise ValueError(f"{payment_hash!r} is no payment hash: 64 digits of lower-case hex are")
    if amount_msats is not None and not 0 < amount_msats <= MAX_MSATS:
        raise ValueError(f"no invoice can ask for {amount_msats} msats")
    if not 0 <= created_at <= MAX_CREATED_AT:
        raise ValueError(f"an invoice's time is a Unix time of at most 35 bits; {created_at} is not")
    if not 0 < expiry_s <= MAX_TIME_S - MAX_CREATED_AT:
        raise ValueError(f"an invoice cannot expire after {expiry_s} s")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("the description holds half a character (a lone surrogate)") from None
