"""MIPROv2 under both samplers: finds what is there, repeats itself, keeps the best when money ends."""

import asyncio
import random

import dspy
import pytest

from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.scope import current_scope
from swarmc.contracts.candidates import Pools
from swarmc.contracts.errors import BudgetExhausted, VenueError
from tests.fakes import AnsweringVenue, make_bench

GOOD = "Answer with the parity of the number."
INSTRUCTIONS = ["Do the task.", GOOD, "Answer with a colour.", "Say nothing."]
SEARCH = {"trials": 20, "minibatch": 10, "instructions": 3, "demo_sets": 4, "max_bootstrapped_demos": 2}

pytestmark = pytest.mark.parametrize("name", ["tpe", "surrogate"])


def numbered(count=120):
    return [dspy.Example(question=f"q{i}", answer=str(i % 2)).with_inputs("question") for i in range(count)]


def question(message):
    return message.content.split("]]\n")[1].split("\n")[0]


def needs_the_good_instruction_and_demos(request):
    """Right when the good instruction is there and demonstrations are; else right now and then."""
    knows = GOOD in request.messages[0].content and len(request.messages) > 2
    luck = random.Random(request.request_id).random() < (0.95 if knows else 0.3)
    number = int(question(request.messages[-1])[1:])
    return {"answer": str(number % 2 if luck else 9)}


class Jittery(AnsweringVenue):
    """Answers in another order every time."""

    async def complete(self, request):
        await asyncio.sleep(random.random() * 0.01)
        return await super().complete(request)


def bench_on(venue, name, **changes):
    search = {**SEARCH, "sampler": name, **changes.pop("search", {})}
    return make_bench(venue, numbered(), **{"instructions": INSTRUCTIONS, "search": search, **changes})


async def compiled(name, bench):
    optimizer = OPTIMIZERS["MIPROv2"]()
    demo_sets = await optimizer.bootstrap(bench)
    pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
    return pools, await optimizer.search(bench, pools)


async def test_the_good_instruction_with_demonstrations_wins(name):
    bench = bench_on(AnsweringVenue(needs_the_good_instruction_and_demos), name)
    _, result = await compiled(name, bench)
    winner, score = result.finalists[0]
    assert winner.predictors["self"].instruction == GOOD
    assert winner.predictors["self"].demos
    assert score.mean > 0.8


async def test_answers_in_another_order_give_the_same_trials(name):
    results = set()
    for kind in (AnsweringVenue, Jittery, Jittery):
        bench = bench_on(kind(needs_the_good_instruction_and_demos), name)
        results.add((await compiled(name, bench))[1].canonical())
    assert len(results) == 1


async def test_another_seed_searches_differently(name):
    found = set()
    for seed in (1, 2):
        bench = bench_on(AnsweringVenue(needs_the_good_instruction_and_demos), name, seed=seed)
        found.add((await compiled(name, bench))[1].content_id)
    assert len(found) == 2


@pytest.mark.parametrize("calls", [0, 15, 95, 190])
async def test_a_budget_that_runs_out_keeps_the_best_so_far(name, calls):
    def until_broke(request):
        if len(venue.asked) > calls:
            error = BudgetExhausted("no more", scope="run")
            current_scope().failures.append(error)
            raise error
        return needs_the_good_instruction_and_demos(request)

    venue = AnsweringVenue(until_broke)
    bench = bench_on(venue, name, concurrency=1, search={"max_bootstrapped_demos": 0})
    _, result = await compiled(name, bench)
    assert result.ended == "budget"
    assert bool(result.finalists) == bool(result.trials) == (calls >= 10)


async def test_a_venue_that_goes_down_is_an_error(name):
    def goes_down(request):
        if len(venue.asked) > 60:
            raise VenueError("gone", retryable=True)
        return needs_the_good_instruction_and_demos(request)

    venue = AnsweringVenue(goes_down)
    with pytest.raises(VenueError):
        await compiled(name, bench_on(venue, name))


async def test_the_first_of_every_pool_is_the_programs_own(name):
    bench = bench_on(AnsweringVenue(needs_the_good_instruction_and_demos), name)
    pools, result = await compiled(name, bench)
    assert pools.baseline == bench.own
    assert bench.own.content_id in {trial.candidate_id for trial in result.trials}


async def test_no_example_is_answered_with_itself_as_a_demonstration(name):
    venue = AnsweringVenue(needs_the_good_instruction_and_demos)
    bench = bench_on(venue, name)
    await OPTIMIZERS["MIPROv2"]().bootstrap(bench)
    assert venue.asked
    for asked in venue.asked:
        assert question(asked.messages[-1]) not in [question(message) for message in asked.messages[1:-1:2]]


async def test_validation_and_test_examples_are_never_asked(name):
    venue = AnsweringVenue(needs_the_good_instruction_and_demos)
    bench = bench_on(venue, name)
    await compiled(name, bench)
    allowed = {bench.splits.examples[key].question for split in ("train", "search") for key in bench.ids(split)}
    assert {question(asked.messages[-1]) for asked in venue.asked} <= allowed
    for split in ("validation", "test"):
        with pytest.raises(KeyError, match="not for optimizers"):
            bench.ids(split)
