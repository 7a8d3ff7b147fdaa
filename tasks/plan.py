"""Plan: decide how much is tried, and show what every stage will ask for and cost, before it is bought."""

from swarmc.compiler.costs import Known
from swarmc.compiler.metering import now_ms
from swarmc.compiler.planning import Planned, make_plan
from swarmc.compiler.reports import plan_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.events import PlanMade
from tasks.stage import StageNotes, live, publish


@live("plan")
async def plan(bench: Bench, known: Known) -> Planned:
    """The plan by what is known now; from now on the workbench follows it.

    Args:
        bench: The compile's workbench.
        known: Sizes, prices, the account, and the stages that are over.
    """
    planned = make_plan(bench.job, known)
    bench.spec = planned.search
    bench.emit(PlanMade(run_id=bench.run_id, at_ms=now_ms(), plan=planned.plan))
    if known.before != planned.search:  # A plan that stands is not shown again.
        calls, msats = (_range(*bounds) for bounds in (planned.plan.calls, planned.plan.msats))
        sentence = f"planned: {calls} calls and {msats} msats in all"
        await publish("compile-plan", StageNotes(sentence=sentence, report=plan_report(planned.plan)))
    return planned


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
