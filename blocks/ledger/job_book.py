"""The job book over a SQL database: every job bought and sold, beside the ledger that paid for it."""

import itertools
import math
import uuid
from collections.abc import Sequence
from typing import Self, final

from blocks.ledger import job_reads
from blocks.ledger.job_puts import Put, keep
from blocks.ledger.opened import Opened
from swarmc.contracts.errors import LedgerError
from swarmc.contracts.job_book import JobRecord, JobTotal, Moved, Side, Standing


@final
class SqlJobBook(Opened[Put, bool]):
    """A job book in SQLite or PostgreSQL; see `JobBook`. Make one with `SqlJobBook.open` and `async with`.

    One thread of its own talks to the database and commits what was put meanwhile together. Every method may
    be awaited from any event loop of the process; a forked child must open its own.

    Args:
        url: `sqlite:////path/ledger.db` or `postgresql+psycopg://user:password@host/database`: a ledger's.

    Raises:
        LedgerError: the URL cannot be read, or its driver cannot be loaded.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, keep)
        self._origin = uuid.uuid4().hex
        self._numbers = itertools.count(1)

    @classmethod
    def open(cls, url: str) -> Self:
        """A job book, to be entered with `async with`."""
        return cls(url)

    async def put(self, record: JobRecord, what: str) -> bool:
        """See `JobBook.put`. Cancelled, it may be done all the same: read the job again.

        Raises:
            LedgerError: versions are missing between the kept one and this one, or a text cannot be stored.
        """
        return await self._desk.ask(Put(record, what, f"{self._origin}-{next(self._numbers)}"))

    async def get(self, side: Side, owner: str, job_id: str) -> JobRecord | None:
        found = await self._records("WHERE side = ? AND owner = ? AND job_id = ?", (side, owner, job_id))
        return found[0] if found else None

    async def of_key(self, side: Side, owner: str, key: str) -> tuple[JobRecord, ...]:
        """Jobs of one key, oldest first."""
        rest = "WHERE side = ? AND owner = ? AND key = ? ORDER BY created_at_us, job_id"
        return await self._records(rest, (side, owner, key))

    async def unfinished(self, side: Side, owner: str) -> tuple[JobRecord, ...]:
        """Jobs that are not final, oldest first."""
        rest = "WHERE side = ? AND owner = ? AND NOT final ORDER BY created_at_us, job_id"
        return await self._records(rest, (side, owner))

    async def recent(self, side: Side, owner: str | None = None, *, limit: int = 50) -> tuple[JobRecord, ...]:
        """The jobs that changed last, newest first; of every owner when none is named."""
        whose, parameters = job_reads.of_owner(side, owner)
        return await self._records(f"{whose} ORDER BY changed_at_us DESC, job_id LIMIT ?", (*parameters, max(limit, 0)))

    async def history(self, side: Side, owner: str, job_id: str) -> tuple[Moved, ...]:
        return await self._desk.call(lambda database: job_reads.history(database, (side, owner, job_id)))

    async def totals(self, side: Side, owner: str | None = None) -> tuple[JobTotal, ...]:
        """See `JobBook.totals`. Sorted by state."""
        return await self._desk.call(lambda database: job_reads.totals(database, side, owner))

    async def standings(self, owner: str, *, now_us: int, half_life_s: float) -> tuple[Standing, ...]:
        """See `JobBook.standings`. Best first, of the newest `job_reads.NEWEST` jobs.

        Raises:
            LedgerError: a half life that is no positive number.
        """
        if not (half_life_s > 0 and math.isfinite(half_life_s)):
            raise LedgerError(f"standings cannot fade with a half life of {half_life_s} s: give a positive number")
        return await self._desk.call(lambda database: job_reads.standings(database, owner, now_us, half_life_s))

    async def _records(self, rest: str, parameters: Sequence[object]) -> tuple[JobRecord, ...]:
        return await self._desk.call(lambda database: job_reads.records(database, rest, parameters))
