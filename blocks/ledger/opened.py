"""A database that a URL names and the thread that talks to it, from `async with` to its end."""

from types import TracebackType
from typing import Generic, Self

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from blocks.ledger.database import Database, Dialect
from blocks.ledger.sqlite import Sqlite
from blocks.ledger.writer import Answer, Operation, Serve, Writer
from swarmc.contracts.errors import LedgerError, boundary

_ADVICE = "write sqlite:////path/ledger.db or postgresql+psycopg://user:password@host/database"


class Opened(Generic[Operation, Answer]):
    """What the ledger and the job book share. It is entered once; what was asked before leaving is done.

    Args:
        url: `sqlite:////path/ledger.db` or `postgresql+psycopg://user:password@host/database`.
        serve: What does a batch of its operations.

    Raises:
        LedgerError: the URL cannot be read, or its driver cannot be loaded.
    """

    def __init__(self, url: str, serve: Serve[Operation, Answer]) -> None:
        self._dialect = _dialect(url)
        self._serve = serve
        self._writer: Writer[Operation, Answer] | None = None

    async def __aenter__(self) -> Self:
        if self._writer is not None:
            kind = type(self).__name__
            raise LedgerError(f"the ledger at {self._dialect.where} was opened before: make a new {kind}")
        self._writer = Writer(Database(self._dialect), self._serve)
        try:
            await self._writer.call(Database.ensure_open)
        except BaseException:
            await self._writer.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._desk.aclose()

    @property
    def _desk(self) -> Writer[Operation, Answer]:
        if self._writer is None:
            raise LedgerError(f"the ledger at {self._dialect.where} is not open: enter it with `async with` first")
        return self._writer


def _dialect(url: str) -> Dialect:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError, TypeError, AttributeError):  # whose words may hold a part of a password
        raise LedgerError(f"the ledger's URL cannot be read: {_ADVICE}") from None
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            return Sqlite(parsed)
        case "postgres" | "postgresql" | "postgresql+psycopg":
            with boundary(LedgerError, "loading psycopg (install `psycopg[binary]`)", ImportError):
                from blocks.ledger.postgres import Postgres  # only who uses PostgreSQL needs its driver

            return Postgres(parsed.set(drivername="postgresql+psycopg"))
        case other:
            raise LedgerError(f"there is no ledger over {other!r}: {_ADVICE}")
