"""Redundancy: how often an answer is asked for, what the runs of one example came to, and who said otherwise."""

from typing import Literal, Self

from pydantic import Field, model_validator

from swarmc.contracts.canonical import ContentId, Contract, Ppm

MOST_RUNS = 32


class Redundancy(Contract):
    """How the validation lane is believed: `agree` of `of` runs must say the same.

    The runs of an example are made one after the other, each another sample, until it is decided or cannot be.
    """

    agree: int = Field(default=3, ge=1, le=MOST_RUNS, description="So many runs of an example must say the same")
    of: int = Field(default=5, ge=1, le=MOST_RUNS, description="Most runs of an example")
    by: Literal["answer", "metric", "judge"] = Field(
        default="answer",
        description="What is the same: `answer`, the fields' text but for case and white space; `metric`, the score; "
        "`judge`, what a model in the `judge` lane says is the same",
    )
    fields: tuple[str, ...] = Field(
        default=(), description="Outputs that are compared; empty: the labels, or all but the reasoning without any"
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.agree > self.of:
            raise ValueError(f"{self.agree} of {self.of} runs cannot agree; let `of` be {self.agree} or more")
        return self

    @property
    def comparisons(self) -> int:
        """Completions of the judge's lane that the runs of one example take at most."""
        return self.of * (self.of - 1) // 2 if self.by == "judge" else 0

    def __str__(self) -> str:
        return f"{self.agree} of {self.of} by {self.by}"


class Vote(Contract):
    """One run: the camp of equal answers that it belongs to, its score, and who gave its completions."""

    camp: int = Field(ge=0)
    score_ppm: Ppm
    voices: tuple[str, ...] = ()


class Group(Contract):
    """The runs of one candidate on one example, in their order.

    Attributes:
        camp: The camp that stands: the one that was agreed on, else the largest, of equals the first.
    """

    candidate_id: ContentId
    example_id: ContentId
    votes: tuple[Vote, ...] = Field(min_length=1)
    camp: int = Field(ge=0)
    decided: bool

    @property
    def agreeing(self) -> int:
        return sum(vote.camp == self.camp for vote in self.votes)

    @property
    def dissent(self) -> tuple[str, ...]:
        """Who gave the runs that said otherwise than what was agreed on; nobody where nothing was."""
        against = [vote for vote in self.votes if self.decided and vote.camp != self.camp]
        return tuple(dict.fromkeys(voice for vote in against for voice in vote.voices))


class Voice(Contract):
    """Who answered: in how many runs of decided groups, and in how many of these otherwise than was agreed on."""

    voice: str
    runs: int = Field(ge=0)
    dissents: int = Field(ge=0)


class Counts(Contract):
    """By what the answers on the test examples stand: agreement, the premium lane, or the largest camp alone."""

    decided: int = Field(default=0, ge=0)
    verified: int = Field(default=0, ge=0)
    unverified: int = Field(default=0, ge=0)

    def __str__(self) -> str:
        verified = f"{self.verified} verified by premium, " if self.verified else ""
        return f"{self.decided} decided by agreement, {verified}{self.unverified} unverified"


class Verification(Contract):
    """How far the scores of a validation are verified.

    Attributes:
        asked: What was asked of the lane.
        groups: Of every compared candidate on every test example.
        voices: Who answered, on validation and test examples, the most dissents first.
        verified: Test examples that no agreement decided for every candidate, and the premium lane for all of them.
    """

    asked: Redundancy
    groups: tuple[Group, ...] = ()
    voices: tuple[Voice, ...] = ()
    verified: tuple[ContentId, ...] = ()

    @property
    def undecided(self) -> tuple[str, ...]:
        """Test examples on which the runs of some candidate did not agree, in their order."""
        return tuple(dict.fromkeys(group.example_id for group in self.groups if not group.decided))

    @property
    def counts(self) -> Counts:
        """By example: it counts as decided when it is for every candidate that is compared."""
        every, undecided = {group.example_id for group in self.groups}, set(self.undecided)
        verified = undecided & set(self.verified)
        return Counts(decided=len(every - undecided), verified=len(verified), unverified=len(undecided - verified))

    @property
    def dissenters(self) -> tuple[Voice, ...]:
        return tuple(voice for voice in self.voices if voice.dissents)
