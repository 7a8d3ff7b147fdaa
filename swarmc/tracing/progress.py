"""Progress: a fold of the event stream into the few numbers that a person watches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, ClassVar

from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Lane, Stage
from swarmc.contracts.events import (
    CallEnded,
    CallFailed,
    Event,
    ModuleEnded,
    ModuleStarted,
    Note,
    PlanMade,
    ProgramEnded,
    ProgramStarted,
    RunOpened,
    StageEnded,
    StageStarted,
    TrialScored,
)
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.plan import Plan

SHARES: dict[Stage, int] = {
    "load": 1,
    "bootstrap": 9,
    "propose": 5,
    "search": 65,
    "climb": 12,
    "validate": 18,
    "record": 2,
}
"""Rough shares of a compile's length; without a climb, in percent."""

MOST_CANDIDATES = 100
"""Of the leaderboard. Every telling of a candidate is whole, so one that fell off comes back as it is."""
MOST_NOTES = 50
WINDOW_S = 10
"""Over which calls in flight are averaged."""
Z_95 = 1.959963984540054


@dataclass
class StageProgress:
    """One stage: completions it asked for, and the most it plans to ask for."""

    planned: int | None = None
    bought: int = 0
    replayed: int = 0
    failed: int = 0
    msats: int = 0
    trials: int = 0
    ended: str = ""
    note: str = ""

    @property
    def calls(self) -> int:
        """Completions so far, bought or read."""
        return self.bought + self.replayed

    @property
    def fraction(self) -> float:
        """How far it is, 0 to 1."""
        if self.ended:
            return 1.0
        return min(self.calls / self.planned, 0.99) if self.planned else 0.0


@dataclass
class LaneProgress:
    """One lane: what was bought in it, read from the ledger, and refused or broken."""

    bought: int = 0
    replayed: int = 0
    failed: int = 0
    msats: int = 0
    _busy_ms: dict[int, int] = field(default_factory=dict)
    """By Unix second, how long the calls that ended in it had taken."""

    def add(self, event: CallEnded) -> None:
        """Count a completion."""
        if event.source == "replayed":
            self.replayed += 1
            return
        self.bought += 1
        self.msats += event.usage.cost_msats
        second = event.at_ms // 1000
        self._busy_ms[second] = self._busy_ms.get(second, 0) + event.latency_ms
        if len(self._busy_ms) > WINDOW_S:
            oldest = max(self._busy_ms) - WINDOW_S
            self._busy_ms = {second: busy_ms for second, busy_ms in self._busy_ms.items() if second > oldest}

    def in_flight(self, now_ms: int) -> float:
        """Calls that the venue had at once, averaged over the last `WINDOW_S` seconds.

        The events tell of calls when they end, so this is their time added up over the window (Little's
        law): right for a steady stream of calls, late at its beginning and its end.
        """
        oldest = now_ms // 1000 - WINDOW_S
        recent = {second: busy_ms for second, busy_ms in self._busy_ms.items() if second >= oldest}
        if not recent:
            return 0.0
        window_ms = min(WINDOW_S * 1000, max(now_ms - 1000 * min(recent), 1000))
        return sum(recent.values()) / window_ms


@dataclass(frozen=True, slots=True)
class CandidateProgress:
    """A candidate's mean over the `count` program runs that it had so far, with Wilson's 95 % interval."""

    candidate_id: str
    score_ppm: int
    count: int
    low_ppm: int
    high_ppm: int

    @property
    def rank(self) -> tuple[int, int, str]:
        """Sorts candidates by what may be claimed of them: few lucky runs do not lead."""
        return self.low_ppm, self.score_ppm, self.candidate_id

    def __str__(self) -> str:
        interval = f"[{self.low_ppm / PPM:.3f}, {self.high_ppm / PPM:.3f}]"
        return f"{self.score_ppm / PPM:.3f} {interval} (n={self.count})"


@dataclass
class Progress:
    """A whole run, folded event by event with `add`. Takes bounded memory, whatever it is told.

    Attributes:
        stages: In the order in which they began.
        lanes: In the order of their first calls.
        budget: The run's, where it was told.
        runs_open: Program runs that have begun and not ended.
        calls_open: Predictor calls that have begun and not ended; each waits for at most one completion.
        best_ppm: The best mean of the search so far.
        recovered: Calls that were in flight when an earlier process of the run was killed.
        trouble: What the newest failed attempt said.
        started_ms: When the run was opened, in Unix milliseconds.
        last_ms: When the newest event happened.
    """

    run_id: str = ""
    epoch: int = 0
    stages: dict[Stage, StageProgress] = field(default_factory=dict)
    lanes: dict[Lane, LaneProgress] = field(default_factory=dict)
    current: Stage | None = None
    plan: Plan | None = None
    budget: BudgetPolicy | None = None
    runs_open: int = 0
    calls_open: int = 0
    best_ppm: int | None = None
    spent_msats: int = 0
    bought: int = 0
    notes: list[str] = field(default_factory=list)
    recovered: int = 0
    trouble: str = ""
    started_ms: int | None = None
    last_ms: int = 0
    _candidates: dict[str, CandidateProgress] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Fold one event in; takes about a microsecond."""
        self.last_ms = max(self.last_ms, event.at_ms)
        fold = self._FOLDS.get(type(event))
        if fold is not None:
            fold(self, event)

    @property
    def percent(self) -> float:
        """The run as a whole, 0 to 100."""
        shares = self.shares
        done = sum(share * self.fraction(stage) for stage, share in shares.items() if stage in self.stages)
        return 100 * done / sum(shares.values())

    @property
    def shares(self) -> dict[Stage, int]:
        """Of the stages that this run has: it climbs where it began to, or plans to."""
        climbs = "climb" in self.stages or self.planned_calls("climb")
        return {stage: share for stage, share in SHARES.items() if climbs or stage != "climb"}

    def fraction(self, stage: Stage) -> float:
        """How far a stage is, 0 to 1: by its own plan, or else by the run's."""
        progress = self.stages[stage]
        planned = progress.planned or (self.planned_calls(stage) if progress.planned is None else 0)
        if progress.ended or not planned:
            return progress.fraction
        return min(progress.calls / planned, 0.99)

    def planned_calls(self, stage: Stage) -> int:
        """At most, of a stage, by the run's plan."""
        return sum(one.calls_high for one in self.plan.stages if one.stage == stage) if self.plan else 0

    def in_flight(self, lane: Lane) -> float:
        """As `LaneProgress.in_flight`, at the newest event; nothing between the stages and after them."""
        if self.current is None or self.stages[self.current].ended:
            return 0.0
        return self.lanes[lane].in_flight(self.last_ms)

    @property
    def leaderboard(self) -> list[CandidateProgress]:
        """The search's candidates, best first by the lower end of their interval."""
        return sorted(self._candidates.values(), key=lambda one: one.rank, reverse=True)

    @property
    def leader(self) -> CandidateProgress | None:
        """The first of the leaderboard."""
        return max(self._candidates.values(), key=lambda one: one.rank, default=None)

    @property
    def elapsed_ms(self) -> int:
        """From the opening of the run to the newest event."""
        return 0 if self.started_ms is None else max(0, self.last_ms - self.started_ms)

    @property
    def sentence(self) -> str:
        """One line for people: stage, calls, best score."""
        if self.current is None:
            return "starting"
        stage = self.stages[self.current]
        if self.current == "record" and stage.ended == "completed":
            return (
                f"done: {sum(stage.calls for stage in self.stages.values()):,} calls, {self.spent_msats:,} msats spent"
            )
        parts = [f"{self.current}: {stage.calls:,} calls"]
        if stage.replayed:
            parts.append(f"{stage.replayed:,} of them already paid for")
        if stage.failed:
            parts.append(f"{stage.failed:,} attempts failed")
        if stage.trials:
            parts.append(f"trial {stage.trials}")
        if self.best_ppm is not None and self.current == "search":
            parts.append(f"best {self.best_ppm / PPM:.3f}")
        return ", ".join(parts)

    def _open(self, event: RunOpened) -> None:
        self.run_id, self.epoch, self.recovered = event.run_id, event.epoch, event.recovered
        self.started_ms = event.at_ms
        self.runs_open = self.calls_open = 0
        self.budget = event.budget or self.budget

    def _planned(self, event: PlanMade) -> None:
        self.plan = event.plan

    def _start(self, event: StageStarted) -> None:
        self.stages[event.stage] = StageProgress(planned=event.calls_planned)
        self.current = event.stage

    def _end(self, event: StageEnded) -> None:
        stage = self._stage(event.stage)
        stage.ended, stage.note = event.ended, event.note

    def _count(self, event: CallEnded) -> None:
        stage = self._stage(event.stage)
        self._lane(event.lane).add(event)
        if event.source == "bought":
            stage.bought += 1
            stage.msats += event.usage.cost_msats
            self.bought += 1
            self.spent_msats += event.usage.cost_msats
        else:
            stage.replayed += 1

    def _fail(self, event: CallFailed) -> None:
        self.trouble = event.message
        self._stage(event.stage).failed += 1
        self._lane(event.lane).failed += 1

    def _score(self, event: TrialScored) -> None:
        self._stage(event.stage).trials += 1
        self.best_ppm = event.best_ppm
        low, high = wilson(event.score_ppm, event.count)
        told = CandidateProgress(event.candidate_id, event.score_ppm, event.count, low, high)
        self._candidates[event.candidate_id] = told
        if len(self._candidates) >= 2 * MOST_CANDIDATES:
            self._candidates = {one.candidate_id: one for one in self.leaderboard[:MOST_CANDIDATES]}

    def _note(self, event: Note) -> None:
        self.notes.append(event.text)
        del self.notes[:-MOST_NOTES]

    # Of beginnings and ends that do not match (events may be lost) none is ever less than nothing.
    def _run_began(self, _: ProgramStarted) -> None:
        self.runs_open += 1

    def _run_ended(self, _: ProgramEnded) -> None:
        self.runs_open = max(0, self.runs_open - 1)

    def _call_began(self, _: ModuleStarted) -> None:
        self.calls_open += 1

    def _call_ended(self, _: ModuleEnded) -> None:
        self.calls_open = max(0, self.calls_open - 1)

    def _stage(self, stage: Stage) -> StageProgress:
        return self.stages.setdefault(stage, StageProgress())

    def _lane(self, lane: Lane) -> LaneProgress:
        return self.lanes.setdefault(lane, LaneProgress())

    _FOLDS: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        CallEnded: _count,
        CallFailed: _fail,
        ModuleEnded: _call_ended,
        ModuleStarted: _call_began,
        Note: _note,
        PlanMade: _planned,
        ProgramEnded: _run_ended,
        ProgramStarted: _run_began,
        RunOpened: _open,
        StageEnded: _end,
        StageStarted: _start,
        TrialScored: _score,
    }


def wilson(mean_ppm: int, count: int) -> tuple[int, int]:
    """Wilson's 95 % interval of a mean of `count` scores in 0..1; everything when there are none.

    >>> wilson(900_000, 10)
    (595850, 982124)
    """
    if count < 1:
        return 0, PPM
    mean = min(max(mean_ppm / PPM, 0.0), 1.0)
    spread = Z_95 * sqrt(mean * (1 - mean) / count + Z_95**2 / (4 * count * count))
    centre, scale = mean + Z_95**2 / (2 * count), 1 + Z_95**2 / count
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return round(PPM * max(low, 0.0)), round(PPM * min(high, 1.0))
