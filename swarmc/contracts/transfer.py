"""Transfer: whether the cheap lane's scores say what the better lane's do, and how that one went on with a search."""

from typing import Literal

from pydantic import Field

from swarmc.contracts.candidates import Candidate, Score, SearchResult
from swarmc.contracts.canonical import Contract
from swarmc.contracts.completions import Lane


class TransferSpec(Contract):
    """How a search finds out whether its cheap lane predicts the better one, and how far the better one goes on."""

    examples: int = Field(default=16, ge=0, le=200, description="Search examples that both lanes answer; 0: no test")
    texts: int = Field(default=6, ge=2, le=32, description="Candidates that both lanes run, the program's own first")
    against: Literal["validation", "premium"] = Field(default="validation", description="The lane to be predicted")
    climb_percent: int = Field(
        default=10,
        ge=0,
        le=100,
        description="After the search its best candidates race on in the validation lane, with so many percent of its "
        "program runs; 0: its finalists are validated at once",
    )

    @property
    def cells(self) -> int:
        """Program runs in each of the lanes."""
        return self.examples * self.texts


class Transfer(Contract):
    """What a test showed.

    Attributes:
        against: The lane to be predicted; the other is `swarm`.
        texts: Candidates that were run.
        examples: Examples that they were run on.
        correlation: Before the search, of the two lanes' scores over all runs; after it, over texts, of what the
            search had learned and of the better lane's mean scores. Nothing where one of them never varied.
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

    @property
    def moves(self) -> bool:
        """The search leaves the cheap lane."""
        return self.lane != "swarm"


class Climb(Contract):
    """How the better lane went on where the cheap one's search had ended.

    Attributes:
        test: Whether it bore out what the search had learned; nothing where the climb is too small to ask.
        result: How the race in the better lane went.
    """

    test: Transfer | None = None
    result: SearchResult

    @property
    def whole(self) -> bool:
        """It was not borne out, and the better lane was searched from the start."""
        return self.test is not None and self.test.moves


def how_ended(searched: SearchResult, climbed: Climb | None) -> Literal["completed", "budget"]:
    """As planned, in both lanes, or because a budget ran out in one of them."""
    return searched.ended if climbed is None or searched.ended == "budget" else climbed.result.ended


def proxy_score(winner: Candidate, searched: SearchResult, climbed: Climb | None) -> Score | None:
    """The winner's score in the search: in the cheap lane if it ran there, else in the better one."""
    found = searched.score_of(winner)
    return climbed.result.score_of(winner) if found is None and climbed is not None else found
