"""Every optimizer: finds what is there, repeats itself, keeps to its runs, and keeps the best when money ends."""

import asyncio
import random

import dspy
import pytest

from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.optimizers.copro import unfenced
from swarmc.compiler.optimizers.pareto import prompt_length
from swarmc.compiler.scope import current_scope
from swarmc.contracts.candidates import Pools
from swarmc.contracts.errors import BudgetExhausted, VenueError

GOOD = "Answer with the parity of the number."
HANDS = ["Do the task.", "Answer with a colour.", "Say nothing."]
SEARCH = {"trials": 20, "minibatch": 12, "instructions": 3, "demo_sets": 4, "max_bootstrapped_demos": 2, "in_flight": 8}
SEARCH["sampler"] = "surrogate"  # TPE has its own plan; tests/compiler/test_samplers.py holds both to the law
ALL = sorted(OPTIMIZERS)
WRITERS = ["COPRO", "GEPA"]


def numbered(count=300):
    return [dspy.Example(question=f"q{i}", answer=str(i % 2)).with_inputs("question") for i in range(count)]


def is_task(request):
    return "]]\nq" in request.messages[-1].content


def model(request):
    """Right when the good instruction is there, else now and then; asked to write, it writes the good one."""
    if not is_task(request):
        luck = random.Random(request.request_id).random()
        return {"text": f"```\n{GOOD if luck < 0.5 else 'Answer at random.'}\n```"}
    number = int(request.messages[-1].content.split("]]\nq")[1].split("\n")[0])
    luck = random.Random(request.request_id).random() < (0.95 if GOOD in request.messages[0].content else 0.3)
    return {"answer": str(number % 2 if luck else 9)}


async def compile_once(name, bench):
    optimizer = OPTIMIZERS[name]()
    demo_sets = await optimizer.bootstrap(bench)
    pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
    return pools, await optimizer.search(bench, pools, bench.spec.trials)


def hands_of(name):
    return HANDS if name in WRITERS else [*HANDS, GOOD]


@pytest.mark.parametrize("name", ALL)
async def test_the_good_instruction_wins(venue_of, make_bench, name):
    bench = make_bench(venue_of(model), numbered(), instructions=hands_of(name), search=SEARCH)
    _, result = await compile_once(name, bench)
    assert result.ended == "completed"
    winner, score = result.finalists[0]
    assert winner.predictors["self"].instruction == GOOD
    assert score.mean > 0.8
    assert len({candidate.content_id for candidate, _ in result.finalists}) == len(result.finalists)


@pytest.mark.parametrize("name", ALL)
async def test_answers_in_another_order_give_the_same_result(venue_of, make_bench, name):
    class Jittery(venue_of):
        async def complete(self, request):
            await asyncio.sleep(random.random() * 0.01)
            return await super().complete(request)

    found = []
    for kind in (venue_of, Jittery):
        bench = make_bench(kind(model), numbered(), instructions=hands_of(name), search=SEARCH)
        found.append((await compile_once(name, bench))[1].canonical())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ALL)
async def test_no_run_is_asked_for_beyond_the_plan_or_twice(venue_of, make_bench, name):
    venue = venue_of(model)
    search = {**SEARCH, "max_bootstrapped_demos": 0}
    bench = make_bench(venue, numbered(), instructions=hands_of(name), search=search)
    await compile_once(name, bench)
    runs = sum(is_task(request) for request in venue.asked)
    planned = SEARCH["trials"] * SEARCH["minibatch"]
    # A race of instructions alone is over when one is left; the others always find something to learn.
    assert runs <= planned if name == "COPRO" else runs == planned
    assert len({request.request_id for request in venue.asked}) == len(venue.asked)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("calls", [3, 70, 95])
async def test_money_that_runs_out_ends_it_with_the_best_so_far(venue_of, make_bench, name, calls):
    def until_broke(request):
        if len(venue.asked) > calls:
            error = BudgetExhausted("no more", scope="run")
            current_scope().failures.append(error)
            raise error
        return model(request)

    venue = venue_of(until_broke)
    search = {**SEARCH, "max_bootstrapped_demos": 0}
    bench = make_bench(venue, numbered(), instructions=hands_of(name), search=search)
    _, result = await compile_once(name, bench)
    assert result.ended == "budget"
    assert bool(result.finalists) == (calls > 3)


@pytest.mark.parametrize("name", ALL)
async def test_a_venue_that_is_down_is_an_error_and_not_a_score(venue_of, make_bench, name):
    def down(request):
        error = VenueError("nobody answers")
        current_scope().failures.append(error)
        raise error

    search = {**SEARCH, "max_bootstrapped_demos": 0}
    bench = make_bench(venue_of(down), numbered(), instructions=HANDS, search=search)
    with pytest.raises(VenueError, match="nobody answers"):
        await compile_once(name, bench)


@pytest.mark.parametrize("name", ALL)
async def test_a_killed_search_ends_as_if_nothing_had_happened_and_asks_nothing_twice(venue_of, make_bench, name):
    paid = {}

    def bought_once(request):
        if request.request_id not in paid:
            if len(paid) == dies_at:
                current_scope().failures.append(VenueError("killed"))
                raise current_scope().failures[0]
            paid[request.request_id] = model(request)
        return paid[request.request_id]

    async def compiled():
        bench = make_bench(venue_of(bought_once), numbered(), instructions=hands_of(name), search=SEARCH)
        return (await compile_once(name, bench))[1].canonical()

    dies_at = -1
    whole, asked = await compiled(), set(paid)
    paid.clear()
    dies_at = len(asked) // 2
    with pytest.raises(VenueError, match="killed"):
        await compiled()
    dies_at = -1
    assert await compiled() == whole
    assert set(paid) == asked


async def test_what_pareto_hands_on_is_shorter_the_worse_it_scores(venue_of, make_bench):
    bench = make_bench(venue_of(model), numbered(), instructions=hands_of("Pareto"), search={**SEARCH, "finalists": 9})
    _, result = await compile_once("Pareto", bench)
    lengths = [prompt_length(candidate) for candidate, _ in result.finalists]
    assert lengths == sorted(set(lengths), reverse=True)


async def test_gepa_shows_the_metrics_feedback_or_what_was_expected(venue_of, make_bench):
    venue = venue_of(model)
    bench = make_bench(venue, numbered(), search=SEARCH)
    await compile_once("GEPA", bench)
    prompts = [request.messages[-1].content for request in venue.asked if not is_task(request)]
    assert prompts
    assert all("answer: expected" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("answer", "text"), [("x ```\na b\n``` y", "a b"), (" bare ", "bare"), ("``` open", "``` open")]
)
def test_a_written_instruction_is_what_stands_in_the_fence(answer, text):
    assert unfenced(answer) == text
