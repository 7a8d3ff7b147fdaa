"""What a program run took: every call of it is counted once, whoever made it, bought or read alike."""

import asyncio
import contextvars
import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import dspy
import pytest

from blocks.ledger import SqlLedger
from swarmc.compiler.around import Around
from swarmc.compiler.metering import Metered, Purse, Remembered
from swarmc.compiler.scope import current_scope
from swarmc.contracts.candidates import RunCost
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.money import Budget, BudgetPolicy
from tests.fakes import wanted_fields

MANY = [dspy.Example(question=f"q{i}", answer="yes").with_inputs("question") for i in range(24)]


def yes(request):
    return dict.fromkeys(wanted_fields(request), "yes")


class Clocked(Around):
    """Every purchase takes another time."""

    def __init__(self, venue):
        super().__init__(venue)
        self._times_ms = itertools.count(100)

    async def complete(self, request):
        completion = await self._venue.complete(request)
        return completion.model_copy(update={"latency_ms": next(self._times_ms)})


class Three(dspy.Module):
    """Three predictors, called in as many ways as there are subclasses."""

    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("question -> hint")
        self.second = dspy.Predict("question -> doubt")
        self.third = dspy.Predict("hint, doubt -> answer")


class AtOnce(Three):
    async def aforward(self, question):
        one, two = await asyncio.gather(self.first.acall(question=question), self.second.acall(question=question))
        return await self.third.acall(hint=one.hint, doubt=two.doubt)


class InDspysThreads(Three):
    def forward(self, question):
        pairs = [(self.first, {"question": question}), (self.second, {"question": question})]
        one, two = dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
        return self.third(hint=one.hint, doubt=two.doubt)


class InItsOwnThreads(Three):
    def forward(self, question):
        with ThreadPoolExecutor(2) as pool:
            one, two = [
                pool.submit(contextvars.copy_context().run, step, question=question)
                for step in (self.first, self.second)
            ]
        return self.third(hint=one.result().hint, doubt=two.result().doubt)


class LeavesOneBehind(Three):
    """Fails while a call is still out."""

    async def aforward(self, question):
        self.left = asyncio.create_task(self.second.acall(question=question))
        while not current_scope().in_flight:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        raise ValueError("no more patience")


class FailsAfterTwo(AtOnce):
    async def aforward(self, question):
        await super().aforward(question)
        raise ValueError("changed my mind")


WAYS = [AtOnce, InDspysThreads, InItsOwnThreads]


def at_once(way):
    """Runs at once: `dspy.Parallel` makes a progress bar, which cannot be made in several threads at a time."""
    return 1 if way is InDspysThreads else 16


async def costs_of(bench, count=6):
    evaluation = await bench.evaluate(bench.own, bench.ids("search")[:count])
    return [outcome.cost for outcome in evaluation.outcomes]


@pytest.mark.parametrize("way", WAYS)
async def test_every_call_of_a_run_is_counted_once(venue_of, make_bench, way):
    venue = venue_of(yes, price_msats=7, latency_s=0.001)
    bench = make_bench(venue, MANY, program=f"{__file__}:{way.__name__}", concurrency=at_once(way))
    expected = RunCost(calls=3, prompt_tokens=30, completion_tokens=9, msats=21)
    assert await costs_of(bench) == [expected] * 6


@pytest.mark.parametrize("way", WAYS)
async def test_threads_and_tasks_ask_for_the_sample_of_their_run(venue_of, make_bench, way):
    venue = venue_of(yes)
    bench = make_bench(venue, MANY, program=f"{__file__}:{way.__name__}", concurrency=at_once(way))
    await bench.evaluate(bench.own, bench.ids("search")[:2], rollout_id=3)
    assert {request.rollout_id for request in venue.asked} == {3}


async def test_a_run_that_failed_keeps_the_cost_of_its_calls(venue_of, make_bench):
    bench = make_bench(venue_of(yes, price_msats=7), MANY, program=f"{__file__}:FailsAfterTwo")
    evaluation = await bench.evaluate(bench.own, bench.ids("search")[:3])
    assert [outcome.cost.msats for outcome in evaluation.outcomes] == [21] * 3
    assert all("changed my mind" in (outcome.failure or "") for outcome in evaluation.outcomes)


async def test_an_answer_that_cannot_be_read_was_paid_for_all_the_same(venue_of, make_bench):
    bench = make_bench(venue_of(lambda request: {"nonsense": "?"}, price_msats=7), MANY)
    assert [cost.msats for cost in await costs_of(bench)] == [7] * 6


async def test_a_call_that_is_still_out_when_its_run_fails_is_waited_for(venue_of, make_bench):
    venue = venue_of(yes, latency_s=0.05)
    bench = make_bench(venue, MANY, program=f"{__file__}:LeavesOneBehind")
    assert [cost.calls for cost in await costs_of(bench, 3)] == [1] * 3
    assert venue.in_flight == 0


async def test_a_metric_that_fails_leaves_the_cost(venue_of, make_bench):
    bench = make_bench(venue_of(yes), MANY, metric=f"{__file__}:breaks")
    assert [cost.calls for cost in await costs_of(bench, 2)] == [1] * 2


def breaks(example, prediction):
    raise KeyError("gold")


@asynccontextmanager
async def metered(path, venue, run_id, **budget):
    policy = BudgetPolicy(run=Budget(**budget))
    async with (
        SqlLedger.open(f"sqlite:///{path}/ledger.db") as ledger,
        ledger.open_run(run_id, spec_id="sha256:" + "0" * 64, name="test", budget=policy) as lease,
    ):
        purse = Purse(ledger, run_id, lease.epoch, "swarm", lambda event: None)
        remembered = Remembered(Metered(Clocked(venue), purse), purse)
        yield remembered
        await remembered.drain(1)


@pytest.mark.parametrize("way", [*WAYS, FailsAfterTwo, LeavesOneBehind])
async def test_a_run_that_is_read_again_gives_the_same_bytes(venue_of, make_bench, tmp_path, way):
    venue = venue_of(yes, price_msats=7, latency_s=0.002)
    found = []
    for run_id in ("first", "second"):
        async with metered(tmp_path, venue, run_id) as lane:
            bench = make_bench(lane, MANY, program=f"{__file__}:{way.__name__}", concurrency=at_once(way))
            found.append((await bench.evaluate(bench.own, bench.ids("search"))).canonical())
    bought = len(venue.asked)
    assert found[0] == found[1]
    assert bought == len({request.request_id for request in venue.asked})
    assert b'"latency_ms":0' not in found[0]


async def test_threads_of_dspy_cannot_hide_that_the_budget_ran_out(venue_of, make_bench, tmp_path):
    async with metered(tmp_path, venue_of(yes), "run", max_calls=4) as lane:
        bench = make_bench(lane, MANY, program=f"{__file__}:InDspysThreads", concurrency=1)
        with pytest.raises(BudgetExhausted):
            await bench.evaluate(bench.own, bench.ids("search")[:6])
