"""The ids of traces and spans: derived, so that whoever folds the same run finds the same ids."""

import hashlib
import re

from swarmc.contracts.graphs import Graph, Hex16, Hex32

NO_TRACE = "0" * 32
NO_SPAN = "0" * 16

_TRACE = re.compile(r"[0-9a-f]{32}")


def trace_id_of(name: str) -> Hex32:
    """The trace of a run, or of a foreign trace id.

    A UUID and a valid trace id are their own 32 hex digits, so that a run is found by its id; anything
    else (`trace-123`) is hashed.

    >>> trace_id_of("0af76519-16cd-43dd-8448-eb211c80319c")
    '0af7651916cd43dd8448eb211c80319c'
    >>> trace_id_of("trace-123")
    'c58bf92b344214ed12f17f6553528556'
    """
    digits = name.replace("-", "").lower()
    if _TRACE.fullmatch(digits) and digits != NO_TRACE:
        return digits
    return _digest(f"swarmc.trace\0{name}", 32)


def span_id_of(*parts: str | int) -> Hex16:
    """A span's id from what names the span within all traces."""
    return _digest("\0".join(("swarmc.span", *map(str, parts))), 16)


def map_span_id(call_id: Hex16) -> Hex16:
    """Of the map before a predictor call."""
    return span_id_of("map", call_id)


def lm_span_id(node_span_id: Hex16, place: int) -> Hex16:
    """Of a predictor's completion, by its place among them from 0."""
    return span_id_of("lm", node_span_id, place)


def node_span_ids(graph: Graph) -> tuple[Hex16, ...]:
    """For a graph whose calls' own ids are not known: by what tells this program run from all others."""
    names = (graph.run_id, graph.stage, graph.candidate_id, graph.example_id, graph.rollout_id)
    run = span_id_of(*(str(name) for name in names), graph.root.name, graph.root.started_ns)
    return tuple(span_id_of("node", run, node.id) for node in graph.nodes)


def valid(span_id: str) -> bool:
    """Whether OpenTelemetry takes it; all zeros mean that there is no span."""
    return span_id != NO_SPAN


def _digest(text: str, digits: int) -> str:
    found = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
    return found if found.strip("0") else "1".rjust(digits, "0")
