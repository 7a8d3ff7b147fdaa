"""Graphs for tests: one like a real run's, and strategies that draw any."""

from hypothesis import strategies as st

from swarmc.contracts.completions import Usage
from swarmc.contracts.graphs import Graph, LMCall, Node, Origin, Retry

CALL = LMCall(
    request_id="sha256:" + "ab" * 32,
    lane="swarm",
    model="toy",
    venue="llamacpp",
    usage=Usage(prompt_tokens=100, completion_tokens=50, cost_msats=75),
    started_ns=10,
    ended_ns=20,
    retries=(Retry(at_ns=5, code="venue", message="busy"),),
)


def a_graph(run_id: str = "run-1") -> Graph:
    """Root, predictor, map, predictor, tool; the last one failed."""
    nodes = (
        Node(id=1, kind="root", name="Router", inputs={"ticket": "My invoice is wrong"}, started_ns=1, ended_ns=99),
        Node(
            id=2, kind="predict", name="classify", module="ChainOfThought", signature="PlanningSignature", parents=(1,),
            inputs={"ticket": "My invoice is wrong"}, outputs={"team": "billing", "score": {"$float": "0.5"}},
            calls=(CALL,), started_ns=2, ended_ns=30,
        ),
        Node(
            id=3, kind="map", name="map", parents=(2, 1), mapping={"team": Origin(node=2, field="team")},
            inputs={}, outputs={"team": "billing"}, started_ns=31, ended_ns=31,
        ),
        Node(
            id=4, kind="predict", name="answer", module="Predict", parents=(3, 1), inputs={"team": "billing"},
            outputs={"reply": "We look into it.\n漢 😀"}, started_ns=32, ended_ns=60,
        ),
        Node(
            id=5, kind="operator", name="send", module="Tool", parents=(4, 1), inputs={"reply": None},
            failure="the mail server is away", started_ns=61, ended_ns=70,
        ),
    )  # fmt: skip
    return Graph(
        run_id=run_id,
        nodes=nodes,
        stage="validate",
        candidate_id="sha256:" + "cd" * 32,
        example_id="e1",
        score_ppm=500_000,
    )


def _values(texts: st.SearchStrategy[str]) -> st.SearchStrategy:
    leaves = st.none() | st.booleans() | st.integers(-99_999, 99_999) | texts
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
    )


def _calls(texts: st.SearchStrategy[str]) -> st.SearchStrategy[LMCall]:
    retries = st.builds(Retry, at_ns=st.integers(0, 99), code=texts, message=texts)
    return st.builds(
        LMCall,
        request_id=texts,
        lane=st.sampled_from(["swarm", "premium"]),
        model=texts,
        venue=texts,
        usage=st.builds(Usage, prompt_tokens=st.integers(0, 9999), completion_tokens=st.integers(0, 9999)),
        started_ns=st.integers(0, 99),
        ended_ns=st.integers(0, 99),
        retries=st.lists(retries, max_size=2).map(tuple),
        failure=st.none() | texts,
    )


@st.composite
def _nodes(draw: st.DrawFn, texts: st.SearchStrategy[str], place: int) -> Node:
    fields = st.dictionaries(texts, _values(texts), max_size=3)
    origins = st.builds(Origin, node=st.integers(1, place), field=texts)
    return Node(
        id=place,
        kind="root" if place == 1 else draw(st.sampled_from(["predict", "map", "operator", "root"])),
        name=draw(texts),
        module=draw(texts),
        signature=draw(st.none() | texts),
        parents=tuple(draw(st.lists(st.integers(1, place - 1), max_size=3))) if place > 1 else (),
        inputs=draw(fields),
        outputs=draw(st.none() | fields),
        mapping=draw(st.dictionaries(texts, origins, max_size=2)),
        calls=tuple(draw(st.lists(_calls(texts), max_size=2))),
        failure=draw(st.none() | texts),
        started_ns=draw(st.integers(0, 10**19)),
        ended_ns=draw(st.integers(0, 10**19)),
    )


@st.composite
def graphs(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> Graph:
    """Any graph whose free texts, names and keys too, are drawn from `texts`."""
    count = draw(st.integers(1, 5))
    return Graph(
        run_id=draw(texts),
        nodes=tuple(draw(_nodes(texts, place)) for place in range(1, count + 1)),
        stage=draw(st.sampled_from(["search", "other"])),
        candidate_id=draw(st.none() | texts),
        example_id=draw(st.none() | texts),
        rollout_id=draw(st.integers(0, 9)),
        score_ppm=draw(st.none() | st.integers(0, 10**6)),
    )
