"""Objects given in place of names: what each is called, so that the same objects are the same request."""

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import dspy

from swarmc.compiler.datasets import example_id, marked_examples
from swarmc.compiler.metrics import BUILT_IN, Metric, MetricFunction
from swarmc.compiler.programs import PLAIN_TYPES, Program, as_program, load_program
from swarmc.contracts.canonical import content_id
from swarmc.contracts.errors import DatasetError, MetricError, ProgramError, SpecError
from swarmc.contracts.manifest import FieldSpec
from swarmc.contracts.spec import DatasetSpec

ID_LETTERS = 16
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_. -]+")
MOST_NAME_CHARS = 80


def given_program(value: object, name: str | None) -> Program:
    """A program from an object, called by what its code and its text are.

    A `dspy.Predict` of a plain signature is called by the signature, as in a spec.

    Args:
        value: A module, a module's class or a function that makes one, or a signature.
        name: Stands for code that cannot be read, as of a class typed into an interpreter.

    Raises:
        ProgramError: it is no DSPy program, or its code cannot be read and there is no `name`.
    """
    program = as_program(value, f"the given {type(value).__name__}")
    if (plain := _as_signature(program)) is not None:
        return replace(program, reference=plain)
    kinds = {type(module) for _, module in program.module.named_sub_modules()}
    own = sorted(
        (kind for kind in kinds if not kind.__module__.startswith("dspy.")), key=lambda kind: kind.__qualname__
    )
    code = [_code(kind, name, ProgramError, f"the program's class {kind.__qualname__}") for kind in own]
    text = replace(program, reference="").describe().content_id
    return replace(program, reference=_called(type(program.module).__name__, [text, *code]))


def given_metric(function: MetricFunction, name: str | None) -> Metric:
    """A metric from a function, called by its name and its code.

    Args:
        function: As of `Metric`.
        name: As of `given_program`.

    Raises:
        MetricError: it is no function, or its code cannot be read and there is no `name`.
    """
    if not callable(function):
        raise MetricError(
            f"the metric is a {type(function).__name__}; give a function of (example, prediction), "
            f"{', '.join(BUILT_IN)}, `module:function`, or a MetricSpec"
        )
    called = getattr(function, "__name__", type(function).__name__)
    code = _code(function, name, MetricError, f"the metric {called}")
    return Metric(_called(called, [code]), function)


def given_examples(examples: Sequence[Any], program: Program) -> tuple[DatasetSpec, list[dspy.Example]]:
    """Examples from a list, and how a spec calls them: by the hash of them all, in whatever order.

    Raises:
        DatasetError: none, or not all of the same form; one lacks a field, or has no label.
    """
    rows = list(examples)
    if not rows:
        raise DatasetError("the trainset is empty; give examples")
    inputs = _inputs(rows)
    unlike = next((number for number, row in enumerate(rows, start=1) if _inputs([row]) != inputs), None)
    if unlike is not None:
        raise DatasetError(
            f"trainset, row {unlike}: its inputs are not those of row 1 "
            f"({', '.join(sorted(inputs)) or 'none marked'}); mark the same fields with `with_inputs`"
        )
    named = () if inputs == set(program.inputs) else tuple(sorted(inputs))
    marked = marked_examples(rows, DatasetSpec(source="trainset", inputs=named), program.inputs)
    ids = sorted({example_id(example) for example in marked})
    return DatasetSpec(source=_called(f"{len(ids)} examples", ids), inputs=named), marked


def name_of(program: Program) -> str:
    """What to call a compile of the program, where nobody said it."""
    kind = type(program.module)
    called = program.signature_name if _is_of_dspy(kind) else kind.__name__
    return " ".join(NOT_IN_NAMES.sub(" ", called).split()).lstrip("_. -")[:MOST_NAME_CHARS] or "compile"


def _is_of_dspy(kind: type) -> bool:
    return kind.__module__.startswith("dspy.")


def _as_signature(program: Program) -> str | None:
    """The plain signature of which the program is nothing but the `dspy.Predict`; else nothing."""
    module = program.module
    if type(module) is not dspy.Predict or module.config or program.own_models:
        return None
    (one,) = program.describe().predictors.values()
    if not {field.annotation for field in (*one.inputs, *one.outputs)} <= {kind.__name__ for kind in PLAIN_TYPES}:
        return None
    text = " -> ".join(", ".join(map(_typed, fields)) for fields in (one.inputs, one.outputs))
    same = load_program(text).describe() == replace(program, reference=text).describe()
    return text if same else None


def _typed(field: FieldSpec) -> str:
    return field.name if field.annotation == "str" else f"{field.name}: {field.annotation}"


def _inputs(rows: Sequence[Any]) -> set[str]:
    """The fields that the first row marks as inputs."""
    try:
        return set(rows[0].inputs().keys()) if isinstance(rows[0], dspy.Example) else set()
    except ValueError:
        return set()


def _code(value: object, name: str | None, error: type[SpecError], what: str) -> str:
    """The source of a function or a class; the name, where there is none."""
    for parts in _written(value):
        with suppress(OSError, TypeError):
            return "\n".join(map(inspect.getsource, parts))
    if name is None:
        raise error(
            f"the code of {what} cannot be read, so a later call could not tell that it is the same; "
            "give the compile a `name`, or put the code into a file"
        )
    return name


def _written(value: object) -> Iterator[list[Any]]:
    """What to read the code of, in the order of preference."""
    code = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    yield [code]
    # In a notebook a class has no file, but its methods have.
    if methods := [part for part in vars(code).values() if inspect.isfunction(part)]:
        yield methods


def _called(what: str, parts: Sequence[str]) -> str:
    # No colon and no arrow: the name leads to no code, and nobody who reads a spec shall look for some.
    digest = content_id(json.dumps(parts).encode()).rpartition(":")[2]
    return f"{what} given in Python, {digest[:ID_LETTERS]}"
