"""The plan: how many calls each stage may ask for, and how many trials a budget has room for.

A search that is cut short by its plan ends the same way every time; one that runs into a budget
ends where the answers happened to be. So trials are planned to fit, and validation is paid for first.
"""

from dataclasses import dataclass

from swarmc.compiler.demonstrations import MOST_DISTINCT
from swarmc.contracts.money import Account, Budget, BudgetPolicy, Tally
from swarmc.contracts.spec import SearchSpec


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many examples each split has, and how many predictors the program."""

    train: int
    search: int
    validation: int
    test: int
    predictors: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Upper bounds of completions by stage, for programs that call each predictor `calls_per_run` times in all."""

    bootstrap: int
    propose: int
    search: int
    validate: int


def plan(spec: SearchSpec, sizes: Sizes, trials: int, calls_per_run: int) -> Plan:
    """What the stages will ask for at most."""
    runs = bootstrap_runs(spec, sizes)
    return Plan(
        bootstrap=runs * calls_per_run if spec.max_bootstrapped_demos else 0,
        propose=sizes.predictors * spec.instructions + 1,
        search=_search_calls(spec, sizes, trials, calls_per_run),
        validate=_validate_calls(spec, sizes, calls_per_run),
    )


def affordable_trials(spec: SearchSpec, sizes: Sizes, budget: BudgetPolicy, account: Account) -> int:
    """How many trials fit into what the budgets leave once validation is set aside: 1 to `spec.trials`.

    Args:
        spec: What was asked for.
        sizes: Of the splits.
        budget: The caps; those of the run, of the search stage and of the swarm lane are looked at.
        account: What was spent so far. Its bootstrap line tells what a program run costs.
    """
    per_run = calls_per_run(spec, sizes, account)
    for trials in range(spec.trials, 1, -1):
        search, validate = _search_calls(spec, sizes, trials, per_run), _validate_calls(spec, sizes, per_run)
        if _fits(budget, account, search, validate):
            return trials
    return 1


def calls_per_run(spec: SearchSpec, sizes: Sizes, account: Account) -> int:
    """Calls of one program run: what bootstrap needed, or one a predictor before anything ran."""
    tally = account.by_stage().get("bootstrap", Tally())
    runs = bootstrap_runs(spec, sizes)
    seen = -(-(tally.calls + tally.reused) // runs) if runs else 0
    return max(seen, sizes.predictors)


def bootstrap_runs(spec: SearchSpec, sizes: Sizes) -> int:
    """Program runs that demonstrations are made from."""
    return min(min(spec.demo_sets, MOST_DISTINCT) * spec.max_bootstrapped_demos, sizes.train)


def _search_calls(spec: SearchSpec, sizes: Sizes, trials: int, per_run: int) -> int:
    minibatch = min(spec.minibatch, sizes.search)
    # The race gives its last runs to the best few; TPE scores them on all search examples besides.
    full = min(spec.halving, trials) * sizes.search if spec.sampler == "tpe" else 0
    return (trials * minibatch + full) * per_run


def _validate_calls(spec: SearchSpec, sizes: Sizes, per_run: int) -> int:
    return (spec.finalists * sizes.validation + 2 * sizes.test) * per_run


def _fits(budget: BudgetPolicy, account: Account, search: int, validate: int) -> bool:
    by_stage, by_lane, total = account.by_stage(), account.by_lane(), account.total
    # Search's own earlier calls are part of its plan (a resumed run replays them), so they are not counted as gone.
    own = by_stage.get("search", Tally()) + by_stage.get("validate", Tally())
    sample = by_stage.get("bootstrap", Tally())
    price = -(-sample.msats // sample.calls) if sample.calls else 0
    scopes = [
        (budget.run, total, search + validate),
        (budget.stages.get("search", Budget()), by_stage.get("search", Tally()), search),
        (budget.stages.get("validate", Budget()), by_stage.get("validate", Tally()), validate),
        (budget.lanes.get("swarm", Budget()), by_lane.get("swarm", Tally()), search + validate),
    ]
    return all(_allows(cap, used, own, calls, price) for cap, used, calls in scopes)


def _allows(cap: Budget, used: Tally, own: Tally, calls: int, price_msats: int) -> bool:
    gone_calls = max(0, used.calls - own.calls) + used.lost
    gone_msats = max(0, used.msats - own.msats) + used.lost_msats
    if cap.max_calls is not None and gone_calls + calls > cap.max_calls:
        return False
    return cap.max_msats is None or gone_msats + calls * price_msats <= cap.max_msats
