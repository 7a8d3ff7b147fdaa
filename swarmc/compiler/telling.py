"""What happens inside a program run, told as events: the run, its predictors and tools, where their inputs came from.

In a compile the adapter is where predictors are seen: every predictor call is one adapter call, and
DSPy's callbacks on everything would cost as much as a third of a call. Tools, which are rare, are
told of by callbacks. A user's own run is watched by callbacks alone (`swarmc/watching.py`).
"""

import random
from collections.abc import Mapping, Sequence
from time import time_ns
from types import TracebackType
from typing import Any, Final

import dspy
from dspy.utils.callback import BaseCallback
from pydantic import JsonValue

from swarmc.compiler.scope import ACTIVE, Made, Scope, active_call, current_scope
from swarmc.contracts.canonical import plain
from swarmc.contracts.events import (
    NS_PER_MS,
    Emit,
    ModuleEnded,
    ModuleStarted,
    ProgramEnded,
    ProgramStarted,
    ToolEnded,
    ToolStarted,
)

MAX_FAILURE_CHARS: Final = 300
NAMES_KEPT: Final = 4_096

_ids = random.Random()  # Seeded by the system once; the system's own randomness costs more than an event.


class Teller:
    """Tells of the program runs of one compile or session.

    Args:
        emit: Where to tell.
        run_id: Whose events they are.
        program: The program's name.
    """

    def __init__(self, emit: Emit, run_id: str, program: str) -> None:
        self.emit = emit
        self.run_id = run_id
        self._program = program
        self._known: dict[int, tuple[Any, str, str]] = {}

    def watch(self, module: dspy.Module) -> None:
        """Learn the names of a module's predictors, and hear of its tools."""
        for name, predictor in module.named_predictors():
            # The signature is kept with the name, so that its id stays its own.
            self._known[id(predictor.signature)] = (predictor.signature, name, type(predictor).__name__)
        while len(self._known) > NAMES_KEPT:
            self._known.pop(next(iter(self._known)))
        for _, inner in module.named_sub_modules():
            for tool in _tools(inner):
                tool.callbacks = [OfTool(self)]

    def started(
        self, scope: Scope, inputs: Mapping[str, Any], candidate_id: str | None, example_id: str | None
    ) -> None:
        """A program run begins; `scope` is the run's from now on."""
        scope.call_id = new_call_id()
        scope.teller = self
        remember(scope.made, scope.call_id, inputs)
        at_ns = time_ns()
        self.emit(
            ProgramStarted(
                **part_of(self.run_id, scope.call_id, None, at_ns),
                stage=scope.stage,
                program=self._program,
                candidate_id=candidate_id,
                example_id=example_id,
                rollout_id=scope.rollout_id,
                inputs=plain_fields(inputs),
            )
        )

    def ended(self, scope: Scope, outputs: Any, score_ppm: int | None, failure: str | None) -> None:
        """It is over."""
        assert scope.call_id is not None, "a program run that ended had begun"
        at_ns = time_ns()
        self.emit(
            ProgramEnded(
                **part_of(self.run_id, scope.call_id, None, at_ns),
                outputs=fields_of(outputs),
                score_ppm=score_ppm,
                failure=failure,
            )
        )

    def name_of(self, signature: Any) -> tuple[str, str]:
        """A predictor's name in its program and its class, by the signature it was called with."""
        known = self._known.get(id(signature))
        return known[1:] if known is not None else (signature_name(signature), "Predict")

    def module_started(self, call_id: str, name: tuple[str, str], signature: Any, inputs: Mapping[str, Any]) -> None:
        """A predictor or another module was called."""
        scope, at_ns = current_scope(), time_ns()
        self.emit(
            ModuleStarted(
                **part_of(self.run_id, call_id, active_call(scope), at_ns),
                name=name[0],
                module=name[1],
                signature=signature_name(signature) if signature is not None else None,
                inputs=plain_fields(inputs),
                origins=origins_of(scope.made, inputs),
            )
        )

    def module_ended(self, call_id: str, outputs: Mapping[str, Any] | None, error: BaseException | None) -> None:
        """It gave its outputs, or failed."""
        scope, at_ns = current_scope(), time_ns()
        remember(scope.made, call_id, outputs or {})
        self.emit(
            ModuleEnded(
                **part_of(self.run_id, call_id, active_call(scope), at_ns),
                outputs=None if outputs is None else plain_fields(outputs),
                failure=reason(error),
            )
        )


class PredictorCall:
    """One call of a predictor, told of as long as it is entered.

    Attributes:
        outputs: What it gave: one mapping per completion.
    """

    __slots__ = ("_call_id", "_inputs", "_signature", "_teller", "_token", "outputs")

    def __init__(self, teller: Teller, signature: Any, inputs: Mapping[str, Any]) -> None:
        self.outputs: Sequence[Mapping[str, Any]] = ()
        self._teller = teller
        self._signature = signature
        self._inputs = inputs
        self._call_id = new_call_id()

    def __enter__(self) -> "PredictorCall":
        name = self._teller.name_of(self._signature)
        self._teller.module_started(self._call_id, name, self._signature, self._inputs)
        self._token = ACTIVE.set(self._call_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ACTIVE.reset(self._token)
        self._teller.module_ended(self._call_id, self.outputs[0] if self.outputs else None, error)


class OfTool(BaseCallback):
    """Tells of the calls of tools."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller

    def on_tool_start(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> None:
        at_ns = time_ns()
        self._teller.emit(
            ToolStarted(
                **part_of(self._teller.run_id, call_id[:16], active_call(current_scope()), at_ns),
                tool=str(instance.name),
                inputs=plain_fields(inputs.get("kwargs", inputs)),
            )
        )

    def on_tool_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        at_ns = time_ns()
        self._teller.emit(
            ToolEnded(
                **part_of(self._teller.run_id, call_id[:16], active_call(current_scope()), at_ns),
                output=plain(outputs),
                failure=reason(exception),
            )
        )


def part_of(run_id: str, call_id: str, parent_id: str | None, at_ns: int) -> Mapping[str, Any]:
    """What every event of a part of a program run says first."""
    return {
        "run_id": run_id,
        "at_ms": at_ns // NS_PER_MS,
        "at_ns": at_ns,
        "call_id": call_id,
        "parent_id": parent_id,
    }


def new_call_id() -> str:
    """16 hex digits, not all of them 0, that no other call is likely to have."""
    return f"{_ids.getrandbits(64) or 1:016x}"


def fields_of(outputs: Any) -> dict[str, JsonValue] | None:
    """A prediction's fields as plain data; of anything else its text under `value`; nothing of nothing."""
    if outputs is None:
        return None
    return plain_fields(dict(outputs)) if isinstance(outputs, dspy.Prediction) else {"value": plain(outputs)}


def plain_fields(values: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Every value as canonical data."""
    return {str(name): plain(value) for name, value in values.items()}


def signature_name(signature: Any) -> str:
    """The signature's name, or its fields where DSPy made it of a string."""
    name = signature.__name__
    return signature.signature if name in {"StringSignature", "Signature"} else name


def reason(error: BaseException | None) -> str | None:
    """An error in one line."""
    if error is None:
        return None
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:MAX_FAILURE_CHARS]


def remember(made: Made, call_id: str, values: Mapping[str, Any]) -> None:
    """Note which call made these very objects, as which fields. What is handed on keeps its first maker."""
    for field, value in values.items():
        made.setdefault(id(value), (value, call_id, field))


def origins_of(made: Made, inputs: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """By input field, the call and the field that made this very object."""
    found = {}
    for field, value in inputs.items():
        known = made.get(id(value))
        if known is not None and known[0] is value:
            found[field] = known[1:]
    return found


def _tools(module: Any) -> list[Any]:
    held = getattr(module, "tools", None)
    several = list(held.values()) if isinstance(held, dict) else held if isinstance(held, list | tuple) else []
    return [tool for tool in several if isinstance(tool, dspy.Tool)]
