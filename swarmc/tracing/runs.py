"""Program runs as examples: one for each predictor's call, from events, from spans, and from OTLP exports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, get_args

from pydantic import JsonValue, TypeAdapter, ValidationError

from swarmc.contracts.candidates import RunCost
from swarmc.contracts.canonical import PPM, unplain
from swarmc.contracts.events import NS_PER_MS, Event
from swarmc.contracts.graphs import Graph, Node
from swarmc.tracing.extraction import Found, Kind, Notes, Row, first_fault, text_at, value_of
from swarmc.tracing.graph import Graphs

MOST_SPANS_HELD = 1_000_000
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_EVENT_KINDS = frozenset(kind.model_fields["kind"].default for kind in get_args(get_args(Event)[0]))


class Events:
    """The events of runs, one a line."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._graphs = Graphs()

    def look(self, line: int, row: Row) -> None:
        """Events come in their order, so nothing needs to be known before."""

    def take(self, line: int, row: Row) -> Iterator[Found]:
        try:
            self._graphs.add(_EVENT.validate_python(row))
        except (ValidationError, RecursionError) as error:
            self._notes.problem(line, f"no event: {first_fault(error)}")
        for finished in self._graphs.finished():
            yield from steps_of(finished.graph, line)

    def end(self) -> Iterator[Found]:
        if self._graphs.unfinished:
            self._notes.ignored["program run that never ended"] += self._graphs.unfinished
        yield from ()


def steps_of(graph: Graph, line: int) -> Iterator[Found]:
    """Every predictor's call of a program run."""
    for node in graph.nodes:
        if node.kind == "predict":
            yield Found(
                line=line,
                signature=node.signature or node.name,
                inputs=untagged(node.inputs),
                outputs=untagged(node.outputs or {}),
                failure=node.failure or graph.root.failure,
                score_ppm=graph.score_ppm,
                cost=_cost(node),
                phase=graph.stage,
                run_id=graph.run_id,
                candidate_id=graph.candidate_id,
                run_example_id=graph.example_id,
            )


def untagged(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Python's values of `canonical.plain` data; a tag that says nothing is a stranger's own value."""
    return {name: _untagged(value) for name, value in fields.items()}


def _untagged(value: JsonValue) -> JsonValue:
    try:
        return unplain(value)
    except ValueError:
        return value


def _cost(node: Node) -> RunCost:
    used = node.usage
    return RunCost(
        calls=len(node.calls),
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        msats=used.cost_msats,
        latency_ms=max(0, sum(call.ended_ns - call.started_ns for call in node.calls)) // NS_PER_MS,
    )


class _Span(NamedTuple):
    """What is read of a span, whichever form it came in."""

    key: tuple[str, str]
    parent: tuple[str, str] | None
    attributes: Mapping[str, JsonValue]
    failure: str | None


@dataclass(frozen=True, slots=True)
class _Root:
    """What a program run's root tells of all its steps."""

    run_id: str
    candidate_id: str | None
    example_id: str | None
    stage: str
    score_ppm: int | None
    failure: str | None


class Spans:
    """Spans, one a line, or OTLP batches as the collector's file exporter writes them."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._roots: dict[tuple[str, str], _Root] = {}
        self._parents: dict[tuple[str, str], tuple[str, str]] = {}
        self._is_full = False

    def look(self, line: int, row: Row) -> None:
        for span in _spans(row):
            if len(self._roots) + len(self._parents) >= MOST_SPANS_HELD:
                self._notes.problem(
                    line, f"more than {MOST_SPANS_HELD:,} spans: scores of later ones are not looked up"
                )
                return
            if span.attributes.get("dsrs.node_type") == "root":
                self._roots[span.key] = _root(span)
            elif span.parent is not None and "lm.call" not in span.attributes:
                self._parents[span.key] = span.parent

    def take(self, line: int, row: Row) -> Iterator[Found]:
        for span in _spans(row):
            if span.attributes.get("dsrs.node_type") != "predict":
                self._notes.ignore("span that is no predictor's call")
                continue
            inputs, outputs = _fields(span, "dsrs.inputs"), _fields(span, "dsrs.outputs")
            if inputs is None:
                self._notes.ignore("predictor's call without content")
                continue
            yield self._found(line, span, inputs, outputs or {})

    def end(self) -> Iterator[Found]:
        yield from ()

    def _found(self, line: int, span: _Span, inputs: Row, outputs: Row) -> Found:
        told, root = span.attributes, self._root_of(span)
        found = Found(
            line=line,
            signature=text_at(told, "dsrs.signature_name", "dsrs.name") or "unnamed",
            inputs=inputs,
            outputs=outputs,
            failure=span.failure,
            cost=_span_cost(told),
        )
        if root is None:
            return found
        return Found(
            **{
                **vars(found),
                "failure": span.failure or root.failure,
                "score_ppm": root.score_ppm,
                "phase": root.stage,
                "run_id": root.run_id,
                "candidate_id": root.candidate_id,
                "run_example_id": root.example_id,
            }
        )

    def _root_of(self, span: _Span) -> _Root | None:
        at, passed = span.key, set[tuple[str, str]]()
        while at not in self._roots and at in self._parents and at not in passed:
            passed.add(at)
            at = self._parents[at]
        return self._roots.get(at)


def _spans(row: Row) -> Iterator[_Span]:
    if "resourceSpans" not in row:
        yield from _read(row, ("trace_id", "span_id", "parent_span_id"), row.get("attributes"))
        return
    for resource in _objects(row["resourceSpans"]):
        for scope in _objects(resource.get("scopeSpans")):
            for span in _objects(scope.get("spans")):
                attributes = {
                    str(one.get("key")): _otlp_value(one.get("value")) for one in _objects(span.get("attributes"))
                }
                yield from _read(span, ("traceId", "spanId", "parentSpanId"), attributes)


def _read(span: Row, names: tuple[str, str, str], attributes: JsonValue) -> Iterator[_Span]:
    trace, own, parent = (text_at(span, name) for name in names)
    if trace is None or own is None or not isinstance(attributes, dict):
        return
    above = (trace, parent) if parent else None
    yield _Span((trace, own), above, attributes, _failure(span.get("status")))


def _failure(status: JsonValue) -> str | None:
    # OTLP's JSON has the code as a number, or as its name.
    if not isinstance(status, dict) or status.get("code") not in (2, "ERROR", "STATUS_CODE_ERROR"):
        return None
    return text_at(status, "message") or "failed"


def _otlp_value(value: JsonValue) -> JsonValue:
    """An `AnyValue`; integers are texts in OTLP's JSON."""
    match value:
        case {"stringValue": str(text)}:
            return text
        case {"boolValue": bool(flag)}:
            return flag
        case {"intValue": int(number)} | {"doubleValue": int(number) | float(number)}:
            return number
        case {"intValue": str(digits)} if digits.removeprefix("-").isdecimal() and len(digits) < 30:
            return int(digits)
        case _:
            return None


def _objects(value: JsonValue) -> Iterator[Row]:
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else iter(())


def _fields(span: _Span, name: str) -> Row | None:
    text = span.attributes.get(name)
    fields = value_of(text) if isinstance(text, str) else None
    return untagged(fields) if isinstance(fields, dict) else None


def _root(span: _Span) -> _Root:
    told = span.attributes
    score = told.get("dsrs.score_ppm")
    return _Root(
        run_id=text_at(told, "dsrs.run_id") or "",
        candidate_id=text_at(told, "dsrs.candidate_id"),
        example_id=text_at(told, "dsrs.example_id"),
        stage=text_at(told, "dsrs.stage") or "",
        score_ppm=score if isinstance(score, int) and 0 <= score <= PPM else None,
        failure=span.failure,
    )


def _span_cost(told: Mapping[str, JsonValue]) -> RunCost:
    def number(name: str) -> int:
        value = told.get(name)
        return value if isinstance(value, int) and value > 0 else 0

    tokens = number("lm.prompt_tokens"), number("lm.completion_tokens")
    return RunCost(
        calls=int("lm.cost_msats" in told),
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        msats=number("lm.cost_msats"),
    )


def _is_event(row: Row) -> bool:
    return isinstance(row.get("kind"), str) and row["kind"] in _EVENT_KINDS and "run_id" in row and "body" not in row


def _is_span(row: Row) -> bool:
    return "resourceSpans" in row or {"trace_id", "span_id", "attributes"} <= row.keys()


EVENTS = Kind("events", _is_event, Events)
SPANS = Kind("spans", _is_span, Spans)
