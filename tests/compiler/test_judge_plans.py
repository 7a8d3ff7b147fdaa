"""Plans with a judge: its calls are counted in every stage that scores, and budgets hold with them."""

import dspy
import pytest

from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.costs import Known, Price, Sizes, calls_per_run
from swarmc.compiler.planning import make_plan
from swarmc.compiler.programs import load_program
from swarmc.compiler.quoting import Quoted, quotes
from swarmc.contracts.completions import Sampling, Stage
from swarmc.contracts.metrics import JudgePart
from swarmc.contracts.money import Account, AccountLine, Tally
from swarmc.contracts.plan import Demand, Plan
from swarmc.contracts.spec import CompileSpec
from tests.fakes import AnsweringVenue

SIZES = Sizes(train=100, search=100, validation=50, test=50, predictors=1)
KNOWN = Known(
    sizes=SIZES,
    demand=lambda asked: Demand(bootstrap_runs=16, proposals=6),
    account=Account(run_id="r"),
    quotes={"swarm": Price(1, 1, 1), "judge": Price(2, 5, 5)},
)
SEARCH = {"trials": 30, "minibatch": 20, "instructions": 5, "demo_sets": 4, "finalists": 2, "reflections": 0}


def job(rollouts: int = 3, **changes: object) -> CompileSpec:
    fields = {
        "program": "question -> answer",
        "dataset": {"source": "x.jsonl"},
        "adapter": {"json_fallback": False},
        "metric": {"parts": [{"kind": "length", "min_bytes": 1}, {"kind": "llm_judge"}], "rollouts": rollouts},
        "lanes": {"swarm": {}, "judge": {}},
        "search": SEARCH,
    }
    return CompileSpec.model_validate({**fields, **changes})


def judged(plan: Plan) -> dict[str, tuple[int, int, int]]:
    return {
        line.stage: (line.calls_low, line.calls_high, line.msats_high) for line in plan.stages if line.lane == "judge"
    }


def test_every_program_run_may_be_judged_as_often_as_the_metric_says() -> None:
    plan = make_plan(job(), KNOWN).plan
    assert judged(plan) == {
        "bootstrap": (0, 3 * 16, 5 * 3 * 16),
        "search": (0, 3 * 600, 5 * 3 * 600),
        "validate": (0, 3 * 200, 5 * 3 * 200),
    }


def test_a_metric_without_a_judge_plans_as_it_always_did() -> None:
    plain = make_plan(job(metric="exact_match", lanes={"swarm": {}}), KNOWN).plan
    assert judged(plain) == {}
    assert plain.calls[1] == 16 + 6 + 600 + 200


@pytest.mark.parametrize("calls", [200, 1_000, 3_000])
def test_a_cap_on_calls_holds_with_the_judge(calls: int) -> None:
    plan = make_plan(job(budget={"run": {"max_calls": calls}}), KNOWN).plan
    assert plan.calls[1] <= calls
    assert plan.runs < 600


def test_a_cap_on_the_judges_lane_alone_shrinks_the_search() -> None:
    capped = job(budget={"lanes": {"judge": {"max_calls": 900}}})
    assert sum(high for _, high, _ in judged(make_plan(capped, KNOWN).plan).values()) <= 900


def after_bootstrap(calls: int, judged: int) -> Account:
    line = AccountLine(stage="bootstrap", lane="swarm", tally=Tally(calls=calls))
    own = AccountLine(stage="bootstrap", lane="judge", tally=Tally(calls=judged))
    return Account(run_id="r", lines=(line, own))


def test_opinions_are_no_calls_of_the_program() -> None:
    bought = after_bootstrap(16, 48)
    known = Known(SIZES, KNOWN.demand, bought, done=frozenset({"bootstrap"}), bootstrapped=16)
    assert calls_per_run(job(), known) == (1, 1, 1)


def test_a_program_that_failed_its_proxies_so_far_may_pass_them_later() -> None:
    done = frozenset[Stage]({"bootstrap"})
    known = Known(SIZES, KNOWN.demand, after_bootstrap(16, 0), done=done, bootstrapped=16)
    plan = make_plan(job(budget={"run": {"max_calls": 1_000}}), known).plan
    assert judged(plan)["search"][1] == 3 * plan.runs
    assert plan.calls[1] <= 1_000


class PerCharacter(AnsweringVenue):
    """A venue that is paid by the length of what it is asked."""

    def quote(self, request) -> int:
        return sum(len(message.content) for message in request.messages)


def test_a_judges_price_is_that_of_its_own_question() -> None:
    venue = PerCharacter(lambda request: {})
    examples = [dspy.Example(question="q " * n, answer="a").with_inputs("question") for n in (3, 300)]
    lanes = {name: Quoted(venue, Sampling(max_tokens=9)) for name in ("swarm", "judge")}
    asked = (load_program("question -> answer"), make_adapter("chat", json_fallback=False), examples, 0, lanes)
    short, long = quotes(*asked, [JudgePart()]), quotes(*asked, [JudgePart(criteria=("Brevity " * 50,))])
    assert short["swarm"] == long["swarm"]
    assert short["swarm"].low < short["judge"].low < short["judge"].high
    assert long["judge"].high - short["judge"].high > 300
    assert quotes(*asked)["judge"] == Price()
