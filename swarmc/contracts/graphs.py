"""Why it worked, as data: the graph of a program run, and the spans that OpenTelemetry shows of it.

Names of spans and attributes are those of the trace contract (`seeds/000`); what the ancestor left
out (all parents, true times, errors, the model, the real signature) is here.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from swarmc.contracts.canonical import Contract, Ppm
from swarmc.contracts.completions import Lane, Stage, Usage

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""A span's id: 8 bytes, never all zero."""

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""A trace's id: 16 bytes, never all zero."""

NodeKind = Literal["root", "predict", "map", "operator"]


class Retry(Contract):
    """One attempt of a completion that failed before another was made, or at last."""

    at_ns: int
    code: str
    message: str


class LMCall(Contract):
    """One completion that a predictor asked for.

    Attributes:
        request_id: Hash of the request; the ledger and a bundle hold its words.
        model: As the venue names it.
        venue: Who answered.
        source: Bought now, or read from what was bought before.
        started_ns: Unix time in nanoseconds.
        retries: Attempts that failed.
        failure: Why there is no answer; nothing when there is one.
    """

    request_id: str
    lane: Lane
    model: str
    venue: str = ""
    source: Literal["bought", "replayed"] = "bought"
    usage: Usage = Usage()
    started_ns: int
    ended_ns: int
    retries: tuple[Retry, ...] = ()
    failure: str | None = None


class Origin(Contract):
    """Where a value came from: a node's output field (of a root: an input field)."""

    node: int
    field: str


class Node(Contract):
    """One step of a program run.

    Attributes:
        id: Its place in the graph, from 1: 0 would be no valid span id.
        kind: `root`: the program run, its inputs the example; `predict`: one predictor call; `operator`: a tool, an
            adapter step or a module that is no predictor; `map`: how outputs of earlier nodes became inputs.
        name: The predictor's name in its program, the tool's or module's name; of a root the program's.
        module: The Python class, e.g. `ChainOfThought`.
        signature: The signature's name, or its fields where it has none.
        parents: Every node that it needs: those its inputs come from, then the one that called it.
        inputs: By field, as `canonical.plain` data.
        outputs: The same; nothing when it failed or is still running.
        mapping: Of a map: the input field of its child, and where its value came from.
        calls: Completions that it asked for, in order.
        failure: Why it failed, in one line.
        started_ns: Unix time in nanoseconds.
    """

    id: int = Field(ge=1)
    kind: NodeKind
    name: str
    module: str = ""
    signature: str | None = None
    parents: tuple[int, ...] = ()
    inputs: dict[str, JsonValue] = Field(default={})
    outputs: dict[str, JsonValue] | None = None
    mapping: dict[str, Origin] = Field(default={})
    calls: tuple[LMCall, ...] = ()
    failure: str | None = None
    started_ns: int
    ended_ns: int

    @property
    def usage(self) -> Usage:
        """What its completions used in all."""
        used = [call.usage for call in self.calls]
        return Usage(
            prompt_tokens=sum(one.prompt_tokens for one in used),
            completion_tokens=sum(one.completion_tokens for one in used),
            cost_msats=sum(one.cost_msats for one in used),
            estimated=any(one.estimated for one in used),
            simulated=any(one.simulated for one in used),
        )


class Graph(Contract):
    """One program run: its nodes in the order in which they began, parents before children.

    Attributes:
        run_id: The compile or session that it belongs to.
        stage: The part of a compile.
        candidate_id: The text that the program wore, when a compile ran it.
        example_id: The example, when there was one.
        score_ppm: What the metric said, when one was asked.
    """

    run_id: str
    nodes: tuple[Node, ...]
    stage: Stage = "other"
    candidate_id: str | None = None
    example_id: str | None = None
    rollout_id: int = 0
    score_ppm: Ppm | None = None

    @property
    def root(self) -> Node:
        return self.nodes[0]


SpanKind = Literal["INTERNAL", "CLIENT", "PRODUCER", "SERVER", "CONSUMER"]


class SpanStatus(Contract):
    """`OK`, `ERROR` with a message, or `UNSET` while it is not known."""

    code: Literal["UNSET", "OK", "ERROR"] = "UNSET"
    message: str = ""


class SpanEvent(Contract):
    """Something that happened within a span."""

    name: str
    time_unix_nano: int
    attributes: dict[str, JsonValue] = Field(default={})


class SpanLink(Contract):
    """A further parent."""

    trace_id: Hex32
    span_id: Hex16


class TraceSpan(Contract):
    """One span, OpenTelemetry-compatible. `CLIENT` for LM calls, `SERVER` for sandbox runs, `INTERNAL` else."""

    trace_id: Hex32
    span_id: Hex16
    parent_span_id: Hex16 | None = None
    name: str
    kind: SpanKind
    start_time_unix_nano: int
    end_time_unix_nano: int
    attributes: dict[str, JsonValue] = Field(default={})
    status: SpanStatus = SpanStatus()
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()


class TraceSummary(Contract):
    """Sums over spans. `predict_count` counts predictor spans; tokens and cost are those of the LM calls."""

    span_count: int
    predict_count: int
    total_tokens: int
    total_cost_msats: int
