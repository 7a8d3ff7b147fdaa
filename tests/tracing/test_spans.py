"""Spans: OpenTelemetry takes every one, nothing of a graph is lost in them, and nothing private is in them unasked."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.contracts.canonical import canonical_bytes
from swarmc.contracts.graphs import Graph, LMCall, Node, Retry, TraceSpan
from swarmc.contracts.manifest import CompiledModuleManifest
from swarmc.tracing.graph import Graphs
from swarmc.tracing.identity import NO_SPAN, NO_TRACE, trace_id_of
from swarmc.tracing.spans import TraceContract, error_type
from tests.tracing.program_runs import AT_NS, RUN, TRACE, graphs, texts, two_steps

VECTORS = Path(__file__).parents[1] / "vectors" / "spans.json"


def two_step_graph() -> Graph:
    folded = Graphs()
    for event in two_steps():
        folded.add(event)
    return folded.finished()[0].graph


def by_name(spans: tuple[TraceSpan, ...]) -> dict[str, TraceSpan]:
    return {span.name: span for span in spans}


@given(graphs(), st.randoms(use_true_random=False))
def test_a_graph_comes_back_from_its_spans_in_whatever_order_they_come(graph: Graph, random: object) -> None:
    spans = list(TraceContract.graph_to_spans(graph))
    random.shuffle(spans)  # pyright: ignore[reportAttributeAccessIssue]
    assert TraceContract.spans_to_graph(spans) == graph


@given(graphs())
def test_a_graph_comes_back_from_spans_that_were_written_down(graph: Graph) -> None:
    lines = [span.canonical() for span in TraceContract.graph_to_spans(graph)]
    assert TraceContract.spans_to_graph([TraceSpan.model_validate_json(line) for line in lines]) == graph


@given(graphs(), st.none() | texts, st.booleans())
def test_ids_are_valid_and_every_span_is_named_once(graph: Graph, trace_id: str | None, content: bool) -> None:
    spans = TraceContract.graph_to_spans(graph, None, trace_id, include_content=content)
    assert {span.trace_id for span in spans} == {trace_id_of(trace_id or graph.run_id)}
    assert re.fullmatch("[0-9a-f]{32}", spans[0].trace_id)
    assert spans[0].trace_id != NO_TRACE
    assert all(re.fullmatch("[0-9a-f]{16}", span.span_id) and span.span_id != NO_SPAN for span in spans)
    assert len({span.span_id for span in spans}) == len(spans)
    assert spans == TraceContract.graph_to_spans(graph, None, trace_id, include_content=content)


@given(graphs())
def test_the_first_parent_is_the_parent_and_the_others_are_links(graph: Graph) -> None:
    spans = TraceContract.graph_to_spans(graph)
    node_of = {span.span_id: span.attributes["dsrs.node_id"] for span in spans if "dsrs.node_id" in span.attributes}
    for span in spans:
        above = [span.parent_span_id, *(link.span_id for link in span.links)]
        if span.kind == "CLIENT":
            assert above[0] in node_of
        else:
            parents = graph.nodes[int(str(span.attributes["dsrs.node_id"])) - 1].parents
            assert tuple(node_of[one] for one in above if one is not None) == parents


@given(graphs())
def test_without_content_the_shape_stays_and_no_word_of_a_user_does(graph: Graph) -> None:
    spans = TraceContract.graph_to_spans(graph, include_content=False)
    assert not {name for span in spans for name in span.attributes} & {"dsrs.inputs", "dsrs.outputs"}
    read = TraceContract.spans_to_graph(spans)
    for node, original in zip(read.nodes, graph.nodes, strict=True):
        assert (node.inputs, node.outputs) == ({}, None)
        assert (node.parents, node.mapping, node.usage) == (original.parents, original.mapping, original.usage)
        assert (node.failure is None) == (original.failure is None)


def test_nothing_private_is_said_without_content() -> None:
    graph = two_step_graph()
    failed = graph.nodes[1].model_copy(update={"failure": "secret: did not parse", "outputs": None})
    graph = graph.model_copy(update={"nodes": (graph.nodes[0], failed, *graph.nodes[2:])})
    said = b"".join(span.canonical() for span in TraceContract.graph_to_spans(graph, include_content=False))
    assert b"secret" not in said
    assert b"secret" in b"".join(span.canonical() for span in TraceContract.graph_to_spans(graph))


def test_names_kinds_and_attributes_are_those_of_the_contract() -> None:
    manifest = CompiledModuleManifest.new("Step1").with_optimizer("MIPROv2")
    spans = TraceContract.graph_to_spans(two_step_graph(), manifest, "trace-123")
    names = [(span.name, span.kind) for span in spans]
    assert names == [
        ("dsrs.root", "INTERNAL"),
        ("dsrs.predict.Step1", "INTERNAL"),
        ("chat toy", "CLIENT"),
        ("dsrs.map", "INTERNAL"),
        ("dsrs.predict.Step2", "INTERNAL"),
        ("chat toy", "CLIENT"),
    ]
    predict, call = spans[1].attributes, spans[2].attributes
    assert (predict["dsrs.signature_name"], predict["dsrs.module"], predict["dsrs.node_type"]) == (
        "Step1",
        "Predict",
        "predict",
    )
    for found in (predict, call):
        names = ("lm.model", "lm.prompt_tokens", "lm.completion_tokens", "lm.total_tokens", "lm.cost_msats")
        assert [found[name] for name in names] == ["toy", 10, 3, 13, 5]
    genai = {name.removeprefix("gen_ai."): value for name, value in call.items() if name.startswith("gen_ai.")}
    assert genai == {
        "operation.name": "chat",
        "provider.name": "llamacpp",
        "request.model": "toy",
        "response.model": "toy",
        "usage.input_tokens": 10,
        "usage.output_tokens": 3,
    }
    assert (predict["dsrs.optimizer"], "dsrs.compiled_id" in predict) == ("MIPROv2", False)


def test_times_are_the_true_ones_and_each_attempt_is_an_event() -> None:
    spans = TraceContract.graph_to_spans(two_step_graph())
    root, predict, call = spans[:3]
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (AT_NS, AT_NS + 100)
    assert (predict.start_time_unix_nano, predict.end_time_unix_nano) == (AT_NS + 1, AT_NS + 10)
    assert (call.start_time_unix_nano, call.end_time_unix_nano) == (AT_NS + 3, AT_NS + 9)
    (retry,) = call.events
    assert (retry.name, retry.time_unix_nano, retry.attributes["error.type"]) == ("dsrs.retry", AT_NS + 2, "venue")


def test_the_trace_is_named_by_the_run_and_foreign_names_are_hashed() -> None:
    assert TraceContract.graph_to_spans(two_step_graph())[0].trace_id == trace_id_of(RUN) == TRACE
    foreign = TraceContract.graph_to_spans(two_step_graph(), None, "trace-123")[0].trace_id
    assert foreign == trace_id_of("trace-123") != TRACE
    assert trace_id_of("0" * 32) != NO_TRACE


def test_a_replayed_completion_uses_no_tokens_again_but_keeps_its_count() -> None:
    graph = two_step_graph()
    replayed = graph.nodes[1].calls[0].model_copy(update={"source": "replayed"})
    graph = graph.model_copy(
        update={"nodes": (graph.nodes[0], graph.nodes[1].model_copy(update={"calls": (replayed,)}))}
    )
    call = by_name(TraceContract.graph_to_spans(graph))["chat toy"].attributes
    assert (call["lm.source"], call["lm.total_tokens"], "gen_ai.usage.input_tokens" in call) == ("replayed", 13, False)


def test_status_says_what_is_known() -> None:
    call = LMCall(
        request_id="r",
        lane="swarm",
        model="toy",
        started_ns=1,
        ended_ns=2,
        retries=(Retry(at_ns=2, code="venue", message="down"),),
        failure="venue: down",
    )
    fields = {"name": "x", "parents": (1,), "started_ns": 1, "ended_ns": 2}
    nodes = (
        Node(id=1, kind="root", name="p", outputs={}, started_ns=1, ended_ns=2),
        Node(id=2, kind="predict", failure="ValueError: no", calls=(call,), **fields),
        Node(id=3, kind="operator", module="CoT", **fields),
        Node(id=4, kind="map", **fields),
    )
    spans = TraceContract.graph_to_spans(Graph(run_id="r", nodes=nodes))
    said = [(span.status.code, span.status.message, span.attributes.get("error.type")) for span in spans]
    assert said == [
        ("OK", "", None),
        ("ERROR", "ValueError: no", "ValueError"),
        ("ERROR", "venue: down", "venue"),
        ("UNSET", "", None),
        ("OK", "", None),
    ]


@pytest.mark.parametrize(
    ("name", "kind"), [("sandbox", "SERVER"), ("sandbox.pytest", "SERVER"), ("sandboxes", "INTERNAL")]
)
def test_a_sandbox_run_is_a_server_span(name: str, kind: str) -> None:
    root = Node(id=1, kind="root", name="p", started_ns=1, ended_ns=2)
    tool = Node(id=2, kind="operator", name=name, module="Tool", parents=(1,), started_ns=1, ended_ns=2)
    span = TraceContract.graph_to_spans(Graph(run_id="r", nodes=(root, tool)))[1]
    assert (span.name, span.kind) == (f"dsrs.operator.{name}", kind)
    assert (span.attributes["gen_ai.operation.name"], span.attributes["gen_ai.tool.name"]) == ("execute_tool", name)


def test_sums_count_each_completion_once() -> None:
    summary = TraceContract.summarize(TraceContract.graph_to_spans(two_step_graph()))
    assert summary.model_dump() == {
        "span_count": 6,
        "predict_count": 2,
        "total_tokens": 26,
        "total_cost_msats": 10,
    }
    assert TraceContract.summarize([]).span_count == 0


def test_values_without_a_canonical_form_come_back_too() -> None:
    root = Node(
        id=1, kind="root", name="p", inputs={"half": "\ud800", "bare": 0.5}, outputs={}, started_ns=1, ended_ns=2
    )
    graph = Graph(run_id="r", nodes=(root,))
    assert TraceContract.spans_to_graph(TraceContract.graph_to_spans(graph)) == graph


def test_spans_of_no_program_run_or_of_two_are_refused() -> None:
    spans = TraceContract.graph_to_spans(two_step_graph())
    other = TraceContract.graph_to_spans(two_step_graph().model_copy(update={"example_id": "another"}))
    with pytest.raises(ValueError, match="here are 0 `"):
        TraceContract.spans_to_graph(spans[1:])
    with pytest.raises(ValueError, match="here are 2 `"):
        TraceContract.spans_to_graph([*spans, *other])


@given(st.lists(graphs(), max_size=4), st.randoms(use_true_random=False))
def test_program_runs_are_told_apart_among_all_spans(made: list[Graph], random: object) -> None:
    numbered = [graph.model_copy(update={"rollout_id": place}) for place, graph in enumerate(made)]
    stage = TraceSpan(
        trace_id="a" * 32, span_id="b" * 16, name="s", kind="INTERNAL", start_time_unix_nano=1, end_time_unix_nano=2
    )
    ring = [stage.model_copy(update={"span_id": own * 16, "parent_span_id": other * 16}) for own, other in ("cd", "dc")]
    spans = [stage, *ring]
    for graph in numbered:
        spans += TraceContract.graph_to_spans(graph, under=stage.span_id)
    random.shuffle(spans)  # pyright: ignore[reportAttributeAccessIssue]
    found = [TraceContract.spans_to_graph(run) for run in TraceContract.program_runs(spans)]
    assert sorted(found, key=lambda graph: graph.rollout_id) == numbered


def test_a_graph_that_is_none_is_refused() -> None:
    graph = two_step_graph()
    with pytest.raises(ValueError, match="1 span ids were given for 4 nodes"):
        TraceContract.graph_to_spans(graph, span_ids=["1" * 16])
    with pytest.raises(ValueError, match=r"parents \[3\], which are not in it"):
        TraceContract.graph_to_spans(graph.model_copy(update={"nodes": graph.nodes[:2] + graph.nodes[3:]}))


def test_only_a_class_is_taken_for_the_class_of_a_failure() -> None:
    assert error_type("aiohttp.ClientError") == error_type("aiohttp.ClientError: gone") == "aiohttp.ClientError"
    assert error_type("hunter2") == error_type("Rome: wrong") == error_type("") == "_OTHER"


def test_the_spans_of_yesterday_are_those_of_today() -> None:
    vector = json.loads(VECTORS.read_text(encoding="utf-8"))
    graph = Graph.model_validate(vector["graph"])
    spans = TraceContract.graph_to_spans(graph, None, vector["trace_id"])
    assert [json.loads(span.canonical()) for span in spans] == vector["spans"]
    assert canonical_bytes(vector["spans"]) == canonical_bytes([span.model_dump(mode="json") for span in spans])
