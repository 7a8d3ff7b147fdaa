"""What is searched over, and what a try of it scored."""

from functools import cached_property
from typing import Literal

from pydantic import Field, JsonValue

from swarmc.contracts.canonical import PPM, ContentId, Contract, Ppm, content_id
from swarmc.contracts.verification import Verification


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

    @property
    def content_id(self) -> str:
        """`sha256:` of `canonical()`."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        """Computed once: every program run asks for it."""
        return content_id(self.canonical())


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


class RunCost(Contract):
    """What program runs took: completions (bought or read), their tokens, price and time.

    `latency_ms` is the time that the venues took for them, whether they were bought now or earlier.
    """

    calls: int = Field(default=0, ge=0)
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    msats: int = Field(default=0, ge=0)
    latency_ms: int = Field(default=0, ge=0)

    def __add__(self, other: "RunCost") -> "RunCost":
        return RunCost(**{name: getattr(self, name) + getattr(other, name) for name in RunCost.model_fields})


class Outcome(Contract):
    """One example's result under one candidate: a score, or 0 with the reason it failed, and what the run took."""

    example_id: ContentId
    score_ppm: Ppm
    failure: str | None = None
    cost: RunCost = RunCost()


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
        cost: What the run took.
    """

    example_id: ContentId
    score_ppm: Ppm
    feedback: str
    expected: dict[str, JsonValue]
    steps: dict[str, Demo]
    cost: RunCost = RunCost()


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

    def with_instruction(self, predictor: str, text: str) -> "Pools":
        """The pools with one more instruction, behind the others."""
        known = self.instructions[predictor]
        return self.model_copy(update={"instructions": {**self.instructions, predictor: (*known, text)}})

    @property
    def baseline(self) -> Candidate:
        return self.candidate(dict.fromkeys(self.instructions, (0, 0)))


class Trial(Contract):
    """One try of the search.

    Attributes:
        number: Its place in the search.
        choice: The pool indices by predictor: (instruction, demonstration set).
        candidate_id: What was tried.
        score: Of the candidate, on all search examples that it met so far.
        runs: Program runs that the search had made by then, of all candidates.
    """

    number: int
    choice: dict[str, tuple[int, int]]
    candidate_id: ContentId
    score: Score
    runs: int = Field(default=0, ge=0)


class Measured(Contract):
    """A candidate that the search scored, with what its `score.count` program runs took in all."""

    candidate_id: ContentId
    choice: dict[str, tuple[int, int]]
    score: Score
    cost: RunCost


class Effect(Contract):
    """What a choice adds to the chance of success, as the search believed at its end.

    Effects are logits in thousandths. With `instruction` alone or `demos` alone it is the effect of
    that text; with both, what the two add together beyond their own effects.

    Attributes:
        predictor: Whose choice.
        instruction: Index in the pool's instructions.
        demos: Index in the pool's demonstration sets.
        mean: Posterior mean.
        sd: Posterior standard deviation.
        runs: Program runs that had the choice.
    """

    predictor: str
    instruction: int | None = None
    demos: int | None = None
    mean: int
    sd: int = Field(ge=0)
    runs: int = Field(ge=0)


class Study(Contract):
    """Everything that a later search of the same program starts from.

    Attributes:
        pools: What was chosen from, instructions written during the search included.
        effects: What was learned of the choices; empty when the search had no model of them.
        level: The constant, in thousandths of a logit.
        spreads: By kind of effect, the learned standard deviation in thousandths of a logit.
        best: The finalists' choices, best first.
    """

    pools: Pools
    effects: tuple[Effect, ...] = ()
    level: int = 0
    spreads: dict[str, int] = Field(default={})
    best: tuple[dict[str, tuple[int, int]], ...] = ()


class SearchResult(Contract):
    """How a search went.

    Attributes:
        trials: In the order in which they were told.
        finalists: Distinct, best first, each with its score on the search examples it met.
        ended: As planned, or because a budget ran out.
        measured: Every candidate that was scored, in the order of entering.
        study: What a later search may start from.
    """

    trials: tuple[Trial, ...]
    finalists: tuple[tuple[Candidate, Score], ...]
    ended: Literal["completed", "budget"]
    measured: tuple[Measured, ...] = ()
    study: Study | None = None

    def score_of(self, candidate: Candidate) -> Score | None:
        """What it scored on the search examples that it met; nothing when it met none."""
        told = [(one.content_id, score) for one, score in self.finalists]
        told += [(one.candidate_id, one.score) for one in self.measured]
        return dict(reversed(told)).get(candidate.content_id)


class Comparison(Contract):
    """Winner against another program (`baseline`) on examples that no choice has seen."""

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
        incumbent: Winner against the program that is promoted now, on the same examples; `None` without one, or
            when it is the winner or the baseline itself.
        verification: How far the scores are verified; `None` where one run of an example was believed.
    """

    finalists: tuple[tuple[Candidate, Score], ...]
    winner: Candidate
    comparison: Comparison | None
    ended: Literal["completed", "budget"]
    incumbent: Comparison | None = None
    verification: Verification | None = Field(default=None, exclude_if=lambda value: value is None)
