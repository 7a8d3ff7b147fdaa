"""The saved form of a ledger: a Prefect block that holds its URL."""

from contextlib import AbstractAsyncContextManager
from typing import final

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from blocks.ledger.job_book import SqlJobBook
from blocks.ledger.sql import SqlLedger
from swarmc.contracts.job_book import JobBook
from swarmc.contracts.ports import Ledger


@final
class LedgerDatabase(Block):
    """The database that remembers every call that was paid, every msat that was spent, every job on the market."""

    _block_type_name = "swarmc ledger"
    _block_type_slug = "swarmc-ledger"

    url: SecretStr = Field(
        title="URL",
        description=(
            "sqlite:////path/ledger.db for one machine, postgresql+psycopg://user:password@host/database for many. "
            "Hidden, because it may hold a password. PostgreSQL is reached directly, not through a transaction pooler."
        ),
    )

    def open(self) -> AbstractAsyncContextManager[Ledger]:
        """The ledger, to be entered with `async with`.

        Raises:
            LedgerError: the URL cannot be read; on entering, the database cannot be opened.
        """
        return SqlLedger.open(self.url.get_secret_value())

    def open_jobs(self) -> AbstractAsyncContextManager[JobBook]:
        """The job book in the same database, to be entered with `async with`.

        Raises:
            LedgerError: the URL cannot be read; on entering, the database cannot be opened.
        """
        return SqlJobBook.open(self.url.get_secret_value())
