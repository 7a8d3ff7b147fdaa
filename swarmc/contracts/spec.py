"""What a person asks a compile to do: the parameters of `compile_program` and of a `compile.json`."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from swarmc.contracts.canonical import canonical_bytes, content_id, plain
from swarmc.contracts.completions import Lane
from swarmc.contracts.manifest import Compatibility, PrivacyMode
from swarmc.contracts.metrics import MetricSpec
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.transfer import TransferSpec
from swarmc.contracts.verification import Redundancy


class _Asked(BaseModel):
    """Frozen, refuses unknown fields; fields become a form, so each says what it is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetSpec(_Asked):
    """Where the examples come from."""

    source: str = Field(
        description="A .jsonl, .csv or .parquet file, or `module:function` that returns a list of dspy.Example"
    )
    inputs: tuple[str, ...] = Field(
        default=(), description="Names of the input fields; empty: the program's own input fields"
    )
    rename: dict[str, str] = Field(default={}, description="Column to field name, e.g. {'category': 'label'}")


class SplitSpec(_Asked):
    """How many examples each part gets. Parts never overlap. Empty parts share what is left, 3:3:2:2."""

    train: int | None = Field(default=None, ge=1, description="Examples that demonstrations are made from")
    search: int | None = Field(default=None, ge=1, description="Examples that candidates are scored on")
    validation: int | None = Field(default=None, ge=1, description="Examples that choose among the finalists")
    test: int | None = Field(
        default=None, ge=1, description="Examples that give the reported score; no choice sees them"
    )


class LaneSpec(_Asked):
    """One lane: where its calls run and under which limits."""

    venue: str = Field(
        default="auto",
        description="`auto` (finds what is there), `practice` (embedded model), `pylon:local`, `pylon:swarm` or "
        "`pylon:hybrid` (this machine, the market, or both), a litellm model such as `openai/gpt-4o-mini`, an "
        "address such as `http://127.0.0.1:8080/v1`, a .gguf file, or a saved block as `slug/name`",
    )
    model: str | None = Field(default=None, description="Model name at the venue, where the venue has several")
    temperature: float | None = Field(default=None, ge=0, le=5, description="Empty: the model's default")
    max_tokens: int | None = Field(default=None, ge=1, description="Most tokens of an answer")
    concurrency: int = Field(default=16, ge=1, le=4096, description="Most calls in flight")
    rate_per_s: float | None = Field(default=None, gt=0, description="Most calls started per second; empty: no limit")
    timeout_s: float = Field(default=120, gt=0, description="Longest wait for one answer, in seconds")
    attempts: int = Field(
        default=4, ge=1, le=20, description="Tries of one call before giving up, retryable failures only"
    )


class AdapterSpec(_Asked):
    """How DSPy writes prompts and reads answers."""

    kind: Literal["chat", "json", "xml"] = Field(default="chat", description="DSPy's adapter")
    json_fallback: bool = Field(default=True, description="Ask once more as JSON when a chat answer cannot be read")


HOW_MUCH = ("auto", "calls", "budget_msats", "trials")
"""Fields of a search that each say how much to try; all but `auto`, which the others replace, exclude one another."""


class Effort(_Asked):
    """How much to try: a preset, or a number that the plan is made to fit, or the search's own sizes."""

    auto: Literal["light", "medium", "heavy"] = Field(
        default="light", description="How much to try, as with DSPy's `auto`; the fields below say it in numbers"
    )
    calls: int | None = Field(
        default=None, ge=1, description="Plan the whole compile for so many model calls, and make no more"
    )
    budget_msats: int | None = Field(
        default=None, ge=1, description="Plan the whole compile for so many msats, and spend no more"
    )
    trials: int | None = Field(
        default=None, ge=1, le=10_000, description="Instead of a preset: `trials` x `minibatch` program runs"
    )
    instructions: int | None = Field(
        default=None, ge=1, le=200, description="Instructions to propose per predictor; empty: as the effort allows"
    )
    demo_sets: int | None = Field(
        default=None,
        ge=1,
        le=200,
        description="Demonstration sets per predictor, the empty one included; empty: as the effort allows",
    )
    finalists: int | None = Field(
        default=None, ge=1, le=50, description="Candidates that meet on the validation examples; empty: as above"
    )
    reflections: int | None = Field(
        default=None,
        ge=0,
        le=1_000,
        description="Instructions per predictor that are written from a leader's failures while the search goes on; "
        "empty: as the effort allows, and none where `proposer` is not `lm`",
    )


class SearchHabits(_Asked):
    """How it is tried."""

    minibatch: int = Field(default=35, ge=1, description="Search examples per trial (TPE)")
    sampler: Literal["surrogate", "tpe"] = Field(
        default="surrogate",
        description="Who chooses what to try: an additive surrogate, racing example by example, or Optuna's TPE with "
        "whole minibatches",
    )
    visit: int = Field(default=4, ge=1, description="Examples a combination meets each time the surrogate chooses it")
    in_flight: int = Field(
        default=64,
        ge=1,
        le=4_096,
        description="Program runs in flight at once (surrogate), at most a sixth of all; part of the result. More than "
        "the lanes' concurrency keeps them full",
    )
    parallel_trials: int = Field(
        default=4, ge=1, le=256, description="Trials in flight at once (TPE); part of the result"
    )
    max_bootstrapped_demos: int = Field(
        default=4, ge=0, le=64, description="Most demonstrations made by program runs in a set"
    )
    max_labeled_demos: int = Field(
        default=4, ge=0, le=64, description="Fill a set up to so many with labelled examples"
    )
    bootstrap_threshold: float = Field(
        default=1.0, ge=0, le=1, description="Least score of a run that may become a demonstration"
    )
    halving: int = Field(
        default=6,
        ge=1,
        le=100,
        description="Best trials that get the last fifth of the runs (surrogate), or are scored again on all search "
        "examples (TPE)",
    )


class SearchSpec(SearchHabits, Effort):
    """How much to try, and how."""

    @model_validator(mode="after")
    def _says_once_how_much(self) -> Self:
        named = [name for name in HOW_MUCH[1:] if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} each say how much to try; give one of them")
        return self


class PlannedSearch(SearchHabits):
    """A search with every size decided: what optimizers and the workbench read.

    Attributes:
        runs: Program runs of the search, in all.
        instructions: To propose, per predictor.
        demo_sets: Per predictor, the empty one included.
        finalists: Candidates that meet on the validation examples.
        reflections: Instructions written from failures, per predictor.
        validation: Validation examples that are used, from the first on.
        test: Test examples that are used, from the first on.
        climb: Program runs in the validation lane, after the search in a cheaper one; 0 where there is no climb.
    """

    runs: int = Field(ge=1)
    instructions: int = Field(ge=0)
    demo_sets: int = Field(ge=1)
    finalists: int = Field(ge=1)
    reflections: int = Field(ge=0)
    validation: int = Field(ge=1)
    test: int = Field(ge=1)
    climb: int = Field(default=0, ge=0)


def _one_list_for_all(value: object) -> object:
    return {"*": value} if isinstance(value, list | tuple) else value


Instructions = Annotated[
    dict[str, tuple[str, ...]],
    BeforeValidator(_one_list_for_all, json_schema_input_type=dict[str, tuple[str, ...]] | tuple[str, ...]),
]


def _not_asked(value: object) -> bool:
    # What is not asked for is no part of what is hashed: specs keep the ids that they had before it could be.
    return value is None


def _kind_of_metric(value: object) -> str:
    return "weighed" if isinstance(value, dict | MetricSpec) else "named"


AskedMetric = Annotated[
    Annotated[str, Tag("named")] | Annotated[MetricSpec, Tag("weighed")],
    Discriminator(_kind_of_metric),
]
"""A metric by its name, or the parts that are weighed. Told apart by their form, so that an error names the part."""


class CompileSpec(_Asked):
    """One compile: a program, examples, a metric, models, a budget."""

    name: str = Field(
        default="compile", pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,80}$", description="What to call it in reports"
    )
    program: str = Field(
        description="`package.module:attribute`, `path/to/file.py:attribute`, or a signature: `question -> answer`"
    )
    dataset: DatasetSpec
    metric: AskedMetric = Field(
        default="exact_match",
        description="`exact_match`, `contains`, `module:function` or `path/to/file.py:function`: "
        "(example, prediction, trace=None) -> 0..1 or bool; or an object with the `parts` that are weighed",
    )
    split: SplitSpec = SplitSpec()
    seed: int = Field(default=0, ge=0, description="All randomness of the compile comes from it")
    lanes: dict[Lane, LaneSpec] = Field(
        default={"swarm": LaneSpec()},
        description="`swarm` is needed; `propose`, `teacher` and `validation` default to it; a metric with a judge "
        "needs a lane `judge`; `premium` answers what `redundancy` leaves undecided",
    )
    redundancy: Redundancy | None = Field(
        default=None,
        exclude_if=_not_asked,
        description="How many runs in the validation lane must agree on an answer: {'agree': 3, 'of': 5, 'by': "
        "'answer'}; empty: one run is believed",
    )
    transfer: TransferSpec | None = Field(
        default=None,
        exclude_if=_not_asked,
        description="Whether the search first finds out that its lane predicts the validation lane; empty: with "
        "`redundancy`, where the two lanes differ",
    )
    optimizer: Literal["MIPROv2", "COPRO", "GEPA", "Pareto"] = Field(default="MIPROv2", description="How to search")
    search: SearchSpec = SearchSpec()
    start: Literal["cold", "warm"] = Field(
        default="cold",
        description="`warm`: begin with what the last search of this name learned, as far as it still holds",
    )
    proposer: Literal["lm", "template", "none"] = Field(
        default="lm", description="Who writes instructions: a model, a template (for models that cannot), or only you"
    )
    instructions: Instructions = Field(
        default={}, description="Instructions by hand: a list, or lists by predictor name (`*` for all)"
    )
    adapter: AdapterSpec = AdapterSpec()
    budget: BudgetPolicy = BudgetPolicy()
    ledger: str | None = Field(
        default=None, description="Saved ledger block's name or a database URL; empty: $SWARMC_HOME/ledger.db"
    )
    store: str | None = Field(
        default=None,
        description="Directory, `s3://bucket/prefix` or a saved block as `slug/name`; empty: $SWARMC_HOME/artifacts",
    )
    sandbox: str | None = Field(
        default=None,
        exclude_if=_not_asked,
        description="Where commands of the metric run: `bubblewrap`, `bubblewrap:unenforced` (where a limit cannot be "
        "enforced too) or a saved block as `slug/name`; empty: what works on this machine",
    )
    sinks: tuple[str, ...] = Field(
        default=(),
        description="Where else the run is told: an OTLP address (`http://127.0.0.1:4318`), a `.jsonl` file of spans, "
        "or a saved block (telemetry, Nostr notes) as `slug/name`",
    )
    identity: str | None = Field(
        default=None,
        description="Who signs the manifest: a saved identity's name; empty: the key in $SWARMC_NOSTR_KEY, if any",
    )
    privacy_mode: PrivacyMode = PrivacyMode.PUBLIC_OK
    compatibility: Compatibility = Compatibility()

    @model_validator(mode="after")
    def _has_a_lane_for_its_judge(self) -> Self:
        if self.judge_calls and "judge" not in self.lanes:
            raise ValueError(
                "the metric has a part `llm_judge`, so `lanes` needs a lane `judge`; it may have the venue of `swarm`"
            )
        return self

    @model_validator(mode="after")
    def _has_lanes_that_verify(self) -> Self:
        if self.redundancy is not None and self.redundancy.by == "judge" and "judge" not in self.lanes:
            raise ValueError(
                "`redundancy` is by judge, so `lanes` needs a lane `judge`; it may have the venue of `swarm`"
            )
        against = self.transfer.against if self.transfer else None
        if "premium" in self.lanes and "swarm" in self.lanes and self.redundancy is None and against != "premium":
            raise ValueError(
                "the lane `premium` answers what redundancy leaves undecided: give `redundancy`, or leave it out"
            )
        if against is not None and against not in self.lanes:
            raise ValueError(f"`transfer` is against a lane that `lanes` lacks: {against}")
        return self

    def differs(self, lane: Lane) -> bool:
        """The lane's answers are not those of `swarm`: another venue, model or sampling."""
        own, swarm = (self.lanes.get(name) for name in (lane, "swarm"))
        shapes = ("venue", "model", "temperature", "max_tokens")
        return (
            own is not None and swarm is not None and any(getattr(own, name) != getattr(swarm, name) for name in shapes)
        )

    @property
    def transfer_test(self) -> TransferSpec | None:
        """How the two lanes are told apart and climbed; nothing when there is no better lane to move up to."""
        asked = self.transfer or (TransferSpec() if self.redundancy else None)
        wanted = asked is not None and (asked.examples or asked.climb_percent)
        return asked if wanted and self.differs("validation") else None

    @property
    def metric_name(self) -> str:
        """The metric's name, or the hash of its parts."""
        return self.metric if isinstance(self.metric, str) else self.metric.content_id

    @property
    def judge_calls(self) -> int:
        """Completions that the score of one answer takes at most."""
        return self.metric.judge_calls if isinstance(self.metric, MetricSpec) else 0

    @property
    def runs_commands(self) -> bool:
        """Whether its metric runs commands, so that it needs a sandbox."""
        return isinstance(self.metric, MetricSpec) and bool(self.metric.commands)

    @property
    def spec_id(self) -> str:
        """Hash of what is asked for; runs with equal ids may continue one another.

        Left out is what shapes no result: concurrency, timeouts, budget, where things are kept and told, who signs.
        """
        asked = self.model_dump(mode="json", exclude={"budget", "ledger", "store", "sinks", "identity"})
        for lane in asked["lanes"].values():
            for limit in ("concurrency", "rate_per_s", "timeout_s", "attempts"):
                del lane[limit]
        return content_id(canonical_bytes(plain(asked)))
