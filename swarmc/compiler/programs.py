"""DSPy programs: loaded by name, described as contracts, dressed as candidates, saved as plain JSON."""

import inspect
import json
from dataclasses import dataclass
from typing import Any

import dspy
import pydantic

from swarmc.compiler.references import resolve
from swarmc.compiler.refine import can_be_awaited, innermost, most_calls, take_fallbacks
from swarmc.contracts.candidates import Candidate, Demo, PredictorInfo
from swarmc.contracts.canonical import canonical_bytes, plain, unplain
from swarmc.contracts.errors import ProgramError
from swarmc.contracts.manifest import CompiledPredictor, CompiledProgram, FieldSpec

PLAIN_TYPES = (str, int, float, bool)


@dataclass(frozen=True)
class Program:
    """A DSPy module and the name it was loaded by.

    Attributes:
        reference: `module:attribute`, `file.py:attribute` or a signature string.
        module: The uncompiled module, without language models of its own.
        own_models: Names of predictors that had a model of their own, which was taken away: a call
            outside the meter would be outside the budget. Fallback models of `Refine` likewise.
    """

    reference: str
    module: dspy.Module
    own_models: tuple[str, ...] = ()

    @property
    def awaitable(self) -> bool:
        """Whether the module can be awaited, or must be run in a thread."""
        return can_be_awaited(self.module)

    @property
    def most_calls(self) -> int:
        """Predictor calls of one run at most, as far as can be known: every attempt of a `Refine` counted."""
        return most_calls(self.module)

    @property
    def predictors(self) -> dict[str, PredictorInfo]:
        """Every predictor by its name in the module."""
        return {
            name: PredictorInfo(
                instruction=signature.instructions,
                inputs=tuple(signature.input_fields),
                outputs=tuple(signature.output_fields),
            )
            for name, signature in _signatures(self.module).items()
        }

    @property
    def inputs(self) -> tuple[str, ...]:
        """The first predictor's input fields: the program's own."""
        return next(iter(self.predictors.values())).inputs

    @property
    def outputs(self) -> list[str]:
        """The output fields of all predictors."""
        return [name for info in self.predictors.values() for name in info.outputs]

    @property
    def signature_name(self) -> str:
        """The first predictor's signature name, or its fields where it has none."""
        return _signature_name(next(iter(_signatures(self.module).values())))

    def describe(self) -> CompiledProgram:
        """The program as it stands, as the artifact whose hash is its id."""
        return CompiledProgram(
            program=self.reference,
            predictors={name: _describe(predictor) for name, predictor in self.module.named_predictors()},
        )

    def dressed(self, candidate: Candidate) -> dspy.Module:
        """A copy of the module with the candidate's instructions and demonstrations."""
        module = self.module.deepcopy()
        for name, predictor in module.named_predictors():
            choice = candidate.predictors[name]
            predictor.signature = _signature(predictor).with_instructions(choice.instruction)
            predictor.demos = [to_example(demo) for demo in choice.demos]
        return module

    def saved(self, candidate: Candidate) -> bytes:
        """The compiled module as the JSON that DSPy's own `load` reads, without swarmc."""
        module = self.dressed(candidate)
        state = module.dump_state(json_mode=True)
        # What DSPy's `save` writes beside the state; it warns when versions differ at loading.
        state["metadata"] = {"dependency_versions": {"dspy": dspy.__version__}}
        return json.dumps(state, indent=2, sort_keys=True, ensure_ascii=False).encode()

    def source(self) -> str:
        """The program's code for a proposer to read: its class, or its signatures when it is only those."""
        written = innermost(self.module)
        if type(written).__module__.startswith("dspy."):
            return "\n".join(f"{name}: {predictor.signature}" for name, predictor in self.module.named_predictors())
        try:
            return inspect.getsource(type(written))
        except (OSError, TypeError):
            return repr(self.module)


def load_program(reference: str) -> Program:
    """Load a program by `module:attribute`, by `file.py:attribute`, or from a signature string.

    The attribute may be a module, a module's class or a function that returns one (called without
    arguments), or a signature (wrapped in `dspy.Predict`).

    Raises:
        ProgramError: it cannot be found or imported, is no DSPy program, or has no predictor.
    """
    if "->" in reference:
        return as_program(_from_signature(reference), reference)
    return as_program(resolve(reference, ProgramError, "the program"), reference)


def as_program(value: Any, reference: str) -> Program:
    """A program from what a reference may name: a module, its class or a function that makes one, or a signature.

    The object itself stays as it is.

    Args:
        value: The object.
        reference: What it is called.

    Raises:
        ProgramError: it is no DSPy program, or has no predictor.
    """
    module = _as_module(value, reference)
    predictors = module.named_predictors()
    if not predictors:
        raise ProgramError(f"the program {reference!r} has no dspy.Predict in it, so there is nothing to compile")
    module = module.deepcopy()
    own_models = tuple(name for name, predictor in predictors if predictor.lm is not None)
    for predictor in module.predictors():
        predictor.lm = None
    return Program(reference=reference, module=module, own_models=own_models + take_fallbacks(module))


def to_example(demo: Demo) -> dspy.Example:
    """A demonstration as DSPy holds it."""
    fields = {name: unplain(value) for name, value in demo.fields.items()}
    return dspy.Example(**fields, augmented=True) if demo.augmented else dspy.Example(**fields)


def _from_signature(text: str) -> dspy.Module:
    try:
        return dspy.Predict(text)
    except Exception as error:
        raise ProgramError(
            f"the signature {text!r} cannot be read ({error}); write it as `question -> answer`"
        ) from error


def _as_module(value: Any, reference: str) -> dspy.Module:
    if inspect.isclass(value) and issubclass(value, dspy.Signature):
        return dspy.Predict(value)
    if callable(value) and not isinstance(value, dspy.Module):
        try:
            value = value()
        except Exception as error:
            raise ProgramError(
                f"the program {reference!r} could not be made without arguments: {type(error).__name__}: {error}"
            ) from error
    if not isinstance(value, dspy.Module):
        raise ProgramError(f"the program {reference!r} is a {type(value).__name__}, not a dspy.Module")
    return value


def _signature(predictor: dspy.Predict) -> Any:
    # DSPy's signatures are classes with a metaclass that type checkers cannot follow.
    return predictor.signature


def _signatures(module: dspy.Module) -> dict[str, Any]:
    return {name: _signature(predictor) for name, predictor in module.named_predictors()}


def _signature_name(signature: Any) -> str:
    name = signature.__name__
    return signature.signature if name in {"StringSignature", "Signature"} else name


def _describe(predictor: dspy.Predict) -> CompiledPredictor:
    signature = _signature(predictor)
    return CompiledPredictor(
        signature_name=_signature_name(signature),
        inputs=tuple(_field(name, info) for name, info in signature.input_fields.items()),
        outputs=tuple(_field(name, info) for name, info in signature.output_fields.items()),
        instruction=signature.instructions,
        demos=tuple(to_demo(demo) for demo in predictor.demos),
    )


def _field(name: str, info: pydantic.fields.FieldInfo) -> FieldSpec:
    extra: Any = info.json_schema_extra or {}
    return FieldSpec(
        name=name,
        annotation=_annotation(info.annotation),
        description=str(extra.get("desc", "")),
        prefix=str(extra.get("prefix", "")),
    )


def _annotation(annotation: Any) -> str:
    """A type as text: a plain one by its name, any other by its JSON schema, which is what a model is told."""
    if annotation in PLAIN_TYPES:
        return annotation.__name__
    try:
        return canonical_bytes(plain(pydantic.TypeAdapter(annotation).json_schema())).decode()
    except (pydantic.PydanticUserError, ValueError):
        return str(annotation)


def to_demo(example: Any) -> Demo:
    """DSPy's example (or a dict) as a demonstration."""
    fields = dict(example)
    augmented = bool(fields.pop("augmented", False))
    return Demo(fields={name: plain(value) for name, value in fields.items()}, augmented=augmented)
