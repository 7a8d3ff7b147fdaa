"""Refine: every option does what it says, and errors say what to do."""

import copy
import threading

import dspy
import pytest

from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.attempts import sample_of
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.portal import Portal
from swarmc.compiler.refine import Refine, RefineFailed
from swarmc.contracts.completions import Sampling
from swarmc.contracts.errors import BudgetExhausted, MetricError, ProgramError, VenueError
from swarmc.watching import trace

ANSWERS = ("bad", "poor", "good", "best")
WORTH = {"bad": 0.1, "poor": 0.3, "good": 0.7, "best": 1.0}


def worth(args, prediction):
    """Every answer is worth something, and says so."""
    return {"score": WORTH[prediction.answer], "feedback": f"{args['question']}? no"}


class InOrder:
    """A model that answers a question's samples in the order in which they are asked for."""

    def __init__(self, venue_of, answers=ANSWERS, price_msats=0):
        self._answers = answers
        self.venue = venue_of(self._answer, price_msats=price_msats)
        self.lm = lane_lm(self.venue, "swarm", Portal(), Sampling(temperature_ppm=0))

    def _answer(self, request):
        answer = self._answers[min(len(self.venue.asked), len(self._answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return {"answer": answer} if answer else {"nothing": "of use"}

    async def ask(self, refine, kind="chat"):
        with dspy.context(lm=self.lm, adapter=make_adapter(kind, json_fallback=False)):
            return (await refine.acall(question="why")).answer

    @property
    def calls(self):
        return len(self.venue.asked)

    def last_words(self):
        return self.venue.asked[-1].messages[-1].content


@pytest.fixture
def in_order(venue_of):
    return lambda *answers, **options: InOrder(venue_of, answers or ANSWERS, **options)


def refine(**options):
    return Refine(dspy.Predict("question -> answer"), **{"reward_fn": worth} | options)


@pytest.mark.parametrize(("threshold", "answer", "calls"), [(0.0, "bad", 1), (0.3, "poor", 2), (0.7, "good", 3)])
async def test_the_first_answer_that_reaches_the_threshold_is_given_at_once(in_order, threshold, answer, calls):
    model = in_order()
    assert await model.ask(refine(threshold=threshold)) == answer
    assert model.calls == calls


async def test_max_retries_counts_all_attempts(in_order):
    for most in (1, 2, 4):
        model = in_order("bad")
        with pytest.raises(RefineFailed):
            await model.ask(refine(max_retries=most, threshold=1.0))
        assert model.calls == most


async def test_best_of_n_makes_all_attempts_and_gives_the_best(in_order):
    model = in_order("good", "best", "poor", "bad")
    assert await model.ask(refine(best_of_n=True, threshold=0.1, max_retries=4)) == "best"
    assert model.calls == 4


async def test_of_equal_answers_the_first_is_given(in_order):
    model = in_order("first", "second", "third")
    assert await model.ask(refine(best_of_n=True, reward_fn=lambda args, said: 0.5)) == "first"


@pytest.mark.parametrize("best_of_n", [False, True])
@pytest.mark.parametrize(("threshold", "enough"), [(0.6, True), (0.600002, False), (1.0, False)])
async def test_the_best_is_given_if_it_reached_half_of_the_threshold(in_order, best_of_n, threshold, enough):
    model = in_order("bad", "poor", "bad")
    if enough:
        assert await model.ask(refine(threshold=threshold, best_of_n=best_of_n)) == "poor"
        return
    with pytest.raises(RefineFailed):
        await model.ask(refine(threshold=threshold, best_of_n=best_of_n))


async def test_a_failure_names_the_best_score_the_attempts_and_what_to_do(in_order):
    with pytest.raises(RefineFailed) as caught:
        await in_order("bad", "poor", "bad").ask(refine(threshold=0.8))
    assert (caught.value.attempts, caught.value.best_score, caught.value.best.answer) == (3, 0.3, "poor")
    assert str(caught.value).startswith(
        "Refine failed after 3 attempts: no prediction met threshold 0.8, the best score was 0.3, and at least half "
        "(0.4) is returned; raise max_retries, lower threshold, or mend the program or its reward_fn"
    )


async def test_without_a_reward_attempts_are_made_only_while_the_module_fails(in_order):
    model = in_order(None, "fine", "better")
    assert await model.ask(refine(reward_fn=None)) == "fine"
    assert model.calls == 2
    hopeless = in_order(None)
    with pytest.raises(RefineFailed, match=r"no attempt gave an answer.*failed: AdapterParseError") as caught:
        await hopeless.ask(refine(reward_fn=None))
    assert (caught.value.best_score, hopeless.calls) == (None, 3)


async def test_every_attempt_is_a_sample_of_its_own_and_only_the_first_is_greedy(in_order):
    model = in_order("bad", "bad", "bad", "best")
    await model.ask(refine(max_retries=4, threshold=1.0))
    asked = model.venue.asked
    assert [request.rollout_id for request in asked] == [sample_of(0, attempt) for attempt in (1, 2, 3, 4)]
    assert len({request.request_id for request in asked}) == 4
    assert [request.sampling.temperature_ppm for request in asked] == [0, *[1_000_000] * 3]


async def test_the_first_attempt_is_the_call_of_the_module_alone(in_order):
    model = in_order("best")
    await model.ask(refine())
    await model.ask(dspy.Predict("question -> answer"))
    assert model.venue.asked[0] == model.venue.asked[1]


async def test_a_temperature_of_the_predictors_own_is_kept(in_order):
    model = in_order()
    await model.ask(Refine(dspy.Predict("question -> answer", temperature=0.4), reward_fn=worth, threshold=0.3))
    assert [request.sampling.temperature_ppm for request in model.venue.asked] == [400_000] * 2


def test_samples_of_runs_and_of_attempts_inside_of_attempts_never_meet():
    three = (1, 2, 3)
    inside = [sample_of(sample_of(run, outer), inner, 1) for run in range(9) for outer in three for inner in three]
    assert len(set(inside)) == len(inside)
    assert max(inside) < 2**52


@pytest.mark.parametrize("kind", ["chat", "json", "xml"])
async def test_the_next_attempt_reads_what_became_of_the_earlier_ones(in_order, kind):
    model = in_order()
    with pytest.raises(RefineFailed):
        await model.ask(refine(threshold=1.0, max_retries=2, reward_fn=refuse), kind)
    first, last = model.venue.asked[0].messages[-1].content, model.last_words()
    assert "hint_" not in first
    assert "hint_" in last
    assert "1.0 is demanded" in last
    assert "Attempt 1: " in last


def refuse(args, prediction):
    return 0.0


async def test_a_hint_says_the_answer_its_score_and_the_feedback(in_order):
    model = in_order()
    await model.ask(refine(threshold=0.7))
    assert (
        "[[ ## hint_ ## ]]\nEvery earlier attempt at these inputs was refused; 0.7 is demanded.\n"
        "Attempt 1: Answered answer: bad, which scored 0.1. why? no\n"
        "Attempt 2: Answered answer: poor, which scored 0.3. why? no\n"
    ) in model.last_words()


async def test_attempts_of_best_of_n_are_independent_and_get_no_hint(in_order):
    model = in_order()
    await model.ask(refine(best_of_n=True))
    assert len({request.messages for request in model.venue.asked}) == 1


async def test_the_trace_holds_the_best_attempt_alone_without_the_hint(in_order):
    model, module = in_order("good", "poor", "bad"), dspy.Predict("question -> answer")
    with dspy.context(trace=[]):
        await model.ask(Refine(module, reward_fn=worth, threshold=1.0))
        ((predictor, inputs, prediction),) = dspy.settings.trace
    assert predictor is module
    assert (inputs, prediction.answer) == ({"question": "why"}, "good")


async def test_a_refinement_inside_of_a_refinement_takes_new_samples_and_all_hints(in_order):
    model = in_order("bad")
    inner = refine(max_retries=2, threshold=0.2)
    await model.ask(Refine(inner, max_retries=2, threshold=0.2, reward_fn=worth))
    assert len({request.rollout_id for request in model.venue.asked}) == 4
    assert model.last_words().count("Every earlier attempt") == 2


@pytest.mark.parametrize(
    ("value", "score"),
    [(True, 1.0), (False, 0.0), (1, 1.0), (0.25, 0.25), (dspy.Prediction(score=0.75, feedback="so so"), 0.75)],
)
async def test_a_reward_is_a_bool_a_number_or_a_score_with_feedback(in_order, value, score):
    with pytest.raises(RefineFailed) if score < 0.5 else trace():
        await in_order("best").ask(refine(threshold=1.0, reward_fn=lambda args, said: value))


@pytest.mark.parametrize(("value", "sentence"), [(None, "returned None; return a bool"), (7, "scale it"), ("1", "'1'")])
async def test_a_reward_that_is_no_score_is_an_error_of_the_reward(in_order, value, sentence):
    def odd(args, prediction):
        return value

    model = in_order("best")
    with pytest.raises(MetricError, match=f"reward_fn 'odd'.*{sentence}"):
        await model.ask(refine(reward_fn=odd))
    assert model.calls == 1


async def test_a_reward_that_raises_is_a_zero_with_its_reason(in_order):
    def strict(args, prediction):
        if prediction.answer == "bad":
            raise KeyError("no such word")
        return True

    model = in_order()
    assert await model.ask(refine(reward_fn=strict)) == "poor"
    assert "scored 0.0. the reward raised KeyError: 'no such word'" in model.last_words()


@pytest.mark.parametrize("error", [VenueError("the judge is down"), BudgetExhausted("no money", scope="run")])
async def test_infrastructure_that_fails_in_a_reward_is_an_error_and_no_zero(in_order, error):
    def judge(args, prediction):
        raise error

    model = in_order()
    with pytest.raises(type(error)):
        await model.ask(refine(reward_fn=judge))
    assert model.calls == 1


async def test_a_reward_may_be_awaited_and_a_synchronous_call_refuses_one(in_order):
    async def judged(args, prediction):
        return worth(args, prediction)

    model = in_order()
    assert await model.ask(refine(reward_fn=judged, threshold=0.7)) == "good"
    with dspy.context(lm=dspy.utils.DummyLM([{"answer": "good"}])), pytest.raises(ProgramError, match="call that"):
        refine(reward_fn=judged)(question="why")


def test_a_synchronous_program_is_refined_by_plain_dspy_too():
    with dspy.context(lm=dspy.utils.DummyLM([{"answer": answer} for answer in ANSWERS])):
        assert refine(threshold=0.7)(question="why").answer == "good"


class OnlyForward(dspy.Module):
    def __init__(self):
        super().__init__()
        self.say = dspy.Predict("question -> answer")
        self.threads = set()

    def forward(self, question):
        self.threads.add(threading.get_ident())
        return self.say(question=question)


async def test_a_module_with_only_forward_is_awaited_in_a_thread(in_order):
    module, model = OnlyForward(), in_order()
    assert await model.ask(Refine(module, reward_fn=worth, threshold=0.7)) == "good"
    assert threading.get_ident() not in module.threads


@pytest.mark.parametrize("error", [VenueError("down"), BudgetExhausted("spent", scope="run")])
async def test_when_the_infrastructure_fails_an_answer_of_half_the_threshold_is_kept(in_order, error):
    model = in_order("poor", error, "best")
    assert await model.ask(refine(threshold=0.6)) == "poor"
    assert model.calls == 2
    with pytest.raises(type(error)):
        await in_order("poor", error, "best").ask(refine(threshold=0.7))


async def test_the_fallback_makes_the_attempt_again_and_the_later_ones(in_order):
    model, backup = in_order("bad", VenueError("down"), "best"), in_order("poor", "good")
    assert await model.ask(refine(threshold=0.7, fallback_lm=backup.lm)) == "good"
    assert (model.calls, backup.calls) == (2, 2)
    assert [request.rollout_id for request in backup.venue.asked] == [sample_of(0, 2), sample_of(0, 3)]


async def test_the_fallback_stands_in_for_a_model_of_the_predictors_own_too(in_order):
    own, backup = in_order(VenueError("too long", fault="context")), in_order("best")
    module = dspy.Predict("question -> answer")
    module.lm = own.lm
    assert await backup.ask(Refine(module, reward_fn=worth, fallback_lm=backup.lm)) == "best"
    assert (own.calls, backup.calls) == (1, 1)


async def test_a_fallback_that_fails_too_and_a_missing_one_are_errors(in_order):
    model, backup = in_order(VenueError("the first is down")), in_order(VenueError("the second is down"))
    with pytest.raises(VenueError, match="second"):
        await model.ask(refine(fallback_lm=backup.lm))
    with pytest.raises(VenueError, match="first"):
        await in_order(VenueError("the first is down")).ask(refine())


async def test_whoever_watches_sees_each_attempt_with_its_number_hint_and_score(in_order):
    with trace() as watched:
        await in_order().ask(refine(threshold=0.7))
    attempts = [node for node in watched.graph.nodes if node.name == "Attempt"]
    assert [node.inputs["attempt"] for node in attempts] == [1, 2, 3]
    assert ["hint" in node.inputs for node in attempts] == [False, True, True]
    assert [node.outputs["score_ppm"] for node in attempts] == [100_000, 300_000, 700_000]
    said = [node for node in watched.graph.nodes if node.kind == "predict"]
    assert [node.parents[-1] for node in said] == [node.id for node in attempts]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_retries": 0}, "max_retries is 0; it is the number of attempts"),
        ({"max_retries": True}, "max_retries is True"),
        ({"max_retries": 2.0}, "max_retries is 2.0"),
        ({"threshold": 1.5}, "threshold is 1.5; it is a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": None}, "threshold is None"),
        ({"best_of_n": 5}, "best_of_n is 5; .*max_retries"),
        ({"best_of_n": True, "reward_fn": None}, "best_of_n needs a reward_fn"),
        ({"reward_fn": 0.5}, "reward_fn is 0.5"),
        ({"reward_fn": lambda prediction: 1}, r"called with \(args, prediction\)"),
        ({"fallback_lm": "openai/gpt"}, "give a model: dspy.LM"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_with_what_to_do(options, sentence):
    with pytest.raises(ProgramError, match=sentence):
        refine(**options)


@pytest.mark.parametrize("module", [OnlyForward, "question -> answer", None])
def test_what_is_no_module_is_refused(module):
    with pytest.raises(ProgramError, match=r"wraps a dspy.Module.*give one: (OnlyForward|dspy.Predict)\("):
        Refine(module)


def test_a_copy_shares_reward_and_models_and_has_predictors_of_its_own():
    made = refine(reward_fn=worth, fallback_lm=dspy.utils.DummyLM([]))
    copied = copy.deepcopy(made)
    assert copied.config is made.config
    assert copied.module is not made.module
