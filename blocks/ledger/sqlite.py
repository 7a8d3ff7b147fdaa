"""A ledger in one SQLite file, and the lock files beside it that say which runs are owned."""

import errno
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, NullPool, create_engine

from blocks.ledger.database import Database, Trouble
from blocks.ledger.forks import in_forked_children
from swarmc.contracts.canonical import content_id
from swarmc.contracts.errors import LedgerError

BUSY_S = 30
"""How long a transaction waits for another process's, unless the URL says `?timeout=`."""

_CONNECT = {"timeout": BUSY_S, "cached_statements": 512}

OLDEST = (3, 32, 0)
"""The first SQLite that takes the thousand parameters of a long INSERT."""

_PLACE = "choose a place that can be written; SWARMC_HOME names the directory of the default ledger"
_DAMAGE = "move the file away, or restore it from a copy; if it is another program's file, give another path"
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked: end that program, then run again",
    sqlite3.SQLITE_FULL: "free some space on its disk, then run again: what was kept before stays kept",
    sqlite3.SQLITE_IOERR: "look at the disk, its space and its quota, then run again: what was kept before stays kept",
    sqlite3.SQLITE_READONLY: _PLACE,
    sqlite3.SQLITE_CANTOPEN: _PLACE,
    sqlite3.SQLITE_PERM: _PLACE,
    sqlite3.SQLITE_NOTADB: _DAMAGE,
    sqlite3.SQLITE_CORRUPT: _DAMAGE,
}


class Sqlite:
    """SQLite in WAL mode: readers wait for nobody, writers for each other.

    Args:
        url: `sqlite:////absolute/path/ledger.db`. Missing directories are created.

    Raises:
        LedgerError: the URL names no file, or this SQLite is too old.
    """

    mark = "?"
    begin = "BEGIN IMMEDIATE"
    row_lock = ""
    error = sqlite3.Error

    def __init__(self, url: URL) -> None:
        name = url.database or ""
        if name in ("", ":memory:") or name.startswith("file:"):
            raise LedgerError(f"{url} names no file, and a ledger must outlive its process: write sqlite:////path/x.db")
        if sqlite3.sqlite_version_info < OLDEST:
            raise LedgerError(f"SQLite {sqlite3.sqlite_version} is too old for a ledger: {OLDEST} or newer is needed")
        self._path = Path(name).absolute()  # a program may change its directory while the ledger is open
        self._engine = create_engine(
            url.set(database=str(self._path)),
            poolclass=NullPool,
            pool_reset_on_return=None,
            connect_args={name: value for name, value in _CONNECT.items() if name not in url.query},
        )
        self._locks = _LockFiles(self._path.with_name(self._path.name + ".locks"))

    @property
    def where(self) -> str:
        return str(self._path)

    def connect(self) -> Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def prepare(self, database: Database) -> None:
        database.run("PRAGMA page_size = 8192")  # of a new file: two calls of usual size fit a page
        with self._locks.creating():  # two processes that turn on WAL at once get "locked" without any wait
            database.rows("PRAGMA journal_mode = WAL")
        # Survives the death of any process. Only a power cut may take the last moments, never the file's
        # integrity; FULL would sync the disk at every commit, seven times the price.
        database.run("PRAGMA synchronous = NORMAL")
        database.rows("PRAGMA wal_autocheckpoint = 2000")  # 16 MB: pages that change often are copied less often

    def create_alone(self, database: Database) -> None:
        """BEGIN IMMEDIATE has done it."""

    def is_open(self, raw: Any) -> bool:
        return raw is not None

    def trouble(self, error: BaseException | None) -> Trouble:
        return Trouble.ALL if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) else Trouble.ALONE

    def advice(self, error: BaseException | None) -> str:
        if isinstance(error, OSError):
            return _ADVICE[sqlite3.SQLITE_FULL] if error.errno in (errno.ENOSPC, errno.EDQUOT) else _PLACE
        return _ADVICE.get(_code(error), "this operation left nothing behind")

    def take_run(self, database: Database, run_id: str) -> bool:  # noqa: ARG002
        return self._locks.take(run_id)

    def free_run(self, database: Database, run_id: str) -> None:  # noqa: ARG002
        self._locks.free(run_id)

    def owner_of(self, database: Database, run_id: str) -> str | None:  # noqa: ARG002
        return self._locks.owner_of(run_id)

    def close(self) -> None:
        self._locks.close()


class _LockFiles:
    """One `flock`ed file for each owned run: the system frees it when its process dies, however it dies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}
        in_forked_children(self.close)

    def take(self, run_id: str) -> bool:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._path(run_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            os.close(descriptor)
            return False
        with suppress(OSError):  # the process id is for people; a full disk must not keep the lock from us
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._held[run_id] = descriptor
        return True

    def free(self, run_id: str) -> None:
        descriptor = self._held.pop(run_id, None)
        if descriptor is not None:
            os.close(descriptor)

    def owner_of(self, run_id: str) -> str | None:
        try:
            descriptor = os.open(self._path(run_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            # A shared lock, held for a moment: those who only look do not see each other.
            if _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB):
                return None
            return f"process {os.read(descriptor, 20).decode(errors='replace') or 'of unknown number'}"
        finally:
            os.close(descriptor)

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Alone among the processes that open this ledger."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._directory / ".opening", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def close(self) -> None:
        for run_id in list(self._held):
            self.free(run_id)

    def _path(self, run_id: str) -> Path:
        plain = re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", run_id)
        return self._directory / f"{run_id if plain else content_id(run_id.encode()).replace(':', '-')}.lock"


def _flock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


def _code(error: BaseException | None) -> int:
    """SQLite's primary result code, or -1."""
    while error is not None:
        if isinstance(error, sqlite3.Error):
            return getattr(error, "sqlite_errorcode", -1) & 0xFF
        error = error.__cause__ or getattr(error, "orig", None)
    return -1
