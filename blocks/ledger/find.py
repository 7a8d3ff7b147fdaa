"""The ledger that a person named: a saved block, a database URL, or the one at home."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from blocks.ledger.block import LedgerDatabase
from blocks.ledger.default import default_ledger_url
from blocks.ledger.sql import SqlLedger
from swarmc.contracts.errors import LedgerError, boundary
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
    if reference is None:
        opening = SqlLedger.open(default_ledger_url())
    elif "://" in reference:
        opening = SqlLedger.open(reference)
    else:
        name = reference.removeprefix("swarmc-ledger/")
        with boundary(LedgerError, f"loading the saved ledger {name!r}; see `prefect block ls`"):
            opening = (await LedgerDatabase.aload(name)).open()
    async with opening as ledger:
        yield ledger
