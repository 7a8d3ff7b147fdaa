"""Watch DSPy programs as they run, compiled or not: `with trace() as t: program(question="...")`, then `t.graph`.

Everything comes from DSPy's own callbacks, so any module, model and tool is seen. Watching costs a
few hundred microseconds a call; a compile tells the same events at a fraction of that.
"""

# ruff: noqa: ARG002 - the arguments of callbacks are DSPy's

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import time_ns
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from swarmc.compiler.scope import Made
from swarmc.compiler.telling import (
    fields_of,
    new_call_id,
    origins_of,
    part_of,
    plain_fields,
    reason,
    remember,
    signature_name,
)
from swarmc.contracts.canonical import canonical_bytes, content_id, plain
from swarmc.contracts.completions import Usage
from swarmc.contracts.events import (
    NS_PER_MS,
    AdapterEnded,
    CallEnded,
    CallFailed,
    Event,
    ModuleEnded,
    ModuleStarted,
    ProgramEnded,
    ProgramStarted,
    ToolEnded,
    ToolStarted,
)
from swarmc.contracts.graphs import Graph
from swarmc.tracing.graph import Graphs

HISTORY_LOOKED_AT = 64


@dataclass
class Trace:
    """What was watched.

    Attributes:
        run_id: Of the session.
        events: In the order in which they happened.
    """

    run_id: str
    events: list[Event] = field(default_factory=list)
    _graphs: list[Graph] = field(default_factory=list)
    _fold: Graphs = field(default_factory=Graphs)

    def emit(self, event: Event) -> None:
        """Take an event in."""
        self.events.append(event)
        self._fold.add(event)

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """One graph a program run, in the order in which they ended."""
        self._graphs += [finished.graph for finished in self._fold.finished()]
        return tuple(self._graphs)

    @property
    def graph(self) -> Graph:
        """The graph of the first program run.

        Raises:
            LookupError: no program run has ended.
        """
        if not self.graphs:
            raise LookupError("no program ran to its end inside of `with trace()`; call one there")
        return self.graphs[0]


@contextmanager
def trace(run_id: str | None = None) -> Iterator[Trace]:
    """Watch every DSPy program that is called inside of the block, in threads and tasks alike.

    Args:
        run_id: What the session is called in events, spans and notes; by default a new name.
    """
    watched = Trace(run_id or f"session-{new_call_id()}")
    with dspy.context(callbacks=[*dspy.settings.get("callbacks", []), _Watcher(watched)]):
        yield watched


@dataclass
class _Call:
    """A call that has not ended: whose child it is, and the values that its program run has made so far."""

    call_id: str
    parent_id: str | None
    started_ns: int
    made: Made
    instance: Any
    inputs: Mapping[str, Any]


class _Watcher(BaseCallback):
    """DSPy's callbacks, told as events."""

    def __init__(self, watched: Trace) -> None:
        self._watched = watched
        self._open: dict[str, _Call] = {}
        self._roots: dict[str, str] = {}
        self._names: dict[int, str] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> None:
        given = _given(inputs)
        call = self._begin(call_id, instance, given)
        if call.parent_id is None:
            self._begin_program(call)
        signature = getattr(instance, "signature", None)
        self._watched.emit(
            ModuleStarted(
                **self._step(call, call.started_ns),
                name=self._names.get(id(instance), type(instance).__name__),
                module=type(instance).__name__,
                signature=signature_name(signature) if signature is not None else None,
                inputs=plain_fields(given),
                origins=origins_of(call.made, given),
            )
        )

    def on_module_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        call, at_ns = self._open.pop(call_id), time_ns()
        if isinstance(outputs, dspy.Prediction):
            remember(call.made, call.call_id, dict(outputs))
        told = {"outputs": fields_of(outputs), "failure": reason(exception)}
        self._watched.emit(ModuleEnded(**self._step(call, at_ns), **told))
        if (root := self._roots.pop(call.call_id, None)) is not None:
            self._watched.emit(ProgramEnded(**part_of(self._watched.run_id, root, None, at_ns), **told))

    def on_tool_start(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> None:
        call = self._begin(call_id, instance, _given(inputs))
        inputs_told = plain_fields(call.inputs)
        self._watched.emit(
            ToolStarted(**self._step(call, call.started_ns), tool=str(instance.name), inputs=inputs_told)
        )

    def on_tool_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        call = self._open.pop(call_id)
        self._watched.emit(ToolEnded(**self._step(call, time_ns()), output=plain(outputs), failure=reason(exception)))

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> None:
        self._begin(call_id, instance, {})

    def on_adapter_format_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        self._end_adapter(call_id, "format", exception)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> None:
        self._begin(call_id, instance, {})

    def on_adapter_parse_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        self._end_adapter(call_id, "parse", exception)

    def on_lm_start(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> None:
        self._begin(call_id, instance, inputs)

    def on_lm_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        call, at_ns = self._open.pop(call_id), time_ns()
        about: Mapping[str, Any] = {
            "run_id": self._watched.run_id,
            "at_ms": at_ns // NS_PER_MS,
            "stage": "other",
            "lane": "swarm",
            "request_id": _request_id(call),
            "parent_id": call.parent_id,
        }
        if exception is not None:
            code = type(exception).__name__
            self._watched.emit(CallFailed(**about, code=code, message=reason(exception) or code, at_ns=at_ns))
            return
        self._watched.emit(
            CallEnded(
                **about,
                source="bought",
                usage=_usage(call),
                latency_ms=(at_ns - call.started_ns) // NS_PER_MS,
                model=str(call.instance.model),
                started_ns=call.started_ns,
                ended_ns=at_ns,
            )
        )

    def _begin(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> _Call:
        # DSPy sets the active call after the callbacks of its start, so here it is still the parent's.
        parent = self._open.get(ACTIVE_CALL_ID.get() or "")
        made = parent.made if parent is not None else {}
        parent_id = parent.call_id if parent is not None else None
        call = self._open[call_id] = _Call(call_id[:16], parent_id, time_ns(), made, instance, inputs)
        return call

    def _begin_program(self, call: _Call) -> None:
        """A module that nobody called is a program."""
        if isinstance(call.instance, dspy.Module):
            self._names.update((id(one), name) for name, one in call.instance.named_predictors())
        root = self._roots[call.call_id] = call.parent_id = new_call_id()
        remember(call.made, root, call.inputs)
        about = part_of(self._watched.run_id, root, None, call.started_ns)
        name = type(call.instance).__name__
        told = plain_fields(call.inputs)
        self._watched.emit(ProgramStarted(**about, stage="other", program=name, inputs=told))

    def _end_adapter(self, call_id: str, phase: Any, exception: BaseException | None) -> None:
        call = self._open.pop(call_id)
        self._watched.emit(
            AdapterEnded(
                **self._step(call, call.started_ns),
                adapter=type(call.instance).__name__,
                phase=phase,
                ended_ns=time_ns(),
                failure=reason(exception),
            )
        )

    def _step(self, call: _Call, at_ns: int) -> Mapping[str, Any]:
        return part_of(self._watched.run_id, call.call_id, call.parent_id, at_ns)


def _given(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments by name; those that were given by position are numbered."""
    by_name = inputs.get("kwargs")
    named = dict(by_name) if isinstance(by_name, Mapping) else {k: v for k, v in inputs.items() if k != "args"}
    positional = inputs.get("args") or ()
    return {**{f"argument_{i}": value for i, value in enumerate(positional)}, **named}


def _request_id(call: _Call) -> str:
    asked = {key: call.inputs.get(key) for key in ("prompt", "messages", "kwargs")}
    return content_id(canonical_bytes({"model": str(call.instance.model), "asked": plain(asked)}))


def _usage(call: _Call) -> Usage:
    """What DSPy noted of the very call, by its messages; nothing when history is off."""
    messages, prompt = call.inputs.get("messages"), call.inputs.get("prompt")
    for entry in reversed(call.instance.history[-HISTORY_LOOKED_AT:]):
        if entry.get("messages") == messages and entry.get("prompt") == prompt:
            used = dict(entry.get("usage") or {})
            return Usage(
                prompt_tokens=int(used.get("prompt_tokens") or used.get("input_tokens") or 0),
                completion_tokens=int(used.get("completion_tokens") or used.get("output_tokens") or 0),
            )
    return Usage(estimated=True)
