"""Whether the budgets of a run allow one more call."""

from collections.abc import Iterable, Mapping

from swarmc.contracts.money import Budget, BudgetPolicy, Claim, Held, Refused

Cell = tuple[str, str]
"""Stage and lane."""

Counts = dict[str, int]
"""Numbers to add to a `Tally`, or one that is being added up: then with every column."""


def verdict(claim: Claim, policy: BudgetPolicy, cells: Mapping[Cell, Counts]) -> Refused | Held | None:
    """What the budgets say of one more call: never again, not now, or (`None`) yes.

    Args:
        claim: The call. It counts one call and its `max_msats`.
        policy: The caps of its run.
        cells: The run's tallies by stage and lane.
    """
    held = None
    for scope, budget, tallies in _scopes(claim, policy, cells):
        answer = _verdict(scope, budget, claim, tallies)
        if isinstance(answer, Refused):
            return answer
        held = held or answer
    return held


def _scopes(
    claim: Claim, policy: BudgetPolicy, cells: Mapping[Cell, Counts]
) -> Iterable[tuple[str, Budget, Iterable[Counts]]]:
    yield "run", policy.run, cells.values()
    stage, lane = policy.stages.get(claim.stage), policy.lanes.get(claim.lane)
    if stage is not None:
        yield f"stage:{claim.stage}", stage, [tally for cell, tally in cells.items() if cell[0] == claim.stage]
    if lane is not None:
        yield f"lane:{claim.lane}", lane, [tally for cell, tally in cells.items() if cell[1] == claim.lane]


def _verdict(scope: str, budget: Budget, claim: Claim, tallies: Iterable[Counts]) -> Refused | Held | None:
    calls = msats = calls_in_flight = msats_in_flight = 0
    for tally in tallies:
        calls += tally["calls"] + tally["lost"]
        msats += tally["msats"] + tally["lost_msats"]
        calls_in_flight += tally["reserved"]
        msats_in_flight += tally["reserved_msats"]
    max_calls, max_msats = budget.max_calls, budget.max_msats
    if max_calls is not None and calls + 1 > max_calls:
        return Refused(scope=scope, unit="calls", limit=max_calls, used=calls)
    if max_msats is not None and msats + claim.max_msats > max_msats:
        return Refused(scope=scope, unit="msats", limit=max_msats, used=msats)
    calls_are_held = max_calls is not None and calls + calls_in_flight + 1 > max_calls
    msats_are_held = max_msats is not None and msats + msats_in_flight + claim.max_msats > max_msats
    return Held(why="budget") if calls_are_held or msats_are_held else None
