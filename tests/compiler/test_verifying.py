"""Verification: premium answers what was left undecided, for all compared programs alike, as far as its budget goes."""

from contextlib import asynccontextmanager

import dspy
import pytest

from blocks.ledger import SqlLedger
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.costs import Known, Price, Sizes
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metering import Metered, Purse, Remembered
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.portal import Portal
from swarmc.compiler.programs import load_program
from swarmc.compiler.verifying import ask_premium, surely_affordable
from swarmc.contracts.candidates import Candidate, PredictorChoice
from swarmc.contracts.completions import Sampling
from swarmc.contracts.money import Account, AccountLine, Budget, BudgetPolicy, Tally
from swarmc.contracts.plan import Demand
from swarmc.contracts.spec import CompileSpec
from tests.fakes import AnsweringVenue
from tests.voices import right

EXAMPLES = {
    f"sha256:{i:064x}": dspy.Example(question=f"number {i} label=red", answer="red").with_inputs("question")
    for i in range(20)
}
KEYS = list(EXAMPLES)
PROGRAMS = [Candidate(predictors={"self": PredictorChoice(instruction=text)}) for text in ("One.", "Two.")]


@asynccontextmanager
async def premium(path, venue: AnsweringVenue, cap: Budget):
    """An evaluator with a premium lane of this budget, and its ledger."""
    policy = BudgetPolicy(lanes={"premium": cap})
    async with (
        SqlLedger.open(f"sqlite:///{path}/ledger.db") as ledger,
        ledger.open_run("run", spec_id="sha256:" + "0" * 64, name="test", budget=policy) as lease,
    ):
        purse = Purse(ledger, "run", lease.epoch, "premium", lambda event: None)
        lm = lane_lm(Remembered(Metered(venue, purse), purse), "premium", Portal(), Sampling(temperature_ppm=0))
        program, metric = load_program("question -> answer"), load_metric("exact_match")
        adapter = make_adapter("chat", json_fallback=False)
        yield Evaluator(program, metric, EXAMPLES, {"swarm": lm, "premium": lm}, adapter, 32), ledger


async def test_every_compared_program_is_asked_on_every_undecided_example(tmp_path):
    venue = AnsweringVenue(right, price_msats=1_000)
    async with premium(tmp_path, venue, Budget()) as (evaluator, _):
        done = await ask_premium(evaluator, PROGRAMS, KEYS[:6], 6)
    assert done.examples == KEYS[:6]
    assert {name: list(found) for name, found in done.outcomes.items()} == {p.content_id: KEYS[:6] for p in PROGRAMS}
    assert len(venue.asked) == 12


@pytest.mark.parametrize("cap", [{"max_calls": 11}, {"max_msats": 11_999}])
@pytest.mark.parametrize("sure", [0, 3, 5, 20])
async def test_a_budget_that_runs_out_leaves_whole_examples_and_is_never_overspent(tmp_path, cap, sure):
    venue = AnsweringVenue(right, price_msats=1_000, latency_s=0.002)
    async with premium(tmp_path, venue, Budget(**cap)) as (evaluator, ledger):
        done = await ask_premium(evaluator, PROGRAMS, KEYS, min(sure, 20))
        total = (await ledger.account("run")).total
    assert total.calls <= 11
    assert done.stopped
    assert done.examples == KEYS[: len(done.examples)]
    assert all(list(found) == done.examples for found in done.outcomes.values())
    if sure <= 5:
        assert len(done.examples) == 5


async def test_what_was_verified_is_the_same_after_a_restart_and_costs_nothing_more(tmp_path):
    venue = AnsweringVenue(right, price_msats=1_000)
    async with premium(tmp_path, venue, Budget(max_calls=9)) as (evaluator, _):
        first = await ask_premium(evaluator, PROGRAMS, KEYS, 4)
    async with premium(tmp_path, venue, Budget(max_calls=9)) as (evaluator, ledger):
        second = await ask_premium(evaluator, PROGRAMS, KEYS, 4)
        assert (await ledger.account("run")).total.calls == 9
    assert first == second
    assert len(venue.asked) == 9


def known(account: Account) -> Known:
    return Known(
        sizes=Sizes(train=9, search=9, validation=9, test=9, predictors=1),
        demand=lambda search: Demand(),
        account=account,
        quotes={"premium": Price(1, 1_000, 1_000)},
        done=frozenset({"search"}),
    )


@pytest.mark.parametrize(
    ("budget", "sure"),
    [
        ({}, None),
        ({"lanes": {"premium": {"max_msats": 9_000}}}, 4),
        ({"lanes": {"premium": {"max_calls": 7}}, "run": {"max_msats": 5_000}}, 2),
        ({"stages": {"verify": {"max_calls": 1}}}, 0),
        ({"lanes": {"swarm": {"max_calls": 1}}}, None),
    ],
    ids=str,
)
def test_what_a_budget_surely_allows_follows_from_every_cap_that_applies(budget, sure):
    fields = {"program": "question -> answer", "dataset": {"source": "x.jsonl"}, "adapter": {"json_fallback": False}}
    job = CompileSpec.model_validate({**fields, "lanes": {"swarm": {}, "premium": {}}, "redundancy": {}})
    spent = AccountLine(stage="search", lane="swarm", tally=Tally(calls=3, msats=1_000))
    found = surely_affordable(job, known(Account(run_id="r", lines=(spent,))), BudgetPolicy.model_validate(budget))
    assert found == sure
