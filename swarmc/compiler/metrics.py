"""Metrics: a user's function from (example, prediction) to a score, checked before a call is paid for."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import dspy

from swarmc.compiler.references import resolve
from swarmc.contracts.canonical import ppm
from swarmc.contracts.errors import MetricError

MetricFunction = Callable[..., Any]


class Metric:
    """A scoring function under its name.

    Args:
        name: What it was loaded by, for errors and manifests.
        function: `(example, prediction)`, optionally `trace`, to a bool or a number in 0..1, or an
            object with such a `score`.
    """

    def __init__(self, name: str, function: MetricFunction) -> None:
        self.name = name
        self._function = function
        self._takes_trace = _takes_trace(function)

    def score_ppm(self, example: dspy.Example, prediction: Any) -> int:
        """The score in parts per million.

        Raises:
            MetricError: it returned what is no score.
            Exception: whatever the function raises; the caller decides what that means.
        """
        return self.judge(example, prediction)[0]

    def judge(self, example: dspy.Example, prediction: Any) -> tuple[int, str]:
        """The score, and the feedback that came with it (empty when none did). Raises as `score_ppm`."""
        value = self._function(example, prediction, None) if self._takes_trace else self._function(example, prediction)
        said = dict(value) if isinstance(value, dspy.Prediction | Mapping) else {}
        return self._checked(said.get("score", value)), str(said.get("feedback") or "")

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
            raise MetricError(f"the metric {self.name!r} returned {value!r}; return a bool or a number from 0 to 1")
        if not math.isfinite(number) or not 0 <= number <= 1:
            raise MetricError(f"the metric {self.name!r} returned {number!r}; scale it so that it is from 0 to 1")
        return ppm(number)


def load_metric(reference: str, outputs: Collection[str] = ()) -> Metric:
    """`exact_match`, `contains`, or a user's function by `module:function` or `file.py:function`.

    Args:
        reference: Its name.
        outputs: The program's output fields: of a dataset's other columns (an id, a comment) the built-in
            metrics then take no notice. Empty: every column that is no input is a label.

    Raises:
        MetricError: it cannot be found, or is no function.
    """
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


def _takes_trace(function: MetricFunction) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) >= 3 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _as_float(value: Any) -> float | None:
    """A bool, an int, a float or a number of numpy's; `None` for anything else, text that looks like one included."""
    is_numpy_number = type(value).__module__ == "numpy" and value.ndim == 0
    if not is_numpy_number and not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
