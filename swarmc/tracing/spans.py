"""Spans: a graph as OpenTelemetry shows it, and back, with nothing lost but what was to be left out.

Names of spans and attributes are those of the trace contract (`seeds/000`); beside them stand the
GenAI semantic conventions (`open-telemetry/semantic-conventions-genai`), spelled out here because
their packaged constants are deprecated. A completion is a `CLIENT` span below its predictor's, named
`chat <model>`; the predictor's span keeps the sums. `gen_ai.usage.*` stands only where tokens were
bought, so that whoever adds it up is not misled by replays; `lm.*` stands everywhere.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import final

from pydantic import JsonValue

from swarmc.contracts.canonical import canonical_bytes
from swarmc.contracts.completions import Usage
from swarmc.contracts.graphs import (
    Graph,
    Hex16,
    Hex32,
    LMCall,
    Node,
    Origin,
    Retry,
    SpanEvent,
    SpanKind,
    SpanLink,
    SpanStatus,
    TraceSpan,
    TraceSummary,
)
from swarmc.contracts.manifest import CompiledModuleManifest
from swarmc.tracing.graph import TOOL
from swarmc.tracing.identity import lm_span_id, node_span_ids, trace_id_of

Attributes = dict[str, JsonValue]

RETRY = "dsrs.retry"
SANDBOX = "sandbox"
"""An operator of this name, or of one that begins with it and a dot, is a sandbox run."""

# A class by its ending: any other first word may be a user's.
_ERROR_TYPE = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Exhausted|Fenced|Timeout|Interrupt|Exit)(?=:|$)")


@final
class TraceContract:
    """Graph to spans, spans to graph, and sums over spans."""

    @staticmethod
    def graph_to_spans(
        graph: Graph,
        manifest: CompiledModuleManifest | None = None,
        trace_id: str | None = None,
        *,
        include_content: bool = True,
        under: Hex16 | None = None,
        span_ids: Sequence[Hex16] | None = None,
    ) -> tuple[TraceSpan, ...]:
        """A span per node and one per completion, a node's completions after it.

        Args:
            graph: A program run.
            manifest: Of the compiled program that ran; its id and optimizer are noted.
            trace_id: By default of the run's id. One that OpenTelemetry would refuse is hashed.
            include_content: False leaves out inputs, outputs, and of every failure all but its class: what a user
                typed, what a model said, and messages that may quote either.
            under: The span that the program ran in, in the same trace.
            span_ids: By node, where the calls' own ids are known; derived from the graph otherwise.

        Raises:
            ValueError: as many ids as nodes are needed, and every parent must be a node of the graph.
        """
        ids = tuple(span_ids) if span_ids is not None else node_span_ids(graph)
        if len(ids) != len(graph.nodes):
            raise ValueError(f"{len(ids)} span ids were given for {len(graph.nodes)} nodes; give one for each")
        writer = _Writer(trace_id_of(trace_id or graph.run_id), _about(manifest), include_content)
        by_node = {node.id: span_id for node, span_id in zip(graph.nodes, ids, strict=True)}
        return tuple(span for node in graph.nodes for span in writer.node(graph, node, by_node, under))

    @staticmethod
    def summarize(spans: Sequence[TraceSpan]) -> TraceSummary:
        """Sums over any spans. Completions count whether they were bought or replayed."""
        calls = [span.attributes for span in spans if span.kind == "CLIENT"]
        return TraceSummary(
            span_count=len(spans),
            predict_count=sum(span.attributes.get("dsrs.node_type") == "predict" for span in spans),
            total_tokens=sum(_number(call, "lm.total_tokens") for call in calls),
            total_cost_msats=sum(_number(call, "lm.cost_msats") for call in calls),
        )

    @staticmethod
    def spans_to_graph(spans: Sequence[TraceSpan]) -> Graph:
        """The graph that the spans of one program run were made of, in whatever order they come.

        What `include_content=False` left out stays out: inputs are empty, outputs nothing.

        Raises:
            ValueError: they are not the spans of one program run.
        """
        nodes = {span.span_id: span for span in spans if "dsrs.node_id" in span.attributes}
        roots = [span for span in nodes.values() if span.attributes.get("dsrs.node_type") == "root"]
        if len(roots) != 1:
            raise ValueError(f"a graph is read from the spans of one program run; here are {len(roots)} `dsrs.root`")
        calls: dict[str, list[TraceSpan]] = {}
        for span in spans:
            if "lm.call" in span.attributes and span.parent_span_id is not None:
                calls.setdefault(span.parent_span_id, []).append(span)
        ordered = sorted(nodes.values(), key=lambda span: _number(span.attributes, "dsrs.node_id"))
        read = tuple(_read_node(span, nodes, calls.get(span.span_id, [])) for span in ordered)
        about = {key: roots[0].attributes.get(f"dsrs.{key}") for key in _GRAPH_FIELDS}
        return Graph.model_validate({**{k: v for k, v in about.items() if v is not None}, "nodes": read})

    @staticmethod
    def program_runs(spans: Sequence[TraceSpan]) -> list[list[TraceSpan]]:
        """The spans of each program run among any spans, by the order of their roots; each is one for `spans_to_graph`.

        Spans above or outside of a program run (a stage, a proposal's completion, a lost root's) are in none.
        """
        by_id = {span.span_id: span for span in spans}
        found = {span.span_id: [] for span in spans if span.attributes.get("dsrs.node_type") == "root"}
        for span in spans:
            above, passed = span, set[str]()
            while above.span_id not in found and above.parent_span_id in by_id and above.span_id not in passed:
                passed.add(above.span_id)
                above = by_id[above.parent_span_id]
            if above.span_id in found:
                found[above.span_id].append(span)
        return list(found.values())


_GRAPH_FIELDS = ("run_id", "stage", "candidate_id", "example_id", "rollout_id", "score_ppm")


def lm_span(
    call: LMCall, trace_id: Hex32, parent: Hex16 | None, span_id: Hex16, *, place: int = 0, include_content: bool = True
) -> TraceSpan:
    """The `CLIENT` span of one completion, the `place`-th from 0 of those that its parent asked for."""
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": call.venue or "unknown",
        "lm.call": place,
        "lm.request_id": call.request_id,
        "lm.lane": call.lane,
        "lm.model": call.model,
        "lm.venue": call.venue,
        "lm.source": call.source,
        **_usage(call.usage),
    }
    if call.model:
        attributes["gen_ai.request.model"] = call.model
    if call.failure is None:
        attributes["gen_ai.response.model"] = call.model
        if call.source == "bought":
            attributes["gen_ai.usage.input_tokens"] = call.usage.prompt_tokens
            attributes["gen_ai.usage.output_tokens"] = call.usage.completion_tokens
    else:
        attributes["error.type"] = _error_type(call)
    return TraceSpan(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent,
        name=f"chat {call.model}" if call.model else "chat",
        kind="CLIENT",
        start_time_unix_nano=call.started_ns,
        end_time_unix_nano=call.ended_ns,
        attributes=attributes,
        status=_status(call.failure if include_content else _error_type(call), done=True),
        events=tuple(_retry_event(one, include_content) for one in call.retries),
    )


def error_type(failure: str) -> str:
    """The class of a failure that begins with one (`ValueError: ...`); `_OTHER`, as the conventions say, else.

    >>> error_type("ValueError: no such city"), error_type("Rome: wrong")
    ('ValueError', '_OTHER')
    """
    found = _ERROR_TYPE.match(failure)
    return found[0] if found else "_OTHER"


class _Writer:
    """Writes the spans of one graph."""

    def __init__(self, trace_id: Hex32, about: Attributes, include_content: bool) -> None:
        self._trace_id = trace_id
        self._about = about
        self._content = include_content

    def node(self, graph: Graph, node: Node, ids: Mapping[int, Hex16], under: Hex16 | None) -> Iterator[TraceSpan]:
        strangers = [parent for parent in node.parents if parent not in ids]
        if strangers:
            raise ValueError(f"node {node.id} of the graph has the parents {strangers}, which are not in it")
        first, *more = [ids[parent] for parent in node.parents] or [under if node.kind == "root" else None]
        span_id = ids[node.id]
        done = node.outputs is not None or node.kind == "map"
        yield TraceSpan(
            trace_id=self._trace_id,
            span_id=span_id,
            parent_span_id=first,
            name=_span_name(node),
            kind=_kind(node),
            start_time_unix_nano=node.started_ns,
            end_time_unix_nano=node.ended_ns,
            attributes=self._attributes(node) | (_graph_attributes(graph) if node.kind == "root" else {}),
            status=_status(node.failure if self._content else _class_of(node.failure), done=done),
            links=tuple(SpanLink(trace_id=self._trace_id, span_id=one) for one in more if one is not None),
        )
        for place, call in enumerate(node.calls):
            yield lm_span(
                call,
                self._trace_id,
                span_id,
                lm_span_id(span_id, place),
                place=place,
                include_content=self._content,
            )

    def _attributes(self, node: Node) -> Attributes:
        found: Attributes = {
            "dsrs.node_id": node.id,
            "dsrs.node_type": node.kind,
            "dsrs.name": node.name,
            "dsrs.module": node.module,
            **self._about,
            **_conventions(node),
        }
        if node.signature is not None:
            found["dsrs.signature_name"] = node.signature
        if node.mapping or node.kind == "map":
            found["dsrs.mapping_count"] = len(node.mapping)
            found["dsrs.mapping"] = _text({name: [one.node, one.field] for name, one in node.mapping.items()})
        if node.failure is not None:
            found["error.type"] = error_type(node.failure)
        if node.calls:
            found["lm.model"] = node.calls[-1].model
            found |= _usage(node.usage)
        return found | (_contents(node) if self._content else {})


def _about(manifest: CompiledModuleManifest | None) -> Attributes:
    if manifest is None:
        return {}
    compiled: Attributes = {} if manifest.compiled_id is None else {"dsrs.compiled_id": manifest.compiled_id}
    return {**compiled, "dsrs.optimizer": manifest.optimizer}


def _span_name(node: Node) -> str:
    match node.kind:
        case "predict":
            return f"dsrs.predict.{node.signature or node.name}"
        case "operator":
            return f"dsrs.operator.{node.name}"
        case kind:
            return f"dsrs.{kind}"


def _kind(node: Node) -> SpanKind:
    sandboxed = node.kind == "operator" and node.name.partition(".")[0] == SANDBOX
    return "SERVER" if sandboxed else "INTERNAL"


def _conventions(node: Node) -> Attributes:
    """What the GenAI conventions call the node, and the seed's further name of an operator."""
    if node.kind == "root":
        return {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": node.name}
    if node.kind != "operator":
        return {}
    named: Attributes = {"dsrs.operator_name": node.name}
    if node.module != TOOL:
        return named
    return {**named, "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": node.name}


def _contents(node: Node) -> Attributes:
    found: Attributes = {"dsrs.inputs": _text(node.inputs)} if node.inputs else {}
    if node.outputs is not None:
        found["dsrs.outputs"] = _text(node.outputs)
    return found


def _graph_attributes(graph: Graph) -> Attributes:
    values = {f"dsrs.{name}": getattr(graph, name) for name in _GRAPH_FIELDS}
    return {name: value for name, value in values.items() if value is not None}


def _usage(usage: Usage) -> Attributes:
    flags = {"lm.estimated": usage.estimated, "lm.simulated": usage.simulated}
    return {
        "lm.prompt_tokens": usage.prompt_tokens,
        "lm.completion_tokens": usage.completion_tokens,
        "lm.total_tokens": usage.total_tokens,
        "lm.cost_msats": usage.cost_msats,
        **{name: True for name, flag in flags.items() if flag},
    }


def _status(failure: str | None, *, done: bool) -> SpanStatus:
    if failure is None:
        return SpanStatus(code="OK" if done else "UNSET")
    return SpanStatus(code="ERROR", message=failure)


def _class_of(failure: str | None) -> str | None:
    return None if failure is None else error_type(failure)


def _error_type(call: LMCall) -> str | None:
    if call.failure is None:
        return None
    return call.retries[-1].code if call.retries else error_type(call.failure)


def _retry_event(retry: Retry, include_content: bool) -> SpanEvent:
    attributes: Attributes = {"error.type": retry.code}
    if include_content:
        attributes["dsrs.message"] = retry.message
    return SpanEvent(name=RETRY, time_unix_nano=retry.at_ns, attributes=attributes)


def _text(value: JsonValue | Mapping[str, JsonValue]) -> str:
    """Canonical JSON; of what has no such form (half a character, a bare float), JSON that reads back the same."""
    plain: JsonValue = dict(value) if isinstance(value, Mapping) else value
    try:
        return canonical_bytes(plain).decode()
    except ValueError:
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _read_node(span: TraceSpan, nodes: Mapping[str, TraceSpan], calls: list[TraceSpan]) -> Node:
    found = span.attributes
    above = [span.parent_span_id, *(link.span_id for link in span.links)]
    parents = tuple(nodes[one].attributes["dsrs.node_id"] for one in above if one in nodes)
    mapping: dict[str, tuple[int, str]] = json.loads(_word(found, "dsrs.mapping", "{}"))
    read = {
        "id": found["dsrs.node_id"],
        "kind": found["dsrs.node_type"],
        "name": _word(found, "dsrs.name"),
        "module": _word(found, "dsrs.module"),
        "signature": found.get("dsrs.signature_name"),
        "parents": parents,
        "inputs": json.loads(_word(found, "dsrs.inputs", "{}")),
        "outputs": json.loads(_word(found, "dsrs.outputs", "null")),
        "mapping": {name: Origin(node=node, field=field) for name, (node, field) in mapping.items()},
        "calls": tuple(map(_read_call, sorted(calls, key=lambda call: _number(call.attributes, "lm.call")))),
        "failure": span.status.message if span.status.code == "ERROR" else None,
        "started_ns": span.start_time_unix_nano,
        "ended_ns": span.end_time_unix_nano,
    }
    return Node.model_validate(read)


def _read_call(span: TraceSpan) -> LMCall:
    found = span.attributes
    usage = {name: found.get(f"lm.{name}", field.default) for name, field in Usage.model_fields.items()}
    return LMCall.model_validate(
        {
            **{name: found[f"lm.{name}"] for name in ("request_id", "lane", "model", "venue", "source")},
            "usage": usage,
            "started_ns": span.start_time_unix_nano,
            "ended_ns": span.end_time_unix_nano,
            "retries": tuple(_read_retry(event) for event in span.events if event.name == RETRY),
            "failure": span.status.message if span.status.code == "ERROR" else None,
        }
    )


def _read_retry(event: SpanEvent) -> Retry:
    code, message = _word(event.attributes, "error.type"), _word(event.attributes, "dsrs.message")
    return Retry(at_ns=event.time_unix_nano, code=code, message=message)


def _word(attributes: Mapping[str, JsonValue], name: str, default: str = "") -> str:
    value = attributes.get(name, default)
    return value if isinstance(value, str) else default


def _number(attributes: Mapping[str, JsonValue], name: str) -> int:
    value = attributes.get(name, 0)
    return value if isinstance(value, int) else 0
