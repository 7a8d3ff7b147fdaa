"""How a wallet behind a network pays: each invoice once, and by what it finds rather than by what it supposes."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import final

from swarmc.contracts.errors import WalletError
from swarmc.contracts.wallet import Invoice, Network, Payment, PaymentStatus
from swarmc.nostr.invoices import MAX_CREATED_AT, MAX_MSATS

MOST_REMEMBERED = 10_000

Send = Callable[[Invoice], Awaitable[Payment]]
Find = Callable[[str], Awaitable[PaymentStatus]]


class Unsent(WalletError):
    """A wallet could not be asked at all, so nothing was paid."""


@final
class Paying:
    """One payment an invoice, whoever asks how often.

    Those who ask together share it. A try of which the end is not known is looked up before the next one.

    Args:
        find: The wallet's `find_payment`.
        grace_s: Seconds after a try of unknown end in which the wallet may still begin it.
    """

    def __init__(self, find: Find, *, grace_s: float) -> None:
        self._find = find
        self._grace_s = grace_s
        self._tasks: dict[str, asyncio.Task[Payment]] = {}
        self._sending: set[str] = set()
        self._tried: OrderedDict[str, float] = OrderedDict()

    async def aclose(self) -> None:
        """Leave what is under way; whether it was paid is found out later."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def pay(self, invoice: Invoice, network: Network, send: Send) -> Payment:
        """Pay it, or give the payment that was made of it. Who gives up waiting does not stop it.

        Args:
            invoice: What to pay.
            network: The wallet's, whose invoices alone are paid.
            send: Hands an invoice to the wallet. It raises `WalletError`: `unknown` where no clear answer came,
                `Unsent` where nothing was handed over.

        Raises:
            WalletError: as `Wallet.pay`.
        """
        task = self._tasks.get(invoice.payment_hash)
        if task is None:
            task = self._tasks[invoice.payment_hash] = asyncio.create_task(self._pay(invoice, network, send))
            task.add_done_callback(lambda done: self._forget(invoice.payment_hash, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise WalletError(f"{_named(invoice)}: the wallet was closed meanwhile", unknown=True) from None

    def may_come(self, payment_hash: str) -> bool:
        """Whether the wallet may still begin a payment that it does not know of yet."""
        return payment_hash in self._sending or self._tried.get(payment_hash, 0) > time.monotonic()

    def tried(self, payment_hash: str) -> bool:
        """Whether it was handed to the wallet by this process."""
        return payment_hash in self._tried or payment_hash in self._sending

    async def _pay(self, invoice: Invoice, network: Network, send: Send) -> Payment:
        if invoice.payment_hash in self._tried:
            before = await self._paid(invoice, "an earlier try")
            if before is not None:
                return before
        try:
            check_payable(invoice, network, time.time())
            return await self._try(invoice, send)
        except WalletError as refused:
            if refused.unknown or isinstance(refused, Unsent):
                raise
            # An invoice that was paid before is refused too.
            before = await self._paid(invoice, str(refused))
            if before is None:
                raise
            return before

    async def _try(self, invoice: Invoice, send: Send) -> Payment:
        may_come_until_s = 0.0
        self._sending.add(invoice.payment_hash)
        try:
            return await send(invoice)
        except (WalletError, asyncio.CancelledError) as error:
            if not isinstance(error, WalletError) or error.unknown:
                may_come_until_s = time.monotonic() + self._grace_s
            raise
        finally:
            self._sending.discard(invoice.payment_hash)
            self._tried[invoice.payment_hash] = may_come_until_s
            if len(self._tried) > MOST_REMEMBERED:
                self._tried.popitem(last=False)

    async def _paid(self, invoice: Invoice, after: str) -> Payment | None:
        """The payment that was made of an invoice, or nothing where none was made nor can come."""
        try:
            status = await self._find(invoice.payment_hash)
        except WalletError as error:
            raise WalletError(f"{_named(invoice)}: {after}; then {error}", retryable=True, unknown=True) from error
        if status.state == "pending":
            raise WalletError(f"{_named(invoice)}: {after}; it may still be paid", retryable=True, unknown=True)
        return status.payment

    def _forget(self, payment_hash: str, task: asyncio.Task[Payment]) -> None:
        del self._tasks[payment_hash]
        if not task.cancelled():
            task.exception()  # Read, for nobody may be left to whom it matters.


def check_payable(invoice: Invoice, network: Network, now_s: float) -> None:
    """Refuse what no wallet may pay, whatever its service would do: some pay what is expired.

    Raises:
        WalletError: the invoice has no amount, is of another network, or is expired.
    """
    if not invoice.amount_msats:
        raise WalletError(f"{_named(invoice)}: it asks for no amount; ask the payee for one that does")
    if invoice.network != network:
        raise WalletError(f"{_named(invoice)}: it is of the network {invoice.network}, this wallet of {network}")
    if now_s >= invoice.expires_at:
        raise WalletError(f"{_named(invoice)}: it is expired since {now_s - invoice.expires_at:.0f} s; ask for another")


def check_terms(amount_msats: int, expiry_s: int, title: str) -> None:
    """Refuse to ask for what nobody can pay.

    Raises:
        WalletError: an amount of nothing or of more than there is, or a time that is over at once.
    """
    if not 0 < amount_msats <= MAX_MSATS or not 0 < expiry_s < MAX_CREATED_AT:
        raise WalletError(f"{title} cannot ask for {amount_msats} msats for {expiry_s} s; both must be above 0")


def check_asked_for(invoice: Invoice, amount_msats: int, expiry_s: int, network: Network, title: str) -> None:
    """Refuse a new invoice of ours that asks for something else than we asked for.

    Raises:
        WalletError: another amount (some wallets round to whole satoshis without a word), another network, or it
            may be paid for longer than we wanted.
    """
    if invoice.amount_msats != amount_msats:
        raise WalletError(
            f"{title} was asked for an invoice over {amount_msats} msats and made one over {invoice.amount_msats}; "
            "ask for whole satoshis, or use a wallet that knows parts of them"
        )
    if invoice.network != network:
        raise WalletError(f"{title} is taken to be on {network}, but made an invoice of {invoice.network}")
    lasts_s = invoice.expires_at - invoice.created_at
    if lasts_s > expiry_s:
        raise WalletError(f"{title} was asked for an invoice that lasts {expiry_s} s and made one that lasts {lasts_s}")


def checked_preimage(preimage: str, payment_hash: str, title: str) -> str | None:
    """A preimage that proves the payment; nothing where the wallet gave none (or zeros, as some do).

    Raises:
        WalletError: it gave one that proves nothing. `unknown`: whether money moved is not known.
    """
    if not preimage.strip("0"):
        return None
    if not proves(preimage, payment_hash):
        raise WalletError(f"{title} gave a preimage that is not that of {payment_hash[:16]}", unknown=True)
    return preimage.lower()


def proves(preimage: str, payment_hash: str) -> bool:
    """Whether a preimage is that of a payment's hash. Never raises on what a stranger gives."""
    try:
        return hashlib.sha256(bytes.fromhex(preimage)).hexdigest() == payment_hash and len(preimage) == 64
    except ValueError:
        return False


def _named(invoice: Invoice) -> str:
    return f"paying the invoice with the hash {invoice.payment_hash[:16]}"
