"""What is asked about whole runs: who works on them, what they cost, how they ended. A function is one job."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from blocks.ledger.batch import forfeit, now_us, policy_of
from blocks.ledger.database import Database, Row
from blocks.ledger.schema import CELLS, COMPLETIONS, REPEATS, RUNS, TALLY_COLUMNS
from blocks.ledger.statements import select_sql
from swarmc.contracts.completions import Usage
from swarmc.contracts.errors import LedgerError, RunFenced
from swarmc.contracts.money import Account, AccountLine, Receipt, RunRecord, RunState, Tally

PAGE_ROWS = 500
"""Receipts read at once, so that a long list does not keep buyers waiting."""

_RECEIPT = (
    *("run_id", "request_id", "completion_id", "stage", "lane", "venue", "model"),
    *("prompt_tokens", "completion_tokens", "cost_msats", "estimated", "simulated", "settled_at_us", "reservation_id"),
)
_RECORD = (
    *("run_id", "spec_id", "name", "state", "epoch", "created_at_us", "updated_at_us", "budget", "manifest_uri"),
)


class Opening(NamedTuple):
    """What `open_run` was given. `budget` is a `BudgetPolicy`'s canonical text."""

    run_id: str
    spec_id: str
    name: str
    budget: str


class Ownership:
    """One try to own a run. Freed, it gives back what it took, and nobody else's."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._is_owner = False

    def take(self, database: Database) -> bool:
        self._is_owner = self._is_owner or database.dialect.take_run(database, self.run_id)
        return self._is_owner

    def free(self, database: Database) -> None:
        if self._is_owner:
            self._is_owner = False
            database.dialect.free_run(database, self.run_id)


def begin_epoch(database: Database, opening: Opening) -> tuple[int, int]:
    """For the owner of a run: its next epoch, and how many reservations of earlier ones were lost."""
    with database.transaction():
        sql = select_sql(RUNS, f"WHERE run_id = ?{database.dialect.row_lock}", ("spec_id", "epoch"))
        found = database.rows(sql, (opening.run_id,))
        if not found:
            _insert_run(database, opening)
            return 1, 0
        spec_id, epoch = found[0]
        if spec_id != opening.spec_id:
            raise LedgerError(
                f"run {opening.run_id!r} compiles spec {spec_id}, not {opening.spec_id}: "
                "start a new run for a changed spec, or name the run that has this one"
            )
        recovered = forfeit(database, opening.run_id)
        database.run(
            "UPDATE swarmc_runs SET epoch = ?, leased = ?, state = 'running', budget = ?, updated_at_us = ?"
            " WHERE run_id = ?",
            (epoch + 1, True, opening.budget, now_us(), opening.run_id),
        )
        return epoch + 1, recovered


def end_epoch(database: Database, run_id: str, epoch: int) -> None:
    """Let no claim of this epoch pass any more; what it still had in flight is lost."""
    with database.transaction():
        sql = "UPDATE swarmc_runs SET leased = ?, updated_at_us = ? WHERE run_id = ? AND epoch = ?"
        database.run(sql, (False, now_us(), run_id, epoch))
        forfeit(database, run_id, epoch)


def end_run(database: Database, run_id: str, epoch: int, state: RunState, manifest_uri: str | None) -> None:
    """Write down how a run ended.

    Raises:
        RunFenced: it was opened again since `epoch`.
    """
    sql = (
        "UPDATE swarmc_runs SET state = ?, manifest_uri = coalesce(?, manifest_uri), updated_at_us = ?"
        " WHERE run_id = ? AND epoch = ?"
    )
    with database.transaction():
        if not database.run(sql, (state, manifest_uri, now_us(), run_id, epoch)):
            raise RunFenced(f"run {run_id!r} was taken over by another process, which will say how it ended")


def account(database: Database, run_id: str) -> Account:
    """What a run bought, by stage and lane; cells of zeros are left out."""
    _require(database, run_id)
    rows = database.rows(select_sql(CELLS, "WHERE run_id = ? ORDER BY stage, lane"), (run_id,))
    lines = [
        AccountLine(stage=stage, lane=lane, tally=Tally(**dict(zip(TALLY_COLUMNS, counts, strict=True))))
        for _, stage, lane, *counts in rows
    ]
    return Account(run_id=run_id, lines=tuple(line for line in lines if line.tally != Tally()))


def bought_ids(database: Database, most: int) -> set[str] | None:
    """The ids of all completions; `None` when there are more than `most`."""
    rows = database.rows(select_sql(COMPLETIONS, "LIMIT ?", ("request_id",)), (most + 1,))
    return {request_id for (request_id,) in rows} if len(rows) <= most else None


def newest_runs(database: Database, limit: int) -> list[RunRecord]:
    """At most `limit` runs, the last created first."""
    return _records(database.rows(select_sql(RUNS, "ORDER BY created_at_us DESC, run_id LIMIT ?", _RECORD), (limit,)))


def find_run(database: Database, prefix: str) -> RunRecord:
    """The run with this id, or the one run whose id begins so."""
    rest = "WHERE substr(run_id, 1, ?) = ? ORDER BY run_id LIMIT 6"
    found = _records(database.rows(select_sql(RUNS, rest, _RECORD), (len(prefix), prefix)))
    where = f"in the ledger at {database.dialect.where}"
    if not found:
        raise LedgerError(f"no run begins with {prefix!r} {where}: list its runs, or give the URL of the right ledger")
    if len(found) > 1 and found[0].run_id != prefix:  # the whole id sorts first
        names = ", ".join(record.run_id for record in found[:5]) + (", ..." if len(found) > 5 else "")
        raise LedgerError(f"several runs begin with {prefix!r} {where} ({names}): give more of the id")
    return found[0]


def unfinished_run(database: Database, spec_id: str) -> RunRecord | None:
    """The newest run of a spec that neither completed nor has an owner."""
    rest = "WHERE spec_id = ? AND state <> 'completed' ORDER BY created_at_us DESC, run_id"
    for record in _records(database.rows(select_sql(RUNS, rest, _RECORD), (spec_id,))):
        if database.dialect.owner_of(database, record.run_id) is None:
            return record
    return None


def receipts_after(database: Database, run_id: str, after: tuple[int, str]) -> tuple[list[Receipt], tuple[int, str]]:
    """The next receipts of a run, oldest first, and what to go on from. Begin with `(0, "")`."""
    if after == (0, ""):
        _require(database, run_id)
    rest = "WHERE run_id = ? AND (settled_at_us, reservation_id) > (?, ?)"
    parts = (select_sql(COMPLETIONS, rest, _RECEIPT), select_sql(REPEATS, rest, _RECEIPT))
    sql = " UNION ALL ".join(parts) + " ORDER BY settled_at_us, reservation_id LIMIT ?"
    rows = database.rows(sql, (run_id, *after, run_id, *after, PAGE_ROWS))
    return [_receipt(row) for row in rows], (rows[-1][-2], rows[-1][-1]) if rows else after


def _insert_run(database: Database, opening: Opening) -> None:
    now = now_us()
    row = (*opening[:3], "running", 1, True, opening.budget, None, now, now)
    database.insert(RUNS, [row])


def _require(database: Database, run_id: str) -> None:
    if not database.rows(select_sql(RUNS, "WHERE run_id = ?", ("epoch",)), (run_id,)):
        where = database.dialect.where
        raise LedgerError(f"no run {run_id!r} in the ledger at {where}: list its runs, or give the right ledger")


def _records(rows: Iterable[Row]) -> list[RunRecord]:
    return [_record(dict(zip(_RECORD, row, strict=True))) for row in rows]


def _record(values: dict[str, Any]) -> RunRecord:
    created, updated = (_moment(values.pop(name)) for name in ("created_at_us", "updated_at_us"))
    budget = values.pop("budget")
    return RunRecord.model_validate(
        values | {"created_at": created, "updated_at": updated, "budget": policy_of(budget)}
    )


def _receipt(row: Row) -> Receipt:
    values = dict(zip(_RECEIPT, row, strict=True))
    usage = Usage(**{name: values.pop(name) for name in Usage.model_fields})
    del values["reservation_id"]
    return Receipt(usage=usage, settled_at_ms=values.pop("settled_at_us") // 1000, **values)


def _moment(at_us: int) -> datetime:
    return datetime.fromtimestamp(at_us / 1_000_000, UTC)
