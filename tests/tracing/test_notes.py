"""Notes: the very same graph comes back, in the words of the trace contract, or it is said what is missing."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.graphs import Graph
from swarmc.contracts.manifest import CompiledModuleManifest, PrivacyMode
from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.events import MAX_EVENT_BYTES, sign_note, sign_notes
from swarmc.nostr.keys import SecretKey
from swarmc.tracing.notes import (
    MAX_CONTENT_BYTES,
    TRACE_KIND,
    Telling,
    TooLarge,
    graph_to_notes,
    notes_to_graph,
    notes_to_graphs,
    summary_note,
)
from swarmc.tracing.privacy import Redactor
from tests.tracing.drawn_graphs import CALL, a_graph, graphs

KEY = SecretKey((1).to_bytes(32, "big"))
COMPILED = "sha256:94f5329362a853adeba88e11d6b9cfc5c2a531ca6c5cff20d32ca9769b19612f"
MANIFEST = CompiledModuleManifest(signature_name="PlanningSignature", compiled_id=COMPILED)
TELLING = Telling(created_at=1_700_000_000, default_tags=(("app", "autopilot"),))
OPEN = Redactor.of(PrivacyMode.PUBLIC_OK)
CLOSED = Redactor.of(PrivacyMode.PRIVATE_REPO_ALLOWED, salt=b"ours")
harmless = st.text(st.characters(exclude_characters=":=@", max_codepoint=0x2FF), max_size=12)
"""With half characters left to their own test, and without what looks like a secret."""


def told(graph: Graph, policy: Redactor = OPEN, key: SecretKey = KEY) -> tuple[NostrEvent, ...]:
    return sign_notes(graph_to_notes(graph, MANIFEST, policy, TELLING), key)


@settings(max_examples=60, deadline=None)
@given(graph=graphs(harmless), seed=st.integers())
def test_the_very_same_graph_comes_back_in_any_order_and_however_often(graph: Graph, seed: int) -> None:
    notes = [*told(graph), *told(graph)]
    random.Random(seed).shuffle(notes)
    assert notes_to_graph(notes) == OPEN.graph(graph)


def test_a_real_run_loses_nothing_where_all_may_leave() -> None:
    assert notes_to_graph(told(a_graph())) == a_graph()


@pytest.mark.parametrize("mode", PrivacyMode)
def test_what_comes_back_is_the_graph_that_the_policy_lets_out(mode: PrivacyMode) -> None:
    policy = Redactor.of(mode, salt=b"ours")
    assert notes_to_graph(told(a_graph(), policy)) == policy.graph(a_graph())


def test_a_half_character_in_a_value_comes_back() -> None:
    graph = a_graph()
    root = graph.root.model_copy(update={"inputs": {"ticket": "half \ud83d"}, "name": "x\udfff"})
    graph = graph.model_copy(update={"nodes": (root, *graph.nodes[1:])})
    assert notes_to_graph(told(graph)) == graph


def test_a_predictors_note_begins_as_the_trace_contract_says_and_then_goes_on() -> None:
    graph = a_graph()
    first = graph.nodes[1].model_copy(update={"id": 1, "parents": (), "kind": "root"})
    predict = graph_to_notes(graph, MANIFEST, OPEN, TELLING)[1]
    assert predict.tags[:4] == (
        ("dsrs", "predict"), ("signature", "PlanningSignature"), ("compiled_id", COMPILED), ("app", "autopilot"),
    )  # fmt: skip
    content = json.loads(predict.content)
    keys = ["node_id", "signature_name", "compiled_id", "has_output", "token_usage"]
    assert list(content)[:5] == keys
    content["node_id"] = first.id
    # Without what follows, and with the contract's bare hash, it is the ancestor's event to the bit of its id.
    bare = json.dumps({key: content[key] for key in keys}, separators=(",", ":")).replace("sha256:", "")
    tags = tuple(tuple(word.removeprefix("sha256:") for word in tag) for tag in predict.tags[:4])
    event = sign_note(UnsignedNote(kind=1, created_at=1_700_000_000, tags=tags, content=bare), KEY)
    assert event.id == "82044fb4d6eaf20ae6e4ed737ce302279089c8b706871efb53faf9ba76492a54"


def test_operators_maps_and_roots_have_their_words_and_parents_their_tags() -> None:
    root, predict, mapped, _, operator = told(a_graph())
    assert [note.values("dsrs") for note in (root, mapped, operator)] == [("root",), ("map",), ("operator",)]
    assert operator.tags[:3] == (("dsrs", "operator"), ("operator", "send"), ("app", "autopilot"))
    content = json.loads(operator.content)
    assert list(content)[:4] == ["node_id", "operator_name", "compiled_id", "has_output"]
    assert (content["operator_name"], content["has_output"]) == ("send", False)
    assert mapped.tags[-3:] == (
        ("e", root.id, "", "root"), ("e", predict.id, "", "parent"), ("e", root.id, "", "parent"),
    )  # fmt: skip
    assert all(note.values("t") == ("run-1",) and note.kind == TRACE_KIND for note in told(a_graph()))


def test_the_summary_has_the_contracts_keys_first_and_no_default_tags() -> None:
    note = summary_note(a_graph(), MANIFEST, OPEN, Telling(created_at=5, kind=1, default_tags=(("app", "x"),)))
    content = json.loads(note.content)
    assert list(content)[:7] == [
        "node_count", "predict_count", "operator_count", "total_tokens", "total_cost_msats", "compiled_id",
        "signature_name",
    ]  # fmt: skip
    assert list(content.values())[:5] == [5, 2, 1, 150, 75]
    assert note.tags == (("dsrs", "trace_summary"), ("compiled_id", COMPILED), ("t", "run-1"))
    events = sign_notes((*graph_to_notes(a_graph(), MANIFEST, OPEN, TELLING), note), KEY)
    assert events[-1].tags[-1] == ("e", events[0].id, "", "root")
    assert notes_to_graph(events) == a_graph()


def test_without_a_manifest_no_key_and_no_tag_speaks_of_one() -> None:
    notes = graph_to_notes(a_graph(), None, OPEN, Telling(created_at=5))
    assert all("compiled_id" not in note.content and not {"compiled_id"} & {t[0] for t in note.tags} for note in notes)
    assert notes_to_graph(sign_notes(notes, KEY)) == a_graph()


def test_several_runs_and_strangers_notes_do_not_mix() -> None:
    stranger = SecretKey.generate()
    one, other = told(a_graph()), told(a_graph("run-2"))
    forged = told(a_graph(), key=stranger)
    reply = UnsignedNote(kind=1, created_at=5, tags=(("dsrs", "predict"), ("e", one[0].id, "", "root")), content="{}")
    notes = [*other, *one, *forged[1:], sign_note(reply, stranger), sign_note(UnsignedNote(kind=1, created_at=5), KEY)]
    assert sorted(graph.run_id for graph in notes_to_graphs(notes)) == ["run-1", "run-2"]
    with pytest.raises(ValueError, match="2 graphs, not one"):
        notes_to_graph(notes)


@pytest.mark.parametrize("gone", range(5))
def test_a_part_that_is_missing_is_named(gone: int) -> None:
    notes = told(a_graph())
    with pytest.raises(ValueError, match=rf"not \[{gone + 1}\]" if gone else "0 graphs"):
        notes_to_graph(notes[:gone] + notes[gone + 1 :])


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[" * 50_000, "{}", '{"node_id":true,"node":{}}', '{"node_id":2,"node":[]}', '{"node_id":2,"node":{}}',
     '{"node_id":2,"node":{"kind":"x"}}', '{"node_id":-1,"node":{}}', '{"node_id":9999999999,"node":{}}'],
)  # fmt: skip
def test_a_note_that_tells_of_no_node_is_named_and_not_believed(content: str) -> None:
    notes = told(a_graph())
    tags = (("dsrs", "predict"), ("e", notes[0].id, "", "root"))
    liar = sign_note(UnsignedNote(kind=78, created_at=5, tags=tags, content=content), KEY)
    with pytest.raises(ValueError, match=r"no JSON|tells of no node|not whole|are no graph|no note of"):
        notes_to_graph([notes[0], liar, *notes[2:]])


def test_a_parent_outside_of_the_graph_is_named() -> None:
    notes = told(a_graph())
    tags = (*notes[1].tags[:-1], ("e", "ab" * 32, "", "parent"))
    orphan = sign_note(UnsignedNote(kind=78, created_at=5, tags=tags, content=notes[1].content), KEY)
    with pytest.raises(ValueError, match=rf"{orphan.id} has parent abab"):
        notes_to_graph([notes[0], orphan, *notes[2:]])


def test_a_graph_whose_ids_are_no_places_is_refused() -> None:
    graph = a_graph()
    for nodes in (
        (),
        graph.nodes[1:],
        (graph.root, graph.nodes[2]),
        (graph.root.model_copy(update={"parents": (1,)}),),
    ):
        with pytest.raises(ValueError, match=r"its place|before its children|begins with"):
            graph_to_notes(graph.model_copy(update={"nodes": nodes}), None, OPEN, TELLING)


def test_values_too_large_for_an_event_become_their_hash_and_length() -> None:
    graph = a_graph()
    long = "漢" * MAX_CONTENT_BYTES
    predict = graph.nodes[1].model_copy(update={"inputs": {"ticket": long, "small": "stays"}})
    graph = graph.model_copy(update={"nodes": (graph.root, predict, *graph.nodes[2:])})
    notes = told(graph)
    assert all(len(note.content.encode()) <= MAX_CONTENT_BYTES < MAX_EVENT_BYTES for note in notes)
    inputs = notes_to_graph(notes).nodes[1].inputs
    cut = inputs["ticket"]
    assert inputs["small"] == "stays"
    assert isinstance(cut, dict)
    assert re.fullmatch(r"\['sha256:[0-9a-f]{64}', 144002\]", str(cut["$cut"]))


def test_a_node_that_fits_in_no_event_is_refused_and_named() -> None:
    graph = a_graph()
    predict = graph.nodes[1].model_copy(update={"calls": (CALL,) * 500})
    with pytest.raises(TooLarge, match="node 2 has"):
        told(graph.model_copy(update={"nodes": (graph.root, predict, *graph.nodes[2:])}))


CLOSED_WORDS = re.compile(
    r"sha256:[0-9a-f]{64}(:\d+)?|[0-9a-f]{64}|\d*|-?\d+|dsrs|root|predict|map|operator|trace_summary|signature|compiled_id|"
    r"app|t|e|parent|search|validate|other|swarm|premium|bought|replayed"
)


@settings(max_examples=80, deadline=None)
@given(graph=graphs(st.text("xyzXYZ nsec1/:.@-_\n", min_size=1, max_size=40)))
def test_under_the_strictest_mode_every_word_that_leaves_is_a_hash_or_one_of_ours(graph: Graph) -> None:
    manifest = MANIFEST.model_copy(update={"signature_name": "a private name"})
    telling = Telling(created_at=5, default_tags=(("xyz", "a private tag"),))
    notes = graph_to_notes(graph, manifest, CLOSED, telling)
    notes += (summary_note(graph, manifest, CLOSED, telling),)
    leaving: list[str] = []
    for note in notes:
        leaving += [word for tag in note.tags for word in tag]
        leaving += _texts(json.loads(note.content))
    assert [word for word in leaving if not CLOSED_WORDS.fullmatch(word)] == []


def _texts(value: object, *, of_a_node: bool = False) -> list[str]:
    """Every text in some JSON, keys too, except for the contracts' own field names."""
    match value:
        case str():
            return [value]
        case dict():
            inner = [text for key, item in value.items() for text in _texts(item, of_a_node=key in _FREE_KEYS)]
            return inner + (list(value) if of_a_node else [])
        case list():
            return [text for item in value for text in _texts(item)]
        case _:
            return []


_FREE_KEYS = ("inputs", "outputs", "mapping")

SHAPES = ("sk-{}", "Bearer {}", "https://u:{}@host/x", "password={}", 'api_key: "{}"', "ghp_{}", "{} known")


@settings(max_examples=40, deadline=None)
@given(
    secret=st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=24, max_size=48),
    shape=st.sampled_from(SHAPES),
    mode=st.sampled_from(list(PrivacyMode)),
)
def test_a_planted_secret_leaves_in_no_mode_not_even_in_tags_and_names(
    secret: str, shape: str, mode: PrivacyMode
) -> None:
    planted = "before " + shape.format(secret) + " after"
    graph = a_graph(run_id=planted)
    call = CALL.model_copy(update={"model": planted, "failure": planted, "venue": planted})
    changes = {"name": planted, "inputs": {planted: [planted]}, "outputs": {"x": {"y": planted}}, "failure": planted}
    nodes = tuple(node.model_copy(update=changes | {"calls": (call,)}) for node in graph.nodes)
    known = (secret,) if shape.startswith("{}") else ()
    policy = Redactor.of(mode, salt=b"ours", known=known)
    telling = Telling(created_at=5, default_tags=(("app", planted),))
    manifest = MANIFEST.model_copy(update={"signature_name": planted})
    whole = graph.model_copy(update={"nodes": nodes})
    notes = (*graph_to_notes(whole, manifest, policy, telling), summary_note(whole, manifest, policy, telling))
    assert [note for note in notes if secret in f"{note.content}{note.tags}"] == []
