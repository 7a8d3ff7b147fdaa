"""A run as spans while it goes on: the run itself, its stages, its program runs, its other completions.

A span is exported when it ends, so a process that is killed leaves the finished children of a stage
that never tells. The process that goes on with the run opens a span of its own in the same trace,
linked to the one before.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import JsonValue

from swarmc.contracts.completions import Stage
from swarmc.contracts.events import (
    NS_PER_MS,
    CallEnded,
    CallFailed,
    CandidateEntered,
    Event,
    Note,
    Paid,
    RunOpened,
    StageEnded,
    StageStarted,
    TrialScored,
    Verified,
)
from swarmc.contracts.graphs import Hex16, Hex32, LMCall, SpanEvent, SpanLink, SpanStatus, TraceSpan
from swarmc.tracing.graph import Finished, Graphs, answered, unanswered
from swarmc.tracing.identity import span_id_of, trace_id_of
from swarmc.tracing.spans import TraceContract, lm_span

MOST_SPAN_EVENTS = 128
"""Of one span, as OpenTelemetry's own limit."""

MOST_RUNS = 256
"""Runs that are followed at once; beyond, the oldest is left."""

MOST_FAILED = 256
"""Completions of a stage that nobody's predictor asked for and that have only failed so far."""


_Told = TrialScored | CandidateEntered | Paid | Verified | Note
_NUMBERS: dict[type, tuple[str, ...]] = {
    TrialScored: ("trial", "candidate_id", "score_ppm", "count", "best_ppm"),
    CandidateEntered: ("candidate_id",),
    Paid: ("lane", "msats", "to", "state", "simulated"),
    Verified: ("what", "holds"),
    Note: ("level",),
}
_WORDS: dict[type, tuple[str, ...]] = {Verified: ("detail",), Note: ("text",)}

Making = Callable[[], tuple[TraceSpan, ...]]
"""Makes the spans when it is called: the fold is cheap and is done at once, the making can wait for a thread."""


NOTHING: tuple[Making, ...] = ()
UNSET = SpanStatus()


@dataclass(frozen=True)
class Place:
    """A span of somebody else that ours hang under."""

    trace_id: Hex32
    span_id: Hex16


@dataclass(slots=True)
class _Part:
    """A run or a stage that has not ended."""

    name: str
    span_id: Hex16
    parent: Hex16 | None
    started_ns: int
    attributes: dict[str, JsonValue]
    status: SpanStatus = UNSET
    events: list[SpanEvent] = field(default_factory=list)
    links: tuple[Hex16, ...] = ()
    unsaid: int = 0
    calls: int = 0
    failed: OrderedDict[str, list[CallFailed]] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class _Run:
    trace_id: Hex32
    epoch: int
    part: _Part
    stages: dict[Stage, _Part] = field(default_factory=dict)
    open: set[Stage] = field(default_factory=set)
    begun: Counter[Stage] = field(default_factory=Counter)
    last_ns: int = 0


class LiveSpans:
    """Folds events with `add`; the spans come from what `add` and `close` return.

    Args:
        above: The span that runs hang under and whose trace they join; by default a run is a trace of its own,
            named by its id, which a process that goes on with the run finds again.
        above_stage: The span in that trace that a stage hangs under, where there is a nearer one than the run's.
        include_content: As in `TraceContract.graph_to_spans`; also the words of notes and verifications.
    """

    def __init__(
        self,
        above: Place | None = None,
        *,
        above_stage: Callable[[Stage], Place | None] | None = None,
        include_content: bool = False,
    ) -> None:
        self._above = above
        self._above_stage = above_stage
        self._content = include_content
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._graphs = Graphs(self._program)
        self._made: list[Making] = []
        self._folds: dict[type, Callable[[Any], None]] = {
            CallEnded: self._call,
            CallFailed: self._call,
            RunOpened: self._open,
            StageStarted: self._begin,
            StageEnded: self._end,
            **dict.fromkeys(_NUMBERS, self._say),
        }

    @property
    def dropped(self) -> Counter[str]:
        """Program runs, and events without a place, that were left out: see `Graphs`."""
        return self._graphs.dropped

    def add(self, event: Event) -> Sequence[Making]:
        """Fold one event in; what ended with it."""
        placed = self._graphs.add(event)
        fold = self._folds.get(type(event))
        if fold and not placed:
            fold(event)
        return self._take() if self._made else NOTHING

    def close(self) -> Sequence[Making]:
        """What is open ends now: nobody will tell more."""
        for run in self._runs.values():
            self._leave(run)
        self._runs.clear()
        if self._graphs.unfinished:
            self._graphs.dropped["unfinished"] += self._graphs.unfinished
        return self._take()

    def _take(self) -> list[Making]:
        taken, self._made = self._made, []
        return taken

    def _run(self, event: Event, epoch: int = 0) -> _Run:
        run = self._runs.get(event.run_id)
        if run is None:
            trace_id = self._above.trace_id if self._above else trace_id_of(event.run_id)
            parent = self._above.span_id if self._above else None
            attributes: dict[str, JsonValue] = {"dsrs.run_id": event.run_id}
            opened = _Part("dsrs.run", _run_span_id(event.run_id, epoch), parent, _ns(event), attributes)
            run = self._runs[event.run_id] = _Run(trace_id, epoch, opened)
            if len(self._runs) > MOST_RUNS:
                self._runs.popitem(last=False)
                self.dropped["run too old"] += 1
        run.last_ns = max(run.last_ns, _ns(event))
        return run

    def _open(self, event: RunOpened) -> None:
        before = self._runs.pop(event.run_id, None)
        if before is not None:
            self._leave(before)
        run = self._run(event, event.epoch)
        run.part.attributes |= {"dsrs.epoch": event.epoch, "dsrs.recovered": event.recovered}
        if event.epoch > 1:
            run.part.links = (_run_span_id(event.run_id, event.epoch - 1),)

    def _begin(self, event: StageStarted) -> None:
        run = self._run(event)
        if event.stage in run.open:
            self._finish(run, run.stages[event.stage], _ns(event))
        run.begun[event.stage] += 1
        span_id = span_id_of("stage", event.run_id, run.epoch, event.stage, run.begun[event.stage])
        near = self._above_stage(event.stage) if self._above_stage else None
        parent = near.span_id if near and near.trace_id == run.trace_id else run.part.span_id
        attributes: dict[str, JsonValue] = {"dsrs.run_id": event.run_id, "dsrs.stage": event.stage}
        if event.calls_planned is not None:
            attributes["dsrs.calls_planned"] = event.calls_planned
        run.stages[event.stage] = _Part(f"dsrs.stage.{event.stage}", span_id, parent, _ns(event), attributes)
        run.open.add(event.stage)

    def _end(self, event: StageEnded) -> None:
        run = self._run(event)
        if event.stage not in run.open:
            return
        run.open.discard(event.stage)
        part = run.stages[event.stage]
        part.attributes["dsrs.ended"] = event.ended
        failed = event.ended == "failed"
        note = event.note if failed and self._content else ""
        part.status = SpanStatus(code="ERROR", message=note) if failed else SpanStatus(code="OK")
        self._finish(run, part, _ns(event))

    def _leave(self, run: _Run) -> None:
        for stage in run.open:
            self._finish(run, run.stages[stage], run.last_ns)
        self._finish(run, run.part, run.last_ns)

    def _finish(self, run: _Run, part: _Part, ended_ns: int) -> None:
        for failed in part.failed.values():
            self._completion(run, part, partial(unanswered, failed))
        part.failed.clear()
        if part.unsaid:
            part.attributes["dsrs.events_dropped"] = part.unsaid
        self._made.append(partial(_span, run.trace_id, part, ended_ns))

    def _program(self, ended: Finished) -> None:
        """A program run ended; it hangs under the program that ran it, under its stage, or under the run."""
        root = ended.root
        run = self._run(root)
        stage = run.stages.get(root.stage)
        inside = root.parent_id if root.parent_id and self._graphs.knows(root.run_id, root.parent_id) else None
        under = inside or (stage.span_id if stage else run.part.span_id)
        self._made.append(partial(_program_spans, ended, run.trace_id, under, self._content))

    def _call(self, event: CallEnded | CallFailed) -> None:
        """A completion that no predictor asked for, such as a proposal's."""
        run = self._run(event)
        part = run.stages.get(event.stage, run.part)
        if isinstance(event, CallEnded):
            self._completion(run, part, partial(answered, event, part.failed.pop(event.request_id, [])))
            return
        part.failed.setdefault(event.request_id, []).append(event)
        if len(part.failed) > MOST_FAILED:
            _, oldest = part.failed.popitem(last=False)
            self._completion(run, part, partial(unanswered, oldest))

    def _completion(self, run: _Run, part: _Part, make: Callable[[], LMCall]) -> None:
        span_id = span_id_of("completion", part.span_id, part.calls)
        part.calls += 1
        self._made.append(partial(_lm_spans, make, run.trace_id, part.span_id, span_id, self._content))

    def _say(self, event: _Told) -> None:
        run = self._run(event)
        stages = [run.stages[event.stage]] if isinstance(event, TrialScored) and event.stage in run.open else []
        part = (stages or [run.stages[stage] for stage in run.stages if stage in run.open] or [run.part])[-1]
        if len(part.events) >= MOST_SPAN_EVENTS:
            part.unsaid += 1
        else:
            attributes = _said(event, include_content=self._content)
            part.events.append(SpanEvent(name=f"dsrs.{event.kind}", time_unix_nano=_ns(event), attributes=attributes))


def _said(event: _Told, *, include_content: bool) -> dict[str, JsonValue]:
    """What a span event says; a candidate is its id, never its text."""
    names = _NUMBERS[type(event)] + (_WORDS.get(type(event), ()) if include_content else ())
    return {f"dsrs.{name}": getattr(event, name) for name in names}


def _span(trace_id: Hex32, part: _Part, ended_ns: int) -> tuple[TraceSpan, ...]:
    span = TraceSpan(
        trace_id=trace_id,
        span_id=part.span_id,
        parent_span_id=part.parent,
        name=part.name,
        kind="INTERNAL",
        start_time_unix_nano=part.started_ns,
        end_time_unix_nano=max(ended_ns, part.started_ns),
        attributes=part.attributes,
        status=part.status,
        events=tuple(part.events),
        links=tuple(SpanLink(trace_id=trace_id, span_id=one) for one in part.links),
    )
    return (span,)


def _program_spans(ended: Finished, trace_id: Hex32, under: Hex16, include_content: bool) -> tuple[TraceSpan, ...]:
    return TraceContract.graph_to_spans(
        ended.graph, None, trace_id, include_content=include_content, under=under, span_ids=ended.span_ids
    )


def _lm_spans(
    make: Callable[[], LMCall], trace_id: Hex32, parent: Hex16, span_id: Hex16, include_content: bool
) -> tuple[TraceSpan, ...]:
    return (lm_span(make(), trace_id, parent, span_id, include_content=include_content),)


def _run_span_id(run_id: str, epoch: int) -> Hex16:
    return span_id_of("run", run_id, epoch)


def _ns(event: Event) -> int:
    return event.at_ms * NS_PER_MS
