"""What the caps of a budget leave for the stages that are still to come."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from swarmc.contracts.completions import Lane, Stage
from swarmc.contracts.money import Account, AccountLine, Budget, BudgetPolicy, Tally


@dataclass(frozen=True, slots=True)
class Room:
    """One cap: what is left of it, in calls and msats (`None`: no cap), and which stage or lane it is on."""

    stage: Stage | None
    lane: Lane | None
    calls: int | None
    msats: int | None

    def covers(self, stage: Stage, lane: Lane) -> bool:
        """Whether a stage's calls in a lane count against this cap."""
        return self.stage in (None, stage) and self.lane in (None, lane)


def rooms(budget: BudgetPolicy, account: Account, done: Collection[Stage]) -> Iterator[Room]:
    """What is left of every cap.

    Gone is what the stages in `done` bought, and what any stage lost. What a stage that goes on bought
    is a part of its plan: run again, it reads those completions.
    """
    for stage, lane, cap in _caps(budget):
        if cap.max_calls is None and cap.max_msats is None:
            continue
        own = [line for line in account.lines if stage in (None, line.stage) and lane in (None, line.lane)]
        gone = sum((_gone(line, done) for line in own), start=Tally())
        yield Room(stage, lane, _left(cap.max_calls, gone.calls), _left(cap.max_msats, gone.msats))


def _caps(budget: BudgetPolicy) -> Iterator[tuple[Stage | None, Lane | None, Budget]]:
    yield None, None, budget.run
    for stage, cap in budget.stages.items():
        yield stage, None, cap
    for lane, cap in budget.lanes.items():
        yield None, lane, cap


def _gone(line: AccountLine, done: Collection[Stage]) -> Tally:
    tally = line.tally
    over = line.stage in done
    return Tally(
        calls=tally.lost + (tally.calls if over else 0),
        msats=tally.lost_msats + (tally.msats if over else 0),
    )


def _left(cap: int | None, gone: int) -> int | None:
    return None if cap is None else max(0, cap - gone)
