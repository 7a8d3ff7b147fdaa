"""A batch of operations in one transaction: read what they touch, decide, write what changed."""

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import attrgetter

from sqlalchemy import Table

from blocks.ledger.books import (
    Answer,
    Books,
    Bought,
    Lookup,
    OpenRun,
    Operation,
    Purchase,
    Release,
    Reservation,
    Reserve,
    Settle,
    Shelf,
)
from blocks.ledger.budgets import Cell, Counts
from blocks.ledger.database import Database, DatabaseError, Trouble
from blocks.ledger.schema import CELLS, COMPLETIONS, LOSSES, REPEATS, RESERVATIONS, RUNS, TALLY_COLUMNS, USES
from blocks.ledger.statements import select_sql
from swarmc.contracts.money import BudgetPolicy


def now_us() -> int:
    """Unix time in microseconds."""
    return time.time_ns() // 1000


@lru_cache(maxsize=64)
def policy_of(text: str) -> BudgetPolicy:
    """The budgets of a run, from their text in its row."""
    return BudgetPolicy.model_validate_json(text)


def serve(database: Database, operations: Sequence[Operation]) -> list[Answer]:
    """Answer `operations` in order and commit what they changed."""
    if all(isinstance(operation, Lookup) for operation in operations):
        books = _read(database, operations)  # readers wait for nobody: a replay is not slowed by writers
        answers = [books.answer(operation) for operation in operations]
        if not books.deltas:
            return answers
    with database.transaction():
        books = _read(database, operations, row_lock=database.dialect.row_lock)
        answers = [books.answer(operation) for operation in operations]
        write(database, books)
    return answers


def forfeit(database: Database, run_id: str, epoch: int | None = None) -> int:
    """In a transaction: mark a run's reservations (of one epoch, or of all) lost; return how many."""
    rows = _claims(database, RESERVATIONS, "run_id", {run_id}, database.dialect.row_lock)
    books = Books(is_alive=lambda _: True, reservations=Shelf(rows))
    dead = [row for row in rows if epoch in (None, row.epoch)]
    for row in dead:
        books.lose(row)
    write(database, books)
    return len(dead)


def write(database: Database, books: Books) -> None:
    """In a transaction: write what changed. Sorted, so that two processes wait for each other in one order."""
    database.delete(RESERVATIONS, "reservation_id", sorted(books.reservations.removed))
    database.delete(LOSSES, "reservation_id", sorted(books.losses.removed))
    database.insert(RESERVATIONS, sorted(books.reservations.added.values(), key=attrgetter("request_id")))
    _require_unbought(database, books)
    database.insert(LOSSES, sorted(books.losses.added.values()))
    database.insert(COMPLETIONS, sorted(books.new_bought))
    database.insert(REPEATS, [purchase[:-1] for purchase in sorted(books.new_repeats)])
    database.insert(USES, sorted(books.new_uses))
    for key, delta in sorted(books.deltas.items()):
        database.add_to_cell(key, [delta[name] for name in TALLY_COLUMNS])


def _require_unbought(database: Database, books: Books) -> None:
    """Start again if a request was bought since it was looked up.

    Only where transactions overlap: another process may have reserved and settled it in between. Once our
    reservations are in, nobody else can reserve their requests, so what is not bought now never is by others.
    """
    requests = [row.request_id for row in books.reservations.added.values()]
    if database.dialect.row_lock and _bought(database, set(requests)):
        raise DatabaseError("a request was bought meanwhile", Trouble.AGAIN)


def _read(database: Database, operations: Sequence[Operation], row_lock: str = "") -> Books:
    reading = _Reading(operations)
    # A budget is checked by one transaction a run at a time: whoever locks its row first.
    runs = _runs(database, reading.run_ids, row_lock)
    reservations = _claims(database, RESERVATIONS, "request_id", reading.claimed, row_lock)
    reservations += _claims(database, RESERVATIONS, "reservation_id", reading.reservation_ids, row_lock)
    missing = reading.reservation_ids - {row.reservation_id for row in reservations}
    bought = _bought(database, reading.request_ids)
    foreign = [request_id for request_id, paid in bought.items() if reading.run_ids - {paid.run_id}]
    return Books(
        is_alive=lambda run_id: database.dialect.owner_of(database, run_id) is not None,
        now_us=now_us(),
        runs=runs,
        cells=_cells(database, reading.budgeted),
        bought=bought,
        reservations=Shelf(reservations),
        losses=Shelf(_claims(database, LOSSES, "reservation_id", missing, row_lock)),
        uses=_uses(database, reading.run_ids, foreign),
        repeats=_repeats(database, missing),
    )


class _Reading:
    """Which rows a batch is about."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.run_ids: set[str] = set()
        self.budgeted: set[str] = set()
        self.request_ids: set[str] = set()
        self.claimed: set[str] = set()
        self.reservation_ids: set[str] = set()
        for operation in operations:
            self._note(operation)

    def _note(self, operation: Operation) -> None:
        match operation:
            case Lookup():
                self.run_ids.add(operation.run_id)
                self.request_ids.add(operation.request_id)
            case Reserve():
                self.run_ids.add(operation.claim.run_id)
                self.budgeted.add(operation.claim.run_id)
                self.request_ids.add(operation.claim.request_id)
                self.claimed.add(operation.claim.request_id)
            case Settle():
                self.request_ids.add(operation.request_id)
                self.reservation_ids.add(operation.reservation_id)
            case Release():
                self.reservation_ids.add(operation.reservation_id)


def _runs(database: Database, run_ids: set[str], row_lock: str) -> dict[str, OpenRun]:
    sql = select_sql(RUNS, "WHERE run_id IN ? ORDER BY run_id", ("run_id", "epoch", "leased", "budget"))
    rows = database.rows_among(sql + row_lock, sorted(run_ids))
    return {row[0]: OpenRun(row[0], row[1], bool(row[2]), policy_of(row[3])) for row in rows}


def _claims(database: Database, table: Table, column: str, values: set[str], row_lock: str) -> list[Reservation]:
    sql = select_sql(table, f"WHERE {column} IN ? ORDER BY reservation_id")
    return [Reservation._make(row) for row in database.rows_among(sql + row_lock, sorted(values))]


def _bought(database: Database, request_ids: set[str]) -> dict[str, Bought]:
    sql = select_sql(COMPLETIONS, "WHERE request_id IN ?", ("request_id", "run_id", "reservation_id", "completion"))
    return {row[0]: Bought(*row[1:]) for row in database.rows_among(sql, sorted(request_ids))}


def _uses(database: Database, run_ids: set[str], request_ids: list[str]) -> set[tuple[str, str]]:
    sql = select_sql(USES, "WHERE run_id IN ? AND request_id IN ?")
    return {(row[0], row[1]) for row in database.rows_among(sql, sorted(run_ids), request_ids)}


def _repeats(database: Database, reservation_ids: set[str]) -> set[str]:
    sql = select_sql(REPEATS, "WHERE reservation_id IN ?", ("reservation_id",))
    return {row[0] for row in database.rows_among(sql, sorted(reservation_ids))}


def _cells(database: Database, run_ids: set[str]) -> dict[str, dict[Cell, Counts]]:
    cells: dict[str, dict[Cell, Counts]] = {}
    for run_id, stage, lane, *counts in database.rows_among(select_sql(CELLS, "WHERE run_id IN ?"), sorted(run_ids)):
        cells.setdefault(run_id, {})[stage, lane] = dict(zip(TALLY_COLUMNS, counts, strict=True))
    return cells


assert Purchase._fields == tuple(COMPLETIONS.columns.keys()), "a purchase is a row of the completions"
assert Reservation._fields == tuple(RESERVATIONS.columns.keys()), "a reservation is a row of the reservations"
