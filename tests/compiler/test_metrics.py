"""Metrics: what is a score is taken whoever made it, what is none is refused with what to return instead."""

import dataclasses
import functools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.teleprompt.gepa.gepa_utils import ScoreWithFeedback

from swarmc.compiler.metrics import Metric, contains, exact_match, load_metric
from swarmc.contracts.errors import MetricError

EXAMPLE = dspy.Example(question="2+2?", answer="Four").with_inputs("question")
HERE = str(Path(__file__))


def said(answer: Any) -> dspy.Prediction:
    return dspy.Prediction(answer=answer)


def score_of(value: Any) -> int:
    return Metric("m", lambda example, prediction: value).score_ppm(EXAMPLE, said("Four"))


def half(example: dspy.Example, prediction: dspy.Prediction) -> float:
    """A metric that this file is asked for by name."""
    return 0.5


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (True, 1_000_000), (False, 0), (1, 1_000_000), (0, 0), (0.25, 250_000), (1 / 3, 333_333), (-0.0, 0),
        (5e-7, 0), (np.float64(0.5), 500_000), (np.float32(0.5), 500_000), (np.int64(1), 1_000_000),
        (np.bool_(True), 1_000_000), (np.array(0.5), 500_000), (np.mean([1, 0]), 500_000),
        (dspy.Prediction(score=0.75, feedback="nearly"), 750_000), (dspy.Prediction(score=True), 1_000_000),
    ],
    ids=repr,
)  # fmt: skip
def test_a_score_is_taken_in_parts_per_million(value: Any, parts: int) -> None:
    assert score_of(value) == parts


@pytest.mark.parametrize(
    "value",
    [None, "1", "yes", b"1", [1.0], {"points": 1}, math.nan, math.inf, -math.inf, -0.01, 1.01, 2, 100, Fraction(1, 2),
     1j, ..., 10**400, np.float64("nan"), np.array([0.5, 0.5]), np.array([0.5]), np.str_("one"), np.int64(2),
     dspy.Prediction(score=None), dspy.Prediction(score=1.5), dspy.Prediction(feedback="no score")],
    ids=lambda value: repr(value)[:24],
)  # fmt: skip
def test_what_is_no_score_is_refused(value: Any) -> None:
    with pytest.raises(MetricError, match="metric 'm' returned"):
        score_of(value)


def test_a_metric_that_raises_raises_its_own_error() -> None:
    with pytest.raises(ZeroDivisionError):
        Metric("m", lambda example, prediction: 1 / 0).score_ppm(EXAMPLE, said("Four"))


def test_a_rehearsal_gives_the_gold_answer_and_says_what_broke() -> None:
    seen = []
    Metric("m", lambda example, prediction: not seen.append(prediction.answer)).rehearse(EXAMPLE)
    assert seen == ["Four"]
    broken = Metric("shop:score", lambda example, prediction: prediction.label == example.label)
    with pytest.raises(MetricError, match=r"'shop:score' raised AttributeError.*gold answer.*question, answer"):
        broken.rehearse(EXAMPLE)
    with pytest.raises(MetricError, match="'m' returned None"):
        Metric("m", lambda example, prediction: None).rehearse(EXAMPLE)


def two(example: Any, prediction: Any) -> float:
    return 0.2


def three(example: Any, prediction: Any, trace: Any) -> float:
    assert trace is None
    return 0.3


def optional(example: Any, prediction: Any, trace: Any = None) -> float:
    return 0.4 if trace is None else 0.0


def by_keyword(example: Any, prediction: Any, *, trace: Any = None) -> float:
    return 0.5 if trace is None else 0.0


def any_number(*given: Any) -> float:
    return len(given) / 10


def gepas(gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> float:
    return 0.7 if (trace, pred_name, pred_trace) == (None, None, None) else 0.0


def gepas_with_defaults(gold: Any, pred: Any, trace: Any = None, pred_name: Any = "x", pred_trace: Any = ()) -> float:
    return gepas(gold, pred, trace, pred_name, pred_trace)


def gepas_by_keyword(gold: Any, pred: Any, *, trace: Any, pred_name: Any = "x", pred_trace: Any) -> float:
    return gepas(gold, pred, trace, pred_name, pred_trace)


def gepas_in_part(gold: Any, pred: Any, trace: Any, *args: Any, pred_name: Any, **more: Any) -> float:
    return gepas(gold, pred, trace, pred_name, None)


def with_a_setting(example: Any, prediction: Any, strictness: float = 0.8) -> float:
    return strictness


def wrapped(*args: Any, **kwargs: Any) -> float:
    return three(*args, **kwargs)


class Judge:
    """A metric may be an object that can be called."""

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> float:
        return 0.6


@pytest.mark.parametrize(
    ("function", "parts"),
    [(two, 200_000), (three, 300_000), (optional, 400_000), (by_keyword, 500_000), (any_number, 300_000),
     (Judge(), 600_000), (gepas, 700_000), (gepas_with_defaults, 700_000), (gepas_by_keyword, 700_000),
     (gepas_in_part, 700_000), (with_a_setting, 800_000), (functools.partial(with_a_setting, strictness=0.1), 100_000),
     (functools.partial(gepas, pred_name=None), 700_000), (wrapped, 300_000)],
)  # fmt: skip
def test_a_metric_may_take_what_optimizers_give_or_not(function: Any, parts: int) -> None:
    assert Metric("m", function).score_ppm(EXAMPLE, said("Four")) == parts


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda prediction: 1, "'m' takes 1 arguments by position; it must take \\(example, prediction\\)"),
        (lambda *, example, prediction: 1, "'m' takes 0 arguments by position"),
        (Judge, "'m' takes 0 arguments by position"),
        (lambda example, prediction, *, threshold: 1, "'m' asks for threshold, which nobody gives"),
        (lambda a, b, c, d, e, f, g: 1, "'m' asks for f, g, which nobody gives"),
    ],
)
def test_a_function_that_no_call_fits_is_refused_when_it_is_loaded(function: Any, sentence: str) -> None:
    with pytest.raises(MetricError, match=sentence):
        Metric("m", function)


async def later(example: Any, prediction: Any) -> float:
    return 1.0


class LaterJudge:
    async def __call__(self, example: Any, prediction: Any) -> float:
        return 1.0


@pytest.mark.parametrize("function", [later, LaterJudge(), lambda example, prediction: later(example, prediction)])
@pytest.mark.filterwarnings("error")
def test_an_async_metric_is_refused_at_its_rehearsal(function: Any) -> None:
    with pytest.raises(MetricError, match="'m' is async, and scores are not awaited; make it a plain `def`"):
        Metric("m", function).rehearse(EXAMPLE)


@dataclasses.dataclass
class Verdict:
    score: float
    feedback: object = None


class Remark:
    def __str__(self) -> str:
        return "a remark"


@pytest.mark.parametrize(
    ("value", "judged"),
    [
        (ScoreWithFeedback(score=0.5, feedback="half right"), (500_000, "half right")),
        (ScoreWithFeedback(score=1, feedback=None, objective_scores={"a": 1.0, "b": 0.5}), (1_000_000, "")),
        (dspy.Prediction(score=np.float32(0.5), feedback=["too long", "too loud"]), (500_000, "too long\ntoo loud")),
        ({"score": 0.25, "accuracy": 0.5, "brevity": 40, "feedback": {"why": 1}}, (250_000, "{'why': 1}")),
        ({"score": 1, "feedback": np.array([1, 2])}, (1_000_000, "[1 2]")),
        (Verdict(0.75), (750_000, "")),
        (Verdict(0.75, Remark()), (750_000, "a remark")),
        ({"score": 0, "feedback": ""}, (0, "")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_feedback_of_any_kind_is_kept_as_text(value: Any, judged: tuple[int, str]) -> None:
    assert Metric("m", lambda example, prediction: value).judge(EXAMPLE, said("Four")) == judged


@pytest.mark.parametrize(
    "value",
    [{"accuracy": 1.0, "brevity": 0.2}, [1.0, 0.2], (1, 0), np.array([0.5, 0.5]), {"score": {"a": 1.0, "b": 0.0}},
     dspy.Prediction(accuracy=1.0, brevity=0.2)],
    ids=repr,
)  # fmt: skip
def test_several_numbers_need_one_score_among_them(value: Any) -> None:
    with pytest.raises(MetricError, match=r"'m' returned several numbers and no `score`.*one `score` from 0 to 1"):
        Metric("m", lambda example, prediction: value).rehearse(EXAMPLE)


def test_a_score_and_its_reason_as_a_pair_are_refused_with_what_to_return() -> None:
    with pytest.raises(MetricError, match=r"returned \(0.5, 'nearly'\); .* dspy.Prediction\(score=..., feedback=...\)"):
        score_of((0.5, "nearly"))


def test_what_is_no_score_is_shown_in_short() -> None:
    with pytest.raises(MetricError) as caught:
        score_of("x" * 100_000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("value", "sentence"), [(math.nan, "0 where nothing can be measured"), (87.5, "scale it")])
def test_a_number_that_is_no_score_says_what_to_return(value: float, sentence: str) -> None:
    with pytest.raises(MetricError, match=sentence):
        score_of(value)


@pytest.mark.parametrize(
    ("answer", "exact", "within"),
    [("Four", True, True), (" four \n", True, True), ("FOUR", True, True), ("four.", False, True),
     ("It is four", False, True), ("fou r", False, False), ("", False, False), (None, False, False),
     (4, False, False)],
)  # fmt: skip
def test_the_built_in_metrics_compare_labels(answer: Any, exact: bool, within: bool) -> None:
    assert exact_match(EXAMPLE, said(answer)) == exact
    assert contains(EXAMPLE, said(answer)) == within


def test_every_label_counts() -> None:
    example = dspy.Example(q="?", city="Oslo", year=1952).with_inputs("q")
    assert exact_match(example, dspy.Prediction(city="oslo", year="1952"))
    assert not exact_match(example, dspy.Prediction(city="oslo", year="1953"))
    assert contains(example, dspy.Prediction(city="in Oslo", year="in 1952"))
    assert not contains(example, dspy.Prediction(city="in Oslo", year="then"))


@pytest.mark.parametrize("prediction", [dspy.Prediction(), said(None)], ids=["left out", "None"])
def test_no_answer_is_never_the_right_answer(prediction: dspy.Prediction) -> None:
    example = dspy.Example(question="which team?", answer="none").with_inputs("question")
    assert not exact_match(example, prediction)
    assert not contains(example, prediction)


def test_a_metric_is_found_by_name_by_module_and_by_file() -> None:
    assert load_metric("exact_match").score_ppm(EXAMPLE, said("four")) == 1_000_000
    assert load_metric(f"{HERE}:half").score_ppm(EXAMPLE, said("")) == 500_000
    assert load_metric("swarmc.compiler.metrics:contains").score_ppm(EXAMPLE, said("four!")) == 1_000_000


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("accuracy", "no metric 'accuracy'; use exact_match, contains or `module:function`"),
        ("no_such_module:score", "no module 'no_such_module'"),
        (f"{HERE}:missing", "has no 'missing'"),
        (f"{HERE}:EXAMPLE", "is a Example, not a function"),
    ],
)
def test_a_metric_that_is_not_there_is_named(reference: str, sentence: str) -> None:
    with pytest.raises(MetricError, match=sentence):
        load_metric(reference)


def test_a_built_in_metric_takes_no_notice_of_columns_that_no_program_gives() -> None:
    example = dspy.Example(question="2+2?", answer="four", id="row 7").with_inputs("question")
    assert load_metric("exact_match").score_ppm(example, said("four")) == 0
    assert load_metric("exact_match", ["answer"]).score_ppm(example, said("four")) == 1_000_000


def test_labels_that_no_program_gives_are_named() -> None:
    example = dspy.Example(question="2+2?", category="four").with_inputs("question")
    with pytest.raises(MetricError, match=r"category.*answer.*dataset.rename"):
        load_metric("exact_match", ["answer"]).rehearse(example)
