"""Graphs: whatever order program runs interleave in, each gets its own nodes, and strangers harm none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.contracts.events import AdapterEnded, Event, ModuleStarted, Note, ToolEnded, ToolStarted
from swarmc.contracts.graphs import Graph, Origin
from swarmc.tracing import graph as folding
from swarmc.tracing.graph import Graphs
from swarmc.tracing.identity import NO_SPAN
from tests.tracing.program_runs import (
    AT,
    AT_NS,
    attempt,
    call_id,
    completion,
    ended,
    module,
    module_ended,
    started,
    two_steps,
)


def fold(*events: Event) -> Graph:
    """The one graph of these events."""
    folded = Graphs()
    for event in events:
        folded.add(event)
    (finished,) = folded.finished()
    assert folded.unfinished == 0
    return finished.graph


def test_a_program_run_becomes_a_graph_of_its_parts_in_the_order_they_began() -> None:
    graph = fold(*two_steps())
    shapes = [(node.id, node.kind, node.name, node.parents) for node in graph.nodes]
    assert shapes == [
        (1, "root", "qa:QA", ()),
        (2, "predict", "step1", (1,)),
        (3, "map", "map", (2,)),
        (4, "predict", "step2", (3, 1)),
    ]
    assert graph.nodes[2].mapping == {"q": Origin(node=2, field="answer")}
    assert graph.nodes[2].outputs == {"q": "secret question"}
    assert (graph.root.inputs, graph.root.outputs, graph.score_ppm) == (
        {"question": "secret question"},
        {"answer": "secret answer"},
        500_000,
    )
    assert (graph.nodes[1].started_ns, graph.nodes[1].ended_ns) == (AT_NS + 1, AT_NS + 10)


def test_a_completion_belongs_to_its_predictor_with_the_attempts_before_it() -> None:
    (call,) = fold(*two_steps()).nodes[1].calls
    assert (call.model, call.venue, call.usage.total_tokens, call.failure) == ("toy", "llamacpp", 13, None)
    assert [(retry.code, retry.at_ns) for retry in call.retries] == [("venue", AT_NS + 2)]


def test_a_completion_that_never_came_is_kept_with_its_reason() -> None:
    graph = fold(started(), module(0, 1), attempt(0, 1), module_ended(0, 1, outputs=None, failure="gave up"), ended())
    (call,) = graph.nodes[1].calls
    assert (call.failure, len(call.retries), call.usage.total_tokens) == ("venue: secret: busy", 1, 0)
    assert (graph.nodes[1].failure, graph.nodes[1].outputs) == ("gave up", None)


def test_a_map_names_every_source_and_the_programs_own_inputs_need_none() -> None:
    both = {"q": (call_id(0, 1), "answer"), "first": (call_id(0), "question")}
    renamed = {"q": (call_id(0), "question")}
    own = {"question": (call_id(0), "question")}
    events = [started(), module(0, 1, origins=own), module(0, 2, origins=both), module(0, 3, origins=renamed), ended()]
    graph = fold(*events)
    assert [node.kind for node in graph.nodes] == ["root", "predict", "map", "predict", "map", "predict"]
    assert graph.nodes[2].parents == (2, 1)
    assert graph.nodes[4].mapping == {"q": Origin(node=1, field="question")}


def test_tools_and_modules_without_a_signature_are_operators() -> None:
    tool: dict[str, Any] = {**AT, "call_id": call_id(0, 3), "at_ns": AT_NS + 3}
    graph = fold(
        started(),
        module(0, 1, signature=None, module="ReAct"),
        module(0, 2, parent_id=call_id(0, 1)),
        ToolStarted(**tool, parent_id=call_id(0, 1), tool="search", inputs={"query": "x"}),
        ToolEnded(**tool, output=["found"]),
        module_ended(0, 1),
        ended(),
    )
    shapes = [(node.kind, node.module, node.parents) for node in graph.nodes[1:]]
    assert shapes == [("operator", "ReAct", (1,)), ("predict", "Predict", (2,)), ("operator", "Tool", (2,))]
    assert graph.nodes[3].outputs == {"output": ["found"]}


def test_a_part_that_never_ended_was_cut_off_with_its_program() -> None:
    node = fold(started(), module(0, 1), ended(failure="cancelled", outputs=None)).nodes[1]
    assert (node.outputs, node.failure, node.ended_ns) == (None, None, AT_NS + 100)


def test_an_adapter_step_is_no_node() -> None:
    step = AdapterEnded(
        **AT, call_id=call_id(0, 7), parent_id=call_id(0, 1), at_ns=1, adapter="Chat", phase="parse", ended_ns=2
    )
    assert len(fold(started(), module(0, 1), step, ended()).nodes) == 2


@given(st.data())
def test_runs_that_interleave_give_the_graphs_they_give_alone(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 4))
    waiting = [two_steps(program) for program in range(count)]
    alone = {program: fold(*events) for program, events in enumerate(waiting)}
    folded = Graphs()
    while any(waiting):
        program = data.draw(st.sampled_from([place for place, events in enumerate(waiting) if events]))
        folded.add(waiting[program].pop(0))
    found = {int(finished.root.call_id[:8], 16): finished.graph for finished in folded.finished()}
    assert found == alone
    assert not folded.dropped


@given(st.lists(st.sampled_from([event for program in range(3) for event in two_steps(program)]), max_size=60))
def test_no_order_of_events_breaks_the_fold_and_parents_come_first(events: list[Event]) -> None:
    folded = Graphs()
    for event in events:
        folded.add(event)
    for finished in folded.finished():
        assert [node.id for node in finished.graph.nodes] == list(range(1, len(finished.span_ids) + 1))
        assert all(parent < node.id for node in finished.graph.nodes for parent in node.parents)


def test_strangers_are_counted_and_harm_no_run() -> None:
    folded = Graphs()
    strangers = [module(9, 1), module_ended(9, 1), completion(9, 1), ended(9), module(0, 5, parent_id=None)]
    for event in [started(), *strangers, started(), module(0, 1, origins={"q": (call_id(9), "x")}), ended(), ended()]:
        folded.add(event)
    (finished,) = folded.finished()
    assert [node.kind for node in finished.graph.nodes] == ["root", "predict"]
    assert folded.dropped == {"unplaced": 7}
    assert not folded.add(completion(0, 1, parent_id=None))
    assert not folded.add(Note(**AT, text="x"))


def test_runs_that_never_end_are_dropped_oldest_first_and_counted() -> None:
    folded = Graphs(most_runs=2)
    for program in range(5):
        folded.add(started(program))
    for program in range(5):
        folded.add(ended(program))
    assert [finished.root.call_id for finished in folded.finished()] == [call_id(3), call_id(4)]
    assert folded.dropped == {"run too old": 3, "unplaced": 3}
    assert folded.unfinished == 0


def test_a_run_without_an_end_to_its_parts_is_dropped_whole() -> None:
    folded = Graphs()
    folded.add(started())
    for step in range(1, folding.MOST_PARTS + 5):
        folded.add(module(0, step))
    folded.add(ended())
    assert folded.finished() == []
    assert folded.dropped["run too long"] == 1
    assert not folded.knows(AT["run_id"], call_id(0, 1))


def test_a_callback_is_told_of_each_run_and_the_spans_are_named_by_the_calls() -> None:
    told = []
    folded = Graphs(told.append)
    for event in two_steps():
        folded.add(event)
    (finished,) = told
    assert folded.finished() == []
    assert finished.span_ids[:2] == (call_id(0, 0), call_id(0, 1))
    assert len(set(finished.span_ids)) == 4


def test_a_call_named_by_zeros_gets_a_span_that_can_be() -> None:
    folded = Graphs()
    folded.add(started(call_id=NO_SPAN))
    folded.add(ended(call_id=NO_SPAN))
    assert folded.finished()[0].span_ids[0] != NO_SPAN


def test_what_nobody_takes_does_not_pile_up() -> None:
    folded = Graphs(most_runs=2)
    for program in range(4):
        folded.add(started(program))
        folded.add(ended(program))
    assert len(folded.finished()) == 2
    assert folded.dropped == {"not taken": 2}


def test_a_clock_that_goes_back_gives_no_part_a_negative_length() -> None:
    node = fold(started(), module(0, 1), module_ended(0, 1, at_ns=5), ended()).nodes[1]
    assert node.ended_ns == node.started_ns


@pytest.mark.parametrize("field", ["call_id", "parent_id"])
def test_a_call_id_of_another_shape_is_refused_at_the_door(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ModuleStarted.model_validate({**module(0, 1).model_dump(), field: "xyz"})
