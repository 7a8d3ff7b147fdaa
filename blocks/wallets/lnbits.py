"""A wallet of an LNbits server, by its REST interface: the way from play money to real money without other code."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, final

from prefect.blocks.core import Block  # noqa: F401 - pydantic resolves the base's annotations by this name
from pydantic import ConfigDict, Field, SecretStr, field_validator
from yarl import URL

from blocks.wallets.block import WalletBlock
from blocks.wallets.hints import Hints
from blocks.wallets.lnbits_rest import LnbitsRest
from blocks.wallets.paying import Paying, Unsent, check_asked_for, check_terms, checked_preimage
from swarmc.contracts.errors import WalletError, boundary
from swarmc.contracts.wallet import Invoice, Network, Payment, PaymentStatus, Settlement, Wallet
from swarmc.nostr.invoices import decode_invoice

NAME = "lnbits"
SAT_MSATS = 1000
ASK_AGAIN_S = 2.0
GRACE_S = 10.0
"""How long after a request of unknown end the server may still tell nothing of a payment that it began."""

PAYMENTS = "/api/v1/payments"
UNREADABLE = (ValueError, KeyError, TypeError)
FAKE_NODE = "02b3cfa77350f0b6c53a207c98d229983a2d9906bf75bd3ce5ec2c52d8dbc7a991"
"""Who signs the invoices of LNbits' FakeWallet, unless its secret was changed."""


@final
class Lnbits(WalletBlock):
    """A wallet of an LNbits server. LNbits knows whole satoshis alone, and no network but that of its node."""

    _block_type_name = "swarmc wallet by LNbits"
    _block_type_slug = "swarmc-lnbits"

    model_config = ConfigDict(hide_input_in_errors=True, extra="forbid")

    base_url: str = Field(title="Address", description="Where the server is, such as http://127.0.0.1:5000")
    invoice_key: SecretStr = Field(description="The wallet's invoice key: asks for money and sees what came in.")
    admin_key: SecretStr | None = Field(default=None, description="The wallet's admin key: pays. Not needed to sell.")
    network: Network = Field(default="bitcoin", description="Which money its node moves.")
    simulated: bool = Field(default=False, description="The server runs on its FakeWallet: its money is not real.")
    timeout_s: float = Field(default=30.0, gt=0, le=600, description="Seconds that the server has for an answer.")

    @field_validator("base_url")
    @classmethod
    def _address(cls, base_url: str) -> str:
        url = URL(base_url)
        if url.scheme not in ("http", "https") or not url.host or url.user or url.query_string:
            raise ValueError("no address; write http://host:port, without user, password or question mark")
        return base_url.rstrip("/")

    def open(self) -> AbstractAsyncContextManager[Wallet]:
        """The wallet, to be entered with `async with`; its key is tried then."""
        return LnbitsWallet(self)


@final
class LnbitsWallet:
    """A `Wallet` port over REST. Entering it asks for the balance, so that a wrong key is known at once.

    Args:
        block: Its configuration.
        grace_s: See `GRACE_S`.
    """

    name = NAME
    unit_msats = SAT_MSATS

    def __init__(self, block: Lnbits, *, grace_s: float = GRACE_S) -> None:
        self.network: Network = block.network
        self.simulated = block.simulated
        self.late_s = block.timeout_s + grace_s
        self._invoice_key = block.invoice_key.get_secret_value()
        self._admin_key = block.admin_key.get_secret_value() if block.admin_key else ""
        secrets = tuple(key for key in (self._invoice_key, self._admin_key) if key)
        self._rest = LnbitsRest(block.base_url, secrets, timeout_s=block.timeout_s)
        self._hints = Hints(self.find_settlement, every_s=ASK_AGAIN_S)
        self._paying = Paying(self.find_payment, grace_s=grace_s)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._rest)
            stack.push_async_callback(self._paying.aclose)
            await self.balance_msats()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def balance_msats(self) -> int:
        told = await self._rest.get("/api/v1/wallet", self._invoice_key)
        if told is None:
            raise WalletError(f"{self._rest.title} knows no wallet by this `invoice_key`; correct the block")
        with self._reading():
            return int(told["balance"])

    async def create_invoice(self, amount_msats: int, *, memo: str, expiry_s: int) -> Invoice:
        """See `Wallet`. A part of a satoshi is refused: LNbits would drop it without a word."""
        check_terms(amount_msats, expiry_s, self._rest.title)
        if amount_msats % SAT_MSATS:
            raise WalletError(
                f"{self._rest.title} knows whole satoshis only, so it cannot ask for {amount_msats} msats; "
                f"ask for a multiple of {SAT_MSATS}"
            )
        asked = {"out": False, "amount": amount_msats // SAT_MSATS, "memo": memo, "expiry": expiry_s}
        told = await self._rest.post(PAYMENTS, self._invoice_key, asked)
        with self._reading():
            invoice = decode_invoice(told["bolt11"])
        check_asked_for(invoice, amount_msats, expiry_s, self.network, self._rest.title)
        self._check_real(invoice)
        self._hints.watch(invoice)
        return invoice

    async def pay(self, invoice: Invoice, *, max_fee_msats: int) -> Payment:
        """See `Wallet`. LNbits takes no cap on the fee, so a fee reserve above it is refused beforehand."""
        return await self._paying.pay(invoice, self.network, partial(self._send, max_fee_msats=max_fee_msats))

    async def find_payment(self, payment_hash: str) -> PaymentStatus:
        """See `Wallet`. What the server does not know is `pending` while a request of ours may still reach it."""
        row = await self._row(payment_hash, outgoing=True)
        if row is not None and row.status == "success":
            return PaymentStatus(state="settled", payment=self._payment(row))
        if self._paying.may_come(payment_hash):
            return PaymentStatus(state="pending", reason="the server may still carry out what it was asked")
        if row is None or row.status == "failed":
            return PaymentStatus(state="unsent", reason="it failed" if row else "the server knows no such payment")
        return PaymentStatus(state="pending", reason="the server is at it")

    async def find_settlement(self, payment_hash: str) -> Settlement | None:
        row = await self._row(payment_hash, outgoing=False)
        # The row of an unpaid invoice has its preimage already: only the status says that it is paid.
        if row is None or row.status != "success":
            return None
        return Settlement(
            payment_hash=payment_hash,
            amount_msats=row.amount_msats,
            settled_at=row.updated_at,
            simulated=self.simulated,
            preimage=checked_preimage(row.preimage, payment_hash, self._rest.title),
        )

    def settlements(self) -> AsyncIterator[str]:
        return self._hints.listen()

    async def _row(self, payment_hash: str, *, outgoing: bool) -> "_Row | None":
        """The server's row of a payment of this wallet; it asks its node anew while the payment is open."""
        told = await self._rest.get(f"{PAYMENTS}/{payment_hash}", self._invoice_key)
        if told is None:
            return None
        if "details" not in told:
            # It answers so, for anybody's payment, to a key that is none.
            raise WalletError(f"{self._rest.title} did not take the `invoice_key`; correct the block")
        with self._reading():
            row = _row(told["details"])
        if row.outgoing == outgoing:
            return row
        # A wallet that pays itself has two rows with one hash, of which the server gives one.
        both = await self._rest.rows(f"{PAYMENTS}?payment_hash={payment_hash}", self._invoice_key)
        with self._reading():
            return next((row for row in map(_row, both) if row.outgoing == outgoing), None)

    async def _send(self, invoice: Invoice, max_fee_msats: int) -> Payment:
        self._check_real(invoice)
        if not self._admin_key:
            raise Unsent(f"paying by {self._rest.title}: the block has no `admin_key`; give it, or use another wallet")
        if not self.simulated:
            await self._check_fee(invoice, max_fee_msats)
        asked = {"out": True, "bolt11": invoice.bolt11}
        told = await self._rest.post(PAYMENTS, self._admin_key, asked, spends=True)
        try:
            row = _row(told)
        except UNREADABLE as error:
            raise WalletError(f"{self._rest.title} paid, or not: {error!r}", unknown=True) from error
        if row.status != "success" or row.payment_hash != invoice.payment_hash:
            raise WalletError(f"{self._rest.title} has not finished paying {invoice.payment_hash[:16]}", unknown=True)
        return self._payment(row)

    def _payment(self, row: "_Row") -> Payment:
        preimage = checked_preimage(row.preimage, row.payment_hash, self._rest.title)
        if preimage is None:
            message = f"{self._rest.title} says that {row.payment_hash[:16]} is paid, but gave no preimage to prove it"
            raise WalletError(message, unknown=True)
        return Payment(
            payment_hash=row.payment_hash,
            preimage=preimage,
            amount_msats=row.amount_msats,
            fee_msats=row.fee_msats,
            simulated=self.simulated,
        )

    async def _check_fee(self, invoice: Invoice, max_fee_msats: int) -> None:
        told = await self._rest.get(f"{PAYMENTS}/fee-reserve?invoice={invoice.bolt11}", self._invoice_key)
        with self._reading():
            reserve_msats = int((told or {})["fee_reserve"])
        if reserve_msats > max_fee_msats:
            raise Unsent(
                f"paying {invoice.payment_hash[:16]}: {self._rest.title} may spend {reserve_msats} msats on fees, "
                f"{max_fee_msats} are allowed; allow more, or lower the server's fee reserve"
            )

    def _check_real(self, invoice: Invoice) -> None:
        if invoice.payee == FAKE_NODE and not self.simulated:
            raise Unsent(
                f"{self._rest.title} runs on its FakeWallet, whose money is not real; "
                "set `simulated` in the block, or give the server a node"
            )

    def _reading(self) -> AbstractContextManager[None]:
        return boundary(WalletError, f"reading what {self._rest.title} answered", *UNREADABLE)


@dataclass(frozen=True, slots=True)
class _Row:
    """A payment as LNbits keeps it, of one side."""

    payment_hash: str
    outgoing: bool
    amount_msats: int
    fee_msats: int
    status: str
    preimage: str
    updated_at: int


def _row(told: dict[str, Any]) -> _Row:
    moment = datetime.fromisoformat(told["updated_at"])
    amount_msats = int(told["amount"])
    return _Row(
        payment_hash=told["payment_hash"],
        outgoing=amount_msats < 0,
        amount_msats=abs(amount_msats),
        fee_msats=abs(int(told["fee"])),
        status=told["status"],
        preimage=told["preimage"] or "",
        updated_at=int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()),
    )
