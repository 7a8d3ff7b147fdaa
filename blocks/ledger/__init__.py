"""The ledger: every msat reserved and paid, every completion bought, every job on the market, in SQL."""

from typing import TYPE_CHECKING, Any

from blocks.ledger.default import default_ledger_url
from blocks.ledger.job_book import SqlJobBook
from blocks.ledger.sql import SqlLedger

if TYPE_CHECKING:
    from blocks.ledger.block import LedgerDatabase

__all__ = ["LedgerDatabase", "SqlJobBook", "SqlLedger", "default_ledger_url"]


def __getattr__(name: str) -> Any:
    if name == "LedgerDatabase":  # on demand: a program that only keeps a ledger need not wait for Prefect's import
        from blocks.ledger.block import LedgerDatabase

        return LedgerDatabase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
