"""Transfer: whether the cheap lane's scores say what the better lane's do, tried early on a few examples."""

from typing import Literal

from pydantic import Field

from swarmc.contracts.candidates import Score
from swarmc.contracts.canonical import Contract
from swarmc.contracts.completions import Lane


class TransferSpec(Contract):
    """How a search finds out whether its cheap lane predicts the better one."""

    examples: int = Field(default=16, ge=0, le=200, description="Search examples that both lanes answer; 0: no test")
    texts: int = Field(default=6, ge=2, le=32, description="Candidates that both lanes run, the program's own first")
    against: Literal["validation", "premium"] = Field(default="validation", description="The lane to be predicted")

    @property
    def cells(self) -> int:
        """Program runs in each of the lanes."""
        return self.examples * self.texts


class Transfer(Contract):
    """What the test showed.

    Attributes:
        against: The lane to be predicted; the other is `swarm`.
        texts: Candidates that were run.
        examples: Examples that they were run on.
        correlation: Of the two lanes' scores over all runs; nothing where one of them never varied.
        order: Over pairs of candidates that both lanes tell apart on an example: the same order less the other one.
        lane: Where the search runs.
        reason: Why there.
    """

    against: Lane
    texts: int = Field(ge=0)
    examples: int = Field(ge=0)
    correlation: Score | None = None
    order: Score | None = None
    lane: Lane
    reason: str
