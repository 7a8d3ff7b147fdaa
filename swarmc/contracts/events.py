"""Everything that happens in a run: one union of small frozen events, told by one `emit`.

Screens, spans, reports and bundles are folds over this stream; none has a recorder of its own.
Validate an event of unknown kind with ``TypeAdapter(Event)``.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from swarmc.contracts.candidates import Candidate
from swarmc.contracts.canonical import Contract, Ppm
from swarmc.contracts.completions import Lane, Stage, Usage
from swarmc.contracts.graphs import Hex16
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.plan import Plan

NS_PER_MS = 1_000_000
"""Nanoseconds in a millisecond: events carry both, for people and for spans."""


class _Happened(Contract):
    run_id: str
    at_ms: int
    """Unix time in milliseconds."""


class RunOpened(_Happened):
    """A process took the run, under this budget. `recovered` reservations of dead processes were marked lost."""

    kind: Literal["run_opened"] = "run_opened"
    epoch: int
    recovered: int
    budget: BudgetPolicy | None = None


class PlanMade(_Happened):
    """What the stages will ask for. A later plan of the same run replaces an earlier one."""

    kind: Literal["plan_made"] = "plan_made"
    plan: Plan


class StageStarted(_Happened):
    """`calls_planned` is an upper bound of the completions the stage will ask for, bought or read."""

    kind: Literal["stage_started"] = "stage_started"
    stage: Stage
    calls_planned: int | None = None


class StageEnded(_Happened):
    """A stage is over: as planned, because a budget ran out (its best is kept), or with an error."""

    kind: Literal["stage_ended"] = "stage_ended"
    stage: Stage
    ended: Literal["completed", "budget", "failed"]
    note: str = ""


class CallEnded(_Happened):
    """A completion reached its asker. `source`: bought now, read from this run, or paid by an earlier run.

    `parent_id` is the predictor call that asked; `started_ns` and `ended_ns` are Unix nanoseconds.
    """

    kind: Literal["call_ended"] = "call_ended"
    stage: Stage
    lane: Lane
    request_id: str
    source: Literal["bought", "replayed"]
    usage: Usage
    latency_ms: int
    parent_id: Hex16 | None = None
    model: str = ""
    venue: str = ""
    started_ns: int = 0
    ended_ns: int = 0


class CallFailed(_Happened):
    """One attempt failed. It may be tried again."""

    kind: Literal["call_failed"] = "call_failed"
    stage: Stage
    lane: Lane
    request_id: str
    code: str
    message: str
    parent_id: Hex16 | None = None
    at_ns: int = 0


class TrialScored(_Happened):
    """A candidate was scored on search examples. `best_ppm` is the best mean so far in the search."""

    kind: Literal["trial_scored"] = "trial_scored"
    stage: Stage
    trial: int
    candidate_id: str
    score_ppm: Ppm
    count: int
    best_ppm: Ppm


class _Step(_Happened):
    """A part of a program run.

    Attributes:
        call_id: 16 hex digits, unique within the run; also its span's id.
        parent_id: The part that called it.
        at_ns: Unix time in nanoseconds.
    """

    call_id: Hex16
    parent_id: Hex16 | None = None
    at_ns: int


class ProgramStarted(_Step):
    """A program began to run on an example or on a user's inputs."""

    kind: Literal["program_started"] = "program_started"
    stage: Stage
    program: str
    candidate_id: str | None = None
    example_id: str | None = None
    rollout_id: int = 0
    inputs: dict[str, JsonValue]


class ProgramEnded(_Step):
    """It ended: with outputs and maybe a score, or with a failure of the program, the model or the metric."""

    kind: Literal["program_ended"] = "program_ended"
    outputs: dict[str, JsonValue] | None = None
    score_ppm: Ppm | None = None
    failure: str | None = None


class ModuleStarted(_Step):
    """A predictor or another module of the program was called.

    `origins` names, by input field, the call (and its output field, or the program's input field) that
    made the value.
    """

    kind: Literal["module_started"] = "module_started"
    name: str
    module: str
    signature: str | None = None
    inputs: dict[str, JsonValue]
    origins: dict[str, tuple[Hex16, str]] = Field(default={})


class ModuleEnded(_Step):
    """It gave its outputs, or failed."""

    kind: Literal["module_ended"] = "module_ended"
    outputs: dict[str, JsonValue] | None = None
    failure: str | None = None


class ToolStarted(_Step):
    """A program called a tool."""

    kind: Literal["tool_started"] = "tool_started"
    tool: str
    inputs: dict[str, JsonValue]


class ToolEnded(_Step):
    """It gave a result, or failed."""

    kind: Literal["tool_ended"] = "tool_ended"
    output: JsonValue = None
    failure: str | None = None


class AdapterEnded(_Step):
    """A prompt was written or an answer read; it began at `at_ns`."""

    kind: Literal["adapter_ended"] = "adapter_ended"
    adapter: str
    phase: Literal["format", "parse"]
    ended_ns: int
    failure: str | None = None


class CandidateEntered(_Happened):
    """An optimizer lets a candidate in. `parents` are those that it was made from."""

    kind: Literal["candidate_entered"] = "candidate_entered"
    candidate: Candidate
    candidate_id: str
    parents: tuple[str, ...] = ()


class Paid(_Happened):
    """Money moved: a payment to a provider, or what one was paid. `state` is what is known of it."""

    kind: Literal["paid"] = "paid"
    lane: Lane
    msats: int
    to: str
    state: Literal["settled", "unknown", "failed"]
    simulated: bool


class Verified(_Happened):
    """Something was checked: a comparison, a signature, a redundancy group."""

    kind: Literal["verified"] = "verified"
    what: str
    holds: bool
    detail: str = ""


class Note(_Happened):
    """A sentence for people."""

    kind: Literal["note"] = "note"
    level: Literal["info", "warning"] = "info"
    text: str


Event = Annotated[
    RunOpened
    | PlanMade
    | StageStarted
    | StageEnded
    | CallEnded
    | CallFailed
    | TrialScored
    | CandidateEntered
    | ProgramStarted
    | ProgramEnded
    | ModuleStarted
    | ModuleEnded
    | ToolStarted
    | ToolEnded
    | AdapterEnded
    | Paid
    | Verified
    | Note,
    Field(discriminator="kind"),
]
Emit = Callable[[Event], None]
"""How a room tells what happened. Never blocks, never raises."""
