"""Training data: what an extraction is asked for, the ancestor's example records, and what is told of a dataset.

The three example records have exactly the seed's fields (`seeds/001`, phase 6); `fields` gives each as
the inputs and outputs of its DSPy signature.
"""

import json
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from swarmc.contracts.candidates import RunCost
from swarmc.contracts.canonical import PPM, ContentId, Contract, Ppm
from swarmc.contracts.manifest import PrivacyMode

TrainingSplit = Literal["train", "validation", "test"]
JOINT = "; "
"""Between the requirements of a `VerificationExample`, where its signature has them in one text."""


class Fields(NamedTuple):
    """One example: its signature's name, and its values as Python has them."""

    signature: str
    inputs: dict[str, JsonValue]
    outputs: dict[str, JsonValue]


class PlanningExample(Contract):
    """What to change for an issue. Lists become JSON texts in the signature's fields."""

    repository_summary: str
    issue_description: str
    relevant_files: str
    expected_analysis: str
    expected_files: tuple[str, ...]
    expected_steps: tuple[str, ...]
    expected_test_strategy: str

    def fields(self) -> Fields:
        """As `PlanningSignature`: 3 inputs, 4 outputs."""
        return Fields(
            "PlanningSignature",
            {name: getattr(self, name) for name in ("repository_summary", "issue_description", "relevant_files")},
            {
                "analysis": self.expected_analysis,
                "files_to_modify": _json(list(self.expected_files)),
                "implementation_steps": _json(list(self.expected_steps)),
                "test_strategy": self.expected_test_strategy,
            },
        )


class ExecutionExample(Contract):
    """The next action of a step. Parameters become a JSON text in the signature's field."""

    plan_step: str
    current_file_state: str
    execution_history: str
    expected_action: str
    expected_params: JsonValue
    expected_reasoning: str

    def fields(self) -> Fields:
        """As `ExecutionSignature`: 3 inputs, 3 outputs."""
        return Fields(
            "ExecutionSignature",
            {name: getattr(self, name) for name in ("plan_step", "current_file_state", "execution_history")},
            {
                "next_action": self.expected_action,
                "action_params": _json(self.expected_params),
                "reasoning": self.expected_reasoning,
            },
        )


class VerificationExample(Contract):
    """Whether a solution meets its requirements. They become one text in the signature's field."""

    requirements: tuple[str, ...]
    solution_summary: str
    code_changes: str
    build_output: str
    test_output: str
    expected_verdict: str
    expected_explanation: str

    def fields(self) -> Fields:
        """As `VerificationSignature`: 5 inputs, 2 outputs."""
        told = ("solution_summary", "code_changes", "build_output", "test_output")
        return Fields(
            "VerificationSignature",
            {"requirements": JOINT.join(self.requirements), **{name: getattr(self, name) for name in told}},
            {"verdict": self.expected_verdict, "explanation": self.expected_explanation},
        )


SeedExample = PlanningExample | ExecutionExample | VerificationExample
SEED_EXAMPLES: dict[str, type[SeedExample]] = {
    "PlanningSignature": PlanningExample,
    "ExecutionSignature": ExecutionExample,
    "VerificationSignature": VerificationExample,
}
"""The seed's record of each signature's examples."""


class Shares(BaseModel):
    """How examples are shared out. An input's own hash says where it goes, so that it never goes elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: int = Field(default=8, ge=0, le=1_000, description="Parts of the whole that are trained on")
    validation: int = Field(default=1, ge=0, le=1_000, description="Parts that choose")
    test: int = Field(default=1, ge=0, le=1_000, description="Parts that nothing has seen")

    @model_validator(mode="after")
    def _gives_something(self) -> Self:
        if self.train + self.validation + self.test == 0:
            raise ValueError("at least one of train, validation and test needs a share above 0")
        return self


class Selection(BaseModel):
    """Which examples are taken, and how they are shared out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    only_successful: bool = Field(
        default=True,
        description="Only what is known to have succeeded; a compile takes the outputs of its examples for right",
    )
    min_score: float | None = Field(
        default=None, ge=0, le=1, description="Least score; also the least that counts as a success, else 1"
    )
    only_best: bool = Field(
        default=False, description="Only runs of the best candidate: the promoted one, else the winner"
    )
    phases: tuple[str, ...] = Field(
        default=(), description="Only of these stages of a compile or phases of a session; empty: all"
    )
    signatures: tuple[str, ...] = Field(default=(), description="Only of these signatures; empty: all")
    shares: Shares = Shares()
    privacy_mode: PrivacyMode = Field(
        default=PrivacyMode.PUBLIC_OK, description="What is cut out of every value; secrets always are"
    )

    @model_validator(mode="after")
    def _leaves_words(self) -> Self:
        if self.privacy_mode is PrivacyMode.PRIVATE_REPO_ALLOWED:
            raise ValueError(f"privacy_mode {self.privacy_mode.value!r} leaves hashes alone, which nobody can train on")
        return self

    @property
    def success_ppm(self) -> int:
        """The least score that counts as a success."""
        return PPM if self.min_score is None else round(self.min_score * PPM)


class Label(Contract):
    """What is known of one example beside its fields: the outcome, and where it comes from.

    Attributes:
        example_id: Hash of the fields, as a compile of them has it.
        success: Whether it did what it was to do; nothing when nobody said.
        scored: `recorded` in the evidence, or `again` from it by the run's own built-in metric.
        phase: Stage of a compile, or phase of a session.
        is_best: Whether the run's best candidate made it.
        run_example_id: The example of the compile that the run was on.
        run_split: The part of the compile's data that it belongs to.
        source: Hash of the file.
        line: Number of the line in it, from 1.
    """

    example_id: ContentId
    success: bool | None = None
    score_ppm: Ppm | None = None
    scored: Literal["recorded", "again"] | None = None
    cost: RunCost = RunCost()
    phase: str = ""
    run_id: str = ""
    candidate_id: str | None = None
    is_best: bool = False
    run_example_id: str | None = None
    run_split: str | None = None
    source: ContentId
    line: int = Field(ge=1)


class DatasetFile(Contract):
    """One split of a dataset: rows of fields, and beside it as many lines of labels.

    Attributes:
        path: Of the rows, below the manifest's directory.
        labels: Of the labels.
        seed: Of the seed's records, where the signature is one of its three.
        dataset_id: Hash of the examples in order, as a compile of the file has it.
        sha256: Of the bytes of each file, by its path.
    """

    path: str
    labels: str
    seed: str | None = None
    count: int = Field(ge=1)
    dataset_id: ContentId
    sha256: dict[str, ContentId]


class TrainingSet(Contract):
    """All examples of one signature."""

    signature: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    splits: dict[TrainingSplit, DatasetFile]

    @property
    def count(self) -> int:
        return sum(file.count for file in self.splits.values())


class SourceFile(Contract):
    """A file that was read. `shapes` counts its lines by what they are, `found` the examples in it."""

    name: str
    sha256: ContentId
    size_bytes: int = Field(ge=0)
    lines: int = Field(ge=0)
    found: int = Field(ge=0)
    shapes: dict[str, int] = Field(default={})


class Problem(Contract):
    """A line that could not be used as it should have been. Line 0: the file as a whole."""

    source: str
    line: int = Field(ge=0)
    what: str


class TrainingManifest(Contract):
    """Everything that an extraction wrote, and what it left out.

    Attributes:
        selection: What was asked for, as `canonical.plain` data.
        dropped: Examples that were found and not taken, by reason.
        ignored: Lines that hold no example of any kind, by what they are.
        problems: The first of them.
        problem_count: How many there were.
    """

    format: Literal["swarmc-training"] = "swarmc-training"
    version: Literal[1] = 1
    selection: JsonValue
    sources: tuple[SourceFile, ...]
    datasets: tuple[TrainingSet, ...]
    dropped: dict[str, int] = Field(default={})
    ignored: dict[str, int] = Field(default={})
    problems: tuple[Problem, ...] = ()
    problem_count: int = Field(default=0, ge=0)

    @property
    def count(self) -> int:
        """Examples in all datasets."""
        return sum(one.count for one in self.datasets)


def _json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
