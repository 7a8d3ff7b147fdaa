"""A ledger in a PostgreSQL database, and the session locks that say which runs are owned."""

import hashlib
import os
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, NullPool, create_engine

from blocks.ledger.database import Database, Trouble
from blocks.ledger.forks import in_forked_children

LOCK_TIMEOUT_S = 30
"""How long a statement waits for another process's rows."""

# A client or a server that vanished (no process left to close the socket) is noticed in about a minute:
# by us, so that no call hangs; by the server, so that a dead machine's runs become free.
_CONNECT = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "application_name": "swarmc ledger",
}
_SESSION = (
    f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'",
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
END_TIMEOUT_MS = 5000
"""How long to wait for the end of a session of ours that the server thinks alive."""

_HOLDS = (
    "FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid::bigint = ? AND objid::bigint = ?"
)
_RACES = ("40001", "40P01", "23505")
"""Serialization failure, deadlock, a unique key that another process wrote first."""
_ADVICE = {
    "53100": "free some space on the server's disk, then run again: what was kept before stays kept",
    "55P03": "another program keeps its rows locked: end that program, then run again",
    "25006": "the server allows no writing: give the URL of the primary server",
    "42501": "let this user create and write tables: GRANT CREATE, USAGE ON SCHEMA",
}


class Postgres:
    """PostgreSQL by psycopg. The owner of a run holds a session lock on the connection it writes with.

    So nothing can be reserved on a connection that lost its locks. A transaction pooler between
    (PgBouncer in transaction mode) would lose them: connect to the server itself.

    Args:
        url: `postgresql+psycopg://user:password@host/database`.
    """

    mark = "%s"
    begin = "BEGIN"
    row_lock = " FOR UPDATE"
    error = psycopg.Error

    def __init__(self, url: URL) -> None:
        self.where = url.render_as_string(hide_password=True)
        self._engine = create_engine(
            url,
            poolclass=NullPool,
            pool_reset_on_return=None,
            connect_args={name: value for name, value in _CONNECT.items() if name not in url.query},
        )
        self._held: set[str] = set()
        self._raw: psycopg.Connection | None = None
        self._session = 0
        in_forked_children(self._close_socket)

    def connect(self) -> Connection:
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def prepare(self, database: Database) -> None:
        self._raw = database.raw
        for setting in _SESSION:
            database.run(setting)
        for run_id in sorted(self._held):  # the connection broke, and its locks with it
            if not self._take_again(database, run_id):
                self._held.discard(run_id)  # somebody took the run over: its new epoch fences our claims
        self._session = database.rows("SELECT pg_backend_pid()")[0][0]

    def create_alone(self, database: Database) -> None:
        database.rows("SELECT pg_advisory_xact_lock(?)", (_key("tables"),))

    def is_open(self, raw: Any) -> bool:
        return not raw.closed

    def trouble(self, error: BaseException | None) -> Trouble:
        state = _state(error)
        if state in _RACES:
            return Trouble.AGAIN
        if state == "55P03":
            return Trouble.ALL
        return Trouble.LOST if _is_disconnect(error) else Trouble.ALONE

    def advice(self, error: BaseException | None) -> str:
        if _is_disconnect(error):
            return "see that the server runs and that the URL is right, then run again"
        return _ADVICE.get(_state(error), "this operation left nothing behind")

    def take_run(self, database: Database, run_id: str) -> bool:
        if run_id in self._held or not _try_lock(database, run_id):  # a session would get its own lock twice
            return False
        self._held.add(run_id)
        return True

    def free_run(self, database: Database, run_id: str) -> None:
        if run_id in self._held:
            self._held.discard(run_id)
            database.rows("SELECT pg_advisory_unlock(?)", (_run_key(run_id),))

    def owner_of(self, database: Database, run_id: str) -> str | None:
        if run_id in self._held:
            return "this process"
        held = database.rows(f"SELECT pid {_HOLDS}", _lock_numbers(run_id))
        return f"the process behind PostgreSQL session {held[0][0]}" if held else None

    def close(self) -> None:
        """The end of the session frees its locks."""
        self._held.clear()
        self._raw = None

    def _take_again(self, database: Database, run_id: str) -> bool:
        """Lock after a broken connection, whose end the server may not have noticed yet."""
        if _try_lock(database, run_id):
            return True
        end = f"SELECT pg_terminate_backend(pid, {END_TIMEOUT_MS}) {_HOLDS} AND pid = ?"
        database.rows(end, (*_lock_numbers(run_id), self._session))
        return _try_lock(database, run_id)

    def _close_socket(self) -> None:
        """In a forked child: close its copy, or the server would not see the parent's death."""
        if self._raw is not None and not self._raw.closed:
            os.close(self._raw.fileno())


def _try_lock(database: Database, run_id: str) -> bool:
    return database.rows("SELECT pg_try_advisory_lock(?)", (_run_key(run_id),))[0][0]


def _lock_numbers(run_id: str) -> tuple[int, int]:
    """How pg_locks shows `_run_key`: its upper and its lower half."""
    return divmod(_run_key(run_id) % 2**64, 2**32)


def _run_key(run_id: str) -> int:
    return _key(f"run {run_id}")


def _key(name: str) -> int:
    """A signed 64-bit lock number."""
    return int.from_bytes(hashlib.sha256(f"swarmc {name}".encode()).digest()[:8], signed=True)


def _state(error: BaseException | None) -> str:
    """PostgreSQL's five-character error code, or nothing."""
    return getattr(_original(error), "sqlstate", None) or ""


def _is_disconnect(error: BaseException | None) -> bool:
    original = _original(error)
    if not isinstance(original, (psycopg.OperationalError, psycopg.InterfaceError)):
        return False
    return _state(error)[:2] in ("", "08") or _state(error)[:4] == "57P0"


def _original(error: BaseException | None) -> BaseException | None:
    """The driver's error inside SQLAlchemy's."""
    return getattr(error, "orig", None) or error
