"""The file that is a network of play money: SQLite, asked on the event loop, each transaction within one turn of it.

A payment's statements take 0.1 ms and WAL commits do not wait for the disk, so a thread would cost more than it
saves: every statement that runs in one must win the interpreter back from a busy loop. What does wait, opening and
copying the log back into the file, is done in a thread.
"""

import asyncio
import os
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from swarmc.contracts.errors import WalletError

T = TypeVar("T")
MAX_BATCH = 64
"""Operations in one transaction, so that one turn of the loop stays some milliseconds long."""
PATIENCE_S = 30.0
"""How long other processes may keep the file to themselves."""
COPY_EVERY = 500
"""Transactions, after which the log is copied back into the file."""
COPY_WAIT_S = 0.2
"""How long that waits for others before it is left to the next time."""

_APPLICATION = 0x73776D77
_VERSION = 1
_SCHEMA = f"""
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    node_key BLOB NOT NULL,
    balance_msats INTEGER NOT NULL DEFAULT 0 CHECK (balance_msats >= 0)
) STRICT;
CREATE TABLE fundings (
    id INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts,
    amount_msats INTEGER NOT NULL CHECK (amount_msats > 0),
    funded_at INTEGER NOT NULL
) STRICT;
CREATE TABLE invoices (
    id INTEGER PRIMARY KEY,
    payment_hash TEXT NOT NULL UNIQUE,
    payee INTEGER NOT NULL REFERENCES accounts,
    amount_msats INTEGER NOT NULL CHECK (amount_msats > 0),
    bolt11 TEXT NOT NULL,
    preimage TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE TABLE payments (
    id INTEGER PRIMARY KEY,
    invoice INTEGER NOT NULL UNIQUE REFERENCES invoices,
    payer INTEGER NOT NULL REFERENCES accounts,
    paid_at INTEGER NOT NULL
) STRICT;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FIRST_WAIT_S = 0.0002
_LONGEST_WAIT_S = 0.005


@dataclass(slots=True)
class _Asked:
    future: asyncio.Future[Any]
    work: Callable[[sqlite3.Connection], Any]


class LedgerFile:
    """One connection, for the coroutines of one event loop.

    What is asked for in the same turn of the loop is committed together and answered after the commit.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._asked: list[_Asked] = []
        self._is_due = False
        self._busy_since: float | None = None
        self._copying: asyncio.Future[None] | None = None
        self._commits = 0

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path) -> AsyncIterator["LedgerFile"]:
        """The file, made when there is none.

        Raises:
            WalletError: on entering, it cannot be had, or is another program's.
        """
        database = await asyncio.to_thread(_connected, path)
        file = cls(path, database)
        try:
            yield file
        finally:
            file._flush()
            for asked in file._asked:
                asked.future.cancel()
            if file._copying is not None:
                await asyncio.wait([file._copying])
            await asyncio.to_thread(database.close)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, once it is committed.

        Args:
            work: Statements of one operation. A `WalletError` that it raises before its first change is its
                answer; it must raise none later, and may run again after another error.

        Raises:
            WalletError: its own, or the file could not be used; `unknown` when its commit failed.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._asked.append(_Asked(future, work))
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)
        return await future

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, which changes nothing: at once, unless the file is being repaired after a crash.

        Raises:
            WalletError: the file could not be used.
        """
        until = self._loop.time() + PATIENCE_S
        while True:
            try:
                return work(self._database)
            except sqlite3.Error as error:
                if not _is_busy(error) or self._loop.time() > until:
                    raise self._failure(error) from error
            await asyncio.sleep(_LONGEST_WAIT_S)

    def glance(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What `work` returns, which changes nothing, or `otherwise` when the file cannot be read just now.

        Raises:
            WalletError: it was closed.
        """
        try:
            return work(self._database)
        except sqlite3.ProgrammingError as error:
            raise self._failure(error) from error
        except sqlite3.Error:
            return otherwise

    def _flush(self) -> None:
        """Commit what was asked meanwhile. Other processes' transactions are waited for between turns of the loop."""
        self._is_due = False
        self._asked = [asked for asked in self._asked if not asked.future.done()]  # cancelled: nothing is done
        batch = self._asked[:MAX_BATCH]
        if not batch:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if not self._wait_for(error):
                self._answer(batch, [self._failure(error) for _ in batch])
            return
        self._busy_since = None
        self._answer(batch, self._committed(batch))
        self._count()

    def _wait_for(self, error: sqlite3.Error) -> bool:
        """Come back soon, if somebody else has the file and that has not lasted too long."""
        now = self._loop.time()
        self._busy_since = now if self._busy_since is None else self._busy_since
        waited_s = now - self._busy_since
        if not _is_busy(error) or waited_s > PATIENCE_S:
            self._busy_since = None
            return False
        self._is_due = True
        delay_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S + waited_s / 2) * (0.5 + random.random())
        self._loop.call_later(delay_s, self._flush)
        return True

    def _answer(self, batch: list[_Asked], answers: list[Any]) -> None:
        del self._asked[: len(batch)]
        for asked, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                asked.future.set_exception(answer)
            else:
                asked.future.set_result(answer)
        if self._asked and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def _committed(self, batch: list[_Asked]) -> list[Any]:
        """An answer each. Where one breaks the transaction, each gets one of its own."""
        answers: list[Any] = []
        try:
            for asked in batch:
                try:
                    answers.append(asked.work(self._database))
                except WalletError as refusal:
                    answers.append(refusal)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it; a transaction must not stay open
            self._roll_back()
            if len(batch) == 1:
                return [self._failure(error) if isinstance(error, sqlite3.Error) else error]
            return [answer for asked in batch for answer in self._alone(asked)]
        try:
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return [self._failure(error, unknown=True) for _ in batch]
        return answers

    def _alone(self, asked: _Asked) -> list[Any]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            return [self._failure(error)]
        return self._committed([asked])

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # SQLite has done it by itself
            self._database.execute("ROLLBACK")

    def _count(self) -> None:
        self._commits += 1
        if self._commits >= COPY_EVERY and (self._copying is None or self._copying.done()):
            self._commits = 0
            self._copying = self._loop.run_in_executor(None, _copy_back, self.path)

    def _failure(self, error: sqlite3.Error, *, unknown: bool = False) -> WalletError:
        return _failure(self.path, error, unknown=unknown)


def _connected(path: Path) -> sqlite3.Connection:
    """A connection that waits for nobody, to a file that has our tables."""
    until = time.monotonic() + PATIENCE_S
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # it will hold the accounts' keys
    except OSError as error:
        raise WalletError(f"opening the wallet file {path}: {error.strerror}; give another path") from error
    while True:
        database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(path, database)
        except sqlite3.Error as error:
            database.close()
            if not _is_busy(error) or time.monotonic() > until:
                raise _failure(path, error) from error
        except WalletError:
            database.close()
            raise
        else:
            return database
        threading.Event().wait(_LONGEST_WAIT_S)  # turning on WAL fails at once while another process does it


def _prepare(path: Path, database: sqlite3.Connection) -> None:
    _refuse_foreign(path, database)
    database.execute("PRAGMA journal_mode = WAL")
    # Survives the death of any process; a power cut may take the last moments, never the sums.
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")  # `_copy_back` does it, off the loop
    database.execute("BEGIN IMMEDIATE")
    if not _refuse_foreign(path, database):
        for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
            database.execute(statement)
    database.execute("COMMIT")


def _refuse_foreign(path: Path, database: sqlite3.Connection) -> bool:
    """Whether our tables are there; nothing may be there beside them."""
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if tables and application != _APPLICATION:
        raise WalletError(f"{path} is another program's database: give another path")
    if tables and version != _VERSION:
        raise WalletError(f"{path} is a wallet file of version {version}, this program reads {_VERSION}: give another")
    return bool(tables)


def _copy_back(path: Path) -> None:
    """Copy the log into the file, so that the log begins anew.

    Most of it is copied, and waited for, while others go on writing; they wait only for what came in meanwhile.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=COPY_WAIT_S, isolation_level=None)) as database:
        database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        database.execute("PRAGMA wal_checkpoint(FULL)").fetchall()


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in _BUSY


def _failure(path: Path, error: sqlite3.Error, *, unknown: bool = False) -> WalletError:
    if _is_busy(error):
        advice = "another program keeps it locked: end that program, then try again"
    else:
        advice = "nothing was moved" if not unknown else "look the payment up before anything else"
    return WalletError(f"the wallet file {path}: {error}; {advice}", retryable=_is_busy(error), unknown=unknown)
