"""Proposals: never more calls than planned, the same texts whatever the timing, all predictors at once."""

import asyncio
import random

import dspy
import pytest

from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.proposing import LanguageModelProposer, propose_for_all
from swarmc.contracts.errors import BudgetExhausted, VenueError
from tests.fakes import wanted_fields

MANY = [dspy.Example(question=f"q{i}", answer="yes").with_inputs("question") for i in range(40)]


class Two(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("question -> hint")
        self.second = dspy.Predict("hint -> answer")

    async def aforward(self, question):
        return await self.second.acall(hint=(await self.first.acall(question=question)).hint)


def asked_for_instructions(venue):
    return [request for request in venue.asked if "instruction" in wanted_fields(request)]


def writing(text_of):
    """Answers of a model that writes what `text_of(sample number)` gives, and summaries."""

    def answer(request):
        wanted = wanted_fields(request)
        return {"instruction": text_of(request.rollout_id)} if "instruction" in wanted else dict.fromkeys(wanted, "s")

    return answer


def unreadable(request):
    return {"nonsense": "?"}


def no_demos(bench):
    return dict.fromkeys(bench.predictors, ((),))


def asks_twice(bench):
    """The bench's evaluator with an adapter that asks for an answer it cannot read once more, as JSON."""
    lms, adapter = {"swarm": bench.evaluator.lm("swarm")}, make_adapter("chat", json_fallback=True)
    metric = load_metric("exact_match")
    return Evaluator(bench.evaluator.program, metric, bench.splits.examples, lms, adapter, concurrency=16)


CASES = {
    "all distinct": (writing(lambda n: f"Way {n}."), lambda count: count),
    "always the same": (writing(lambda n: "Way."), lambda count: 1 if count else 0),
    "in pairs": (writing(lambda n: f"Way {n // 2}."), None),
    "empty": (writing(lambda n: ""), lambda count: 0),
    "its own": (writing(lambda n: "Given the fields `question`, produce the fields `answer`."), lambda count: 0),
    "unreadable": (unreadable, lambda count: 0),
}


@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("case", CASES)
async def test_proposals_take_at_most_half_as_many_calls_again(venue_of, make_bench, case, count):
    answer, expected = CASES[case]
    venue = venue_of(answer)
    bench = make_bench(venue, MANY)
    proposer = LanguageModelProposer(asks_twice(bench), MANY)
    (name, info), *_ = bench.predictors.items()
    found = await proposer.propose(name, info, (), count)
    assert len(venue.asked) <= count + -(-count // 2) + (1 if count else 0)
    assert len(found) == len(set(found)) <= count
    assert info.instruction not in found
    if expected is not None:
        assert len(found) == expected(count)


async def test_what_could_not_be_read_is_asked_for_again_with_another_tip(venue_of, make_bench):
    venue = venue_of(writing(lambda n: "" if n < 3 else f"Way {n}."))
    bench = make_bench(venue, MANY)
    (name, info), *_ = bench.predictors.items()
    found = await LanguageModelProposer(bench.evaluator, MANY).propose(name, info, (), 6)
    assert found == [f"Way {n}." for n in range(3, 9)]
    assert sorted(request.rollout_id for request in asked_for_instructions(venue)) == list(range(9))


async def test_the_order_of_answers_changes_nothing(venue_of, make_bench):
    class Shuffled(venue_of):
        async def complete(self, request):
            await asyncio.sleep(random.random() / 50)
            return await super().complete(request)

    found = []
    for _ in range(3):
        bench = make_bench(Shuffled(writing(lambda n: f"Way {n % 5}.")), MANY, program=f"{__file__}:Two", proposer="lm")
        found.append(await propose_for_all(bench, no_demos(bench)))
    assert found[0] == found[1] == found[2]
    assert list(found[0]) == ["first", "second"]


async def test_all_predictors_are_asked_for_together_after_one_summary(venue_of, make_bench):
    venue = venue_of(writing(lambda n: f"Way {n}."), latency_s=0.02)
    bench = make_bench(venue, MANY, program=f"{__file__}:Two", proposer="lm", search={"instructions": 4})
    found = await propose_for_all(bench, no_demos(bench))
    assert [len(texts) for texts in found.values()] == [5, 5]
    assert all(found[name][0] == info.instruction for name, info in bench.predictors.items())
    assert len(venue.asked) == 1 + 2 * 4
    assert venue.most_in_flight == 2 * 4


@pytest.mark.parametrize(
    "error", [BudgetExhausted("no more", scope="run"), VenueError("nobody is listening", retryable=True)]
)
async def test_the_first_error_ends_all_and_is_raised_as_it_is(venue_of, make_bench, error):
    from swarmc.compiler.scope import current_scope

    def breaks(request):
        if request.rollout_id == 2:
            current_scope().failures.append(error)
            raise error
        return writing(lambda n: f"Way {n}.")(request)

    bench = make_bench(venue_of(breaks), MANY, program=f"{__file__}:Two", proposer="lm")
    with pytest.raises(type(error), match=str(error)):
        await propose_for_all(bench, no_demos(bench))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
