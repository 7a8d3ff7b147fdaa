"""MIPROv2 (Opsahl-Ong et al. 2024): instructions x demonstration sets, searched by Optuna's TPE.

Differs from DSPy's where measurement said so: bootstrap and proposals are awaited together; trials
overlap; all trials share one order of examples, so that they are compared on the same ones; a
combination that is asked again gets further examples instead of the same; there are no periodic
full evaluations, only one of the best few at the end.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna

from swarmc.compiler.demonstrations import DemoSets, bootstrap_pool, build_demo_sets
from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.intervals import mean_score
from swarmc.contracts.candidates import Candidate, Demo, Pools, Score, SearchResult, Trial
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.ports import Workbench

Choice = dict[str, tuple[int, int]]


class MIPROv2:
    """Implements the `Optimizer` port."""

    name = "MIPROv2"

    async def bootstrap(self, bench: Workbench) -> DemoSets:
        return build_demo_sets(bench, await bootstrap_pool(bench))

    async def propose(
        self, bench: Workbench, demo_sets: Mapping[str, Sequence[Sequence[Demo]]]
    ) -> dict[str, tuple[str, ...]]:
        found = {}
        for name, info in bench.predictors.items():
            shown = next((demos for demos in reversed(demo_sets[name]) if demos), ())
            found[name] = (info.instruction, *await bench.instructions(name, shown))
        return found

    async def search(self, bench: Workbench, pools: Pools, trials: int) -> SearchResult:
        return await _Search(bench, pools).run(trials)


@dataclass
class _Asked:
    """A trial in flight: Optuna's, ours, and the examples it is scored on."""

    trial: optuna.trial.Trial
    choice: Choice
    candidate: Candidate
    example_ids: Sequence[str]


@dataclass
class _Tally:
    """A combination's scores so far, and how often it was asked for."""

    asked: int = 0
    scores_ppm: dict[str, int] = field(default_factory=dict)


class _Search:
    """One search. Its order of asks and tells is fixed, whatever order the answers come in.

    Trial n + k is asked when trial n was told, k being `parallel_trials`: the sampler then has seen
    exactly trials 0..n, so a search that is run again proposes the same.
    """

    def __init__(self, bench: Workbench, pools: Pools) -> None:
        self._bench = bench
        self._pools = pools
        self._order = tuple(bench.ids("search"))
        self._tallies: dict[str, _Tally] = {}
        self._candidates: dict[str, Candidate] = {}
        self._trials: list[Trial] = []
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=bench.seed, multivariate=True, constant_liar=True),
        )
        self._study.enqueue_trial({key: 0 for name in pools.instructions for key in _keys(name)})

    async def run(self, count: int) -> SearchResult:
        in_flight: deque[tuple[_Asked, asyncio.Task[dict[str, int]]]] = deque()
        ended = "completed"
        try:
            for _ in range(count):
                if len(in_flight) == self._bench.spec.parallel_trials:
                    await self._tell(*in_flight.popleft())
                asked = self._ask()
                in_flight.append((asked, asyncio.create_task(self._score(asked.candidate, asked.example_ids))))
            while in_flight:
                await self._tell(*in_flight.popleft())
            finalists = await self._halve()
        except BudgetExhausted:
            ended, finalists = "budget", self._ranking()
        finally:
            for _, task in in_flight:
                task.cancel()
            await asyncio.gather(*(task for _, task in in_flight), return_exceptions=True)
        return SearchResult(
            trials=tuple(self._trials), finalists=tuple(finalists[: self._bench.spec.finalists]), ended=ended
        )

    def _ask(self) -> _Asked:
        trial = self._study.ask()
        choice = {}
        for name in self._pools.instructions:
            instruction, demos = _keys(name)
            choice[name] = (
                trial.suggest_categorical(instruction, list(range(len(self._pools.instructions[name])))),
                trial.suggest_categorical(demos, list(range(len(self._pools.demo_sets[name])))),
            )
        candidate = self._pools.candidate(choice)
        tally = self._tallies.setdefault(candidate.content_id, _Tally())
        self._candidates[candidate.content_id] = candidate
        size = min(self._bench.spec.minibatch, len(self._order))
        start = tally.asked * size
        tally.asked += 1
        # Asked again beyond the last example, there is nothing left to learn of a combination.
        return _Asked(trial, choice, candidate, self._order[start : start + size])

    async def _score(self, candidate: Candidate, example_ids: Sequence[str]) -> dict[str, int]:
        if not example_ids:
            return {}
        evaluation = await self._bench.evaluate(candidate, example_ids)
        return {outcome.example_id: outcome.score_ppm for outcome in evaluation.outcomes}

    async def _tell(self, asked: _Asked, task: asyncio.Task[dict[str, int]]) -> None:
        scores = await task
        tally = self._tallies[asked.candidate.content_id]
        tally.scores_ppm.update(scores)
        score = mean_score(list(tally.scores_ppm.values()))
        self._study.tell(asked.trial, score.mean)
        trial = Trial(
            number=asked.trial.number, choice=asked.choice, candidate_id=asked.candidate.content_id, score=score
        )
        self._trials.append(trial)
        self._bench.tell_trial(trial)

    async def _halve(self) -> list[tuple[Candidate, Score]]:
        """Score the best few on all search examples, so that a lucky minibatch does not decide."""
        best = self._ranking()[: self._bench.spec.halving]
        found = await gather_or_cancel(self._score(candidate, self._missing(candidate)) for candidate, _ in best)
        for (candidate, _), scores in zip(best, found, strict=True):
            self._tallies[candidate.content_id].scores_ppm.update(scores)
        kept = {candidate.content_id for candidate, _ in best}
        return [entry for entry in self._ranking() if entry[0].content_id in kept]

    def _missing(self, candidate: Candidate) -> list[str]:
        known = self._tallies[candidate.content_id].scores_ppm
        return [key for key in self._order if key not in known]

    def _ranking(self) -> list[tuple[Candidate, Score]]:
        """Every combination that was told, best first; of equals, the one with more examples, then the earlier."""
        told = [
            (self._candidates[key], mean_score(list(tally.scores_ppm.values())))
            for key, tally in self._tallies.items()
            if tally.scores_ppm
        ]
        return sorted(told, key=lambda entry: (-entry[1].mean_ppm, -entry[1].count))


def _keys(name: str) -> tuple[str, str]:
    """Optuna's names of a predictor's two choices."""
    return f"{name}/instruction", f"{name}/demos"
