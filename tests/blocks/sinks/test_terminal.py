"""The terminal: what a person reads of a plan, whatever its size."""

import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from blocks.sinks.terminal import TerminalSink
from swarmc.contracts.events import PlanMade, StageStarted
from swarmc.contracts.plan import Plan, StagePlan

AT: dict[str, Any] = {"run_id": "r", "at_ms": 0}
CUT = "12 instructions instead of 24: the budget of [run] is 5,000 msats"


def stage(name: Any, calls: int, msats: int = 0, lane: Any = "swarm") -> StagePlan:
    return StagePlan(
        stage=name, lane=lane, calls_low=calls, calls_high=2 * calls, msats_low=msats, msats_high=2 * msats
    )


PLAN = Plan(
    stages=(stage("bootstrap", 32, 400, "teacher"), stage("search", 1_800, 9_000)),
    runs=360,
    combinations=144,
    cut=(CUT,),
)


async def told(*plans: Plan, terminal: bool = False) -> list[str]:
    """What is printed of plans, line by line."""
    out = io.StringIO()
    sink = TerminalSink(Console(file=out, width=100, force_terminal=terminal, color_system=None))
    for plan in plans:
        await sink.tell(PlanMade(**AT, plan=plan))
    await sink.aclose()
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


async def test_the_first_plan_is_an_aligned_table_with_its_sum_and_what_was_cut() -> None:
    assert await told(PLAN) == [
        "  planned    lane             calls           msats",
        "  bootstrap  teacher        32 - 64       400 - 800",
        "  search     swarm    1,800 - 3,600  9,000 - 18,000",
        "  all                 1,832 - 3,664  9,400 - 18,800",
        f"  {CUT}",
    ]


async def test_a_later_plan_is_one_sentence_and_only_when_its_numbers_differ() -> None:
    first = await told(PLAN)
    other_words = PLAN.model_copy(update={"cut": ("said otherwise",)})
    assert await told(PLAN, PLAN, other_words) == first
    smaller = PLAN.model_copy(update={"runs": 180, "stages": PLAN.stages[:1]})
    sentence = "  the plan is now 180 program runs of the search, 32 - 64 calls and 400 - 800 msats in all"
    assert await told(PLAN, smaller, smaller) == [*first, sentence]


async def test_a_plan_is_shown_above_bars_that_are_alive() -> None:
    out = io.StringIO()
    sink = TerminalSink(Console(file=out, width=100, force_terminal=True, color_system=None))
    await sink.tell(StageStarted(**AT, stage="search", calls_planned=9))
    await sink.tell(PlanMade(**AT, plan=PLAN))
    await sink.aclose()
    assert "9,400 - 18,800" in out.getvalue()


NUMBERS = st.integers(min_value=0, max_value=10**15)
STAGES = st.builds(
    StagePlan,
    stage=st.sampled_from(["bootstrap", "propose", "search", "validate"]),
    lane=st.sampled_from(["swarm", "premium"]),
    calls_low=NUMBERS,
    calls_high=NUMBERS,
    msats_low=NUMBERS,
    msats_high=NUMBERS,
)
PLANS = st.builds(
    Plan,
    stages=st.lists(STAGES, max_size=6).map(tuple),
    runs=NUMBERS,
    combinations=NUMBERS,
    cut=st.lists(st.text(max_size=30), max_size=3).map(tuple),
)


@given(st.lists(PLANS, min_size=1, max_size=3))
async def test_no_plan_stops_the_terminal(plans: list[Plan]) -> None:
    lines = await told(*plans)
    assert any(line.split()[:1] == ["all"] for line in lines)
