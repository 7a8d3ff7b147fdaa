"""Agreement: runs until enough say the same, no run more; who lies alone changes nothing and is named."""

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swarmc.compiler.agreement import Ballot, Panel, verification_of
from swarmc.contracts.completions import CompletionRequest
from swarmc.contracts.verification import Redundancy
from tests.bundles import COLOURS
from tests.fakes import AnsweringVenue, make_bench, wanted_fields
from tests.voices import LIAR, LIES, Voices

EXAMPLES = [
    dspy.Example(question=f"number {i} label={COLOURS[i % 4]}", answer=COLOURS[i % 4]).with_inputs("question")
    for i in range(60)
]
SPLIT = {"train": 5, "search": 5, "validation": 5, "test": 40}
THREE_OF_FIVE = Redundancy()


async def evaluated(venue: AnsweringVenue, asked: Redundancy = THREE_OF_FIVE, count: int = 40, **job: object):
    bench = make_bench(venue, EXAMPLES, **{"split": SPLIT, **job})
    return await Panel(bench.evaluator, asked).evaluate(bench.own, bench.splits.ids("test")[:count])


def said(*answers: str) -> AnsweringVenue:
    """A venue whose samples of any question are these answers, in order."""
    return AnsweringVenue(lambda request: {"answer": answers[request.rollout_id]})


@given(st.integers(1, 6), st.integers(0, 5), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_a_ballot_is_over_exactly_when_no_further_vote_could_change_it(agree: int, more: int, votes: list[int]):
    ballot = Ballot(agree, agree + more)
    for vote in votes:
        largest = max((ballot.votes.count(camp) for camp in ballot.votes), default=0)
        reachable = largest + ballot.of - len(ballot.votes) >= agree
        assert ballot.is_over == (largest >= agree or not reachable)
        if ballot.is_over:
            break
        ballot.add(vote)
    assert len(ballot.votes) <= ballot.of
    assert ballot.is_decided == (ballot.votes.count(ballot.leader) >= agree)


@pytest.mark.parametrize(
    ("answers", "runs", "decided"),
    [
        (("red", "red", "red"), 3, True),
        (("red", " RED ", "Red"), 3, True),
        (("blue", "red", "red", "red"), 4, True),
        (("blue", "red", "blue", "red", "red"), 5, True),
        (("a", "b", "c", "d"), 4, False),
        (("a", "b", "a", "b", "c"), 5, False),
    ],
    ids=str,
)
async def test_no_run_is_made_once_it_is_decided_or_cannot_be(answers, runs, decided):
    venue = said(*answers)
    group = (await evaluated(venue, count=1)).groups[0]
    assert [request.rollout_id for request in venue.asked] == list(range(runs))
    assert (len(group.votes), group.decided) == (runs, decided)


async def test_without_dissent_three_of_five_costs_three_calls_an_example():
    venue = Voices()
    agreed = await evaluated(venue)
    assert len(venue.asked) == 3 * 40
    assert verification_of(THREE_OF_FIVE, agreed.groups).counts.decided == 40
    assert {outcome.cost.calls for outcome in agreed.evaluation.outcomes} == {3}


@pytest.mark.parametrize("lie", LIES)
async def test_one_liar_in_five_changes_no_score_beyond_its_interval_and_is_named(lie):
    honest, lying, venue = await evaluated(Voices()), Voices(lie), Voices(lie)
    agreed = await evaluated(lying)
    moved = abs(agreed.evaluation.score.mean_ppm - honest.evaluation.score.mean_ppm)
    assert moved < (honest.evaluation.score.high_ppm - honest.evaluation.score.low_ppm) // 2
    verification = verification_of(THREE_OF_FIVE, agreed.groups)
    assert [one.voice for one in verification.dissenters] == [LIAR]
    assert verification.dissenters[0].dissents >= 5
    assert len(lying.asked) <= 4 * 40
    plain = make_bench(venue, EXAMPLES, split=SPLIT)
    believed = await plain.evaluator.evaluate(plain.own, plain.splits.ids("test"))
    assert believed.score.mean_ppm <= agreed.evaluation.score.mean_ppm


async def test_the_first_run_is_the_plain_one():
    venue = Voices()
    bench = make_bench(venue, EXAMPLES, split=SPLIT)
    await bench.evaluator.evaluate(bench.own, bench.splits.ids("test")[:1], lane="validation")
    await Panel(bench.evaluator, THREE_OF_FIVE).evaluate(bench.own, bench.splits.ids("test")[:1])
    assert venue.asked[0].request_id == venue.asked[1].request_id


async def test_answers_that_score_the_same_agree_by_metric_and_not_by_answer():
    answers = ("pink", "grey", "white", "brown")
    by_metric = (await evaluated(said(*answers), Redundancy(by="metric"), count=1)).groups[0]
    by_answer = (await evaluated(said(*answers), count=1)).groups[0]
    assert (by_metric.decided, len(by_metric.votes)) == (True, 3)
    assert (by_answer.decided, len(by_answer.votes)) == (False, 4)


async def test_of_an_undecided_example_the_largest_camp_stands_and_nobody_is_accused():
    right = EXAMPLES[0].answer
    agreed = await evaluated(said("a", right, "b", right, "c"), count=1)
    group = agreed.groups[0]
    assert (group.decided, group.agreeing, group.dissent) == (False, 2, ())
    assert verification_of(THREE_OF_FIVE, agreed.groups).dissenters == ()


async def test_that_a_program_fails_can_be_agreed_on():
    venue = AnsweringVenue(lambda request: {"nothing": "that was asked for"})
    agreed = await evaluated(venue, count=1)
    assert agreed.groups[0].decided
    assert agreed.evaluation.outcomes[0].failure is not None


async def test_reasoning_is_not_compared_and_named_fields_are():
    def answer(request: CompletionRequest) -> dict[str, str]:
        values = {"reasoning": f"way {request.rollout_id}", "answer": "red"}
        return {name: values[name] for name in wanted_fields(request)}

    program = "question -> reasoning, answer"
    loose = await evaluated(AnsweringVenue(answer), count=1, program=program)
    strict = await evaluated(AnsweringVenue(answer), Redundancy(fields=("reasoning",)), count=1, program=program)
    assert (loose.groups[0].decided, strict.groups[0].decided) == (True, False)


async def test_a_program_of_several_steps_is_asked_again_as_a_whole(tmp_path):
    (tmp_path / "steps.py").write_text(
        "import dspy\n\nclass Steps(dspy.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.think = dspy.Predict('question -> thought')\n"
        "        self.say = dspy.Predict('question, thought -> answer')\n\n"
        "    async def aforward(self, question):\n"
        "        thought = (await self.think.acall(question=question)).thought\n"
        "        return await self.say.acall(question=question, thought=thought)\n"
    )
    venue = AnsweringVenue(lambda request: {name: f"{name}" for name in wanted_fields(request)})
    agreed = await evaluated(venue, count=2, program=f"{tmp_path}/steps.py:Steps")
    assert sorted(request.rollout_id for request in venue.asked) == [0] * 4 + [1] * 4 + [2] * 4
    assert all(group.decided for group in agreed.groups)


async def test_a_judge_is_asked_of_answers_that_are_worded_otherwise_and_of_no_others():
    words = ("it is red", "red", "It is  RED", "the colour is red")

    def answer(request: CompletionRequest) -> dict[str, str]:
        if "same" in wanted_fields(request):
            return {"same": "Yes." if "blue" not in request.messages[-1].content.partition("one")[2] else "no"}
        return {"answer": words[request.rollout_id]}

    venue = AnsweringVenue(answer)
    agreed = await evaluated(venue, Redundancy(by="judge"), count=1, lanes={"swarm": {}, "judge": {}})
    judged = [request for request in venue.asked if "same" in wanted_fields(request)]
    assert agreed.groups[0].decided
    assert (len(agreed.groups[0].votes), len(judged)) == (3, 1)


async def test_a_judge_that_mumbles_agrees_with_nothing():
    def answer(request: CompletionRequest) -> dict[str, str]:
        return {"same": "perhaps"} if "same" in wanted_fields(request) else {"answer": f"way {request.rollout_id}"}

    venue = AnsweringVenue(answer)
    asked = Redundancy(by="judge")
    agreed = await evaluated(venue, asked, count=1, lanes={"swarm": {}, "judge": {}})
    judged = sum("same" in wanted_fields(request) for request in venue.asked)
    assert not agreed.groups[0].decided
    assert judged == 1 + 2 + 3 <= asked.comparisons


async def test_examples_are_run_at_once_and_the_runs_of_one_after_the_other():
    venue = Voices(latency_s=0.01)
    await evaluated(venue, count=8)
    assert 4 <= venue.most_in_flight <= 8


def test_more_than_there_are_cannot_agree():
    with pytest.raises(ValidationError, match="4 of 3 runs cannot agree"):
        Redundancy(agree=4, of=3)
