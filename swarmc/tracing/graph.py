"""Graphs: a fold of the event stream into one graph per program run, however many runs interleave.

What an event belongs to is decided by `call_id` and `parent_id` alone, never by order or stage. An
adapter step becomes no node: it takes microseconds, its result is a function of the predictor's
inputs and of the candidate, and when it fails the predictor's own failure says so.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from pydantic import JsonValue

from swarmc.contracts.events import (
    NS_PER_MS,
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
from swarmc.contracts.graphs import Graph, Hex16, LMCall, Node, NodeKind, Origin, Retry
from swarmc.tracing.identity import map_span_id, span_id_of, valid

MOST_RUNS = 4096
"""Program runs that may be open at once; beyond, the oldest is dropped, for it will hardly end."""

MOST_PARTS = 10_000
"""Nodes, completions and failed attempts of one program run; a longer one is dropped whole."""

TOOL_OUTPUT = "output"
"""The field under which a tool's result stands in its node's outputs."""

TOOL = "Tool"
"""The module of a tool's node: DSPy's class."""

Started = ProgramStarted | ModuleStarted | ToolStarted
Ended = ProgramEnded | ModuleEnded | ToolEnded
Key = tuple[str, str]


@dataclass(slots=True)
class _Open:
    """A node that may still change."""

    id: int
    kind: NodeKind
    started: Started
    parents: tuple[int, ...]
    mapping: dict[str, Origin] = field(default_factory=dict)
    ended: Ended | None = None
    calls: list[tuple[CallEnded, list[CallFailed]]] = field(default_factory=list)
    failed: dict[str, list[CallFailed]] = field(default_factory=dict)


@dataclass(slots=True)
class _Run:
    """A program run that has not ended."""

    root: ProgramStarted
    nodes: list[_Open] = field(default_factory=list)
    by_call: dict[str, _Open] = field(default_factory=dict)
    parts: int = 0


@dataclass(frozen=True)
class Finished:
    """A program run that ended.

    Attributes:
        root: How it began.
        span_ids: By node, in the graph's order: the call's own id, or one derived of it for a map.
    """

    root: ProgramStarted
    span_ids: tuple[Hex16, ...]
    _run: _Run = field(repr=False)

    @cached_property
    def graph(self) -> Graph:
        """Made when it is first asked for, so that another thread than the fold's can have the work."""
        return _graph(self._run)


class Graphs:
    """Folds events with `add`.

    Args:
        tell: Called with every program run that ended; without it, `finished` gives them.
        most_runs: How many program runs may be open, or ended and not yet taken.

    Attributes:
        dropped: What was left out, by reason: `run too old`, `run too long`, `not taken`, `unplaced` (an
            event of a run or a call that is not known).
    """

    def __init__(self, tell: Callable[[Finished], None] | None = None, most_runs: int = MOST_RUNS) -> None:
        self.dropped: Counter[str] = Counter()
        self._tell = tell
        self._most_runs = most_runs
        self._runs: OrderedDict[Key, _Run] = OrderedDict()
        self._run_of: dict[Key, _Run] = {}
        self._finished: deque[Finished] = deque()
        self._folds: dict[type, Callable[[Any], bool]] = {
            ProgramStarted: self._open,
            ModuleStarted: self._begin,
            ToolStarted: self._begin,
            CallEnded: self._call,
            CallFailed: self._call,
            ModuleEnded: self._end,
            ToolEnded: self._end,
            ProgramEnded: self._close,
        }

    def add(self, event: Event) -> bool:
        """Fold one event in.

        Returns:
            Whether it belongs to a program run. A completion that nobody's predictor asked for does not.
        """
        fold = self._folds.get(type(event))
        return fold(event) if fold else False

    def finished(self) -> list[Finished]:
        """The program runs that ended since this was last asked, in the order in which they ended."""
        taken = list(self._finished)
        self._finished.clear()
        return taken

    def knows(self, run_id: str, call_id: Hex16) -> bool:
        """Whether the call is part of a program run that has not ended."""
        return (run_id, call_id) in self._run_of

    @property
    def unfinished(self) -> int:
        """How many program runs have begun and not ended."""
        return len(self._runs)

    def _open(self, event: ProgramStarted) -> bool:
        key = (event.run_id, event.call_id)
        if key in self._run_of:
            return self._unplaced()
        run = _Run(event)
        self._runs[key] = run
        self._place(run, _Open(1, "root", event, ()))
        if len(self._runs) > self._most_runs:
            self._drop(next(iter(self._runs.values())), "run too old")
        return True

    def _begin(self, event: ModuleStarted | ToolStarted) -> bool:
        run = self._run_of.get((event.run_id, event.parent_id or ""))
        if run is None or (event.run_id, event.call_id) in self._run_of:
            return self._unplaced()
        caller = run.by_call[cast("str", event.parent_id)]
        predictor = event if isinstance(event, ModuleStarted) and event.signature is not None else None
        mapping = _mapping(predictor, run) if predictor and predictor.origins else {}
        sources = tuple(dict.fromkeys(origin.node for origin in mapping.values()))
        parents: tuple[int, ...] = (caller.id,)
        if mapping:
            place = len(run.nodes) + 1
            run.nodes.append(_Open(place, "map", event, sources, mapping))
            run.parts += 1
            parents = (place, caller.id)
        return self._place(run, _Open(len(run.nodes) + 1, "predict" if predictor else "operator", event, parents))

    def _end(self, event: ModuleEnded | ToolEnded) -> bool:
        run = self._run_of.get((event.run_id, event.call_id))
        if run is None:
            return self._unplaced()
        node = run.by_call[event.call_id]
        expected = ModuleStarted if isinstance(event, ModuleEnded) else ToolStarted
        if node.ended is not None or not isinstance(node.started, expected):
            return self._unplaced()
        node.ended = event
        return True

    def _call(self, event: CallEnded | CallFailed) -> bool:
        if event.parent_id is None:
            return False
        run = self._run_of.get((event.run_id, event.parent_id))
        if run is None:
            return self._unplaced()
        node = run.by_call[event.parent_id]
        if isinstance(event, CallFailed):
            node.failed.setdefault(event.request_id, []).append(event)
        else:
            node.calls.append((event, node.failed.pop(event.request_id, [])))
        return self._grow(run)

    def _close(self, event: ProgramEnded) -> bool:
        run = self._runs.get((event.run_id, event.call_id))
        if run is None:
            return self._unplaced()
        run.nodes[0].ended = event
        self._forget(run)
        ended = Finished(run.root, tuple(_span_ids(run)), run)
        if self._tell is not None:
            self._tell(ended)
            return True
        self._finished.append(ended)
        if len(self._finished) > self._most_runs:
            self._finished.popleft()
            self.dropped["not taken"] += 1
        return True

    def _place(self, run: _Run, node: _Open) -> bool:
        run.nodes.append(node)
        run.by_call[node.started.call_id] = node
        self._run_of[node.started.run_id, node.started.call_id] = run
        return self._grow(run)

    def _grow(self, run: _Run) -> bool:
        run.parts += 1
        if run.parts > MOST_PARTS:
            self._drop(run, "run too long")
        return True

    def _drop(self, run: _Run, why: str) -> None:
        self._forget(run)
        self.dropped[why] += 1

    def _forget(self, run: _Run) -> None:
        run_id = run.root.run_id
        del self._runs[run_id, run.root.call_id]
        for call_id in run.by_call:
            del self._run_of[run_id, call_id]

    def _unplaced(self) -> bool:
        self.dropped["unplaced"] += 1
        return False


def answered(event: CallEnded, failed: list[CallFailed]) -> LMCall:
    """A completion as a graph has it, with the attempts that failed before it."""
    ended_ns = event.ended_ns or event.at_ms * NS_PER_MS
    started_ns = event.started_ns or max(0, ended_ns - event.latency_ms * NS_PER_MS)
    return LMCall(
        request_id=event.request_id,
        lane=event.lane,
        model=event.model,
        venue=event.venue,
        source=event.source,
        usage=event.usage,
        started_ns=started_ns,
        ended_ns=max(ended_ns, started_ns),
        retries=tuple(map(_retry, failed)),
    )


def unanswered(failed: list[CallFailed]) -> LMCall:
    """A completion that never came: its attempts, at least one, and the last one's reason."""
    retries = tuple(map(_retry, failed))
    return LMCall(
        request_id=failed[0].request_id,
        lane=failed[0].lane,
        model="",
        started_ns=retries[0].at_ns,
        ended_ns=retries[-1].at_ns,
        retries=retries,
        failure=f"{failed[-1].code}: {failed[-1].message}",
    )


def _retry(event: CallFailed) -> Retry:
    return Retry(at_ns=event.at_ns or event.at_ms * NS_PER_MS, code=event.code, message=event.message)


def _mapping(event: ModuleStarted, run: _Run) -> dict[str, Origin]:
    """By input field, where its value came from; nothing when all of it came straight from the program's inputs.

    The program's own inputs need no map: the root is above every node, and a field that goes through
    under its own name is found there.
    """
    found = {
        name: Origin(node=source.id, field=origin)
        for name, (call_id, origin) in event.origins.items()
        if (source := run.by_call.get(call_id)) is not None
    }
    passed = all(origin.node == 1 and origin.field == name for name, origin in found.items())
    return {} if passed else found


def _span_ids(run: _Run) -> Iterator[str]:
    for node in run.nodes:
        call_id = node.started.call_id
        if node.kind == "map":
            yield map_span_id(call_id)
        else:
            # A call may be named so, a span may not.
            yield call_id if valid(call_id) else span_id_of("call", call_id)


def _graph(run: _Run) -> Graph:
    ended, root = cast("ProgramEnded", run.nodes[0].ended), run.root
    return Graph(
        run_id=root.run_id,
        nodes=tuple(_node(node, ended.at_ns) for node in run.nodes),
        stage=root.stage,
        candidate_id=root.candidate_id,
        example_id=root.example_id,
        rollout_id=root.rollout_id,
        score_ppm=ended.score_ppm,
    )


def _node(node: _Open, closed_ns: int) -> Node:
    started = node.started
    if node.kind == "map":
        at_ns = started.at_ns
        return Node(
            id=node.id,
            kind="map",
            name="map",
            parents=node.parents,
            outputs={name: started.inputs.get(name) for name in node.mapping},
            mapping=node.mapping,
            started_ns=at_ns,
            ended_ns=at_ns,
        )
    # A part that never said that it ended was cut off, at the latest when its program ended.
    ended_ns = node.ended.at_ns if node.ended else closed_ns
    calls = [*(answered(*call) for call in node.calls), *map(unanswered, node.failed.values())]
    return Node(
        id=node.id,
        kind=node.kind,
        name=_name(started),
        module=_module(started),
        signature=started.signature if isinstance(started, ModuleStarted) else None,
        parents=node.parents,
        inputs=started.inputs,
        outputs=_outputs(node.ended),
        calls=tuple(sorted(calls, key=lambda call: call.started_ns)),
        failure=node.ended.failure if node.ended else None,
        started_ns=started.at_ns,
        ended_ns=max(ended_ns, started.at_ns),
    )


def _name(started: Started) -> str:
    match started:
        case ProgramStarted():
            return started.program
        case ModuleStarted():
            return started.name
        case ToolStarted():
            return started.tool


def _module(started: Started) -> str:
    match started:
        case ProgramStarted():
            return ""
        case ModuleStarted():
            return started.module
        case ToolStarted():
            return TOOL


def _outputs(ended: Ended | None) -> dict[str, JsonValue] | None:
    if isinstance(ended, ToolEnded):
        return {TOOL_OUTPUT: ended.output} if ended.failure is None else None
    return ended.outputs if ended else None
