"""Progress: a fold of the event stream into the few numbers that a person watches."""

from dataclasses import dataclass, field

from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Stage
from swarmc.contracts.events import CallEnded, CallFailed, Event, Note, StageEnded, StageStarted, TrialScored

SHARES: dict[Stage, int] = {"load": 1, "bootstrap": 9, "propose": 5, "search": 65, "validate": 18, "record": 2}
"""Rough shares of a compile's length, in percent."""


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
class Progress:
    """A whole run, folded event by event with `add`."""

    stages: dict[Stage, StageProgress] = field(default_factory=dict)
    current: Stage | None = None
    best_ppm: int | None = None
    spent_msats: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Fold one event in."""
        match event:
            case StageStarted():
                self.stages[event.stage] = StageProgress(planned=event.calls_planned)
                self.current = event.stage
            case StageEnded():
                self._stage(event.stage).ended = event.ended
                self._stage(event.stage).note = event.note
            case CallEnded():
                self._count(event)
            case CallFailed():
                self._stage(event.stage).failed += 1
            case TrialScored():
                self._stage(event.stage).trials += 1
                self.best_ppm = event.best_ppm
            case Note():
                self.notes.append(event.text)

    @property
    def percent(self) -> float:
        """The run as a whole, 0 to 100."""
        done = sum(share * self.stages[stage].fraction for stage, share in SHARES.items() if stage in self.stages)
        return 100 * done / sum(SHARES.values())

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

    def _stage(self, stage: Stage) -> StageProgress:
        return self.stages.setdefault(stage, StageProgress())

    def _count(self, event: CallEnded) -> None:
        stage = self._stage(event.stage)
        if event.source == "bought":
            stage.bought += 1
            stage.msats += event.usage.cost_msats
            self.spent_msats += event.usage.cost_msats
        else:
            stage.replayed += 1
