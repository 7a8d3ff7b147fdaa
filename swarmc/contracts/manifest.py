"""The compiled program and its manifest: what it is, what it scored, what it needs.

Names are those of the compiler contract (`seeds/000`). Scores carry their count and interval;
fractions are parts per million, because manifests are hashed.
"""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, PlainSerializer

from swarmc.contracts.candidates import Candidate, DatasetRef, Demo, Score
from swarmc.contracts.canonical import PPM, ContentId, Contract, Ppm
from swarmc.contracts.verification import Counts


class PrivacyMode(StrEnum):
    """What may leave the machine."""

    PUBLIC_OK = "public_ok"
    NO_PII = "no_pii"
    PRIVATE_REPO_REDACTED = "private_repo_redacted"
    PRIVATE_REPO_ALLOWED = "private_repo_allowed"


class Scorecard(Contract):
    """Metrics of an optimization.

    Attributes:
        proxy_score: Cheap, frequent evaluation: the winner's mean on the search examples. The
            search chose by it, so it flatters; it is kept to show by how much.
        truth_score: The definitive evaluation: the winner on test examples no choice has seen.
        baseline_score: The uncompiled program on the same test examples.
        improvement: Mean of the paired differences, winner minus baseline, with its interval.
        optimization_cost_msats: Everything the run paid, and what it may have paid and lost.
        premium_cost_msats: What the calls that were paid would have cost on the reference lane alone; `None`
            without such a lane, or where its price is not known.
        iterations: Trials of the search.
        custom_metrics: Further metrics, in parts per million.
        verification: By what the answers of the definitive evaluation stand; `None` without redundancy.
    """

    proxy_score: Score | None = None
    truth_score: Score | None = None
    baseline_score: Score | None = None
    improvement: Score | None = None
    optimization_cost_msats: int = Field(default=0, ge=0)
    premium_cost_msats: int | None = Field(default=None, ge=0, exclude_if=lambda value: value is None)
    iterations: int = Field(default=0, ge=0)
    custom_metrics: dict[str, int] = Field(default={})
    verification: Counts | None = Field(default=None, exclude_if=lambda value: value is None)


Names = Annotated[frozenset[str], PlainSerializer(sorted)]
"""A set whose written form has one order."""


class Runtime(Contract):
    """What a place offers, to be checked against a `Compatibility`."""

    tools: Names = frozenset()
    lanes: Names = frozenset()
    privacy_mode: PrivacyMode = PrivacyMode.PUBLIC_OK
    provider_reputation: Ppm | None = None


class Compatibility(Contract):
    """Machine-checkable runtime requirements.

    Attributes:
        required_tools: Commands that must be there, e.g. `ripgrep`.
        required_lanes: Retrieval lanes that must be there, e.g. `lsp`, `semantic`.
        privacy_modes_allowed: Modes the program may run under; empty for any.
        min_provider_reputation: Least reputation of a provider, in parts per million.
    """

    required_tools: tuple[str, ...] = ()
    required_lanes: tuple[str, ...] = ()
    privacy_modes_allowed: tuple[PrivacyMode, ...] = ()
    min_provider_reputation: Ppm | None = None

    def problems(self, runtime: Runtime) -> tuple[str, ...]:
        """One sentence for every requirement that `runtime` does not meet; empty when it fits."""
        found = [f"tool {tool!r} is missing" for tool in self.required_tools if tool not in runtime.tools]
        found += [f"lane {lane!r} is missing" for lane in self.required_lanes if lane not in runtime.lanes]
        if self.privacy_modes_allowed and runtime.privacy_mode not in self.privacy_modes_allowed:
            allowed = ", ".join(self.privacy_modes_allowed)
            found.append(f"privacy mode {runtime.privacy_mode.value!r} is not allowed (allowed: {allowed})")
        if self.min_provider_reputation is not None:
            found += self._reputation_problem(self.min_provider_reputation, runtime.provider_reputation)
        return tuple(found)

    @staticmethod
    def _reputation_problem(needed: int, offered: int | None) -> list[str]:
        if offered is None:
            return [f"provider reputation is unknown (needed: {needed / PPM:g})"]
        if offered < needed:
            return [f"provider reputation {offered / PPM:g} is below {needed / PPM:g}"]
        return []


class FieldSpec(Contract):
    """One field of a signature, as the model is told of it."""

    name: str
    annotation: str
    description: str
    prefix: str = ""


class CompiledPredictor(Contract):
    """One predictor's whole text: signature fields, instruction, demonstrations."""

    signature_name: str
    inputs: tuple[FieldSpec, ...]
    outputs: tuple[FieldSpec, ...]
    instruction: str
    demos: tuple[Demo, ...] = ()


class CompiledProgram(Contract):
    """The optimized artifact. Its `content_id` is the `compiled_id`.

    `program` is the reference it was loaded from (`module:attribute`, a file, or a signature),
    never code.
    """

    program: str
    predictors: dict[str, CompiledPredictor]

    def with_candidate(self, candidate: Candidate) -> Self:
        """The same program with the candidate's instructions and demonstrations.

        Raises:
            KeyError: the candidate names a predictor that the program lacks.
        """
        changed = dict(self.predictors)
        for name, choice in candidate.predictors.items():
            update = {"instruction": choice.instruction, "demos": choice.demos}
            changed[name] = changed[name].model_copy(update=update)
        return self.model_copy(update={"predictors": changed})

    @property
    def demo_count(self) -> int:
        return sum(len(predictor.demos) for predictor in self.predictors.values())


class CompiledModuleManifest(Contract):
    """Every compiled module's manifest, for versioning and for checking that it fits.

    >>> manifest = CompiledModuleManifest.new("Planning").with_optimizer("MIPROv2")
    >>> manifest.optimizer
    'MIPROv2'
    """

    signature_name: str
    compiled_id: ContentId | None = None
    optimizer: str = ""
    trainset_id: ContentId | None = None
    scorecard: Scorecard = Scorecard()
    compatibility: Compatibility = Compatibility()
    created_at: int = Field(default=0, ge=0, description="Unix time in seconds")
    instruction: str | None = None
    demo_count: int = Field(default=0, ge=0)
    program: str = ""
    run_id: str = ""
    spec_id: ContentId | None = None
    verdict: str = ""
    datasets: tuple[DatasetRef, ...] = ()
    artifacts: dict[str, ContentId] = Field(default={}, description="File name to the hash of its bytes")
    details: dict[str, JsonValue] = Field(default={})

    @classmethod
    def new(cls, signature_name: str) -> Self:
        """An empty manifest for a signature; add to it with the `with_` verbs, each giving a new one."""
        return cls(signature_name=signature_name)

    def with_optimizer(self, optimizer: str) -> Self:
        return self._with(optimizer=optimizer)

    def with_scorecard(self, scorecard: Scorecard) -> Self:
        return self._with(scorecard=scorecard)

    def with_compatibility(self, compatibility: Compatibility) -> Self:
        return self._with(compatibility=compatibility)

    def with_trainset(self, trainset: DatasetRef) -> Self:
        """`trainset_id` becomes the hash of the examples themselves."""
        return self._with(trainset_id=trainset.dataset_id)

    def with_artifact(self, compiled: CompiledProgram) -> Self:
        """`compiled_id` becomes the hash of the artifact; `instruction` and `demo_count` follow it."""
        first = next(iter(compiled.predictors.values()))
        return self._with(
            compiled_id=compiled.content_id,
            program=compiled.program,
            instruction=first.instruction,
            demo_count=compiled.demo_count,
        )

    def with_details(self, **changes: Any) -> Self:
        """Any other field by name.

        Raises:
            pydantic.ValidationError: no such field, or a wrong value.
        """
        return self._with(**changes)

    def _with(self, **changes: Any) -> Self:
        return type(self).model_validate({**{name: getattr(self, name) for name in type(self).model_fields}, **changes})
