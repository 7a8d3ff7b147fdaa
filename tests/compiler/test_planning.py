"""Plans: as many trials as every budget has room for, with validation set aside first, and never none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.planning import Plan, Sizes, affordable_trials, calls_per_run, plan
from swarmc.contracts.completions import Stage
from swarmc.contracts.money import Account, AccountLine, Budget, BudgetPolicy, Tally
from swarmc.contracts.spec import SearchSpec

SIZES = Sizes(train=100, search=100, validation=50, test=50, predictors=1)
SPEC = SearchSpec()  # 30 trials of 35, 6 of them again on all of search, 3 finalists
NOTHING = Account(run_id="r")
SEARCH, VALIDATE = 30 * 35 + 6 * 100, 3 * 50 + 2 * 50


def run_budget(calls: int | None = None, msats: int | None = None) -> BudgetPolicy:
    return BudgetPolicy(run=Budget(max_calls=calls, max_msats=msats))


def spent(stage: Stage = "bootstrap", **tally: int) -> Account:
    return Account(run_id="r", lines=(AccountLine(stage=stage, lane="swarm", tally=Tally(**tally)),))


def trials(budget: BudgetPolicy, account: Account = NOTHING, spec: SearchSpec = SPEC) -> int:
    return affordable_trials(spec, SIZES, budget, account)


def test_a_plan_is_an_upper_bound_of_what_the_stages_ask_for() -> None:
    assert plan(SPEC, SIZES, 30, 1) == Plan(bootstrap=32, propose=13, search=SEARCH, validate=VALIDATE)
    assert plan(SPEC, SIZES, 30, 3) == Plan(bootstrap=96, propose=13, search=3 * SEARCH, validate=3 * VALIDATE)


def test_a_plan_asks_for_no_more_examples_than_there_are() -> None:
    small = Sizes(train=5, search=10, validation=2, test=2, predictors=2)
    assert plan(SPEC, small, 2, 2) == Plan(bootstrap=10, propose=25, search=(2 * 10 + 2 * 10) * 2, validate=20)


def test_without_demonstrations_there_is_no_bootstrap() -> None:
    assert plan(SearchSpec(max_bootstrapped_demos=0), SIZES, 30, 1).bootstrap == 0


def test_without_a_cap_all_trials_fit() -> None:
    assert trials(BudgetPolicy()) == 30


@pytest.mark.parametrize(("calls", "fitting"), [(SEARCH + VALIDATE, 30), (SEARCH + VALIDATE - 1, 29), (0, 1), (500, 1)])
def test_trials_shrink_to_what_the_run_has_room_for_and_to_one_at_least(calls: int, fitting: int) -> None:
    assert trials(run_budget(calls=calls)) == fitting


@pytest.mark.parametrize(
    "budget",
    [
        BudgetPolicy(run=Budget(max_calls=1000)),
        BudgetPolicy(stages={"search": Budget(max_calls=1000 - VALIDATE)}),
        BudgetPolicy(lanes={"swarm": Budget(max_calls=1000)}),
        BudgetPolicy(run=Budget(max_calls=9999), lanes={"swarm": Budget(max_calls=1000)}),
    ],
)
def test_every_cap_that_applies_shrinks_the_trials(budget: BudgetPolicy) -> None:
    fitting = trials(budget)
    assert plan(SPEC, SIZES, fitting, 1).search <= 1000 - VALIDATE < plan(SPEC, SIZES, fitting + 1, 1).search


def test_a_validation_that_does_not_fit_leaves_one_trial() -> None:
    assert trials(BudgetPolicy(stages={"validate": Budget(max_calls=VALIDATE - 1)})) == 1
    assert trials(BudgetPolicy(stages={"validate": Budget(max_calls=VALIDATE)})) == 30


def test_money_is_planned_by_what_bootstrap_cost() -> None:
    account = spent(calls=32, msats=32 * 10)
    enough = 32 * 10 + (SEARCH + VALIDATE) * 10
    assert trials(run_budget(msats=enough), account) == 30
    assert trials(run_budget(msats=enough - 1), account) == 29


def test_what_is_spent_or_lost_is_gone() -> None:
    exactly = SEARCH + VALIDATE + 32
    assert trials(run_budget(calls=exactly), spent(calls=30, lost=2)) == 30
    assert trials(run_budget(calls=exactly), spent(calls=31, lost=2)) == 29


def test_a_search_that_continues_is_planned_as_it_was() -> None:
    before = spent(calls=32)
    later = Account(
        run_id="r", lines=(*before.lines, *spent("search", calls=900).lines, *spent("validate", calls=9).lines)
    )
    for calls in range(300, 2200, 100):
        assert trials(run_budget(calls=calls), later) == trials(run_budget(calls=calls), before)


def test_a_program_run_costs_what_bootstrap_saw() -> None:
    assert calls_per_run(SPEC, SIZES, NOTHING) == 1
    assert calls_per_run(SPEC, SIZES, spent(calls=32)) == 1
    assert calls_per_run(SPEC, SIZES, spent(calls=33)) == 2
    assert calls_per_run(SPEC, SIZES, spent(calls=60, reused=36)) == 3
    assert calls_per_run(SearchSpec(max_bootstrapped_demos=0), SIZES, NOTHING) == 1
    assert calls_per_run(SPEC, Sizes(100, 100, 50, 50, predictors=4), spent(calls=32)) == 4


specs = st.builds(
    SearchSpec, trials=st.integers(1, 60), minibatch=st.integers(1, 120), halving=st.integers(1, 20),
    finalists=st.integers(1, 9), max_bootstrapped_demos=st.integers(0, 4),
)  # fmt: skip
tallies = st.builds(Tally, calls=st.integers(0, 200), lost=st.integers(0, 9), msats=st.integers(0, 10**5))
accounts = tallies.map(
    lambda tally: Account(run_id="r", lines=(AccountLine(stage="bootstrap", lane="swarm", tally=tally),))
)


@given(specs, accounts, st.integers(0, 5000), st.integers(0, 5000))
def test_what_is_planned_fits_and_a_larger_budget_never_plans_less(
    spec: SearchSpec, account: Account, one: int, other: int
) -> None:
    less, more = sorted((one, other))
    few, many = (trials(run_budget(calls=calls), account, spec) for calls in (less, more))
    assert 1 <= few <= many <= spec.trials
    if few > 1:
        planned = plan(spec, SIZES, few, calls_per_run(spec, SIZES, account))
        gone = account.total.calls + account.total.lost
        assert gone + planned.search + planned.validate <= less
