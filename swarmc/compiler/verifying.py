"""Verification: what no agreement decided is asked of the premium lane, for all programs that are compared.

An example whose answers come from the premium lane for one program and from the validation lane for
another would compare lanes, not programs. So an example is verified for all of them or for none, and
which ones are does not depend on timing: first those that the budget surely allows, all at once,
then one after the other until it refuses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from swarmc.compiler.awaiting import gather_or_cancel
from swarmc.compiler.costs import Known, calls_per_run, price_of
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.rooms import rooms
from swarmc.contracts.candidates import Candidate, Outcome
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.spec import CompileSpec

Answers = dict[str, dict[str, Outcome]]
"""By candidate and example, what the premium lane's answer scored."""


@dataclass
class Answered:
    """What was verified: the examples in their order, and the outcomes. `stopped` says why not all were."""

    examples: list[str] = field(default_factory=list)
    outcomes: Answers = field(default_factory=dict)
    stopped: str = ""

    def add(self, example_id: str, found: Mapping[str, Outcome]) -> None:
        self.examples.append(example_id)
        for candidate_id, outcome in found.items():
            self.outcomes.setdefault(candidate_id, {})[example_id] = outcome


async def ask_premium(
    evaluator: Evaluator, programs: Sequence[Candidate], example_ids: Sequence[str], sure: int
) -> Answered:
    """Run programs on examples in the premium lane, as far as the budget goes.

    Args:
        evaluator: Runs them.
        programs: All that are compared with one another.
        example_ids: What was left undecided, in order.
        sure: How many of them the budget allows whatever they cost.

    Raises:
        VenueError: the lane stayed down.
    """
    done = Answered()
    try:
        first = example_ids[:sure]
        for key, found in zip(
            first, await gather_or_cancel(_on(evaluator, programs, key) for key in first), strict=True
        ):
            done.add(key, found)
    except BudgetExhausted:  # Calls of an earlier process were lost; what was bought is read again below.
        done = Answered()
    try:
        for key in example_ids[len(done.examples) :]:
            done.add(key, await _on(evaluator, programs, key))
    except BudgetExhausted as error:
        done.stopped = str(error)
    return done


def surely_affordable(job: CompileSpec, known: Known, budget: BudgetPolicy) -> int | None:
    """Examples that the premium lane can answer for every compared program at their highest price; `None`: all."""
    most = known.programs * calls_per_run(job, known)[2]
    judged = known.programs * job.judge_calls
    each: dict[Lane, tuple[int, int]] = {
        lane: (calls, calls * price_of(lane, known).high) for lane, calls in _calls(job, most, judged).items()
    }
    found: list[int] = []
    for room in rooms(budget, known.account, known.done):
        own = [need for lane, need in each.items() if room.covers("verify", lane)]
        for left, need in (
            (room.calls, sum(calls for calls, _ in own)),
            (room.msats, sum(msats for _, msats in own)),
        ):
            if left is not None and need:
                found.append(left // need)
    return min(found, default=None)


def _calls(job: CompileSpec, most: int, judged: int) -> dict[Lane, int]:
    calls: dict[Lane, int] = {"premium": most}
    if judged and "judge" in job.lanes:
        calls["judge"] = judged
    return calls


async def _on(evaluator: Evaluator, programs: Sequence[Candidate], key: str) -> dict[str, Outcome]:
    """One example's outcomes by candidate, one program after the other: their order is what a budget ends in."""
    found = {}
    for program in programs:
        run = await evaluator.ask(program, key, lane="premium")
        found[program.content_id] = run.outcome
    return found
