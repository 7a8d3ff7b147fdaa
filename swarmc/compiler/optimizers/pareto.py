"""Pareto: parents come from the front over examples, children merge what their parents chose.

A candidate is on the front when on some example none is better (Agrawal et al. 2025, whose rule for
choosing from the front is used as it is). What is handed on is the front over score and length of
the prompt, which is what a call costs: a longer prompt is kept only where it scores better.
"""

import random
from collections.abc import Mapping, Sequence

from gepa.gepa_utils import select_program_candidate_from_pareto_front

from swarmc.compiler.demonstrations import DemoSets, bootstrap_pool, build_demo_sets
from swarmc.compiler.proposing import propose_for_all
from swarmc.compiler.race import Race, Unit
from swarmc.contracts.candidates import Candidate, Demo, Pools, PredictorChoice, SearchResult, Trial
from swarmc.contracts.canonical import PPM
from swarmc.contracts.ports import Workbench

FIRST = 12
HEAT = 10
RENEWAL = 0.4


class Pareto:
    """Implements the `Optimizer` port."""

    name = "Pareto"

    async def bootstrap(self, bench: Workbench) -> DemoSets:
        return build_demo_sets(bench, await bootstrap_pool(bench))

    async def propose(
        self, bench: Workbench, demo_sets: Mapping[str, Sequence[Sequence[Demo]]]
    ) -> dict[str, tuple[str, ...]]:
        return await propose_for_all(bench, demo_sets)

    async def search(self, bench: Workbench, pools: Pools, trials: int) -> SearchResult:
        return await _Front(bench, pools, trials * min(bench.spec.minibatch, len(bench.ids("search")))).run()


class _Front:
    """A race whose policy gives whole heats: to the newest child, or to a parent that was seen little.

    Implements the race's `Policy`.
    """

    def __init__(self, bench: Workbench, pools: Pools, runs: int) -> None:
        self._bench = bench
        self._pools = pools
        self._rng = random.Random(f"pareto:{bench.seed}")
        self._race = Race(bench, bench.ids("search"), in_flight=bench.spec.in_flight, units=runs)
        self._trials: list[Trial] = []
        self._choices: dict[int, dict[str, tuple[int, int]]] = {}
        self._current = self._enter(dict.fromkeys(pools.instructions, (0, 0)))
        self._left = HEAT

    async def run(self) -> SearchResult:
        ended = await self._race.run(self)
        entries = [self._race.entries[number] for number in self._handed_on()]
        finalists = tuple((entry.candidate, entry.score) for entry in entries[: self._bench.spec.finalists])
        return SearchResult(trials=tuple(self._trials), finalists=finalists, ended=ended)

    def choose(self, race: Race) -> int | None:
        if self._left == 0 or not race.is_open(self._current):
            found = self._next(race)
            if found is None:
                return None
            self._current, self._left = found, HEAT
        self._left -= 1
        return self._current

    def told(self, race: Race, unit: Unit, score_ppm: int) -> None:  # noqa: ARG002 - the port's
        entry = race.entries[unit.entry]
        if len(entry.scores_ppm) % HEAT and len(entry.scores_ppm) < len(race.order):
            return
        trial = Trial(
            number=len(self._trials),
            choice=self._choices[unit.entry],
            candidate_id=entry.candidate.content_id,
            score=entry.score,
        )
        self._trials.append(trial)
        self._bench.tell_trial(trial)

    def _next(self, race: Race) -> int | None:
        """A fresh combination first, then children of the front and members of it in turn."""
        front = self._front(race)
        if len(race.entries) < FIRST or not front:
            return self._open(race, self._enter(self._drawn()))
        pick = self._pick(race, front)
        if self._rng.random() < RENEWAL:
            other = self._pick(race, front)
            return self._open(race, self._enter(self._merged(self._choices[pick], self._choices[other])))
        return self._open(race, pick)

    def _open(self, race: Race, number: int) -> int | None:
        """The entry, or the open one that was seen least."""
        if race.is_open(number):
            return number
        running = [n for n in range(len(race.entries)) if race.is_open(n)]
        return min(running, key=lambda n: race.entries[n].asked, default=None)

    def _front(self, race: Race) -> dict[int, set[int]]:
        """By position of the order, the entries with the best score there."""
        front: dict[int, set[int]] = {}
        scored = [n for n in race.ranking() if len(race.entries[n].scores_ppm) >= HEAT]
        for position in range(len(race.order)):
            scores = {n: s for n in scored if (s := race.entries[n].scores_ppm.get(position)) is not None}
            if scores and (best := max(scores.values())) > 0:
                front[position] = {n for n, score in scores.items() if score == best}
        return front

    def _pick(self, race: Race, front: dict[int, set[int]]) -> int:
        """GEPA's choice: entries that no other makes redundant, by how many examples they are best on."""
        means = [entry.score.mean_ppm / PPM if entry.scores_ppm else 0.0 for entry in race.entries]
        return select_program_candidate_from_pareto_front(front, means, self._rng)

    def _drawn(self) -> dict[str, tuple[int, int]]:
        return {
            name: (self._rng.randrange(len(texts)), self._rng.randrange(len(self._pools.demo_sets[name])))
            for name, texts in self._pools.instructions.items()
        }

    def _merged(self, one: dict[str, tuple[int, int]], other: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """Every choice from either parent; now and then a fresh one, or the front would close."""
        fresh = self._drawn()

        def inherit(name: str, part: int) -> int:
            return self._rng.choices((one[name][part], other[name][part], fresh[name][part]), (4, 4, 2))[0]

        return {name: (inherit(name, 0), inherit(name, 1)) for name in one}

    def _enter(self, choice: dict[str, tuple[int, int]]) -> int:
        number = self._race.enter(self._pools.candidate(choice))
        self._choices.setdefault(number, choice)
        return number

    def _handed_on(self) -> list[int]:
        """The front over score (lower end of its interval) and length of the prompt, best score first."""
        kept: list[int] = []
        for number in self._race.ranking():
            length = prompt_length(self._race.entries[number].candidate)
            if all(length < prompt_length(self._race.entries[k].candidate) for k in kept):
                kept.append(number)
        return kept


def prompt_length(candidate: Candidate) -> int:
    """Characters of the instructions and of the demonstrations' values."""
    return sum(_length(choice) for choice in candidate.predictors.values())


def _length(choice: PredictorChoice) -> int:
    return len(choice.instruction) + sum(len(str(value)) for demo in choice.demos for value in demo.fields.values())
