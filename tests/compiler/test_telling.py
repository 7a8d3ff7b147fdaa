"""A compile tells of its program runs: every predictor call, in its place, however many run at once."""

import asyncio
import random

import dspy
import pytest

from swarmc.compiler.telling import Teller, new_call_id
from swarmc.contracts.events import ModuleEnded, ModuleStarted, ProgramEnded, ProgramStarted
from swarmc.tracing.graph import Graphs

TWO_STEPS = """
import dspy

class Awaited(dspy.Module):
    def __init__(self):
        super().__init__()
        self.topic = dspy.Predict("question -> topic")
        self.say = dspy.Predict("question, topic -> answer")

    async def aforward(self, question):
        topic = (await self.topic.acall(question=question)).topic
        return await self.say.acall(question=question, topic=topic)

class Threaded(dspy.Module):
    def __init__(self):
        super().__init__()
        self.topic = dspy.Predict("question -> topic")
        self.say = dspy.Predict("question, topic -> answer")

    def forward(self, question):
        return self.say(question=question, topic=self.topic(question=question).topic)
"""


def questions(count=60):
    return [dspy.Example(question=f"q{i} of many", answer=str(i % 2)).with_inputs("question") for i in range(count)]


def model(request):
    number = int(request.messages[-1].content.split("]]\nq")[1].split()[0])
    asked = request.messages[-1].content.partition("Respond with")[2]
    return {"topic": f"topic of q{number}"} if "topic" in asked else {"answer": str(number % 2)}


@pytest.fixture
def told(venue_of, make_bench, tmp_path):
    (tmp_path / "program.py").write_text(TWO_STEPS)

    def bench(name, venue=None, **changes):
        events = []
        program = f"{tmp_path}/program.py:{name}" if name in TWO_STEPS else name
        made = make_bench((venue or venue_of)(model), questions(), program=program, **changes)
        made.evaluator.tell(Teller(events.append, "run", name))
        return made, events

    return bench


def graphs_of(events):
    fold = Graphs()
    for event in events:
        fold.add(event)
    assert not fold.dropped
    assert not fold.unfinished
    return [finished.graph for finished in fold.finished()]


@pytest.mark.parametrize("name", ["Awaited", "Threaded"])
async def test_every_program_run_has_its_own_graph_with_all_its_parents(told, venue_of, name):
    class Jittery(venue_of):
        async def complete(self, request):
            await asyncio.sleep(random.random() * 0.01)
            return await super().complete(request)

    bench, events = told(name, Jittery)
    ids = bench.ids("search")
    await bench.evaluate(bench.own, ids)
    graphs = graphs_of(events)
    assert {graph.example_id for graph in graphs} == set(ids)
    for graph in graphs:
        question = graph.root.inputs["question"]
        first, joined, second = graph.nodes[1:]
        assert [node.kind for node in graph.nodes] == ["root", "predict", "map", "predict"]
        assert (first.name, second.name) == ("topic", "say")
        assert first.outputs == {"topic": f"topic of {question.split()[0]}"}
        assert joined.mapping["topic"].node == first.id
        assert second.inputs == {"question": question, **(first.outputs or {})}
        assert set(second.parents) == {joined.id, graph.root.id}
        assert graph.score_ppm == 1_000_000


async def test_a_run_that_fails_says_why_where_it_failed(told, venue_of):
    def unreadable(request):
        return {"nothing": "of use"}

    bench, events = told("question -> answer", lambda _: venue_of(unreadable))
    await bench.evaluate(bench.own, bench.ids("search")[:3])
    for graph in graphs_of(events):
        assert graph.score_ppm == 0
        assert "AdapterParseError" in (graph.nodes[1].failure or "")
        assert "AdapterParseError" in (graph.root.failure or "")
        assert graph.nodes[1].outputs is None


async def test_beginning_and_end_belong_together_and_times_are_true(told):
    bench, events = told("Awaited")
    await bench.evaluate(bench.own, bench.ids("search")[:5])
    begun = {event.call_id: event for event in events if isinstance(event, ProgramStarted | ModuleStarted)}
    ended = {event.call_id: event for event in events if isinstance(event, ProgramEnded | ModuleEnded)}
    assert begun.keys() == ended.keys()
    assert all(begun[key].at_ns <= ended[key].at_ns for key in begun)
    for event in begun.values():
        if event.parent_id is not None:
            assert begun[event.parent_id].at_ns <= event.at_ns


async def test_who_listens_changes_nothing(told, venue_of, make_bench):
    bench, _ = told("question -> answer")
    silent = make_bench(venue_of(model), questions())
    ids = bench.ids("search")
    assert await bench.evaluate(bench.own, ids) == await silent.evaluate(silent.own, ids)


def test_call_ids_are_span_ids():
    found = {new_call_id() for _ in range(10_000)}
    assert len(found) == 10_000
    assert all(len(one) == 16 and int(one, 16) for one in found)
