"""A wallet service that speaks NIP-47 over a real relay in front of another wallet, and misbehaves when told to."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from swarmc.contracts.errors import WalletError
from swarmc.contracts.market import Encryption
from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.contracts.wallet import Invoice, Wallet
from swarmc.nostr.encryption import decrypt_any, encrypt_as
from swarmc.nostr.events import check_event, event_json, sign_note
from swarmc.nostr.invoices import decode_invoice
from swarmc.nostr.keys import SecretKey

METHODS = ("pay_invoice", "make_invoice", "lookup_invoice", "get_balance", "get_info")
WORDS: dict[Encryption, str] = {"nip44": "nip44_v2", "nip04": "nip04"}


@dataclass
class Manners:
    """What the service does beside the right thing.

    Attributes:
        schemes: What it offers and takes.
        methods: What it offers.
        notifies: It tells of payments that came in.
        late_s: It answers so late, by method.
        swallows: Methods that it carries out without ever answering.
        deaf_to: Methods that it does not even carry out.
        liars: Other keys that answer first, with a result of their own.
        wrong_request: It answers about another request first.
        repeats: It says everything twice, and the first answer of all once more.
        quota_msats: More it does not pay in one payment.
        whole_sats: It rounds down to whole satoshis without a word.
        preimage: What it says in place of the true one.
    """

    schemes: tuple[Encryption, ...] = ("nip44", "nip04")
    methods: tuple[str, ...] = METHODS
    notifies: bool = False
    late_s: dict[str, float] = field(default_factory=dict)
    swallows: set[str] = field(default_factory=set)
    deaf_to: set[str] = field(default_factory=set)
    liars: int = 0
    wrong_request: bool = False
    repeats: bool = False
    quota_msats: float = math.inf
    whole_sats: bool = False
    preimage: str | None = None


class Refusal(Exception):
    """An error of NIP-47."""


@dataclass
class NwcService:
    """The service under way.

    Attributes:
        asked: The methods of the requests that came, in order.
        spoken: The encryption of each.
        paid: Invoices handed to the wallet, in order, doubled ones too.
    """

    wallet: Wallet
    relay_url: str
    manners: Manners
    key: SecretKey = field(default_factory=SecretKey.generate)
    client: SecretKey = field(default_factory=SecretKey.generate)
    asked: list[str] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)
    paid: list[str] = field(default_factory=list)
    said: list[NostrEvent] = field(default_factory=list)
    made: dict[str, Invoice] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        secret = bytes(self.client._key).hex()
        return f"nostr+walletconnect://{self.key.pubkey}?relay={self.relay_url}&secret={secret}"

    async def serve(self, ready: asyncio.Event) -> None:
        async with connect(self.relay_url) as socket, asyncio.TaskGroup() as group:
            await self.publish(socket, sign_note(self._info(), self.key))
            await socket.send(json.dumps(["REQ", "asked", {"kinds": [23194], "#p": [self.key.pubkey]}]))
            if self.manners.notifies:
                group.create_task(self._notify(socket))
            async for raw in socket:
                match json.loads(raw):
                    case ["EOSE", _]:
                        ready.set()
                    case ["EVENT", _, value]:
                        request = check_event(value)
                        assert isinstance(request, NostrEvent)
                        group.create_task(self._answer(socket, request))
                    case _:
                        pass

    async def publish(self, socket: ClientConnection, event: NostrEvent) -> None:
        self.said.append(event)
        await socket.send(f'["EVENT",{event_json(event)}]')

    def _info(self) -> UnsignedNote:
        tags = [("notifications", "payment_received")] if self.manners.notifies else []
        if self.manners.schemes != ("nip04",):
            tags.append(("encryption", " ".join(WORDS[scheme] for scheme in self.manners.schemes)))
        return UnsignedNote(
            kind=13194, created_at=int(time.time()), tags=tuple(tags), content=" ".join(self.manners.methods)
        )

    async def _answer(self, socket: ClientConnection, request: NostrEvent) -> None:
        if request.pubkey != self.client.pubkey or any(int(at) < time.time() for at in request.values("expiration")):
            return
        text, scheme = decrypt_any(request.content, self.key, request.pubkey)
        asked = json.loads(text)
        method = asked["method"]
        self.asked.append(method)
        self.spoken.append(scheme)
        if method in self.manners.deaf_to:
            return
        answer = await self._done(method, asked["params"])
        await asyncio.sleep(self.manners.late_s.get(method, 0))
        if method not in self.manners.swallows:
            await self._say(socket, request, {"result_type": method, **answer}, scheme)

    async def _done(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"error": None, "result": await getattr(self, f"_{method}")(**params)}
        except Refusal as error:
            return {"error": {"code": error.args[0], "message": "as a test wants it"}, "result": None}
        except WalletError as error:
            return {"error": {"code": "PAYMENT_FAILED", "message": str(error)}, "result": None}

    async def _say(self, socket: ClientConnection, request: NostrEvent, body: dict, scheme: Encryption) -> None:
        lie = {**body, "error": None, "result": {"preimage": "00" * 32, "balance": 1, "network": "signet"}}
        for _ in range(self.manners.liars):
            liar = SecretKey.generate()
            content = encrypt_as(scheme, json.dumps(lie), liar, request.pubkey)
            await self.publish(socket, _response(request, request.id, content, liar))
        if self.manners.wrong_request:
            content = encrypt_as(scheme, json.dumps(lie), self.key, request.pubkey)
            await self.publish(socket, _response(request, "ab" * 32, content, self.key))
        content = encrypt_as(scheme, json.dumps(body), self.key, request.pubkey)
        answer = _response(request, request.id, content, self.key)
        for event in (answer, answer, self.said[1] if len(self.said) > 1 else answer)[
            : 3 if self.manners.repeats else 1
        ]:
            await self.publish(socket, event)

    async def _get_info(self) -> dict[str, Any]:
        return {
            "alias": "test",
            "network": {"bitcoin": "mainnet"}.get(self.wallet.network, self.wallet.network),
            "methods": list(self.manners.methods),
            "notifications": [],
        }

    async def _get_balance(self) -> dict[str, Any]:
        return {"balance": await self.wallet.balance_msats()}

    async def _make_invoice(self, amount: int, description: str = "", expiry: int = 3600) -> dict[str, Any]:
        asked_msats = amount // 1000 * 1000 if self.manners.whole_sats else amount
        invoice = await self.wallet.create_invoice(asked_msats, memo=description, expiry_s=expiry)
        self.made[invoice.payment_hash] = invoice
        return _told(invoice, "incoming", "pending")

    async def _pay_invoice(self, invoice: str, amount: int | None = None) -> dict[str, Any]:
        decoded = decode_invoice(invoice)
        self.paid.append(decoded.payment_hash)
        if (decoded.amount_msats or 0) > self.manners.quota_msats:
            raise Refusal("QUOTA_EXCEEDED")
        if (await self.wallet.find_payment(decoded.payment_hash)).state != "unsent":
            raise Refusal("PAYMENT_FAILED")
        payment = await self.wallet.pay(decoded, max_fee_msats=0)
        return {"preimage": self.manners.preimage or payment.preimage, "fees_paid": payment.fee_msats}

    async def _lookup_invoice(self, payment_hash: str = "", invoice: str = "") -> dict[str, Any]:
        payment_hash = payment_hash or decode_invoice(invoice).payment_hash
        made = self.made.get(payment_hash)
        if made is not None:
            settled = await self.wallet.find_settlement(payment_hash)
            told = _told(made, "incoming", "settled" if settled else "pending")
            paid = {"preimage": settled.preimage, "settled_at": settled.settled_at} if settled else {}
            return {**told, **paid}
        status = await self.wallet.find_payment(payment_hash)
        if status.payment is None:
            raise Refusal("NOT_FOUND")
        return {
            "type": "outgoing", "state": "settled", "payment_hash": payment_hash, "settled_at": int(time.time()),
            "preimage": self.manners.preimage or status.payment.preimage, "amount": status.payment.amount_msats,
            "fees_paid": status.payment.fee_msats, "created_at": int(time.time()),
        }  # fmt: skip

    async def _notify(self, socket: ClientConnection) -> None:
        scheme = self.manners.schemes[0]
        async for payment_hash in self.wallet.settlements():
            if payment_hash not in self.made:
                continue
            body = {"notification_type": "payment_received", "notification": await self._lookup_invoice(payment_hash)}
            content = encrypt_as(scheme, json.dumps(body), self.key, self.client.pubkey)
            kind = 23197 if scheme == "nip44" else 23196
            note = UnsignedNote(
                kind=kind, created_at=int(time.time()), tags=(("p", self.client.pubkey),), content=content
            )
            await self.publish(socket, sign_note(note, self.key))


@asynccontextmanager
async def nwc_service(wallet: Wallet, relay_url: str, manners: Manners | None = None) -> AsyncIterator[NwcService]:
    """A service in front of `wallet` until the context ends."""
    service, ready = NwcService(wallet, relay_url, manners or Manners()), asyncio.Event()
    task = asyncio.create_task(service.serve(ready))
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        yield service
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _response(request: NostrEvent, request_id: str, content: str, author: SecretKey) -> NostrEvent:
    tags = (("p", request.pubkey), ("e", request_id))
    return sign_note(UnsignedNote(kind=23195, created_at=int(time.time()), tags=tags, content=content), author)


def _told(invoice: Invoice, direction: str, state: str) -> dict[str, Any]:
    return {
        "type": direction, "state": state, "invoice": invoice.bolt11, "payment_hash": invoice.payment_hash,
        "amount": invoice.amount_msats, "description": invoice.description, "fees_paid": 0,
        "created_at": invoice.created_at, "expires_at": invoice.expires_at,
    }  # fmt: skip
