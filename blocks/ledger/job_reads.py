"""What is asked about jobs on the market: single ones, lists, sums, and how the providers did."""

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.ledger.database import Database, Row
from blocks.ledger.schema import JOB_MOVES, JOBS
from blocks.ledger.statements import select_sql
from swarmc.contracts.errors import LedgerError, boundary
from swarmc.contracts.job_book import JobRecord, JobTotal, Moved, Side, Standing
from swarmc.contracts.market import Failure

NEWEST = 10_000
"""Jobs that standings are made of: of older ones little would be left."""

EXCUSED: tuple[Failure, ...] = ("unpublished", "too_dear", "unpaid", "unsent", "stopped")
"""Failures that are not the provider's: no relay took it, we would not or could not pay, or we gave it up."""

# In canonical JSON these bytes are a field of the body: in a text of a stranger's, its quotes would be escaped.
_EXCUSES = tuple(f'"failure":"{failure}"' for failure in EXCUSED)

_RECORD = tuple(JobRecord.model_fields)
_TOTAL = (
    *("state", "count(*)", "sum(msats)", "sum(CASE WHEN refund_due THEN 1 ELSE 0 END)"),
    *("sum(CASE WHEN refund_due THEN msats ELSE 0 END)", "simulated"),
)
# Bodies of jobs that went well stay where they are.
_OUTCOME = ("counterparty", "changed_at_us", "refund_due", "CASE WHEN state <> 'answered' THEN body END")


def records(database: Database, rest: str, parameters: Sequence[object]) -> tuple[JobRecord, ...]:
    """The jobs that `rest` (`WHERE` and so on) names.

    Raises:
        LedgerError: a damaged row.
    """
    return tuple(map(_record, database.rows(select_sql(JOBS, rest, _RECORD), parameters)))


def history(database: Database, place: tuple[str, str, str]) -> tuple[Moved, ...]:
    """What happened to a job, oldest first."""
    rest = "WHERE side = ? AND owner = ? AND job_id = ? ORDER BY version"
    rows = database.rows(select_sql(JOB_MOVES, rest, ("version", "at_us", "what")), place)
    return tuple(Moved(version=version, at_us=at_us, what=what) for version, at_us, what in rows)


def totals(database: Database, side: Side, owner: str | None) -> tuple[JobTotal, ...]:
    """Jobs and money by state and kind of money; see `JobBook.totals`."""
    whose, parameters = of_owner(side, owner)
    sql = select_sql(JOBS, f"{whose} GROUP BY state, simulated ORDER BY state, simulated", _TOTAL)
    names = tuple(JobTotal.model_fields)
    return tuple(JobTotal(**dict(zip(names, row, strict=True))) for row in database.rows(sql, parameters))


def standings(database: Database, owner: str, now_us: int, half_life_s: float) -> tuple[Standing, ...]:
    """How the providers did, best first; see `JobBook.standings`."""
    rest = "WHERE side = 'bought' AND owner = ? AND final AND counterparty <> '' ORDER BY changed_at_us DESC LIMIT ?"
    by_provider: dict[str, _Sum] = {}
    for provider, changed_at_us, refund_due, body in database.rows(select_sql(JOBS, rest, _OUTCOME), (owner, NEWEST)):
        weight = 0.5 ** (max(now_us - changed_at_us, 0) / 1_000_000 / half_life_s)
        by_provider.setdefault(provider, _Sum()).add(body, bool(refund_due), weight)
    found = (Standing(provider=provider, **vars(one)) for provider, one in by_provider.items())
    return tuple(sorted(found, key=lambda one: (one.failed - one.answered, one.provider)))


@dataclass
class _Sum:
    """One provider's jobs."""

    answered: float = 0.0
    failed: float = 0.0
    undelivered: float = 0.0
    jobs: int = 0

    def add(self, body: str | None, refund_due: bool, weight: float) -> None:
        """Count one; it was answered when it has no `body`."""
        self.jobs += 1
        if body is None:
            self.answered += weight
        elif not any(excuse in body for excuse in _EXCUSES):
            self.failed += weight
            self.undelivered += weight * refund_due


def of_owner(side: Side, owner: str | None) -> tuple[str, tuple[str, ...]]:
    """The `WHERE` of one side and of one owner or all, and its parameters."""
    return ("WHERE side = ?", (side,)) if owner is None else ("WHERE side = ? AND owner = ?", (side, owner))


def _record(row: Row) -> JobRecord:
    values = dict(zip(_RECORD, row, strict=True))
    with boundary(LedgerError, f"reading job {values['job_id']} (its row in the job book is damaged)"):
        return JobRecord.model_validate(values)
