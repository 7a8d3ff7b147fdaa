"""Events of program runs, and graphs of every shape, for the tests of graphs, spans and sinks."""

from typing import Any

from hypothesis import strategies as st

from swarmc.contracts.completions import Usage
from swarmc.contracts.events import (
    CallEnded,
    CallFailed,
    Event,
    ModuleEnded,
    ModuleStarted,
    ProgramEnded,
    ProgramStarted,
)
from swarmc.contracts.graphs import Graph, LMCall, Node, Origin, Retry

RUN = "0af76519-16cd-43dd-8448-eb211c80319c"
TRACE = "0af7651916cd43dd8448eb211c80319c"
AT_MS = 1_700_000_000_000
AT_NS = AT_MS * 1_000_000
REQUEST = "sha256:" + "c" * 64
AT: dict[str, Any] = {"run_id": RUN, "at_ms": AT_MS}


def call_id(program: int, step: int = 0) -> str:
    return f"{program:08x}{step + 1:08x}"


def started(program: int = 0, **more: Any) -> ProgramStarted:
    fields = {"call_id": call_id(program), "at_ns": AT_NS, "stage": "search", "program": "qa:QA"}
    return ProgramStarted(**AT, **{**fields, "inputs": {"question": "secret question"}, **more})


def ended(program: int = 0, **more: Any) -> ProgramEnded:
    fields = {"call_id": call_id(program), "at_ns": AT_NS + 100, "outputs": {"answer": "secret answer"}}
    return ProgramEnded(**AT, **{**fields, "score_ppm": 500_000, **more})


def module(program: int, step: int, **more: Any) -> ModuleStarted:
    fields = {"call_id": call_id(program, step), "parent_id": call_id(program), "at_ns": AT_NS + step}
    named = {"name": f"step{step}", "module": "Predict", "signature": f"Step{step}", "inputs": {"q": "secret question"}}
    return ModuleStarted(**AT, **{**fields, **named, **more})


def module_ended(program: int, step: int, **more: Any) -> ModuleEnded:
    fields = {"call_id": call_id(program, step), "at_ns": AT_NS + step + 9, "outputs": {"answer": "secret answer"}}
    return ModuleEnded(**AT, **{**fields, **more})


def completion(program: int, step: int, **more: Any) -> CallEnded:
    usage = Usage(prompt_tokens=10, completion_tokens=3, cost_msats=5)
    about = {"stage": "search", "lane": "swarm", "request_id": REQUEST, "source": "bought", "usage": usage}
    when = {"latency_ms": 2, "started_ns": AT_NS + step + 2, "ended_ns": AT_NS + step + 8}
    named = {"parent_id": call_id(program, step), "model": "toy", "venue": "llamacpp"}
    return CallEnded(**AT, **{**about, **when, **named, **more})


def attempt(program: int, step: int, **more: Any) -> CallFailed:
    about = {"stage": "search", "lane": "swarm", "request_id": REQUEST, "code": "venue", "message": "secret: busy"}
    return CallFailed(**AT, **{**about, "parent_id": call_id(program, step), "at_ns": AT_NS + step + 1, **more})


def two_steps(program: int = 0) -> list[Event]:
    """A program of two predictors, the second fed by the first, whose completion needed two attempts."""
    origins = {"q": (call_id(program, 1), "answer")}
    return [
        started(program),
        module(
            program, 1, inputs={"question": "secret question"}, origins={"question": (call_id(program), "question")}
        ),
        attempt(program, 1),
        completion(program, 1),
        module_ended(program, 1),
        module(program, 2, origins=origins),
        completion(program, 2),
        module_ended(program, 2),
        ended(program),
    ]


texts = st.text(max_size=8)
times = st.integers(0, 2**63 - 1)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
fields = st.dictionaries(texts, values, max_size=2)
retries = st.builds(Retry, at_ns=times, code=texts, message=texts)
counts = st.integers(0, 2**40)
usages = st.builds(
    Usage,
    prompt_tokens=counts,
    completion_tokens=counts,
    cost_msats=counts,
    estimated=st.booleans(),
    simulated=st.booleans(),
)
calls = st.builds(
    LMCall,
    request_id=texts,
    lane=st.sampled_from(["swarm", "premium"]),
    model=texts,
    venue=texts,
    source=st.sampled_from(["bought", "replayed"]),
    usage=usages,
    started_ns=times,
    ended_ns=times,
    retries=st.lists(retries, max_size=2).map(tuple),
    failure=st.none() | texts,
)


@st.composite
def nodes(draw: st.DrawFn, place: int) -> Node:
    """The node at a place from 1; its parents come before it."""
    kind = "root" if place == 1 else draw(st.sampled_from(["predict", "map", "operator"]))
    earlier = st.integers(1, place - 1)
    mapping = st.dictionaries(texts, st.builds(Origin, node=earlier, field=texts), max_size=2)
    parents = st.lists(earlier, unique=True, min_size=1, max_size=3).map(tuple)
    return Node(
        id=place,
        kind=kind,
        name=draw(texts),
        module=draw(texts),
        signature=draw(st.none() | texts),
        parents=() if place == 1 else draw(parents),
        inputs=draw(fields),
        outputs=draw(st.none() | fields),
        mapping=draw(mapping) if kind == "map" else {},
        calls=tuple(draw(st.lists(calls, max_size=2))),
        failure=draw(st.none() | texts),
        started_ns=draw(times),
        ended_ns=draw(times),
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 5))
    return Graph(
        run_id=draw(texts),
        nodes=tuple(draw(nodes(place)) for place in range(1, count + 1)),
        stage=draw(st.sampled_from(["search", "validate", "other"])),
        candidate_id=draw(st.none() | texts),
        example_id=draw(st.none() | texts),
        rollout_id=draw(st.integers(0, 9)),
        score_ppm=draw(st.none() | st.integers(0, 1_000_000)),
    )
