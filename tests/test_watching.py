"""Any DSPy program can be watched, compiled or not."""

import asyncio

import dspy
import pytest

from swarmc.compiler.engine import lane_lm
from swarmc.compiler.portal import Portal
from swarmc.contracts.events import AdapterEnded, CallEnded, CallFailed
from swarmc.tracing.spans import TraceContract
from swarmc.watching import trace
from tests.fakes import AnsweringVenue


class Helped(dspy.Module):
    """A chain of thought, a tool, and a predictor that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> topic")
        self.say = dspy.Predict("question, topic, found -> answer")
        self.look = dspy.Tool(lambda topic: f"a page about {topic}", name="look")

    async def aforward(self, question: str) -> dspy.Prediction:
        topic = (await self.think.acall(question=question)).topic
        found = self.look(topic=topic)
        return await self.say.acall(question=question, topic=topic, found=found)


def model(_request: object) -> dict[str, str]:
    return {"reasoning": "as one reasons", "topic": "the topic", "answer": "an answer"}


@pytest.fixture
def lm() -> object:
    return lambda answer=model: lane_lm(AnsweringVenue(answer), "swarm", Portal())


async def test_a_program_of_ones_own_yields_its_graph(lm) -> None:
    with dspy.context(lm=lm()), trace("session") as watched:
        await Helped().acall(question="what is it?")
    graph = watched.graph
    assert graph.run_id == "session"
    named = {node.name: node for node in graph.nodes}
    assert named["Helped"].kind in ("root", "operator")
    assert named["think.predict"].signature == "question -> reasoning, topic"
    assert named["look"].outputs == {"output": "a page about the topic"}
    joined = next(node for node in graph.nodes if node.kind == "map" and "topic" in node.mapping)
    assert joined.mapping["topic"].node == named["think.predict"].id
    assert named["say"].usage.prompt_tokens > 0
    assert TraceContract.spans_to_graph(TraceContract.graph_to_spans(graph)) == graph


async def test_programs_that_run_at_once_are_told_apart(lm) -> None:
    with dspy.context(lm=lm()), trace() as watched:
        await asyncio.gather(*(Helped().acall(question=f"number {i}") for i in range(8)))
    assert sorted(graph.root.inputs["question"] for graph in watched.graphs) == [f"number {i}" for i in range(8)]
    assert len({len(graph.nodes) for graph in watched.graphs}) == 1


async def test_calls_and_adapters_are_told_too(lm) -> None:
    with dspy.context(lm=lm()), trace() as watched:
        await dspy.Predict("question -> answer").acall(question="what?")
    (call,) = [event for event in watched.events if isinstance(event, CallEnded)]
    assert call.usage.total_tokens == 13
    assert {event.phase for event in watched.events if isinstance(event, AdapterEnded)} == {"format", "parse"}


async def test_a_model_that_fails_is_told_with_its_reason(lm) -> None:
    def broken(_request: object) -> dict[str, str]:
        raise ValueError("no answer today")

    with dspy.context(lm=lm(broken)), trace() as watched, pytest.raises(Exception, match="no answer today"):
        await dspy.Predict("question -> answer").acall(question="what?")
    assert any("no answer today" in event.message for event in watched.events if isinstance(event, CallFailed))
    assert "no answer today" in (watched.graph.root.failure or "")


def test_without_a_program_there_is_no_graph() -> None:
    with trace() as watched:
        pass
    with pytest.raises(LookupError, match="no program ran"):
        _ = watched.graph
