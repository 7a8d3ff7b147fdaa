"""Plans with several lanes: redundancy, verification and the early test are counted before anything is bought."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from swarmc.compiler.costs import Known, Price, Sizes
from swarmc.compiler.planning import make_plan
from swarmc.contracts.money import Account
from swarmc.contracts.plan import Demand, Plan
from swarmc.contracts.spec import CompileSpec

SIZES = Sizes(train=100, search=100, validation=50, test=50, predictors=1)
PRICES = {
    "swarm": Price(10, 10, 10),
    "validation": Price(50, 50, 50),
    "premium": Price(1_000, 1_000, 1_000),
    "judge": Price(5, 5, 5),
}
KNOWN = Known(
    sizes=SIZES,
    demand=lambda search: Demand(bootstrap_runs=16, proposals=6),
    account=Account(run_id="r"),
    quotes=PRICES,
)
SEARCH = {"trials": 30, "minibatch": 20, "instructions": 5, "demo_sets": 4, "finalists": 2, "reflections": 0}
LANES = {"swarm": {"venue": "practice"}, "validation": {"venue": "auto"}, "premium": {}, "judge": {}}
ASKED = {"agree": 3, "of": 5}


def job(**changes: object) -> CompileSpec:
    fields = {
        "program": "question -> answer",
        "dataset": {"source": "x.jsonl"},
        "adapter": {"json_fallback": False},
        "lanes": LANES,
        "redundancy": ASKED,
        "search": SEARCH,
    }
    return CompileSpec.model_validate({**fields, **changes})


def calls(plan: Plan) -> dict[tuple[str, str], tuple[int, int]]:
    return {(line.stage, line.lane): (line.calls_low, line.calls_high) for line in plan.stages}


def test_every_answer_is_planned_as_often_as_it_may_be_asked_for():
    plan = make_plan(job(), KNOWN).plan
    assert calls(plan) == {
        ("bootstrap", "swarm"): (16, 16),
        ("propose", "swarm"): (0, 6),
        ("search", "swarm"): (100, 600 + 96),
        ("search", "validation"): (0, 96),
        ("climb", "validation"): (0, 160),
        ("validate", "validation"): (3 * 100, 5 * 200),
        ("verify", "premium"): (0, 2 * 50),
    }


def test_a_judge_of_agreement_is_planned_for_every_pair_of_runs():
    plan = make_plan(job(redundancy=ASKED | {"by": "judge"}), KNOWN).plan
    assert calls(plan)["validate", "judge"] == (0, 10 * 200)


def test_without_redundancy_nothing_is_planned_that_was_not_before():
    lanes = {lane: LANES[lane] for lane in ("swarm", "validation", "judge")}
    plan = make_plan(job(redundancy=None, lanes=lanes), KNOWN).plan
    assert {line.stage for line in plan.stages} == {"bootstrap", "propose", "search", "validate"}
    assert calls(plan)["search", "swarm"] == (100, 600)
    assert calls(plan)["validate", "validation"] == (100, 200)


def test_a_cap_of_the_premium_lane_ends_the_stage_and_shrinks_no_search():
    capped = make_plan(job(budget={"lanes": {"premium": {"max_calls": 7, "max_msats": 6_500}}}), KNOWN)
    line = next(line for line in capped.plan.stages if line.stage == "verify")
    assert (line.calls_high, line.msats_high) == (7, 6_500)
    assert capped.search == make_plan(job(), KNOWN).search
    none = make_plan(job(budget={"lanes": {"premium": {"max_calls": 0}}}), KNOWN)
    assert "verify" not in {line.stage for line in none.plan.stages}


@pytest.mark.parametrize("cap", [700, 1_500, 2_000])
def test_a_cap_on_all_calls_holds_with_every_lane(cap: int):
    assert make_plan(job(budget={"run": {"max_calls": cap}}), KNOWN).plan.calls[1] <= cap


@pytest.mark.parametrize("lane", ["swarm", "validation"])
def test_a_cap_on_one_lane_holds_in_the_plan(lane: str):
    plan = make_plan(job(budget={"lanes": {lane: {"max_calls": 500}}}), KNOWN).plan
    assert sum(line.calls_high for line in plan.stages if line.lane == lane) <= 500


def test_a_search_that_moved_up_is_planned_in_the_better_lane_at_its_price():
    moved = make_plan(job(), replace(KNOWN, lane="validation", cells=96)).plan
    assert calls(moved)["search", "validation"] == (100, 600 + 96)
    assert calls(moved)["search", "swarm"] == (0, 96)
    assert moved.msats[1] > make_plan(job(), KNOWN).plan.msats[1]


@pytest.mark.parametrize(
    ("runs", "percent", "climb"), [(1_470, 20, 294), (360, 20, 160), (100, 20, 50), (1, 20, 0), (1_470, 0, 0)]
)
def test_a_climb_is_a_part_of_its_search_and_never_more_than_half(runs: int, percent: int, climb: int):
    search = {**SEARCH, "trials": runs, "minibatch": 1}
    planned = make_plan(job(search=search, transfer={"climb_percent": percent}), KNOWN)
    assert planned.search.climb == climb
    assert planned.calls("climb") == climb


def test_a_climb_leaves_half_as_many_finalists_unless_a_number_is_asked_for():
    own = {name: value for name, value in SEARCH.items() if name != "finalists"} | {"trials": 60}
    with_climb, without = (
        make_plan(job(search=own, transfer={"climb_percent": percent}), KNOWN).search for percent in (20, 0)
    )
    assert (without.finalists, with_climb.finalists) == (4, 2)
    assert make_plan(job(search=own | {"finalists": 5}), KNOWN).search.finalists == 5


def test_a_plan_that_is_made_to_fit_halves_its_finalists_once():
    whole = make_plan(job(search={"auto": "heavy"}), KNOWN).search
    fitted = make_plan(job(search={"calls": 20_000}), KNOWN).search
    assert fitted.runs > whole.runs
    assert fitted.finalists == whole.finalists == 3


def test_where_the_better_lane_does_not_bear_it_out_a_whole_search_is_planned_there_that_fits():
    search_over = frozenset({"bootstrap", "propose", "search"})
    before = make_plan(job(), KNOWN).search
    whole = replace(KNOWN, done=search_over, before=before, whole=True)
    assert make_plan(job(), whole).search.climb == 600
    capped = make_plan(job(budget={"lanes": {"validation": {"max_calls": 1_400}}}), whole)
    assert 0 < capped.search.climb < 600
    assert sum(line.calls_high for line in capped.plan.stages if line.lane == "validation") <= 1_400
    assert any("program runs in the validation lane after it" in cut for cut in capped.plan.cut)


def test_a_plan_that_is_made_again_climbs_no_further_than_the_search_that_was_made():
    asked = {**{name: value for name, value in SEARCH.items() if name != "trials"}, "calls": 3_000}
    first = make_plan(job(search=asked), KNOWN).search
    over = replace(KNOWN, done=frozenset({"bootstrap", "propose", "search"}), before=first)
    assert make_plan(job(search=asked), over).search.climb == first.climb


def test_a_search_is_not_eaten_by_the_test_that_precedes_it():
    small = make_plan(job(search={**SEARCH, "trials": 5}), KNOWN).plan
    assert ("search", "validation") not in calls(small)


def test_lanes_that_are_alike_have_nothing_to_predict():
    same = {lane: {"venue": "auto", "concurrency": n} for n, lane in enumerate(("swarm", "validation"), start=1)}
    assert job(lanes=same).transfer_test is None
    assert job(lanes=same, transfer={"texts": 4}).transfer_test is None
    assert job(transfer={"examples": 0, "climb_percent": 0}).transfer_test is None
    assert job(transfer={"examples": 0}).transfer_test is not None
    assert job(transfer={"texts": 4}).transfer_test is not None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"redundancy": None}, "the lane `premium` answers what redundancy leaves undecided"),
        ({"redundancy": {"by": "judge"}, "lanes": {"swarm": {}}}, "needs a lane `judge`"),
        ({"transfer": {"against": "premium"}, "lanes": {"swarm": {}}}, "a lane that `lanes` lacks: premium"),
        ({"redundancy": {"agree": 4, "of": 3}}, "4 of 3 runs cannot agree"),
        ({"redundancy": {"by": "luck"}}, "by"),
        ({"redundancy": {"of": 33}}, "of"),
    ],
    ids=str,
)
def test_lanes_and_redundancy_that_do_not_fit_are_named(changes: dict, named: str):
    with pytest.raises(ValidationError, match=named):
        job(**changes)


def test_redundancy_and_transfer_are_part_of_what_is_asked_for_and_their_absence_is_not():
    plain = job(redundancy=None, lanes={"swarm": {}})
    assert "redundancy" not in plain.model_dump()
    ids = {plain.spec_id, *(job(lanes={"swarm": {}}, redundancy={"of": of}).spec_id for of in (4, 5))}
    assert len(ids) == 3
