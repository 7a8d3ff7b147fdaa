"""Invoices, payments and settlements, as data, and the port of those who pay. All money is integer msats."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal, Protocol

from pydantic import Field

from swarmc.contracts.canonical import Contract
from swarmc.contracts.relay import Hex64, UnixSeconds

Network = Literal["bitcoin", "testnet", "signet", "regtest"]
"""Which money an invoice asks for: BOLT-11's `lnbc`, `lntb`, `lntbs` and `lnbcrt`."""

Msats = Annotated[int, Field(strict=True, ge=0, le=2_100_000_000_000_000_000)]
"""Millisatoshis, at most all that there will ever be."""


class Invoice(Contract):
    """A BOLT-11 invoice, decoded: whoever has one may rely on it, because its signature held.

    Attributes:
        bolt11: The text itself, in lower case.
        amount_msats: What it asks for; `None` where it leaves that open.
        payee: The node that signed it: a compressed public key in hex.
        expires_at: Unix time from which it must not be paid any more.
    """

    bolt11: str
    payment_hash: Hex64
    amount_msats: Msats | None
    network: Network
    payee: Annotated[str, Field(pattern=r"^0[23][0-9a-f]{64}$")]
    created_at: UnixSeconds
    expires_at: UnixSeconds
    description: str = ""
    description_hash: Hex64 | None = None


class Payment(Contract):
    """A payment that was made: `preimage` proves it, because its SHA-256 is the payment's hash.

    Attributes:
        amount_msats: What the payee got.
        fee_msats: What it cost beside that.
        simulated: The money was not real.
    """

    payment_hash: Hex64
    preimage: Hex64
    amount_msats: Msats
    fee_msats: Msats = 0
    simulated: bool

    @property
    def cost_msats(self) -> int:
        """What the payer parted with."""
        return self.amount_msats + self.fee_msats


class PaymentStatus(Contract):
    """What a wallet knows of a payment it was asked to make.

    `unsent`: it never tried, or its try failed for good: nothing was paid. `pending`: it may still arrive.
    """

    state: Literal["unsent", "pending", "settled"]
    payment: Payment | None = None
    reason: str = ""


class Settlement(Contract):
    """Money that came in for an invoice of ours."""

    payment_hash: Hex64
    amount_msats: Msats
    settled_at: UnixSeconds
    simulated: bool
    preimage: Hex64 | None = None


class Wallet(Protocol):
    """Who pays and is paid, over Lightning invoices.

    Every method raises `WalletError` when the wallet cannot be had.
    """

    @property
    def name(self) -> str:
        """The product: `ledger`, `lnbits`, `nwc`."""
        ...

    @property
    def network(self) -> Network:
        """Which money it holds: invoices of another network are not paid."""
        ...

    @property
    def simulated(self) -> bool:
        """Its money is not real, whatever its invoices say."""
        ...

    @property
    def unit_msats(self) -> int:
        """The smallest amount that it is sure to ask for exactly: 1, or 1,000 where it may know whole satoshis only."""
        ...

    @property
    def late_s(self) -> float:
        """For how many seconds after a process died a payment that it had asked for may still be sent.

        0 where a payment ends with the process that makes it. Within that time `unsent` is not final.
        """
        ...

    async def balance_msats(self) -> int: ...

    async def create_invoice(self, amount_msats: int, *, memo: str, expiry_s: int) -> Invoice:
        """A new invoice over exactly this amount, decoded and checked.

        Raises:
            WalletError: the wallet cannot ask for exactly this (a part of a satoshi, where it knows whole ones).
        """
        ...

    async def pay(self, invoice: Invoice, *, max_fee_msats: int) -> Payment:
        """Pay an invoice. The same invoice again moves no money and gives the same payment.

        The wallet checks what only it can (funds); whether the invoice may be paid is the asker's to say. It
        refuses all the same an invoice that is expired, of another network or without amount.

        Raises:
            WalletError: nothing was paid, or, when `unknown`, that is not known: ask `find_payment`.
        """
        ...

    async def find_payment(self, payment_hash: str) -> PaymentStatus:
        """What became of a payment of ours."""
        ...

    async def find_settlement(self, payment_hash: str) -> Settlement | None:
        """What came in for an invoice of ours; nothing while it is unpaid. A `preimage` in it was checked."""
        ...

    def settlements(self) -> AsyncIterator[str]:
        """Payment hashes of invoices of ours that may have been paid just now, as hints, without end.

        Hints may be missed, doubled or wrong; `find_settlement` decides.
        """
        ...
