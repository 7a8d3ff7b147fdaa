"""Evaluation: three outcomes told apart, and nothing swallowed."""

import dspy
import pytest

from swarmc.contracts.errors import BudgetExhausted, VenueError


def numbered(count):
    return [dspy.Example(question=f"q{i}", answer=str(i % 2)).with_inputs("question") for i in range(count)]


def knows_the_answer(request):
    number = int(request.messages[-1].content.split("]]\nq")[1].split("\n")[0])
    return {"answer": str(number % 2)}


async def test_a_right_model_scores_one_and_a_wrong_one_zero(venue_of, make_bench):
    right = make_bench(venue_of(knows_the_answer), numbered(40))
    wrong = make_bench(venue_of(lambda request: {"answer": "7"}), numbered(40))
    assert (await right.evaluate(right.own, right.ids("search"))).score.mean_ppm == 1_000_000
    assert (await wrong.evaluate(wrong.own, wrong.ids("search"))).score.mean_ppm == 0


async def test_garbage_is_a_score_of_zero_with_its_reason(venue_of, make_bench):
    bench = make_bench(venue_of(lambda request: {"nonsense": "?"}), numbered(20))
    evaluation = await bench.evaluate(bench.own, bench.ids("search"))
    assert evaluation.score.mean_ppm == 0
    assert all("AdapterParseError" in (outcome.failure or "") for outcome in evaluation.outcomes)


async def test_a_venue_that_is_down_is_an_error_and_never_a_zero(venue_of, make_bench):
    def down(request):
        raise VenueError("nobody is listening", retryable=True)

    bench = make_bench(venue_of(down), numbered(20))
    with pytest.raises(VenueError, match="nobody is listening"):
        await bench.evaluate(bench.own, bench.ids("search"))


async def test_a_request_the_venue_refuses_is_the_candidates_fault(venue_of, make_bench):
    def refuses(request):
        raise VenueError("prompt too long", fault="request")

    bench = make_bench(venue_of(refuses), numbered(20))
    evaluation = await bench.evaluate(bench.own, bench.ids("search"))
    assert evaluation.score.mean_ppm == 0


class Swallows(dspy.Module):
    """A program that answers something whatever happens, as programs in the wild do."""

    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("question -> answer")

    async def aforward(self, question):
        try:
            return await self.step.acall(question=question)
        except Exception:  # noqa: BLE001 - just what programs in the wild do
            return dspy.Prediction(answer="0")


async def test_a_program_cannot_swallow_an_exhausted_budget(venue_of, make_bench, monkeypatch):
    from swarmc.compiler.scope import current_scope

    def broke(request):
        error = BudgetExhausted("no more", scope="run")
        current_scope().failures.append(error)
        raise error

    bench = make_bench(venue_of(broke), numbered(20), program=f"{__file__}:Swallows")
    with pytest.raises(BudgetExhausted):
        await bench.evaluate(bench.own, bench.ids("search"))


async def test_examples_are_awaited_together(venue_of, make_bench):
    venue = venue_of(knows_the_answer, latency_s=0.02)
    bench = make_bench(venue, numbered(60), concurrency=12)
    await bench.evaluate(bench.own, bench.ids("search"))
    assert venue.most_in_flight == 12


async def test_a_demonstration_holds_what_each_predictor_was_asked_and_answered(venue_of, make_bench):
    bench = make_bench(venue_of(knows_the_answer), numbered(20))
    key = bench.ids("train")[0]
    demonstration = await bench.demonstrate(bench.own, key)
    example = bench.splits.examples[key]
    assert demonstration.demos["self"].fields == {"question": example.question, "answer": example.answer}
    assert demonstration.demos["self"].augmented
