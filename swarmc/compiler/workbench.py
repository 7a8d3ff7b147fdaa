"""The workbench: what a compile lends its optimizer, over one program, one dataset and the metered lanes."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

from swarmc.compiler.datasets import Splits
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metering import now_ms
from swarmc.compiler.programs import to_demo
from swarmc.compiler.proposing import LanguageModelProposer, ask_plainly, template_instructions
from swarmc.contracts.candidates import (
    Attempt,
    Candidate,
    Demo,
    Demonstration,
    Evaluation,
    PredictorChoice,
    PredictorInfo,
    Study,
    Trial,
)
from swarmc.contracts.completions import Lane, Stage
from swarmc.contracts.events import CandidateEntered, Emit, TrialScored
from swarmc.contracts.spec import CompileSpec, PlannedSearch

MAX_CLASSES = 12


@dataclass
class Bench:
    """Implements the `Workbench` port.

    Attributes:
        job: What was asked for.
        splits: The examples.
        evaluator: Runs candidates.
        emit: Tells what happens.
        run_id: Whose events they are.
        spec: The search as it is planned; a later plan replaces it.
        earlier: What an earlier search of this program learned.
        sandbox: The sentence of the sandbox in which the metric runs commands; empty when it runs none.
        lane: Where candidates are scored.
        stage: Whose trials are told.
    """

    job: CompileSpec
    splits: Splits
    evaluator: Evaluator
    emit: Emit
    run_id: str
    spec: PlannedSearch
    earlier: Study | None = None
    sandbox: str = ""
    best_ppm: int = 0
    lane: Lane = "swarm"
    stage: Stage = "search"

    def __post_init__(self) -> None:
        self._told: set[str] = set()
        described = self.evaluator.program.describe().predictors
        self._own = Candidate(
            predictors={
                name: PredictorChoice(instruction=predictor.instruction, demos=predictor.demos)
                for name, predictor in described.items()
            }
        )
        self._predictors = self.evaluator.program.predictors
        train = [self.splits.examples[key] for key in self.splits.ids("train")]
        self._proposer = LanguageModelProposer(self.evaluator, train) if self.job.proposer == "lm" else None

    @property
    def seed(self) -> int:
        return self.job.seed

    @property
    def predictors(self) -> Mapping[str, PredictorInfo]:
        return self._predictors

    @property
    def own(self) -> Candidate:
        return self._own

    def ids(self, split: str) -> Sequence[str]:
        if split == "train" or split == "search":
            return self.splits.ids(split)
        raise KeyError(f"{split!r} examples are not for optimizers, which may use 'train' and 'search'")

    def labelled(self, example_id: str) -> Mapping[str, Demo]:
        example = dict(self.splits.examples[example_id])
        demos = {}
        for name, info in self._predictors.items():
            fields = {key: example[key] for key in (*info.inputs, *info.outputs) if key in example}
            # An output that only a model can give (a chain of thought's reasoning) may be left out of
            # a demonstration; a label may not, or there would be nothing to learn.
            if all(key in fields for key in info.inputs) and any(key in fields for key in info.outputs):
                demos[name] = to_demo(fields)
        return demos

    async def evaluate(self, candidate: Candidate, example_ids: Sequence[str], *, rollout_id: int = 0) -> Evaluation:
        self._tell_candidate(candidate)
        return await self.evaluator.evaluate(candidate, example_ids, lane=self.lane, rollout_id=rollout_id)

    async def demonstrate(self, candidate: Candidate, example_id: str, *, rollout_id: int = 0) -> Demonstration:
        return await self.evaluator.demonstrate(candidate, example_id, rollout_id=rollout_id)

    async def prepare(self) -> None:
        if self._proposer is not None:
            await self._proposer.prepare()

    async def instructions(self, predictor: str, demos: Sequence[Demo], *, count: int | None = None) -> Sequence[str]:
        info = self._predictors[predictor]
        by_hand = [*self.job.instructions.get(predictor, ()), *self.job.instructions.get("*", ())]
        count = self.spec.instructions if count is None else count
        proposed: Sequence[str] = ()
        if self._proposer is not None:
            proposed = await self._proposer.propose(predictor, info, demos, count)
        elif self.job.proposer == "template":
            proposed = template_instructions(info, self._classes(info), count)
        return [text for text in dict.fromkeys([*by_hand, *proposed]) if text != info.instruction]

    async def attempt(self, candidate: Candidate, example_id: str, *, rollout_id: int = 0) -> Attempt:
        self._tell_candidate(candidate)
        return await self.evaluator.attempt(candidate, example_id, lane=self.lane, rollout_id=rollout_id)

    async def write(self, prompt: str, *, rollout_id: int = 0) -> str:
        return await ask_plainly(self.evaluator, prompt, rollout_id)

    def climbing(self, spec: PlannedSearch) -> "Bench":
        """The same workbench for what goes on in the validation lane after the search: a best of its own, one telling
        of each candidate."""
        above = copy(self)
        above.spec, above.lane, above.stage, above.best_ppm = spec, "validation", "climb", 0
        return above

    def tell_trial(self, trial: Trial) -> None:
        self.best_ppm = max(self.best_ppm, trial.score.mean_ppm)
        self.emit(
            TrialScored(
                run_id=self.run_id,
                at_ms=now_ms(),
                stage=self.stage,
                trial=trial.number,
                candidate_id=trial.candidate_id,
                score_ppm=trial.score.mean_ppm,
                count=trial.score.count,
                best_ppm=self.best_ppm,
            )
        )

    def _tell_candidate(self, candidate: Candidate) -> None:
        """Say once that a candidate was let in."""
        if candidate.content_id not in self._told:
            self._told.add(candidate.content_id)
            key = candidate.content_id
            self.emit(CandidateEntered(run_id=self.run_id, at_ms=now_ms(), candidate=candidate, candidate_id=key))

    def _classes(self, info: PredictorInfo) -> list[str]:
        """The values of the last output field in the train examples, when they are few and repeat."""
        train = [self.splits.examples[key] for key in self.splits.ids("train")]
        values = [str(example[info.outputs[-1]]) for example in train if info.outputs[-1] in example]
        distinct = sorted(set(values))
        return distinct if 2 <= len(distinct) <= min(MAX_CLASSES, len(values) // 2) else []
