"""The plan of a compile: what every stage will ask for, at least and at most, before anything is bought."""

from pydantic import Field

from swarmc.contracts.canonical import Contract
from swarmc.contracts.completions import Lane, Stage


class Demand(Contract):
    """What an optimizer asks for beside the search's program runs; upper bounds.

    Attributes:
        bootstrap_runs: Program runs that demonstrations are made from.
        proposals: Calls of the `propose` lane before the search.
        writings: Calls of the `propose` lane during the search.
    """

    bootstrap_runs: int = Field(default=0, ge=0)
    proposals: int = Field(default=0, ge=0)
    writings: int = Field(default=0, ge=0)


class StagePlan(Contract):
    """One stage in one lane: completions it will ask for and what they may cost, from `low` to `high`."""

    stage: Stage
    lane: Lane
    calls_low: int = Field(ge=0)
    calls_high: int = Field(ge=0)
    msats_low: int = Field(ge=0)
    msats_high: int = Field(ge=0)


class Plan(Contract):
    """All stages, and what had to be cut so that the budgets hold.

    Attributes:
        stages: In the order of the compile.
        runs: Program runs of the search.
        combinations: Candidates that the search may choose from.
        cut: One sentence for everything that is smaller than it was asked for.
    """

    stages: tuple[StagePlan, ...]
    runs: int
    combinations: int
    cut: tuple[str, ...] = ()

    @property
    def calls(self) -> tuple[int, int]:
        """Completions in all, from and to."""
        return sum(s.calls_low for s in self.stages), sum(s.calls_high for s in self.stages)

    @property
    def msats(self) -> tuple[int, int]:
        """Cost in all, from and to."""
        return sum(s.msats_low for s in self.stages), sum(s.msats_high for s in self.stages)
