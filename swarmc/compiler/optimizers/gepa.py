"""GEPA (Agrawal et al. 2025): instructions rewritten by reflection on runs, parents chosen from a Pareto front.

The `gepa` package's own loop, reflection prompt, Pareto rule and merge; every evaluation is ours. It
runs in a thread; its adapter awaits our runs on the compile's loop. A run that was made is never made
again, and the last run that the plan allows is the last: the package alone would finish the set it is at.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch

from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.intervals import mean_score
from swarmc.compiler.reflection import record
from swarmc.contracts.candidates import (
    Attempt,
    Candidate,
    Demo,
    Measured,
    Pools,
    PredictorChoice,
    RunCost,
    SearchResult,
    Study,
    Trial,
)
from swarmc.contracts.canonical import PPM
from swarmc.contracts.errors import BudgetExhausted, SwarmcError
from swarmc.contracts.plan import Demand
from swarmc.contracts.ports import Workbench
from swarmc.contracts.spec import PlannedSearch

T = TypeVar("T")
FULL_SETS = 8
FEWEST_SCORED = 20
REFLECTED = 3
RUNS_A_WRITING = 2
MOST_IDLE = 200
"""Evaluations in a row that needed no new run: nothing is left to find out, and the package would go on for ever."""


class GEPA:
    """Implements the `Optimizer` port. Demonstrations stay the program's own."""

    name = "GEPA"

    async def bootstrap(self, bench: Workbench) -> dict[str, tuple[tuple[Demo, ...], ...]]:
        return {name: (choice.demos,) for name, choice in bench.own.predictors.items()}

    async def propose(
        self,
        bench: Workbench,
        demo_sets: Mapping[str, Sequence[Sequence[Demo]]],  # noqa: ARG002 - the port's
    ) -> dict[str, tuple[str, ...]]:
        return {name: (info.instruction,) for name, info in bench.predictors.items()}

    async def search(self, bench: Workbench, pools: Pools) -> SearchResult:
        runs = bench.spec.runs
        scored_on = bench.ids("search")[: max(FEWEST_SCORED, runs // FULL_SETS)]
        adapter = _Adapter(bench, pools.baseline, runs, asyncio.get_running_loop(), scored_on)
        try:
            ended = await asyncio.to_thread(adapter.evolve)
        finally:
            adapter.stop()
        return adapter.result(ended)

    def demand(self, spec: PlannedSearch, predictors: int, train: int) -> Demand:  # noqa: ARG002 - the port's
        return Demand(writings=most_writings(spec.runs))


def most_writings(runs: int) -> int:
    """Reflections in so many runs: one needs a parent's and a child's runs on `REFLECTED` examples each.

    Some of them were made before, so it may be one for every `RUNS_A_WRITING`; further ones are not written.
    """
    return 1 + runs // RUNS_A_WRITING


class _Spent(Exception):
    """The planned runs are used up."""


@dataclass(frozen=True)
class _Silent:
    """The package's log; the compile's events say what there is to say."""

    def log(self, message: str) -> None:
        """Nothing."""


class _Adapter:
    """What the `gepa` package asks of a system (its `GEPAAdapter`), answered by the workbench.

    Args:
        bench: Where candidates run.
        baseline: The program's own text.
        runs: Program runs that may be made.
        loop: The compile's loop.
        scored_on: The examples that every accepted candidate is scored on.
    """

    propose_new_texts = None

    def __init__(
        self,
        bench: Workbench,
        baseline: Candidate,
        runs: int,
        loop: asyncio.AbstractEventLoop,
        scored_on: Sequence[str],
    ) -> None:
        self.trials: list[Trial] = []
        self._bench = bench
        self._baseline = baseline
        self._runs = runs
        self._loop = loop
        self._scored_on = tuple(scored_on)
        self._attempts: dict[tuple[str, str], Attempt] = {}
        self._candidates: dict[str, Candidate] = {}
        self._reflections = 0
        self._idle = 0
        self._failure: Exception | None = None

    def stop(self) -> None:
        """Let the thread end at its next evaluation: whoever waited for it may be gone."""
        self._failure = self._failure or _Spent()

    def evolve(self) -> Literal["completed", "budget"]:
        """Run the package's loop until the runs are used up. `completed`, or `budget` when money ended it."""
        try:
            optimize(
                seed_candidate={name: one.instruction for name, one in self._baseline.predictors.items()},
                trainset=list(self._bench.ids("train")),
                valset=list(self._scored_on),
                adapter=cast("Any", self),
                reflection_lm=self._reflect,
                reflection_minibatch_size=min(REFLECTED, len(self._bench.ids("train"))),
                use_merge=len(self._baseline.predictors) > 1,
                stop_callbacks=self._stop,
                logger=_Silent(),
                seed=self._bench.seed,
                raise_on_exception=True,
            )
        except (_Spent, SwarmcError) as error:
            self._failure = self._failure or error
        if isinstance(self._failure, BudgetExhausted):
            return "budget"
        if self._failure is not None and not isinstance(self._failure, _Spent):
            raise self._failure
        return "completed"

    def evaluate(
        self, batch: list[str], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Attempt, Attempt]:
        """Attempts on examples; those that were made before are free.

        Raises:
            _Spent: the plan allows only some of them; those are made.
        """
        text = self._dressed(candidate)
        key = text.content_id
        self._candidates[key] = text
        new = [one for one in dict.fromkeys(batch) if (key, one) not in self._attempts]
        allowed = new[: self._runs - len(self._attempts)]
        self._idle = 0 if new else self._idle + 1
        try:
            if self._failure is not None:
                raise self._failure
            self._await(self._make(text, allowed))
            if len(allowed) < len(new):
                raise _Spent
        except (_Spent, SwarmcError) as error:
            self._failure = error
            raise
        attempts = [self._attempts[key, one] for one in batch]
        if tuple(batch) == self._scored_on:
            self._tell(text)
        scores = [attempt.score_ppm / PPM for attempt in attempts]
        return EvaluationBatch(outputs=attempts, scores=scores, trajectories=attempts if capture_traces else None)

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],  # noqa: ARG002 - the package's
        eval_batch: EvaluationBatch[Attempt, Attempt],
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Mapping[str, object]]]:
        """What each predictor was asked, what it answered, and what was said about it."""
        return {
            name: [record(attempt, self._bench.predictors[name].inputs, name) for attempt in eval_batch.outputs]
            for name in components_to_update
        }

    def result(self, ended: Literal["completed", "budget"]) -> SearchResult:
        """How the search went; every candidate counts with those of the scored examples that it met."""
        measured = [one for key in self._candidates if (one := self._measured(key)) is not None]
        best = sorted(measured, key=lambda one: -one.score.low_ppm)[: self._bench.spec.finalists]
        pools = Pools(
            instructions={
                name: tuple(candidate.predictors[name].instruction for candidate in self._candidates.values())
                for name in self._baseline.predictors
            },
            demo_sets={name: (one.demos,) for name, one in self._baseline.predictors.items()},
        )
        return SearchResult(
            trials=tuple(self.trials),
            finalists=tuple((self._candidates[one.candidate_id], one.score) for one in best),
            ended=ended,
            measured=tuple(measured),
            study=Study(pools=pools, best=tuple(one.choice for one in best)),
        )

    def _measured(self, key: str) -> Measured | None:
        """A candidate with those of the scored examples that it met; nothing when it met none."""
        met = [self._attempts[key, one] for one in self._scored_on if (key, one) in self._attempts]
        if not met:
            return None
        return Measured(
            candidate_id=key,
            choice=self._choice(key),
            score=mean_score([attempt.score_ppm for attempt in met]),
            cost=sum((attempt.cost for attempt in met), RunCost()),
        )

    def _choice(self, key: str) -> dict[str, tuple[int, int]]:
        """A candidate's instructions stand in the study's pools at its number."""
        return dict.fromkeys(self._baseline.predictors, (list(self._candidates).index(key), 0))

    def _dressed(self, candidate: Mapping[str, str]) -> Candidate:
        return Candidate(
            predictors={
                name: PredictorChoice(instruction=candidate[name], demos=one.demos)
                for name, one in self._baseline.predictors.items()
            }
        )

    async def _make(self, text: Candidate, example_ids: Sequence[str]) -> None:
        async def one(example_id: str) -> None:
            self._attempts[text.content_id, example_id] = await self._bench.attempt(text, example_id)

        await gather_or_cancel(one(example_id) for example_id in example_ids)

    def _reflect(self, prompt: str | list[dict[str, object]]) -> str:
        """The package's reflection prompt, answered by the `propose` lane. The package swallows what this raises."""
        try:
            if self._reflections == most_writings(self._runs):
                raise _Spent
            self._reflections += 1
            return self._await(self._bench.write(str(prompt), rollout_id=self._reflections))
        except (_Spent, SwarmcError) as error:
            self._failure = error
            raise

    def _stop(self, gepa_state: Any) -> bool:  # noqa: ARG002 - the package's
        return self._failure is not None or len(self._attempts) >= self._runs or self._idle >= MOST_IDLE

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _tell(self, text: Candidate) -> None:
        scores = [self._attempts[text.content_id, one].score_ppm for one in self._scored_on]
        trial = Trial(
            number=len(self.trials),
            choice=self._choice(text.content_id),
            candidate_id=text.content_id,
            score=mean_score(scores),
            runs=len(self._attempts),
        )
        self.trials.append(trial)
        self._loop.call_soon_threadsafe(self._bench.tell_trial, trial)
