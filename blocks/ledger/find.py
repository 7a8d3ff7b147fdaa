"""The ledger that a person named, and its job book: a saved block, a database URL, or the one at home."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from blocks.ledger.block import LedgerDatabase
from blocks.ledger.default import default_ledger_url
from swarmc.contracts.errors import LedgerError, boundary
from swarmc.contracts.job_book import JobBook
from swarmc.contracts.ports import Ledger


@asynccontextmanager
async def find_ledger(reference: str | None) -> AsyncIterator[Ledger]:
    """Open it.

    Args:
        reference: A database URL, the name of a saved `swarmc-ledger` block, or nothing for
            `$SWARMC_HOME/ledger.db` (`~/.swarmc/ledger.db`).

    Raises:
        LedgerError: no such block is saved, or the database cannot be opened.
    """
    async with (await _database(reference)).open() as ledger:
        yield ledger


@asynccontextmanager
async def find_job_book(reference: str | None) -> AsyncIterator[JobBook]:
    """Open the job book of the ledger that `find_ledger` opens. Arguments and errors are the same."""
    async with (await _database(reference)).open_jobs() as jobs:
        yield jobs


async def _database(reference: str | None) -> LedgerDatabase:
    if reference is None or "://" in reference:
        return LedgerDatabase(url=SecretStr(reference or default_ledger_url()))
    name = reference.removeprefix("swarmc-ledger/")
    with boundary(LedgerError, f"loading the saved ledger {name!r}; see `prefect block ls`"):
        return await LedgerDatabase.aload(name)
