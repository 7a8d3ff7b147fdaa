"""Plans: as much search as every budget has room for, with validation set aside first, and never none."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.costs import Known, Price, Sizes
from swarmc.compiler.planning import Planned, effective_budget, make_plan
from swarmc.compiler.presets import PRESETS, preset_of
from swarmc.contracts.completions import Lane, Stage
from swarmc.contracts.money import Account, AccountLine, Tally
from swarmc.contracts.plan import Demand
from swarmc.contracts.spec import CompileSpec, PlannedSearch

SIZES = Sizes(train=100, search=100, validation=50, test=50, predictors=1)
NOTHING = Account(run_id="r")


def demand(search: PlannedSearch) -> Demand:
    """What MIPROv2 asks for, for one predictor."""
    runs = min(min(search.demo_sets, 8) * search.max_bootstrapped_demos, SIZES.train)
    return Demand(bootstrap_runs=runs, proposals=search.instructions + 1, writings=search.reflections)


KNOWN = Known(sizes=SIZES, demand=demand, account=NOTHING)


def job(search: dict | None = None, **changes: object) -> CompileSpec:
    fields = {"program": "question -> answer", "dataset": {"source": "x.jsonl"}, "adapter": {"json_fallback": False}}
    return CompileSpec.model_validate({**fields, "search": search or {}, **changes})


def run_budget(**cap: int) -> dict:
    return {"budget": {"run": cap}}


def spent(stage: Stage = "bootstrap", lane: Lane = "swarm", **tally: int) -> Account:
    return Account(run_id="r", lines=(AccountLine(stage=stage, lane=lane, tally=Tally(**tally)),))


def by_stage(planned: Planned) -> dict[str, int]:
    return {stage: planned.calls(stage) for stage in ("bootstrap", "propose", "search", "validate")}


def test_a_preset_says_how_much_is_tried() -> None:
    for name, preset in PRESETS.items():
        planned = make_plan(job({"auto": name}), KNOWN)
        assert planned.search.runs == preset.runs
        assert planned.search.instructions == preset.instructions
        assert planned.plan.cut == ()
        assert by_stage(planned)["validate"] == preset.finalists * 50 + 2 * 50


def test_sizes_that_are_given_replace_the_presets() -> None:
    asked = {"trials": 30, "minibatch": 20, "instructions": 5, "demo_sets": 4, "finalists": 2, "reflections": 0}
    planned = make_plan(job(asked), KNOWN)
    assert by_stage(planned) == {"bootstrap": 16, "propose": 6, "search": 600, "validate": 200}


def test_tpe_scores_its_best_few_on_all_search_examples_besides() -> None:
    asked = {"trials": 30, "minibatch": 20, "sampler": "tpe", "halving": 6, "reflections": 0}
    assert make_plan(job(asked), KNOWN).search.runs == 30 * 20 + 6 * 100


def test_a_program_of_several_predictors_gets_more_runs_and_more_calls_a_run() -> None:
    two = make_plan(job({"auto": "light", "reflections": 0}), replace(KNOWN, sizes=replace(SIZES, predictors=2)))
    assert two.search.runs == PRESETS["light"].runs * 3 // 2
    assert by_stage(two)["search"] == 2 * two.search.runs


@pytest.mark.parametrize("calls", [60, 200, 500, 1_000, 5_000, 20_000])
def test_a_number_of_calls_is_used_and_never_exceeded(calls: int) -> None:
    planned = make_plan(job({"calls": calls}), KNOWN)
    assert planned.plan.calls[1] <= calls
    assert planned.plan.calls[1] >= 0.9 * calls
    assert by_stage(planned)["search"] >= 0.3 * calls


def test_a_budget_too_small_for_anything_plans_one_run_and_says_what_was_cut() -> None:
    planned = make_plan(job({"trials": 50, "instructions": 100}, **run_budget(max_calls=3)), KNOWN)
    assert planned.search.runs == 1
    assert any("program runs in the search: 1 of 1,750" in sentence for sentence in planned.plan.cut)
    assert any("instructions a predictor" in sentence for sentence in planned.plan.cut)


@pytest.mark.parametrize(
    "budget",
    [
        {"run": {"max_calls": 600}},
        {"stages": {"search": {"max_calls": 350}}},
        {"lanes": {"swarm": {"max_calls": 600}}},
        {"run": {"max_calls": 9_999}, "lanes": {"swarm": {"max_calls": 600}}},
    ],
    ids=str,
)
def test_every_cap_that_applies_shrinks_the_search(budget: dict) -> None:
    planned = make_plan(job({"auto": "medium"}, budget=budget), KNOWN)
    assert 100 < planned.search.runs < PRESETS["medium"].runs
    assert planned.plan.cut


def test_validation_is_set_aside_first_and_shrinks_only_when_the_search_would_starve() -> None:
    roomy = make_plan(job(**run_budget(max_calls=600)), KNOWN)
    assert (roomy.search.validation, roomy.search.test) == (50, 50)
    large = replace(KNOWN, sizes=replace(SIZES, validation=1_000, test=1_000))
    starved = make_plan(job(**run_budget(max_calls=600)), large)
    assert starved.search.test < 1_000
    assert by_stage(starved)["search"] >= 0.3 * 600
    assert any("test examples" in sentence for sentence in starved.plan.cut)


def test_money_is_planned_by_quotes_first_and_by_what_was_paid_later() -> None:
    asked = job({"budget_msats": 10_000, "reflections": 0})
    quoted = replace(KNOWN, quotes={"swarm": Price(5, 40, 40)})
    first = make_plan(asked, quoted)
    assert first.plan.msats[1] <= 10_000
    known = replace(quoted, account=spent(calls=32, msats=320), done=frozenset({"bootstrap"}), before=first.search)
    later = make_plan(asked, known)
    assert later.search.runs > 2 * first.search.runs
    assert sum(line.calls_high * 10 for line in later.plan.stages) <= 10_000


def test_msats_of_a_free_model_are_no_limit_and_the_largest_preset_is_planned() -> None:
    assert make_plan(job({"budget_msats": 10}), KNOWN).search.runs == PRESETS["heavy"].runs


def test_what_is_over_counts_as_it_was_and_what_was_lost_is_gone() -> None:
    asked = job({"auto": "heavy"}, **run_budget(max_calls=1_000))
    before = make_plan(asked, KNOWN).search
    over = replace(KNOWN, done=frozenset({"bootstrap"}), before=before)
    clean = make_plan(asked, replace(over, account=spent(calls=30)))
    lossy = make_plan(asked, replace(over, account=spent(calls=30, lost=20)))
    assert clean.search.runs - lossy.search.runs == 20


def test_a_search_that_continues_is_planned_as_it_was() -> None:
    bootstrapped = spent(calls=32)
    more = (*bootstrapped.lines, *spent("search", calls=300).lines, *spent("validate", calls=9).lines)
    for calls in range(300, 2_200, 100):
        asked = job({"auto": "medium"}, **run_budget(max_calls=calls))
        over = replace(KNOWN, done=frozenset({"bootstrap"}), before=make_plan(asked, KNOWN).search)
        one = make_plan(asked, replace(over, account=bootstrapped))
        assert make_plan(asked, replace(over, account=Account(run_id="r", lines=more))) == one


def test_a_program_run_costs_what_bootstrap_saw() -> None:
    asked = job({"trials": 10, "minibatch": 10, "reflections": 0})
    before = make_plan(asked, KNOWN).search
    runs = demand(before).bootstrap_runs
    over = replace(KNOWN, done=frozenset({"bootstrap"}), before=before, bootstrapped=runs)
    for bought, per_run in ((runs, 1), (runs + 1, 2), (3 * runs, 3)):
        planned = make_plan(asked, replace(over, account=spent(calls=bought - 5, reused=5)))
        assert by_stage(planned)["search"] == 100 * per_run


def test_answers_that_may_be_asked_for_again_as_json_double_the_upper_bound_only() -> None:
    once, twice = (make_plan(job(adapter={"json_fallback": again}), KNOWN) for again in (False, True))
    assert twice.search == once.search
    assert by_stage(twice)["search"] > 1.9 * by_stage(once)["search"]
    assert twice.plan.calls[0] == once.plan.calls[0]


def test_an_incumbent_costs_its_validation_and_its_test() -> None:
    alone, together = (by_stage(make_plan(job(), replace(KNOWN, programs=n)))["validate"] for n in (2, 3))
    assert together == alone + 50 + 50


def test_a_number_of_calls_is_a_cap_of_the_run_too() -> None:
    asked = job({"calls": 500}, budget={"run": {"max_calls": 800, "max_msats": 7}})
    assert effective_budget(asked).run.max_calls == 500
    assert effective_budget(asked).run.max_msats == 7
    assert effective_budget(job({"calls": 900}, **run_budget(max_calls=800))).run.max_calls == 800


def test_a_model_that_cannot_write_is_asked_for_no_instruction() -> None:
    planned = make_plan(job(proposer="none"), KNOWN)
    assert by_stage(planned)["propose"] == 0
    assert planned.search.reflections == 0


@given(st.integers(0, 10_000))
def test_pools_never_shrink_when_there_are_more_runs(runs: int) -> None:
    less, more = preset_of(runs), preset_of(runs + 1)
    for name in ("instructions", "demo_sets", "finalists", "reflections"):
        assert getattr(less, name) <= getattr(more, name)


searches = st.fixed_dictionaries(
    {}, optional={
        "auto": st.sampled_from(sorted(PRESETS)), "instructions": st.integers(1, 60), "demo_sets": st.integers(1, 60),
        "finalists": st.integers(1, 9), "max_bootstrapped_demos": st.integers(0, 4), "reflections": st.integers(0, 20),
    },
)  # fmt: skip


@given(searches, st.integers(0, 5_000), st.integers(0, 5_000))
def test_what_is_planned_fits_and_a_larger_budget_never_searches_less(search: dict, one: int, other: int) -> None:
    less, more = sorted((one, other))
    few, many = (make_plan(job(search, **run_budget(max_calls=calls)), KNOWN) for calls in (less, more))
    if few.search.runs > 1 and few.search.test == many.search.test:
        assert few.search.runs <= many.search.runs
    for planned, calls in ((few, less), (many, more)):
        assert planned.plan.calls[1] <= calls or planned.search.runs == 1
        assert planned.plan.calls[0] <= planned.plan.calls[1]
