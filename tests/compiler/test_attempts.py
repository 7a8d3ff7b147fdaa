"""What a reflection needs: the metric's words, what each step was asked and answered; and small budgets."""

import dspy
import pytest

from swarmc.compiler.demonstrations import build_demo_sets
from swarmc.compiler.metrics import Metric
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.contracts.candidates import Demonstration, Pools
from swarmc.contracts.errors import MetricError

EXAMPLE = dspy.Example(question="q1", answer="1").with_inputs("question")
MANY = [dspy.Example(question=f"q{i}", answer=str(i)).with_inputs("question") for i in range(60)]


def says_one(request):
    return {"answer": "1"}


@pytest.mark.parametrize(
    ("value", "judged"),
    [
        (dspy.Prediction(score=0.5, feedback="half right"), (500_000, "half right")),
        ({"score": 1.0, "feedback": "well done"}, (1_000_000, "well done")),
        (True, (1_000_000, "")),
    ],
)
def test_feedback_objects_are_scores_with_words(value, judged):
    assert Metric("m", lambda example, prediction: value).judge(EXAMPLE, None) == judged


@pytest.mark.parametrize("value", [1.5, {"accuracy": 1.0, "brevity": 0.2}, {"score": float("nan")}, "good"])
def test_what_is_no_score_from_0_to_1_is_refused(value):
    with pytest.raises(MetricError, match="from 0 to 1"):
        Metric("m", lambda example, prediction: value).judge(EXAMPLE, None)


async def test_an_attempt_makes_the_calls_of_an_evaluation_and_keeps_what_was_said(venue_of, make_bench):
    venue = venue_of(says_one)
    bench = make_bench(venue, MANY)
    key = bench.ids("search")[0]
    attempt = await bench.attempt(bench.own, key)
    await bench.evaluate(bench.own, [key])
    assert venue.asked[0].request_id == venue.asked[1].request_id
    assert attempt.steps["self"].fields["answer"] == "1"
    assert set(attempt.expected) == {"answer"}


async def test_another_sample_is_another_request(venue_of, make_bench):
    venue = venue_of(says_one)
    bench = make_bench(venue, MANY)
    for rollout_id in (0, 1):
        await bench.evaluate(bench.own, bench.ids("search")[:1], rollout_id=rollout_id)
    assert len({request.request_id for request in venue.asked}) == 2


async def test_a_step_that_no_label_fits_gets_further_runs_as_demonstrations(venue_of, make_bench):
    bench = make_bench(venue_of(says_one), MANY, program="question, hint -> answer", search={"demo_sets": 6})
    demo = next(iter(make_bench(venue_of(says_one), MANY).labelled(bench.ids("train")[0]).values()))
    pool = [Demonstration(example_id=key, score_ppm=1_000_000, demos={"self": demo}) for key in bench.ids("train")]
    pool = [
        run.model_copy(update={"demos": {"self": demo.model_copy(update={"fields": {"n": i}})}})
        for i, run in enumerate(pool)
    ]
    sets = build_demo_sets(bench, pool)["self"]
    assert {len(demos) for demos in sets} == {0, 4}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("runs", [1, 7])
async def test_fewer_runs_than_candidates_and_no_demonstrations_still_end_with_a_finalist(
    venue_of, make_bench, name, runs
):
    search = {"trials": 1, "minibatch": runs, "demo_sets": 1, "max_bootstrapped_demos": 0, "max_labeled_demos": 0}
    search["sampler"] = "surrogate"
    venue = venue_of(says_one)
    bench = make_bench(venue, MANY, instructions=[f"Way {i}." for i in range(20)], search=search)
    optimizer = OPTIMIZERS[name]()
    demo_sets = await optimizer.bootstrap(bench)
    pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
    result = await optimizer.search(bench, pools)
    assert result.finalists
    assert sum("[[ ## question ## ]]\nq" in request.messages[-1].content for request in venue.asked) <= runs
