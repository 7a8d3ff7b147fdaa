"""Metrics: a user's function from (example, prediction) to a score, checked before a call is paid for."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, overload

import dspy

from swarmc.compiler.composite import Composite
from swarmc.compiler.judges import Judge
from swarmc.compiler.references import resolve
from swarmc.contracts.canonical import ppm
from swarmc.contracts.errors import MetricError
from swarmc.contracts.metrics import MetricSpec
from swarmc.contracts.ports import Sandbox

MetricFunction = Callable[..., Any]


UNUSED = ("trace", "pred_name", "pred_trace")
"""What DSPy's optimizers may hand to a metric beside example and prediction; here each of them is `None`."""

MAX_SHOWN_CHARS = 200


class Scorer(Protocol):
    """What an evaluation asks: a function under its name, or several parts that are weighed."""

    name: str

    async def assess(self, example: dspy.Example, prediction: Any, judge: Judge) -> tuple[int, str]:
        """The score in parts per million, and the feedback that came with it."""
        ...

    def rehearse(self, example: dspy.Example) -> None:
        """Find what is broken before anything is bought; raises `MetricError`."""
        ...


class Metric:
    """A scoring function under its name.

    Args:
        name: What it was loaded by, for errors and manifests.
        function: `(example, prediction)`, optionally `trace`, or GEPA's five (`pred_name` and `pred_trace`
            besides), to a bool or a number in 0..1, or an object or mapping with such a `score` and maybe
            a `feedback`.

    Raises:
        MetricError: no call with example and prediction fits the function.
    """

    def __init__(self, name: str, function: MetricFunction) -> None:
        self.name = name
        self._function = function
        self._given, self._named = _unused(name, function)

    def score_ppm(self, example: dspy.Example, prediction: Any) -> int:
        """The score in parts per million.

        Raises:
            MetricError: it returned what is no score.
            Exception: whatever the function raises; the caller decides what that means.
        """
        return self.judge(example, prediction)[0]

    def judge(self, example: dspy.Example, prediction: Any) -> tuple[int, str]:
        """The score, and the feedback that came with it (empty when none did). Raises as `score_ppm`."""
        value = self._function(example, prediction, *self._given, **self._named)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise MetricError(f"the metric {self.name!r} is async, and scores are not awaited; make it a plain `def`")
        return self._checked(_part(value, "score", value)), _words(_part(value, "feedback", None))

    async def assess(self, example: dspy.Example, prediction: Any, judge: Judge) -> tuple[int, str]:  # noqa: ARG002
        """As `judge`; a plain function asks no model."""
        return self.judge(example, prediction)

    def rehearse(self, example: dspy.Example) -> None:
        """Score an example's own gold answer, so that a broken metric is found before anything is bought.

        Raises:
            MetricError: the metric raised, or returned what is no score.
        """
        gold = dspy.Prediction(**{name: example[name] for name in example.labels()})
        try:
            self.score_ppm(example, gold)
        except MetricError:
            raise
        except Exception as error:
            raise MetricError(
                f"the metric {self.name!r} raised {type(error).__name__}: {error} when given an example's own gold "
                f"answer as the prediction (fields: {', '.join(example.keys())}); mend it and run again"
            ) from error

    def _checked(self, value: Any) -> int:
        number = _as_float(value)
        if number is None:
            raise MetricError(f"the metric {self.name!r} returned {_no_score(value)}")
        if not math.isfinite(number):
            raise MetricError(
                f"the metric {self.name!r} returned {number!r}; return a number from 0 to 1, 0 where nothing can be "
                "measured"
            )
        if not 0 <= number <= 1:
            raise MetricError(f"the metric {self.name!r} returned {number!r}; scale it so that it is from 0 to 1")
        return ppm(number)


@overload
def load_metric(reference: str, outputs: Collection[str] = (), sandbox: Sandbox | None = None) -> Metric: ...


@overload
def load_metric(
    reference: str | MetricSpec, outputs: Collection[str] = (), sandbox: Sandbox | None = None
) -> Metric | Composite: ...


def load_metric(
    reference: str | MetricSpec, outputs: Collection[str] = (), sandbox: Sandbox | None = None
) -> Metric | Composite:
    """`exact_match`, `contains`, a user's function by `module:function` or `file.py:function`, or parts to weigh.

    Args:
        reference: Its name, or its parts.
        outputs: The program's output fields: of a dataset's other columns (an id, a comment) the built-in
            metrics then take no notice. Empty: every column that is no input is a label.
        sandbox: Where commands run on answers, for a metric that has such a part.

    Raises:
        MetricError: it cannot be found, or is no function, or a part of it cannot work.
    """
    if isinstance(reference, MetricSpec):
        return Composite(reference, outputs, lambda name: load_metric(name, outputs), sandbox)
    if reference in BUILT_IN:
        return Metric(reference, _on_outputs(BUILT_IN[reference], frozenset(outputs)))
    if ":" not in reference:
        raise MetricError(f"no metric {reference!r}; use {', '.join(BUILT_IN)} or `module:function`")
    function = resolve(reference, MetricError, "the metric")
    if not callable(function):
        raise MetricError(f"the metric {reference!r} is a {type(function).__name__}, not a function")
    return Metric(reference, function)


def exact_match(example: dspy.Example, prediction: Any) -> bool:
    """Every label field is equal, ignoring case and white space around and between words."""
    return all(said is not None and _normal(label) == _normal(said) for label, said in _pairs(example, prediction))


def contains(example: dspy.Example, prediction: Any) -> bool:
    """Every label field's text occurs in the prediction, ignoring case."""
    return all(said is not None and _normal(label) in _normal(said) for label, said in _pairs(example, prediction))


BUILT_IN: dict[str, MetricFunction] = {"exact_match": exact_match, "contains": contains}


def _on_outputs(function: MetricFunction, outputs: frozenset[str]) -> MetricFunction:
    """The built-in metric, on those labels only that a program can give."""

    def metric(example: dspy.Example, prediction: Any) -> bool:
        kept = {name: value for name, value in example.items() if name in outputs}
        if not kept:
            raise MetricError(
                f"the examples' labels ({', '.join(example.labels().keys())}) are none of the program's outputs "
                f"({', '.join(sorted(outputs))}); map a column in `dataset.rename`"
            )
        return function(dspy.Example(**kept).with_inputs(), prediction)

    return metric if outputs else function


def _pairs(example: dspy.Example, prediction: Any) -> list[tuple[Any, Any]]:
    """Each label, and what was said for it: `None` when nothing was."""
    return [(example[name], getattr(prediction, name, None)) for name in example.labels()]


def _normal(value: Any) -> str:
    return " ".join(str(value).casefold().split())


def _unused(name: str, function: MetricFunction) -> tuple[tuple[None, ...], dict[str, None]]:
    """What a call adds to example and prediction, by position and by name, so that every parameter has a value."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return (), {}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(positional) < 2 and not takes_any_number:
        raise MetricError(
            f"the metric {name!r} takes {len(positional)} arguments by position; it must take (example, prediction)"
        )
    given = [p for p in positional[2:] if p.default is p.empty]
    open_ = [p for p in parameters if p not in positional[:2] and p not in given and p.kind in _BY_NAME]
    strange = [p.name for p in open_ if p.default is p.empty and p.name not in UNUSED]
    if len(given) > len(UNUSED) or strange:
        asked = ", ".join([p.name for p in given[len(UNUSED) :]] + strange)
        raise MetricError(
            f"the metric {name!r} asks for {asked}, which nobody gives; it is called with (example, prediction, "
            f"{', '.join(UNUSED)}), so give what it needs besides a default"
        )
    # Of a wrapper that takes and passes on any number, DSPy's habit is known: three.
    count = 1 if takes_any_number and len(positional) <= 2 else len(given)
    return (None,) * count, {p.name: None for p in open_ if p.name in UNUSED}


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _part(value: Any, name: str, default: Any) -> Any:
    """What a feedback object (DSPy's, a mapping or any with such an attribute) says under a name."""
    if isinstance(value, dspy.Prediction | Mapping):
        return dict(value).get(name, default)
    return getattr(value, name, default)


def _words(feedback: Any) -> str:
    """Feedback as text, whatever a metric gives: several remarks become lines."""
    if feedback is None or isinstance(feedback, str):
        return feedback or ""
    if isinstance(feedback, list | tuple):
        return "\n".join(str(remark) for remark in feedback)
    return str(feedback)


def _no_score(value: Any) -> str:
    """What is wrong with a value that is no number, and what to return instead."""
    shown = " ".join(repr(value).split())
    shown = shown if len(shown) <= MAX_SHOWN_CHARS else shown[:MAX_SHOWN_CHARS] + "..."
    parts = dict(value) if isinstance(value, dspy.Prediction | Mapping) else {}
    several = list(parts.values()) if parts else list(value) if _is_row(value) else []
    if len(several) > 1 and all(_as_float(part) is not None for part in several):
        return (
            f"several numbers and no `score`: {shown}; weigh them into one `score` from 0 to 1, and keep the others "
            "beside it if you like: dspy.Prediction(score=..., accuracy=..., brevity=...)"
        )
    return f"{shown}; return a bool or a number from 0 to 1, or dspy.Prediction(score=..., feedback=...) with one"


def _is_row(value: Any) -> bool:
    """A list, a tuple or an array."""
    return isinstance(value, list | tuple) or (type(value).__module__ == "numpy" and value.ndim == 1)


def _as_float(value: Any) -> float | None:
    """A bool, an int, a float or a number of numpy's; `None` for anything else, text that looks like one included."""
    is_numpy_number = type(value).__module__ == "numpy" and value.ndim == 0
    if not is_numpy_number and not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
