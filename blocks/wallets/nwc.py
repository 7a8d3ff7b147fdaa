"""A wallet behind Nostr Wallet Connect (NIP-47), over the relays that its address names."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self, TypeVar, final

from prefect.blocks.core import Block  # noqa: F401 - pydantic resolves the base's annotations by this name
from pydantic import ConfigDict, Field, JsonValue, SecretStr, field_validator

from blocks.wallets.block import WalletBlock
from blocks.wallets.hints import Hints
from blocks.wallets.nwc_line import NwcLine
from blocks.wallets.paying import Paying, Unsent, check_asked_for, check_terms, checked_preimage
from swarmc.contracts.errors import WalletError, boundary
from swarmc.contracts.wallet import Invoice, Network, Payment, PaymentStatus, Settlement, Wallet
from swarmc.nostr import nip47
from swarmc.nostr.invoices import decode_invoice
from swarmc.nostr.nip47 import Method, Notification, Response, Transaction, WalletUri

Given = TypeVar("Given")
Read = TypeVar("Read")

NAME = "nwc"
ASK_AGAIN_S = 2.0
TOLD_ASK_AGAIN_S = 30.0
"""Seconds between two rounds of asking about unpaid invoices, where the wallet tells of payments by itself."""

GRACE_S = 5.0
"""How long after a request's end the wallet may still tell nothing of a payment that it began in time."""

PASSING = frozenset({"RATE_LIMITED", "INTERNAL"})


@final
class Nwc(WalletBlock):
    """A wallet that is asked over Nostr. Whoever has its address spends from it: it is kept as a secret."""

    _block_type_name = "swarmc wallet by Nostr Wallet Connect"
    _block_type_slug = "swarmc-nwc"

    model_config = ConfigDict(hide_input_in_errors=True, extra="forbid")

    uri: SecretStr = Field(
        title="Address",
        description="nostr+walletconnect://<public key>?relay=...&secret=..., as the wallet shows it.",
    )
    timeout_s: float = Field(default=30.0, gt=0, le=600, description="Seconds that the wallet has for an answer.")
    simulated: bool = Field(default=False, description="The wallet's money is not real: a demo or a test.")

    @field_validator("uri")
    @classmethod
    def _readable(cls, uri: SecretStr) -> SecretStr:
        nip47.parse_uri(uri.get_secret_value())
        return uri

    @classmethod
    def named(cls, reference: str) -> Self | None:
        """The wallet of an address, or nothing where this is none."""
        return cls(uri=SecretStr(reference)) if reference.lower().startswith("nostr+walletconnect:") else None

    def open(self) -> AbstractAsyncContextManager[Wallet]:
        """The wallet, to be entered with `async with`; it is asked who it is then."""
        uri = nip47.parse_uri(self.uri.get_secret_value())
        return NwcWallet(uri, timeout_s=self.timeout_s, simulated=self.simulated)


@final
class NwcWallet:
    """A `Wallet` port over relays.

    NIP-47 knows no cap on fees, so `max_fee_msats` is not enforced here; the connection's own budget is.

    Args:
        uri: Whom to ask, and as whom.
        timeout_s: Seconds for each answer.
        simulated: Its money is not real.
        grace_s: See `GRACE_S`.
    """

    name = NAME
    unit_msats = 1_000  # Some services behind it know whole satoshis only, and cut off the rest.

    def __init__(self, uri: WalletUri, *, timeout_s: float, simulated: bool = False, grace_s: float = GRACE_S) -> None:
        self.simulated = simulated
        self.late_s = timeout_s + grace_s
        self._network: Network = "bitcoin"
        self._line = NwcLine(uri, timeout_s=timeout_s, told=self._told)
        self._hints = Hints(self.find_settlement, every_s=ASK_AGAIN_S)
        self._paying = Paying(self.find_payment, grace_s=grace_s)
        self._stack = AsyncExitStack()

    @property
    def network(self) -> Network:
        return self._network

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._line)
            stack.push_async_callback(self._paying.aclose)
            if "get_info" in self._line.info.methods:
                told = await self._ask("get_info", {})
                self._network = self._readable(nip47.read_network, told) or self._network
            if "payment_received" in self._line.info.notifications:
                self._hints.every_s = TOLD_ASK_AGAIN_S
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def balance_msats(self) -> int:
        balance = (await self._ask("get_balance", {})).get("balance")
        if type(balance) is not int or balance < 0:
            raise WalletError(f"{self._line.title} told a balance that is none; does it speak NIP-47?")
        return balance

    async def create_invoice(self, amount_msats: int, *, memo: str, expiry_s: int) -> Invoice:
        """See `Wallet`. What comes back is decoded: some wallets round to whole satoshis without a word."""
        check_terms(amount_msats, expiry_s, self._line.title)
        params: dict[str, JsonValue] = {"amount": amount_msats, "description": memo, "expiry": expiry_s}
        told = self._readable(nip47.read_transaction, await self._ask("make_invoice", params))
        invoice = self._readable(decode_invoice, told.invoice)
        check_asked_for(invoice, amount_msats, expiry_s, self._network, self._line.title)
        self._hints.watch(invoice)
        return invoice

    async def pay(self, invoice: Invoice, *, max_fee_msats: int) -> Payment:  # noqa: ARG002 - see the class
        return await self._paying.pay(invoice, self._network, self._send)

    async def find_payment(self, payment_hash: str) -> PaymentStatus:
        """See `Wallet`. What the wallet does not know is `pending` while a request of ours may still reach it."""
        found = await self._look_up(payment_hash)
        if found is not None and found.direction == "incoming":
            if self._paying.tried(payment_hash):
                raise WalletError(f"{self._line.title} was to pay itself, and tells only what came in")
            found = None
        if found is not None and found.settled:
            return PaymentStatus(state="settled", payment=self._payment(payment_hash, found))
        if self._paying.may_come(payment_hash):
            return PaymentStatus(state="pending", reason="the wallet may still carry out what it was asked")
        if found is None or found.failed:
            return PaymentStatus(state="unsent", reason="it failed" if found else "the wallet knows no such payment")
        return PaymentStatus(state="pending", reason="the wallet is at it")

    async def find_settlement(self, payment_hash: str) -> Settlement | None:
        found = await self._look_up(payment_hash)
        if found is None or not found.settled or found.direction == "outgoing":
            return None
        return Settlement(
            payment_hash=payment_hash,
            amount_msats=found.amount_msats,
            settled_at=found.settled_at or int(time.time()),
            simulated=self.simulated,
            preimage=checked_preimage(found.preimage, payment_hash, self._line.title),
        )

    def settlements(self) -> AsyncIterator[str]:
        return self._hints.listen()

    async def _look_up(self, payment_hash: str) -> Transaction | None:
        response = await self._line.ask("lookup_invoice", {"payment_hash": payment_hash})
        if response.fault is not None and response.fault.code == "NOT_FOUND":
            return None
        found = self._readable(nip47.read_transaction, self._result("lookup_invoice", response))
        if found.payment_hash not in ("", payment_hash):
            raise WalletError(f"{self._line.title} was asked about {payment_hash[:16]} and told of another payment")
        return found

    async def _send(self, invoice: Invoice) -> Payment:
        self._check_offered("pay_invoice")
        response = await self._line.ask("pay_invoice", {"invoice": invoice.bolt11}, spends=True)
        try:
            paid = nip47.read_transaction(self._result("pay_invoice", response))
        except ValueError as error:
            raise WalletError(f"{self._line.title} answered pay_invoice unreadably: {error}", unknown=True) from None
        return self._payment(invoice.payment_hash, paid.model_copy(update={"amount_msats": invoice.amount_msats}))

    def _payment(self, payment_hash: str, told: Transaction) -> Payment:
        preimage = checked_preimage(told.preimage, payment_hash, self._line.title)
        if preimage is None:
            message = f"{self._line.title} says that {payment_hash[:16]} is paid, but gave no preimage to prove it"
            raise WalletError(message, unknown=True)
        return Payment(
            payment_hash=payment_hash,
            preimage=preimage,
            amount_msats=told.amount_msats,
            fee_msats=told.fee_msats,
            simulated=self.simulated,
        )

    def _told(self, told: Notification) -> None:
        payment_hash = told.body.get("payment_hash")
        if told.what == "payment_received" and isinstance(payment_hash, str):
            self._hints.tell(payment_hash)

    async def _ask(self, method: Method, params: dict[str, JsonValue]) -> dict[str, JsonValue]:
        self._check_offered(method)
        return self._result(method, await self._line.ask(method, params))

    def _check_offered(self, method: Method) -> None:
        if method not in self._line.info.methods:
            raise Unsent(f"{self._line.title} does not offer {method}; allow it in the wallet, or use another")

    def _result(self, method: Method, response: Response) -> dict[str, JsonValue]:
        fault = response.fault
        if fault is None:
            return response.result
        message = f"{self._line.title} refused {method}: {fault.code} {fault.message}".rstrip()
        raise WalletError(message, retryable=fault.code in PASSING)

    def _readable(self, read: Callable[[Given], Read], given: Given) -> Read:
        with boundary(WalletError, f"reading what {self._line.title} answered", ValueError):
            return read(given)
