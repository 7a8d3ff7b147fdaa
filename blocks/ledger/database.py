"""One connection to a ledger's database, in the little SQL that SQLite and PostgreSQL share.

Statements are plain text with `?` marks, on the driver's own cursor: SQLAlchemy's expression layer
would cost more than the statements themselves. SQLAlchemy makes the connection and the tables.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any, Protocol

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.exc import SQLAlchemyError

from blocks.ledger.schema import METADATA, SCHEMA_VERSION, TALLY_COLUMNS, VERSION
from blocks.ledger.statements import (
    ADD_TO_CELL,
    chunks,
    delete_sql,
    insert_sql,
    marked,
    new_cell_sql,
    padded,
    replace_sql,
    with_lists,
)
from swarmc.contracts.errors import LedgerError, boundary

Row = tuple[Any, ...]


class Trouble(Enum):
    """What may help after a failed transaction."""

    AGAIN = auto()
    """Another process was quicker: the same transaction will now see what it did."""
    LOST = auto()
    """The connection broke: connect and try again."""
    ALONE = auto()
    """One operation may be at fault: try each alone."""
    ALL = auto()
    """Nothing, now."""


class DatabaseError(LedgerError):
    """A transaction failed and left nothing behind."""

    def __init__(self, message: str, trouble: Trouble) -> None:
        super().__init__(message, retryable=trouble is not Trouble.ALONE)
        self.trouble = trouble


class _Foreign(LedgerError):
    """What a driver, the disk or the network raised, before it is known what may help."""


class Dialect(Protocol):
    """Where SQLite and PostgreSQL differ. Also who owns a run: a lock that dies with its process."""

    @property
    def where(self) -> str:
        """The database, for sentences, without its password."""
        ...

    @property
    def mark(self) -> str:
        """How the driver writes a parameter."""
        ...

    @property
    def begin(self) -> str:
        """The statement that begins a transaction which will write."""
        ...

    @property
    def row_lock(self) -> str:
        """What a SELECT ends with, so that others wait for its rows until this transaction ends."""
        ...

    @property
    def error(self) -> type[Exception]:
        """The base of what the driver raises."""
        ...

    def connect(self) -> Connection: ...

    def prepare(self, database: "Database") -> None:
        """Set up a fresh connection."""
        ...

    def create_alone(self, database: "Database") -> None:
        """In a transaction: wait until no other process creates tables."""
        ...

    def is_open(self, raw: Any) -> bool: ...

    def trouble(self, error: BaseException | None) -> Trouble: ...

    def advice(self, error: BaseException | None) -> str:
        """What to do about `error`, as the end of a sentence."""
        ...

    def take_run(self, database: "Database", run_id: str) -> bool:
        """Become the owner of a run, or return False because it has one."""
        ...

    def free_run(self, database: "Database", run_id: str) -> None: ...

    def owner_of(self, database: "Database", run_id: str) -> str | None:
        """Who owns the run, for a sentence; None when nobody does."""
        ...

    def close(self) -> None:
        """Free every run that is still owned."""
        ...


class Database:
    """A connection that is made when it is first needed and again when it broke. For one thread.

    Attributes:
        raw: The driver's own connection, while there is one.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._connection: Connection | None = None
        self.raw: Any = None
        self._cursor: Any = None

    def ensure_open(self) -> None:
        """Connect, unless a connection is there; create the tables that a new or an older database lacks.

        Raises:
            LedgerError: the tables were made by a newer swarmc.
        """
        if self.raw is not None and self.dialect.is_open(self.raw):
            return
        self.close()
        self._connection = self.dialect.connect()
        self.raw = self._connection.connection.driver_connection
        self._cursor = self.raw.cursor()
        try:
            self.dialect.prepare(self)
            self._ensure_tables(self._connection)
        except BaseException:
            self.close()  # a half prepared connection must not serve what comes next
            raise

    def close(self) -> None:
        connection, self._connection, self.raw, self._cursor = self._connection, None, None, None
        if connection is not None:
            with suppress(self.dialect.error, SQLAlchemyError):  # broken, then: it is gone either way
                connection.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        self._cursor.execute(marked(sql, self.dialect.mark), parameters)
        return self._cursor.fetchall()

    def rows_among(self, sql: str, *lists: Sequence[str]) -> list[Row]:
        """The rows of `sql`, which has one `IN ?` for each of `lists`; none when a list is empty."""
        if not all(lists):
            return []
        wide = [padded(values) for values in lists]
        return self.rows(with_lists(sql, tuple(map(len, wide))), [value for values in wide for value in values])

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement; return how many rows it changed."""
        self._cursor.execute(marked(sql, self.dialect.mark), parameters)
        return self._cursor.rowcount

    def insert(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert full rows, in the order of the table's columns."""
        for chunk in chunks(rows):
            self.run(insert_sql(table, len(chunk)), [value for row in chunk for value in row])

    def replace(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert full rows, or write them over those that have their primary keys."""
        for chunk in chunks(rows):
            self.run(replace_sql(table, len(chunk)), [value for row in chunk for value in row])

    def delete(self, table: Table, column: str, values: Iterable[str]) -> None:
        wide = padded(list(values))
        if wide:
            self.run(with_lists(delete_sql(table, column), (len(wide),)), wide)

    def add_to_cell(self, key: tuple[str, str, str], counts: Sequence[int]) -> None:
        """Add counts, in the order of `TALLY_COLUMNS`, to a (run, stage, lane) cell."""
        if not self.run(ADD_TO_CELL, (*counts, *key)):
            self.run(new_cell_sql(), (*key, *[0] * len(TALLY_COLUMNS)))
            self.run(ADD_TO_CELL, (*counts, *key))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's statements, or none."""
        self.run(self.dialect.begin)
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            with suppress(self.dialect.error):  # a broken connection and a full disk have rolled back already
                self.run("ROLLBACK")
            raise

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Translate what the driver, the disk or the network raise.

        Raises:
            DatabaseError: with what may help.
        """
        try:
            with boundary(_Foreign, f"using the ledger at {self.dialect.where}"):
                yield
        except _Foreign as error:
            cause = error.__cause__
            raise DatabaseError(f"{error}; {self.dialect.advice(cause)}", self.dialect.trouble(cause)) from cause

    def _ensure_tables(self, connection: Connection) -> None:
        version = self._version(connection)
        if version < VERSION:
            with self.transaction():
                self.dialect.create_alone(self)
                version = self._version(connection)
                if version < VERSION:  # and nobody has done it meanwhile
                    METADATA.create_all(connection)
                    self.insert(SCHEMA_VERSION, [(VERSION,)])
        if version > VERSION:
            raise LedgerError(
                f"the ledger at {self.dialect.where} has schema version {version} and this swarmc knows {VERSION}: "
                "upgrade swarmc, or use another ledger"
            )

    def _version(self, connection: Connection) -> int:
        """What is there; 0 of a new database."""
        if not inspect(connection).has_table(SCHEMA_VERSION.name):
            return 0
        return self.rows("SELECT max(version) FROM swarmc_schema_version")[0][0] or 0
