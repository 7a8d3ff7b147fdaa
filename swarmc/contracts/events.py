"""Everything that happens in a run: one union of small frozen events, told by one `emit`.

Screens, spans, reports and bundles are folds over this stream; none has a recorder of its own.
Validate an event of unknown kind with ``TypeAdapter(Event)``.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from swarmc.contracts.canonical import Contract, Ppm
from swarmc.contracts.completions import Lane, Stage, Usage


class _Happened(Contract):
    run_id: str
    at_ms: int
    """Unix time in milliseconds."""


class RunOpened(_Happened):
    """A process took the run. `recovered` reservations of dead processes were marked lost."""

    kind: Literal["run_opened"] = "run_opened"
    epoch: int
    recovered: int


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
    """A completion reached its asker. `source`: bought now, read from this run, or paid by an earlier run."""

    kind: Literal["call_ended"] = "call_ended"
    stage: Stage
    lane: Lane
    request_id: str
    source: Literal["bought", "replayed"]
    usage: Usage
    latency_ms: int


class CallFailed(_Happened):
    """One attempt failed. It may be tried again."""

    kind: Literal["call_failed"] = "call_failed"
    stage: Stage
    lane: Lane
    request_id: str
    code: str
    message: str


class TrialScored(_Happened):
    """A candidate was scored on search examples. `best_ppm` is the best mean so far in the search."""

    kind: Literal["trial_scored"] = "trial_scored"
    stage: Stage
    trial: int
    candidate_id: str
    score_ppm: Ppm
    count: int
    best_ppm: Ppm


class Note(_Happened):
    """A sentence for people."""

    kind: Literal["note"] = "note"
    level: Literal["info", "warning"] = "info"
    text: str


Event = Annotated[
    RunOpened | StageStarted | StageEnded | CallEnded | CallFailed | TrialScored | Note,
    Field(discriminator="kind"),
]
Emit = Callable[[Event], None]
"""How a room tells what happened. Never blocks, never raises."""
