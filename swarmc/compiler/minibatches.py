"""The plain search: Optuna's TPE tries whole minibatches, and the best few meet all search examples."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna

from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.intervals import mean_score
from swarmc.compiler.race import Choices
from swarmc.compiler.steering import keys_of, new_study
from swarmc.compiler.studies import earlier_choices
from swarmc.contracts.candidates import Candidate, Measured, Outcome, Pools, RunCost, Score, SearchResult, Study, Trial
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.ports import Workbench


@dataclass
class _Tally:
    """A combination's outcomes so far, by example, and how often it was asked for."""

    candidate: Candidate
    choice: Choices
    asked: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def score(self) -> Score:
        return mean_score([outcome.score_ppm for outcome in self.outcomes.values()])

    @property
    def measured(self) -> Measured:
        cost = sum((outcome.cost for outcome in self.outcomes.values()), RunCost())
        return Measured(candidate_id=self.candidate.content_id, choice=self.choice, score=self.score, cost=cost)


@dataclass
class _Asked:
    """A trial in flight: Optuna's, ours, and the examples it is scored on."""

    trial: optuna.trial.Trial
    choice: Choices
    tally: _Tally
    example_ids: Sequence[str]


class Minibatches:
    """One search. Its order of asks and tells is fixed, whatever order the answers come in.

    Trial n + k is asked when trial n was told, k being `parallel_trials`: the sampler then has seen
    exactly trials 0..n, so a search that is run again proposes the same. Of the planned runs as many
    are kept as `halving` candidates need to meet all search examples; half, where that leaves nothing to try.

    Args:
        bench: Where candidates are scored.
        pools: What is chosen from.
    """

    def __init__(self, bench: Workbench, pools: Pools) -> None:
        self._bench = bench
        self._pools = pools
        self._order = tuple(bench.ids("search"))
        self._size = min(bench.spec.minibatch, len(self._order), bench.spec.runs)
        self._tallies: dict[str, _Tally] = {}
        self._trials: list[Trial] = []
        self._runs_asked = 0
        self._runs_told = 0
        sampler = optuna.samplers.TPESampler(seed=bench.seed, multivariate=True, constant_liar=True)
        earlier = earlier_choices(bench.earlier, pools) if bench.earlier else []
        self._study = new_study(sampler, [dict.fromkeys(pools.instructions, (0, 0)), *earlier])

    async def run(self) -> SearchResult:
        """Try, then halve, until the runs or the budget are used up."""
        in_flight: deque[tuple[_Asked, asyncio.Task[dict[str, Outcome]]]] = deque()
        ended = "completed"
        try:
            for _ in range(self._count()):
                if len(in_flight) == self._bench.spec.parallel_trials:
                    await self._tell(*in_flight.popleft())
                asked = self._ask()
                in_flight.append((asked, asyncio.create_task(self._score(asked.tally.candidate, asked.example_ids))))
            while in_flight:
                await self._tell(*in_flight.popleft())
            finalists = await self._halve()
        except BudgetExhausted:
            ended, finalists = "budget", self._ranking()
        finally:
            for _, task in in_flight:
                task.cancel()
            await asyncio.gather(*(task for _, task in in_flight), return_exceptions=True)
        best = finalists[: self._bench.spec.finalists]
        return SearchResult(
            trials=tuple(self._trials),
            finalists=tuple((tally.candidate, tally.score) for tally in best),
            ended=ended,
            measured=tuple(tally.measured for tally in self._tallies.values() if tally.outcomes),
            study=Study(pools=self._pools, best=tuple(tally.choice for tally in best)),
        )

    def _count(self) -> int:
        """How many trials the runs allow beside the halving."""
        runs = self._bench.spec.runs
        rest = runs - self._bench.spec.halving * len(self._order)
        if rest < self._size:
            rest = runs - runs // 2
        return max(1, rest // self._size)

    def _ask(self) -> _Asked:
        trial = self._study.ask()
        choice = {}
        for name in self._pools.instructions:
            instruction, demos = keys_of(name)
            choice[name] = (
                trial.suggest_categorical(instruction, list(range(len(self._pools.instructions[name])))),
                trial.suggest_categorical(demos, list(range(len(self._pools.demo_sets[name])))),
            )
        candidate = self._pools.candidate(choice)
        tally = self._tallies.setdefault(candidate.content_id, _Tally(candidate, choice))
        start = tally.asked * self._size
        tally.asked += 1
        # Asked again beyond the last example, there is nothing left to learn of a combination.
        example_ids = self._order[start : start + self._size]
        self._runs_asked += len(example_ids)
        return _Asked(trial, choice, tally, example_ids)

    async def _score(self, candidate: Candidate, example_ids: Sequence[str]) -> dict[str, Outcome]:
        if not example_ids:
            return {}
        evaluation = await self._bench.evaluate(candidate, example_ids)
        return {outcome.example_id: outcome for outcome in evaluation.outcomes}

    async def _tell(self, asked: _Asked, task: asyncio.Task[dict[str, Outcome]]) -> None:
        self._count_in(asked.tally, await task)
        score = asked.tally.score
        self._study.tell(asked.trial, score.mean)
        trial = Trial(
            number=asked.trial.number,
            choice=asked.choice,
            candidate_id=asked.tally.candidate.content_id,
            score=score,
            runs=self._runs_told,
        )
        self._trials.append(trial)
        self._bench.tell_trial(trial)

    async def _halve(self) -> list[_Tally]:
        """Score the best few on all search examples, so that a lucky minibatch does not decide."""
        best = self._ranking()[: self._bench.spec.halving]
        missing = {tally.candidate.content_id: self._missing(tally) for tally in best}
        found = await gather_or_cancel(
            self._score(tally.candidate, missing[tally.candidate.content_id]) for tally in best
        )
        for tally, outcomes in zip(best, found, strict=True):
            self._count_in(tally, outcomes)
        kept = {tally.candidate.content_id for tally in best}
        return [tally for tally in self._ranking() if tally.candidate.content_id in kept]

    def _missing(self, tally: _Tally) -> Sequence[str]:
        """The examples that a combination has not met, as far as the runs allow."""
        missing = [key for key in self._order if key not in tally.outcomes]
        allowed = missing[: self._bench.spec.runs - self._runs_asked]
        self._runs_asked += len(allowed)
        return allowed

    def _count_in(self, tally: _Tally, outcomes: Mapping[str, Outcome]) -> None:
        tally.outcomes.update(outcomes)
        self._runs_told += len(outcomes)

    def _ranking(self) -> list[_Tally]:
        """Every combination that was told, best first; of equals, the one with more examples, then the earlier."""
        told = [tally for tally in self._tallies.values() if tally.outcomes]
        return sorted(told, key=lambda tally: (-tally.score.mean_ppm, -tally.score.count))
