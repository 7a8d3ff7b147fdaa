"""What is searched over, and what a try of it scored."""

from typing import Literal

from pydantic import Field, JsonValue

from swarmc.contracts.canonical import PPM, ContentId, Contract, Ppm


class Demo(Contract):
    """One demonstration: field values as `canonical.plain` data.

    `augmented` marks one that a program run made (it has every output field of its predictor).
    """

    fields: dict[str, JsonValue]
    augmented: bool = False


class PredictorChoice(Contract):
    """One predictor's text: its instruction and its demonstrations, in order."""

    instruction: str
    demos: tuple[Demo, ...] = ()


class Candidate(Contract):
    """A whole program's text, by predictor name. Its `content_id` is its identity."""

    predictors: dict[str, PredictorChoice]


class Score(Contract):
    """A mean with its count and its 95 % interval, in parts per million. `method` names the interval."""

    mean_ppm: int = Field(ge=-PPM, le=PPM)
    count: int = Field(ge=1)
    low_ppm: int = Field(ge=-PPM, le=PPM)
    high_ppm: int = Field(ge=-PPM, le=PPM)
    method: str

    @property
    def mean(self) -> float:
        return self.mean_ppm / PPM

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low_ppm / PPM:.3f}, {self.high_ppm / PPM:.3f}] (n={self.count})"


class Outcome(Contract):
    """One example's result under one candidate: a score, or 0 with the reason it failed."""

    example_id: ContentId
    score_ppm: Ppm
    failure: str | None = None


class Evaluation(Contract):
    """A candidate on a list of examples, in the examples' order."""

    candidate_id: ContentId
    outcomes: tuple[Outcome, ...]
    score: Score


class DatasetRef(Contract):
    """Which examples: `dataset_id` is the hash of their canonical bytes in order, `example_ids` of each."""

    name: Literal["train", "search", "validation", "test"]
    dataset_id: ContentId
    example_ids: tuple[ContentId, ...]

    @property
    def count(self) -> int:
        return len(self.example_ids)


class PredictorInfo(Contract):
    """A predictor as an optimizer sees it: its own instruction and its fields' names."""

    instruction: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Demonstration(Contract):
    """A whole program run on one example: its score, and one demonstration per predictor call."""

    example_id: ContentId
    score_ppm: Ppm
    demos: dict[str, Demo]


class Attempt(Contract):
    """A program run with what a reflection on it needs.

    Attributes:
        example_id: The example.
        score_ppm: Its score.
        feedback: What the metric said, or why the run failed; empty when neither said anything.
        expected: The example's labels.
        steps: What each predictor was asked and answered (its last call).
    """

    example_id: ContentId
    score_ppm: Ppm
    feedback: str
    expected: dict[str, JsonValue]
    steps: dict[str, Demo]


class Pools(Contract):
    """What a search chooses from, by predictor: instructions and demonstration sets.

    The first of each is the program's own, so that choosing all firsts is the uncompiled program.
    """

    instructions: dict[str, tuple[str, ...]]
    demo_sets: dict[str, tuple[tuple[Demo, ...], ...]]

    def candidate(self, choice: dict[str, tuple[int, int]]) -> Candidate:
        """The candidate that takes, for each predictor, the instruction and the demonstration set of these indices."""
        return Candidate(
            predictors={
                name: PredictorChoice(instruction=self.instructions[name][i], demos=self.demo_sets[name][d])
                for name, (i, d) in choice.items()
            }
        )

    @property
    def baseline(self) -> Candidate:
        return self.candidate(dict.fromkeys(self.instructions, (0, 0)))


class Trial(Contract):
    """One try of the search. `choice` holds the pool indices by predictor: (instruction, demonstration set)."""

    number: int
    choice: dict[str, tuple[int, int]]
    candidate_id: ContentId
    score: Score


class SearchResult(Contract):
    """How a search went. `finalists` are distinct, best first, each with its score on the search examples it met."""

    trials: tuple[Trial, ...]
    finalists: tuple[tuple[Candidate, Score], ...]
    ended: Literal["completed", "budget"]


class Comparison(Contract):
    """Winner against baseline on examples that no choice has seen."""

    winner: Evaluation
    baseline: Evaluation
    improvement: Score

    @property
    def verdict(self) -> str:
        """What may be claimed, in words."""
        if self.improvement.low_ppm > 0:
            return "better"
        return "worse" if self.improvement.high_ppm < 0 else "no difference shown"


class Validation(Contract):
    """The choice among the finalists, and what it is worth.

    Attributes:
        finalists: Each with its score on the validation examples, best first.
        winner: The first of them; the baseline when there is none.
        comparison: Winner against baseline on test examples; `None` when the budget ran out before.
    """

    finalists: tuple[tuple[Candidate, Score], ...]
    winner: Candidate
    comparison: Comparison | None
    ended: Literal["completed", "budget"]
