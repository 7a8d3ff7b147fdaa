"""What a batch of operations decides, given what the database holds: no SQL, no clock, no thread.

A batch is read from the database into `Books`, answered here one operation after the other, and the
changes are written back, all in one transaction. So every answer sees those before it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from blocks.ledger.budgets import Cell, Counts, verdict
from swarmc.contracts.completions import Usage
from swarmc.contracts.errors import LedgerError, RunFenced, SwarmcError
from swarmc.contracts.money import BudgetPolicy, Claim, Granted, Held, Refused, Tally


@dataclass(slots=True)
class Lookup:
    """Is this completion known?"""

    run_id: str
    stage: str
    lane: str
    request_id: str


@dataclass(slots=True)
class Reserve:
    """May this be bought? The asker names the reservation, so that it can withdraw without having heard."""

    claim: Claim
    reservation_id: str


@dataclass(slots=True)
class Settle:
    """It was bought. `request` and `completion` are canonical bytes."""

    reservation_id: str
    request_id: str
    request: bytes
    completion: bytes
    completion_id: str
    venue: str
    model: str
    usage: Usage


@dataclass(slots=True)
class Release:
    """It was not bought: `failed` without cost, `lost` and perhaps billed, or `withdrawn` before it was asked."""

    reservation_id: str
    how: Literal["failed", "lost", "withdrawn"]


_ZEROS = dict.fromkeys(Tally.model_fields, 0)

Operation = Lookup | Reserve | Settle | Release
Answer = bytes | Granted | Held | Refused | SwarmcError | None
"""Bytes are a known completion's. An error is this operation's own; the others of its batch stand."""


class OpenRun(NamedTuple):
    """What a claim is checked against."""

    run_id: str
    epoch: int
    leased: bool
    policy: BudgetPolicy


class Bought(NamedTuple):
    """A completion in the ledger."""

    run_id: str
    reservation_id: str
    completion: bytes


class Reservation(NamedTuple):
    """A row of the reservations, or of the losses."""

    reservation_id: str
    request_id: str
    run_id: str
    epoch: int
    stage: str
    lane: str
    max_msats: int
    reserved_at_us: int


class Purchase(NamedTuple):
    """A row of the completions; of the repeats without its last field."""

    request_id: str
    reservation_id: str
    run_id: str
    stage: str
    lane: str
    venue: str
    model: str
    completion_id: str
    prompt_tokens: int
    completion_tokens: int
    cost_msats: int
    estimated: bool
    simulated: bool
    settled_at_us: int
    completion: bytes
    request: bytes


class Shelf:
    """Reservations or losses, and how they changed since they were read."""

    def __init__(self, rows: Iterable[Reservation]) -> None:
        self._rows = {row.reservation_id: row for row in rows}
        self._by_request = {row.request_id: row for row in self._rows.values()}
        self.added: dict[str, Reservation] = {}
        self.removed: list[str] = []

    def __iter__(self) -> Iterator[Reservation]:
        return iter(list(self._rows.values()))

    def get(self, reservation_id: str) -> Reservation | None:
        return self._rows.get(reservation_id)

    def of_request(self, request_id: str) -> Reservation | None:
        return self._by_request.get(request_id)

    def add(self, row: Reservation) -> None:
        self._rows[row.reservation_id] = self._by_request[row.request_id] = self.added[row.reservation_id] = row

    def remove(self, row: Reservation) -> None:
        del self._rows[row.reservation_id]
        self._by_request.pop(row.request_id, None)
        if self.added.pop(row.reservation_id, None) is None:
            self.removed.append(row.reservation_id)


@dataclass
class Books:
    """The part of a ledger that a batch touches, and what the batch changed.

    Attributes:
        cells: Tallies by run, then stage and lane; whole for each run of a `Reserve`.
        uses: (run_id, request_id) of completions that a run has read and another had paid for.
        repeats: Reservations that were settled as repeats.
        is_alive: Whether the owner of a run, by its id, is a live process.
        now_us: When it is. Each row gets a later moment, so that receipts have one order.
    """

    is_alive: Callable[[str], bool]
    now_us: int = 0
    runs: dict[str, OpenRun] = field(default_factory=dict)
    cells: dict[str, dict[Cell, Counts]] = field(default_factory=dict)
    bought: dict[str, Bought] = field(default_factory=dict)
    reservations: Shelf = field(default_factory=lambda: Shelf(()))
    losses: Shelf = field(default_factory=lambda: Shelf(()))
    uses: set[tuple[str, str]] = field(default_factory=set)
    repeats: set[str] = field(default_factory=set)
    new_bought: list[Purchase] = field(default_factory=list)
    new_repeats: list[Purchase] = field(default_factory=list)
    new_uses: list[tuple[str, str]] = field(default_factory=list)
    deltas: dict[tuple[str, str, str], Counts] = field(default_factory=dict)

    def answer(self, operation: Operation) -> Answer:
        """Decide one operation and note what it changes."""
        match operation:
            case Lookup():
                return self._read(operation.run_id, operation.stage, operation.lane, operation.request_id)
            case Reserve():
                return self._reserve(operation)
            case Settle():
                return self._settle(operation)
            case Release():
                return self._release(operation)

    def lose(self, row: Reservation) -> None:
        """Turn a reservation into a loss: nobody can tell whether it was billed."""
        self.reservations.remove(row)
        self.losses.add(row)
        self._tally(row, {"reserved": -1, "reserved_msats": -row.max_msats, "lost": 1, "lost_msats": row.max_msats})

    def _read(self, run_id: str, stage: str, lane: str, request_id: str) -> Answer:
        bought = self.bought.get(request_id)
        if bought is None:
            return None
        if bought.run_id != run_id and (run_id, request_id) not in self.uses:
            if run_id not in self.runs:
                return _unknown_run(run_id)
            self.uses.add((run_id, request_id))
            self.new_uses.append((run_id, request_id))
            self._add((run_id, stage, lane), {"reused": 1})
        return bought.completion

    def _reserve(self, operation: Reserve) -> Answer:
        claim = operation.claim
        run = self.runs.get(claim.run_id)
        if run is None:
            return _unknown_run(claim.run_id)
        if claim.epoch != run.epoch or not run.leased:
            return _fenced(claim, run)
        known = self._read(claim.run_id, claim.stage, claim.lane, claim.request_id)
        if known is not None:
            return known
        other = self.reservations.of_request(claim.request_id)
        if other is not None:
            if other.reservation_id == operation.reservation_id:  # a transaction that is run again
                return Granted(reservation_id=operation.reservation_id)
            if self._is_buying(other, run):
                return Held(why="purchase")
            self.lose(other)
        return verdict(claim, run.policy, self.cells.get(claim.run_id, {})) or self._grant(operation)

    def _is_buying(self, other: Reservation, run: OpenRun) -> bool:
        if other.run_id == run.run_id:
            return other.epoch == run.epoch
        return self.is_alive(other.run_id)

    def _grant(self, operation: Reserve) -> Granted:
        claim = operation.claim
        row = Reservation(
            operation.reservation_id,
            claim.request_id,
            claim.run_id,
            claim.epoch,
            claim.stage,
            claim.lane,
            claim.max_msats,
            self._tick(),
        )
        self.reservations.add(row)
        self._tally(row, {"reserved": 1, "reserved_msats": row.max_msats})
        return Granted(reservation_id=operation.reservation_id)

    def _settle(self, operation: Settle) -> Answer:
        reserved = self.reservations.get(operation.reservation_id)
        row = reserved or self.losses.get(operation.reservation_id)
        if row is None:
            return self._settled_before(operation)
        if row.request_id != operation.request_id:
            return LedgerError(
                f"reservation {row.reservation_id} is for request {row.request_id}, not {operation.request_id}: "
                "settle each completion with the reservation of its own request"
            )
        usage = operation.usage
        tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        self._close(row, {"calls": 1, "msats": usage.cost_msats, **tokens})
        self._store(_purchase(operation, row, self._tick()))
        return None

    def _settled_before(self, operation: Settle) -> Answer:
        bought = self.bought.get(operation.request_id)
        done = bought is not None and bought.reservation_id == operation.reservation_id
        if done or operation.reservation_id in self.repeats:
            return None  # a settlement whose own commit was in doubt, and which is sent again
        return LedgerError(
            f"reservation {operation.reservation_id} is not in the ledger: it was released, or is another ledger's"
        )

    def _store(self, purchase: Purchase) -> None:
        if purchase.request_id in self.bought:
            self.repeats.add(purchase.reservation_id)
            self.new_repeats.append(purchase)
            return
        self.bought[purchase.request_id] = Bought(purchase.run_id, purchase.reservation_id, purchase.completion)
        self.new_bought.append(purchase)

    def _release(self, operation: Release) -> Answer:
        reserved = self.reservations.get(operation.reservation_id)
        if operation.how == "lost":
            if reserved is not None:
                self.lose(reserved)
            return None
        row = reserved or self.losses.get(operation.reservation_id)
        if row is not None:
            self._close(row, {"failed": int(operation.how == "failed")})
        return None

    def _close(self, row: Reservation, counts: Counts) -> None:
        """Take `row` from where it is, reservations or losses, and count what became of it."""
        if self.reservations.get(row.reservation_id) is not None:
            self.reservations.remove(row)
            self._tally(row, {"reserved": -1, "reserved_msats": -row.max_msats, **counts})
        else:
            self.losses.remove(row)
            self._tally(row, {"lost": -1, "lost_msats": -row.max_msats, **counts})

    def _tick(self) -> int:
        self.now_us += 1
        return self.now_us

    def _tally(self, row: Reservation, counts: Counts) -> None:
        self._add((row.run_id, row.stage, row.lane), counts)

    def _add(self, key: tuple[str, str, str], counts: Counts) -> None:
        run_id, stage, lane = key
        delta = self.deltas.get(key)
        if delta is None:
            delta = self.deltas[key] = dict(_ZEROS)
        totals = self.cells.setdefault(run_id, {}).setdefault((stage, lane), dict(_ZEROS))
        for name, count in counts.items():
            totals[name] += count
            delta[name] += count


def _purchase(operation: Settle, row: Reservation, at_us: int) -> Purchase:
    usage = operation.usage
    return Purchase(
        row.request_id,
        row.reservation_id,
        row.run_id,
        row.stage,
        row.lane,
        operation.venue,
        operation.model,
        operation.completion_id,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cost_msats,
        usage.estimated,
        usage.simulated,
        at_us,
        operation.completion,
        operation.request,
    )


def _unknown_run(run_id: str) -> LedgerError:
    return LedgerError(f"no run {run_id!r} in this ledger: open it with open_run before asking in its name")


def _fenced(claim: Claim, run: OpenRun) -> RunFenced:
    if claim.epoch == run.epoch:
        return RunFenced(f"run {claim.run_id!r} was closed by its owner: open it again to buy more")
    return RunFenced(
        f"run {claim.run_id!r} was opened {run.epoch} times and this process works on opening {claim.epoch}: "
        "another process took it over; stop this one"
    )
