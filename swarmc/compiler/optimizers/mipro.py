"""MIPROv2 (Opsahl-Ong et al. 2024): instructions x demonstration sets, searched by a surrogate or by TPE.

Differs from DSPy's where measurement said so: bootstrap and proposals are awaited together; all
combinations share one order of examples, so that they are compared on the same ones; a combination
that is asked again gets further examples instead of the same; there are no full evaluations. With
the surrogate combinations race example by example, and the last part of the runs goes to the best
few; with TPE whole minibatches overlap, and the best few are scored on all search examples.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from swarmc.compiler.demonstrations import DemoSets, bootstrap_pool, build_demo_sets
from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.intervals import mean_score
from swarmc.compiler.proposing import propose_for_all
from swarmc.compiler.race import Race, Unit
from swarmc.compiler.sampler import OUTCOMES, SurrogateSampler
from swarmc.contracts.candidates import Candidate, Demo, Pools, Score, SearchResult, Trial
from swarmc.contracts.canonical import PPM
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.ports import Workbench

Choice = dict[str, tuple[int, int]]


class MIPROv2:
    """Implements the `Optimizer` port."""

    name = "MIPROv2"

    async def bootstrap(self, bench: Workbench) -> DemoSets:
        pool, _ = await asyncio.gather(bootstrap_pool(bench), bench.prepare())
        return build_demo_sets(bench, pool)

    async def propose(
        self, bench: Workbench, demo_sets: Mapping[str, Sequence[Sequence[Demo]]]
    ) -> dict[str, tuple[str, ...]]:
        return await propose_for_all(bench, demo_sets)

    async def search(self, bench: Workbench, pools: Pools, trials: int) -> SearchResult:
        if bench.spec.sampler == "tpe":
            return await _Search(bench, pools).run(trials)
        return await _Racing(bench, pools, trials * min(bench.spec.minibatch, len(bench.ids("search")))).run()


FINAL_SHARE = 0.2
FINAL_OPTIMISM = 0.5


@dataclass(eq=False)
class _Visit:
    """A trial of the race: one combination on its next few examples."""

    trial: optuna.trial.Trial
    choice: Choice
    entry: int
    left: int
    waiting: int = 0
    outcomes: dict[str, float] = field(default_factory=dict)


class _Racing:
    """A race that the surrogate steers. Implements the race's `Policy`.

    A visit that was told becomes one trial of the study: its value is the visit's mean, its
    attribute `outcomes` holds the scores by example. For the last `FINAL_SHARE` of the runs only
    the `halving` best combinations are chosen from.
    """

    def __init__(self, bench: Workbench, pools: Pools, runs: int) -> None:
        self._bench = bench
        self._pools = pools
        self._space = _space(pools)
        self._asked: dict[str, BaseDistribution] = dict(self._space)
        self._sampler = SurrogateSampler(self._space, seed=bench.seed)
        self._study = _new_study(self._sampler, pools)
        self._race = Race(bench, bench.ids("search"), in_flight=bench.spec.in_flight, units=runs)
        self._current: _Visit | None = None
        self._visits: dict[Unit, _Visit] = {}
        self._unfinished: list[_Visit] = []
        self._entry_of: dict[tuple[int, ...], int] = {}
        self._trials: list[Trial] = []

    async def run(self) -> SearchResult:
        ended = await self._race.run(self)
        for visit in self._unfinished:
            if visit.outcomes:
                self._end(visit)
        entries = [self._race.entries[self._entry_of[choice]] for choice, _ in self._sampler.ranking()]
        finalists = [(entry.candidate, entry.score) for entry in entries if entry.scores_ppm]
        return SearchResult(
            trials=tuple(self._trials), finalists=tuple(finalists[: self._bench.spec.finalists]), ended=ended
        )

    def choose(self, race: Race) -> int | None:
        """The combination being visited, else the sampler's next; nobody when all have met all examples."""
        if self._sampler.only is None and race.asked >= race.units * (1 - FINAL_SHARE):
            self._begin_final()
        visit = self._current
        if visit is None or visit.left == 0 or not race.is_open(visit.entry):
            visit = self._current = self._visit(race) if self._sampler.has_open() else None
        if visit is None:
            return None
        visit.left -= 1
        visit.waiting += 1
        entry = race.entries[visit.entry]
        self._visits[Unit(visit.entry, entry.asked, race.order[entry.asked], 0)] = visit
        if entry.asked + 1 == len(race.order):
            self._sampler.closed.add(self._sampler.choice_of(visit.trial.params))
            visit.left = 0
        return visit.entry

    def told(self, race: Race, unit: Unit, score_ppm: int) -> None:  # noqa: ARG002 - the port's
        """Count a score for its visit; a visit that ended is told to the study."""
        visit = self._visits.pop(unit)
        visit.outcomes[unit.example_id] = score_ppm / PPM
        visit.waiting -= 1
        if visit.left == 0 and visit.waiting == 0:
            self._unfinished.remove(visit)
            self._end(visit)

    def _visit(self, race: Race) -> _Visit:
        trial = self._study.ask(self._asked)
        choice = {}
        for name in self._pools.instructions:
            instruction, demos = _keys(name)
            choice[name] = (trial.params[instruction], trial.params[demos])
        entry = race.enter(self._pools.candidate(choice))
        self._entry_of[self._sampler.choice_of(trial.params)] = entry
        visit = _Visit(trial, choice, entry, self._bench.spec.visit)
        self._unfinished.append(visit)
        return visit

    def _end(self, visit: _Visit) -> None:
        visit.trial.set_user_attr(OUTCOMES, visit.outcomes)
        self._study.tell(visit.trial, sum(visit.outcomes.values()) / len(visit.outcomes))
        entry = self._race.entries[visit.entry]
        trial = Trial(
            number=visit.trial.number,
            choice=visit.choice,
            candidate_id=entry.candidate.content_id,
            score=entry.score,
        )
        self._trials.append(trial)
        self._bench.tell_trial(trial)

    def _begin_final(self) -> None:
        """From now on only the best few are chosen; a visit that was begun ends where it is."""
        best = self._sampler.ranking(FINAL_OPTIMISM)[: self._bench.spec.halving]
        if not best:
            return
        self._sampler.only = {choice for choice, _ in best}
        if self._current is not None:
            self._current.left = 0


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
        sampler = optuna.samplers.TPESampler(seed=bench.seed, multivariate=True, constant_liar=True)
        self._study = _new_study(sampler, pools)

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


def _new_study(sampler: optuna.samplers.BaseSampler, pools: Pools) -> optuna.Study:
    """A study in memory whose first trial is the uncompiled program."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial({key: 0 for name in pools.instructions for key in _keys(name)})
    return study


def _space(pools: Pools) -> dict[str, CategoricalDistribution]:
    """Optuna's parameters: by predictor, the indices of its instructions and of its demonstration sets."""
    space = {}
    for name in pools.instructions:
        instruction, demos = _keys(name)
        space[instruction] = CategoricalDistribution(tuple(range(len(pools.instructions[name]))))
        space[demos] = CategoricalDistribution(tuple(range(len(pools.demo_sets[name]))))
    return space


def _keys(name: str) -> tuple[str, str]:
    """Optuna's names of a predictor's two choices."""
    return f"{name}/instruction", f"{name}/demos"
