"""One account in a file of play money, as a wallet."""

import asyncio
import hashlib
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, final

from blocks.wallets.ledger_audit import Audit, audited
from blocks.wallets.ledger_file import LedgerFile
from swarmc.contracts.errors import WalletError, boundary
from swarmc.contracts.wallet import Invoice, Network, Payment, PaymentStatus, Settlement
from swarmc.nostr.invoices import MAX_MSATS, Node, make_invoice

SHORTEST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.25
PATIENCE = 200
"""Between two looks for new payments passes this part of the time since the last thing happened."""

_FIND = """
SELECT invoices.id, payee, amount_msats, bolt11, preimage, expires_at, payer, paid_at
FROM invoices LEFT JOIN payments ON payments.invoice = invoices.id WHERE payment_hash = ?
"""
_SINCE = """
SELECT payments.id, payee, payment_hash FROM payments JOIN invoices ON invoices.id = payments.invoice
WHERE payments.id > ? ORDER BY payments.id
"""


class _Row(NamedTuple):
    """An invoice and, once it is paid, by whom and when."""

    id: int
    payee: int
    amount_msats: int
    bolt11: str
    preimage: str
    expires_at: int
    payer: int | None
    paid_at: int | None


@final
class LedgerAccount:
    """A wallet (`swarmc.contracts.wallet.Wallet`) of play money.

    Args:
        file: The network, open.
        account: The account's number in it.
        node: Who signs its invoices.
        clock: Unix time.
    """

    def __init__(self, file: LedgerFile, account: int, node: Node, clock: Callable[[], float]) -> None:
        self._file = file
        self._account = account
        self._node = node
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._active_at = self._loop.time()
        self._waiting: set[asyncio.Future[None]] = set()

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, path: Path, account: str, *, start_msats: int = 0, clock: Callable[[], float] = time.time
    ) -> AsyncIterator["LedgerAccount"]:
        """The account of this name, made with a key of its own and `start_msats` when there is none.

        Raises:
            WalletError: on entering, the file cannot be had, or is another program's.
        """
        async with LedgerFile.opened(path) as file:

            def find(database: sqlite3.Connection) -> tuple[int, bytes]:
                return _account(database, account, start_msats, int(clock()))

            number, key = await file.write(find)
            with boundary(WalletError, f"reading the key of account {account!r} in {path}", ValueError):
                node = Node(key, "regtest")
            yield cls(file, number, node, clock)

    @property
    def name(self) -> str:
        return "ledger"

    @property
    def network(self) -> Network:
        return self._node.network

    @property
    def simulated(self) -> bool:
        return True

    @property
    def unit_msats(self) -> int:
        """See the port."""
        return 1

    @property
    def late_s(self) -> float:
        """See the port."""
        return 0.0

    @property
    def pubkey(self) -> str:
        """The node that signs this account's invoices."""
        return self._node.pubkey

    async def balance_msats(self) -> int:
        def balance(database: sqlite3.Connection) -> int:
            return database.execute("SELECT balance_msats FROM accounts WHERE id = ?", (self._account,)).fetchone()[0]

        return await self._file.read(balance)

    async def fund(self, amount_msats: int) -> None:
        """Credit play money, which comes from nowhere and is kept apart from what was paid.

        Raises:
            WalletError: no amount, or the file would hold more than there will ever be.
        """
        now = int(self._clock())
        await self._file.write(lambda database: _fund(database, self._account, amount_msats, now))

    async def audit(self) -> Audit:
        """Count the whole file.

        Raises:
            WalletError: it does not add up.
        """
        return await asyncio.to_thread(audited, self._file.path)

    async def create_invoice(self, amount_msats: int, *, memo: str, expiry_s: int) -> Invoice:
        """See the port. Any whole number of msats can be asked for."""
        preimage = secrets.token_bytes(32)
        payment_hash = hashlib.sha256(preimage).hexdigest()
        with boundary(WalletError, f"making an invoice over {amount_msats} msats", ValueError):
            invoice = make_invoice(
                self._node,
                payment_hash,
                amount_msats,
                created_at=int(self._clock()),
                expiry_s=expiry_s,
                description=memo,
            )
        row = (payment_hash, self._account, amount_msats, invoice.bolt11, preimage.hex(), invoice.expires_at)

        def keep(database: sqlite3.Connection) -> None:
            columns = "payment_hash, payee, amount_msats, bolt11, preimage, expires_at"
            database.execute(f"INSERT INTO invoices ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)  # noqa: S608

        await self._file.write(keep)
        self._stir()
        return invoice

    async def pay(self, invoice: Invoice, *, max_fee_msats: int) -> Payment:
        """See the port. It costs no fee."""
        del max_fee_msats
        if invoice.network != self.network or invoice.amount_msats is None:
            what = "asks for no amount" if invoice.amount_msats is None else f"is of the network {invoice.network}"
            raise WalletError(f"the invoice {invoice.payment_hash} {what}: a ledger wallet does not pay it")
        now = int(self._clock())
        preimage = await self._file.write(lambda database: _settle(database, self._account, invoice, now))
        return Payment(
            payment_hash=invoice.payment_hash,
            preimage=preimage,
            amount_msats=invoice.amount_msats,
            simulated=True,
        )

    async def find_payment(self, payment_hash: str) -> PaymentStatus:
        row = await self._file.read(lambda database: _row(database, payment_hash))
        if row is None or row.payer != self._account:
            return PaymentStatus(state="unsent", reason="this account has not paid it")
        payment = Payment(
            payment_hash=payment_hash, preimage=row.preimage, amount_msats=row.amount_msats, simulated=True
        )
        return PaymentStatus(state="settled", payment=payment)

    async def find_settlement(self, payment_hash: str) -> Settlement | None:
        row = await self._file.read(lambda database: _row(database, payment_hash))
        if row is None or row.paid_at is None or row.payee != self._account:
            return None
        return Settlement(
            payment_hash=payment_hash,
            amount_msats=row.amount_msats,
            settled_at=row.paid_at,
            simulated=True,
            preimage=row.preimage,
        )

    def settlements(self) -> AsyncIterator[str]:
        """See the port: heard within milliseconds while invoices are made or paid, else within `LONGEST_PAUSE_S`."""
        return self._hints(self._file.glance(_newest, 0))

    async def _hints(self, last: int) -> AsyncIterator[str]:
        version = -1
        while True:
            seen = self._file.glance(_version, version)
            if seen != version:
                version = seen
                for number, payee, payment_hash in self._file.glance(partial(_since, last=last), []):
                    last = number
                    if payee == self._account:
                        self._active_at = self._loop.time()
                        yield payment_hash
            await self._pause()

    def _pause_s(self) -> float:
        idle_s = self._loop.time() - self._active_at
        return min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, idle_s / PATIENCE))

    async def _pause(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(self._pause_s(), _wake, waiter)
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiting.discard(waiter)

    def _stir(self) -> None:
        """Something may be paid soon: look often again."""
        was_s, self._active_at = self._pause_s(), self._loop.time()
        if was_s > SHORTEST_PAUSE_S:
            for waiter in self._waiting:
                _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _account(database: sqlite3.Connection, name: str, start_msats: int, now: int) -> tuple[int, bytes]:
    """The number and the node key of the account of this name."""
    found = database.execute("SELECT id, node_key FROM accounts WHERE name = ?", (name,)).fetchone()
    if found is not None:
        return found
    key = secrets.token_bytes(32)
    number = database.execute("INSERT INTO accounts (name, node_key) VALUES (?, ?)", (name, key)).lastrowid
    assert number is not None
    if start_msats:
        _fund(database, number, start_msats, now)
    return number, key


def _fund(database: sqlite3.Connection, account: int, amount_msats: int, now: int) -> None:
    (before_msats,) = database.execute("SELECT coalesce(sum(amount_msats), 0) FROM fundings").fetchone()
    if not 0 < amount_msats <= MAX_MSATS - before_msats:
        raise WalletError(f"{amount_msats} msats of play money cannot be added to the {before_msats} that there are")
    database.execute(
        "INSERT INTO fundings (account, amount_msats, funded_at) VALUES (?, ?, ?)", (account, amount_msats, now)
    )
    database.execute("UPDATE accounts SET balance_msats = balance_msats + ? WHERE id = ?", (amount_msats, account))


def _settle(database: sqlite3.Connection, account: int, invoice: Invoice, now: int) -> str:
    """Move the money and give the preimage that proves it: of a payment by this account that was made before, too."""
    row = _row(database, invoice.payment_hash)
    what = f"the invoice {invoice.payment_hash}"
    if row is None or row.bolt11 != invoice.bolt11:
        raise WalletError(f"{what} was made by no account of this file: only its own can be paid")
    if row.payer == account:
        return row.preimage
    _refuse_unpayable(row, account, what, now)
    if hashlib.sha256(bytes.fromhex(row.preimage)).hexdigest() != invoice.payment_hash:
        raise WalletError(f"{what} is kept with a preimage that would not prove the payment: the file is damaged")
    paid = database.execute(
        "UPDATE accounts SET balance_msats = balance_msats - ?1 WHERE id = ?2 AND balance_msats >= ?1",
        (row.amount_msats, account),
    )
    if not paid.rowcount:
        (held_msats,) = database.execute("SELECT balance_msats FROM accounts WHERE id = ?", (account,)).fetchone()
        raise WalletError(f"{what} asks for {row.amount_msats} msats, this account holds {held_msats}")
    database.execute(
        "UPDATE accounts SET balance_msats = balance_msats + ? WHERE id = ?", (row.amount_msats, row.payee)
    )
    database.execute("INSERT INTO payments (invoice, payer, paid_at) VALUES (?, ?, ?)", (row.id, account, now))
    return row.preimage


def _refuse_unpayable(row: _Row, account: int, what: str, now: int) -> None:
    if row.payer is not None:
        raise WalletError(f"{what} was paid by another account: one payment settles it")
    if row.payee == account:
        raise WalletError(f"{what} is this account's own; payer and payee need an account each, as in ledger:buyer")
    if now >= row.expires_at:
        raise WalletError(f"{what} expired {now - row.expires_at} s ago; ask for a new one")


def _row(database: sqlite3.Connection, payment_hash: str) -> _Row | None:
    found = database.execute(_FIND, (payment_hash,)).fetchone()
    return None if found is None else _Row(*found)


def _since(database: sqlite3.Connection, *, last: int) -> list[tuple[int, int, str]]:
    return database.execute(_SINCE, (last,)).fetchall()


def _newest(database: sqlite3.Connection) -> int:
    return database.execute("SELECT coalesce(max(id), 0) FROM payments").fetchone()[0]


def _version(database: sqlite3.Connection) -> int:
    """A number that changes when another connection has written."""
    return database.execute("PRAGMA data_version").fetchone()[0]
