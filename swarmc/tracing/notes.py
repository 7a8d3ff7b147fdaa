"""Graphs as Nostr notes, and back: the very same graph, as far as the privacy policy lets it out.

| node          | tags, in order                                                  | content begins with        |
|---------------|-----------------------------------------------------------------|----------------------------|
| predict       | `["dsrs","predict"]`, `signature`, `compiled_id`, default tags  | `PredictTraceData`         |
| operator      | `["dsrs","operator"]`, `operator`, default tags                 | `OperatorTraceData`        |
| root, map     | `["dsrs","root"]`, `["dsrs","map"]`, `compiled_id`, default tags| the same                   |
| the summary   | `["dsrs","trace_summary"]`, `compiled_id`                       | `NostrTraceSummary`        |

After these: `["t", run_id]`, then `e` tags, marked `root` (the graph's root) and `parent` (one for each, in
the node's order). Of one run all notes are found by ``{"#t": [run_id]}``, of one graph by its root's id.
In the content the trace contract's keys come first (`seeds/000`, NostrBridge), then `node`: all that a node
is and the first keys do not say, and in the root `graph`. Tags serve to find notes; only the content is read back.
The compiled program's hash leaves in every mode: it names what ran, and nobody guesses a whole program.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from swarmc.contracts.canonical import Contract, content_id
from swarmc.contracts.graphs import Graph, Node
from swarmc.contracts.manifest import CompiledModuleManifest
from swarmc.contracts.relay import Filter, NostrEvent, Reference, Tags, UnsignedNote
from swarmc.tracing.privacy import Redactor

TRACE_KIND = 78
"""NIP-78's kind for an application's own data: no client shows it in a feed. The trace contract's is 1."""

MAX_CONTENT_BYTES = 48_000
"""Public relays refuse events over 64 KiB."""

MAX_TAG_CHARS = 256
_NODE_WORDS = ("root", "predict", "map", "operator")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_CUTS_BYTES = (4096, 512, 80)


class Telling(Contract):
    """How notes are told.

    Attributes:
        created_at: Unix time in seconds, the same for all notes of a graph.
        kind: Of every note.
        default_tags: Added to every node's note.
    """

    created_at: int
    kind: int = TRACE_KIND
    default_tags: Tags = ()


class TooLarge(ValueError):
    """A node that fits in no event, even with its values cut."""


def graph_to_notes(
    graph: Graph, manifest: CompiledModuleManifest | None, policy: Redactor, telling: Telling
) -> tuple[UnsignedNote, ...]:
    """One note for each node, in the graph's order, with what `policy` lets out and nothing else.

    Values over `MAX_CONTENT_BYTES` in all become ``{"$cut": ["sha256:...", bytes]}``, the largest first. The
    hash there is of what the policy lets out.

    Args:
        graph: Its nodes' ids are their places, from 1, and parents come before children.
        manifest: Of the compiled program that ran, if one is known.
        policy: What may leave.
        telling: Kind, time and further tags.

    Raises:
        TooLarge: a node fits in no event.
        ValueError: the nodes' ids are not their places, or a parent does not come first.
    """
    _check(graph)
    shown = policy.graph(graph)
    compiled = None if manifest is None else manifest.compiled_id
    default_tags = tuple(tuple(policy.name(word) for word in tag) for tag in telling.default_tags)
    notes = []
    for node in shown.nodes:
        tags = (*_node_tags(node, compiled), *default_tags, ("t", _tag(shown.run_id)))
        parents = tuple(Reference(note=parent - 1, marker="parent") for parent in node.parents)
        root = () if node.id == 1 else (Reference(note=0, marker="root"),)
        notes.append(
            UnsignedNote(
                kind=telling.kind,
                created_at=telling.created_at,
                tags=tags,
                content=_content(shown, node, compiled),
                references=root + parents,
            )
        )
    return tuple(notes)


def summary_note(
    graph: Graph, manifest: CompiledModuleManifest | None, policy: Redactor, telling: Telling
) -> UnsignedNote:
    """The sums over a graph, as a note to be signed after those of `graph_to_notes`, whose first it refers to.

    Tokens and price count failed nodes too: they were paid for.
    """
    shown = policy.graph(graph)
    usages = [node.usage for node in shown.nodes]
    content: dict[str, JsonValue] = {
        "node_count": len(shown.nodes),
        "predict_count": sum(node.kind == "predict" for node in shown.nodes),
        "operator_count": sum(node.kind == "operator" for node in shown.nodes),
        "total_tokens": sum(usage.total_tokens for usage in usages),
        "total_cost_msats": sum(usage.cost_msats for usage in usages),
    }
    compiled = None if manifest is None else manifest.compiled_id
    if compiled:
        content["compiled_id"] = compiled
    if manifest is not None:
        content["signature_name"] = policy.name(manifest.signature_name)
    content |= _graph_fields(shown) | {
        "failed_count": sum(node.failure is not None for node in shown.nodes),
        "estimated": any(usage.estimated for usage in usages),
        "simulated": any(usage.simulated for usage in usages),
        "started_ns": min(node.started_ns for node in shown.nodes),
        "ended_ns": max(node.ended_ns for node in shown.nodes),
    }
    tags = (("dsrs", "trace_summary"), *((("compiled_id", compiled),) if compiled else ()), ("t", _tag(shown.run_id)))
    return UnsignedNote(
        kind=telling.kind,
        created_at=telling.created_at,
        tags=tags,
        content=_json(content),
        references=(Reference(note=0, marker="root"),),
    )


def notes_of_run(run_id: str, policy: Redactor, kind: int = TRACE_KIND) -> Filter:
    """What to ask relays for to read a run's notes back: under the strictest mode its id went out as a hash."""
    return Filter(kinds=(kind,), tags={"t": (_tag(policy.name(run_id)),)})


def notes_to_graph(notes: Iterable[NostrEvent]) -> Graph:
    """The graph that verified notes tell, in whatever order and how often they came.

    Raises:
        ValueError: they are no graph, or more than one, or a part is missing; it names the part.
    """
    graphs = notes_to_graphs(notes)
    if len(graphs) != 1:
        raise ValueError(f"these notes tell {len(graphs)} graphs, not one; `notes_to_graphs` reads them all")
    return graphs[0]


def notes_to_graphs(notes: Iterable[NostrEvent]) -> tuple[Graph, ...]:
    """Every graph among verified notes, by the time of their roots. Notes of others than a root's author,
    and notes that tell of no node, are passed over.

    Raises:
        ValueError: a graph is not whole, or what a note says is no node; it names the note.
    """
    distinct = {note.id: note for note in notes if _word(note) in _NODE_WORDS}
    roots = {note.id: note for note in distinct.values() if _word(note) == "root" and not _marked(note, "root")}
    members: dict[str, list[NostrEvent]] = defaultdict(list)
    for note in distinct.values():
        for root_id in _marked(note, "root")[:1]:
            if root_id in roots and roots[root_id].pubkey == note.pubkey:
                members[root_id].append(note)
    graphs = {root.id: _graph(root, members[root.id]) for root in roots.values()}
    return tuple(graphs[root_id] for root_id in sorted(graphs, key=lambda one: (graphs[one].root.started_ns, one)))


class _Told(NamedTuple):
    """What one note says of its node. `fields` lack the parents, which are events."""

    place: int
    note: NostrEvent
    fields: dict[str, JsonValue]
    graph: dict[str, JsonValue]


def _check(graph: Graph) -> None:
    for place, node in enumerate(graph.nodes, 1):
        if node.id != place:
            raise ValueError(f"node {node.id} stands at place {place} of its graph; a node's id is its place")
        if any(parent >= place for parent in node.parents):
            raise ValueError(f"node {node.id} has parents {node.parents}; a parent comes before its children")
    if not graph.nodes or graph.root.kind != "root":
        raise ValueError("a graph begins with its root")


def _node_tags(node: Node, compiled: str | None) -> Tags:
    kind = ("dsrs", node.kind)
    ids = (("compiled_id", compiled),) if compiled else ()
    match node.kind:
        case "predict":
            return (kind, ("signature", _tag(_signature_name(node))), *ids)
        case "operator":
            return (kind, ("operator", _tag(node.name)))
        case _:
            return (kind, *ids)


def _content(graph: Graph, node: Node, compiled: str | None) -> str:
    """The node's JSON, its largest values cut until it fits in an event."""
    whole = _json(_told(graph, node, compiled))
    for limit_bytes in _CUTS_BYTES:
        if len(whole.encode()) <= MAX_CONTENT_BYTES:
            return whole
        node = node.model_copy(
            update={
                "inputs": _cut(node.inputs, limit_bytes),
                "outputs": None if node.outputs is None else _cut(node.outputs, limit_bytes),
                "failure": node.failure and _short(node.failure, limit_bytes),
            }
        )
        whole = _json(_told(graph, node, compiled))
    if len(whole.encode()) > MAX_CONTENT_BYTES:
        raise TooLarge(f"node {node.id} has {len(whole.encode())} bytes without its values; an event holds 48,000")
    return whole


def _told(graph: Graph, node: Node, compiled: str | None) -> dict[str, JsonValue]:
    operator = node.kind == "operator"
    told: dict[str, JsonValue] = {"node_id": node.id}
    told["operator_name" if operator else "signature_name"] = node.name if operator else _signature_name(node)
    if compiled:
        told["compiled_id"] = compiled
    told["has_output"] = node.outputs is not None
    if node.calls and not operator:
        used = node.usage
        told["token_usage"] = {
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "total_tokens": used.total_tokens,
            "cost_msats": used.cost_msats,
        }
    told["node"] = node.model_dump(mode="json", exclude={"id", "parents"})
    if node.id == 1:
        told["graph"] = _graph_fields(graph) | {"nodes": len(graph.nodes)}
    return told


def _graph_fields(graph: Graph) -> dict[str, JsonValue]:
    return graph.model_dump(mode="json", exclude={"nodes"})


def _signature_name(node: Node) -> str:
    return node.signature if node.signature is not None else node.name


def _cut(fields: dict[str, JsonValue], limit_bytes: int) -> dict[str, JsonValue]:
    kept: dict[str, JsonValue] = {}
    for name, value in fields.items():
        data = _json(value).encode()
        kept[name] = value if len(data) <= limit_bytes else {"$cut": [content_id(data), len(data)]}
    return kept


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _tag(word: str) -> str:
    return _HALF_CHARACTER.sub("?", word[:MAX_TAG_CHARS])


def _json(value: JsonValue) -> str:
    # Half a character cannot be written in UTF-8; JSON's own escape can carry it within a text.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _HALF_CHARACTER.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def _word(note: NostrEvent) -> str:
    words = note.values("dsrs")
    return words[0] if words else ""


def _marked(note: NostrEvent, marker: str) -> list[str]:
    return [tag[1] for tag in note.tags if len(tag) >= 4 and tag[0] == "e" and tag[3] == marker]


def _graph(root: NostrEvent, others: Sequence[NostrEvent]) -> Graph:
    told = sorted((_read(note) for note in (root, *others)), key=lambda one: one.place)
    fields = dict(_read(root).graph)
    count = fields.pop("nodes", None)
    places = [one.place for one in told]
    if places != list(range(1, len(told) + 1)) or count != len(told):
        missing = sorted(set(range(1, count + 1 if isinstance(count, int) else 1)) - set(places))[:10]
        raise ValueError(f"the graph of root {root.id} is not whole: {count} nodes, here {len(told)}, not {missing}")
    by_id = {one.note.id: one.place for one in told}
    nodes: list[JsonValue] = [{**one.fields, "id": one.place, "parents": _parents(one, by_id)} for one in told]
    graph = _checked({**fields, "nodes": nodes}, root)
    _check(graph)
    return graph


def _parents(one: _Told, by_id: dict[str, int]) -> list[JsonValue]:
    found: list[JsonValue] = []
    for parent in _marked(one.note, "parent"):
        if parent not in by_id:
            raise ValueError(f"note {one.note.id} has parent {parent}, which is no note of its graph")
        found.append(by_id[parent])
    return found


def _read(note: NostrEvent) -> _Told:
    try:
        content = json.loads(note.content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the content of note {note.id} is no JSON: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise ValueError(f"the content of note {note.id} is no JSON object")
    place, fields, graph = content.get("node_id"), content.get("node"), content.get("graph", {})
    if type(place) is not int or not isinstance(fields, dict) or not isinstance(graph, dict):
        raise ValueError(f"note {note.id} tells of no node: it lacks `node_id` or `node`")
    return _Told(place, note, fields, graph)


def _checked(fields: dict[str, JsonValue], root: NostrEvent) -> Graph:
    try:
        return Graph.model_validate(fields)
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"the notes of root {root.id} are no graph: {first}") from error
