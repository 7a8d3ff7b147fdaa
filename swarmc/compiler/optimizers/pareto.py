"""Pareto: parents come from the front over examples, children merge what their parents chose.

A candidate is on the front when on some example none is better (Agrawal et al. 2025, whose rule for
choosing from the front is used as it is). What is handed on is the front over score, measured cost
and measured time of a run: a candidate that scores less is kept only where it is clearly cheaper or
faster than every better one.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence

from gepa.gepa_utils import select_program_candidate_from_pareto_front

from swarmc.compiler.demands import bootstrap_runs, proposals
from swarmc.compiler.demonstrations import DemoSets, bootstrap_pool, build_demo_sets
from swarmc.compiler.proposing import propose_for_all
from swarmc.compiler.race import Choices, Entry, Race, Unit, Writing
from swarmc.compiler.reflection import Reflections, failures
from swarmc.compiler.studies import (
    earlier_choices,
    fresh_demo_sets,
    with_earlier_demo_sets,
    with_earlier_instructions,
)
from swarmc.contracts.candidates import Demo, Pools, SearchResult, Study
from swarmc.contracts.canonical import PPM
from swarmc.contracts.plan import Demand
from swarmc.contracts.ports import Workbench
from swarmc.contracts.spec import PlannedSearch

FIRST = 12
HEAT = 10
RENEWAL = 0.4
CLEARLY = 0.9


class Pareto:
    """Implements the `Optimizer` port."""

    name = "Pareto"

    async def bootstrap(self, bench: Workbench) -> DemoSets:
        fresh = fresh_demo_sets(bench)
        return with_earlier_demo_sets(bench, build_demo_sets(bench, await bootstrap_pool(bench, fresh), fresh))

    async def propose(
        self, bench: Workbench, demo_sets: Mapping[str, Sequence[Sequence[Demo]]]
    ) -> dict[str, tuple[str, ...]]:
        return with_earlier_instructions(bench, await propose_for_all(bench, demo_sets))

    async def search(self, bench: Workbench, pools: Pools) -> SearchResult:
        return await _Front(bench, pools).run()

    def demand(self, spec: PlannedSearch, predictors: int, train: int) -> Demand:
        return Demand(
            bootstrap_runs=bootstrap_runs(spec, train),
            proposals=proposals(spec, predictors),
            writings=spec.reflections * predictors,
        )


class _Front:
    """A race whose policy gives whole heats: to the newest child, or to a parent that was seen little.

    Implements the race's `Policy`.
    """

    def __init__(self, bench: Workbench, pools: Pools) -> None:
        self._bench = bench
        self._pools = pools
        self._rng = random.Random(f"pareto:{bench.seed}")
        self._race = Race(bench, bench.ids("search"), in_flight=bench.spec.in_flight, units=bench.spec.runs)
        self._reflections = Reflections(bench, bench.spec.runs)
        self._waiting = deque(earlier_choices(bench.earlier, pools) if bench.earlier else [])
        self._current = self._enter(dict.fromkeys(pools.instructions, (0, 0)))
        self._left = HEAT

    async def run(self) -> SearchResult:
        """Race until the runs or the budget are used up."""
        ended = await self._race.run(self)
        return self._race.result(front_of(self._race.entries, self._race.ranking()), ended, Study(pools=self._pools))

    def choose(self, race: Race) -> int | Writing | None:
        """The entry whose heat it is, else the next; now and then a child is written."""
        if (name := self._reflections.due(race)) and (writing := self._writing(race, name)) is not None:
            return writing
        if self._left == 0 or not race.is_open(self._current):
            found = self._next(race)
            if found is None:
                return None
            self._current, self._left = found, HEAT
        self._left -= 1
        return self._current

    def told(self, race: Race, unit: Unit, score_ppm: int) -> None:  # noqa: ARG002 - the port's
        """A heat that ended is a trial."""
        entry = race.entries[unit.entry]
        if len(entry.scores_ppm) % HEAT == 0 or len(entry.scores_ppm) == len(race.order):
            race.tell_trial(unit.entry)

    def _writing(self, race: Race, name: str) -> Writing | None:
        """Have a child of a member of the front written, if one failed somewhere."""
        front = self._front(race)
        parent = self._pick(race, front) if front else 0
        if not failures(race, parent):
            return None
        choice = race.entries[parent].choice

        def told(texts: Sequence[str]) -> None:
            for text in texts:
                known = self._pools.instructions[name]
                if text not in known:
                    self._pools = self._pools.with_instruction(name, text)
                    self._waiting.append({**choice, name: (len(known), choice[name][1])})

        return self._reflections.writing(race, parent, name, told)

    def _next(self, race: Race) -> int | None:
        """What waits or is fresh first, then children of the front and members of it in turn."""
        if self._waiting:
            return self._open(race, self._enter(self._waiting.popleft()))
        front = self._front(race)
        if len(race.entries) < FIRST or not front:
            return self._open(race, self._enter(self._drawn()))
        pick = self._pick(race, front)
        if self._rng.random() < RENEWAL:
            one, other = (race.entries[number].choice for number in (pick, self._pick(race, front)))
            return self._open(race, self._enter(self._merged(one, other)))
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

    def _drawn(self) -> Choices:
        return {
            name: (self._rng.randrange(len(texts)), self._rng.randrange(len(self._pools.demo_sets[name])))
            for name, texts in self._pools.instructions.items()
        }

    def _merged(self, one: Choices, other: Choices) -> Choices:
        """Every choice from either parent; now and then a fresh one, or the front would close."""
        fresh = self._drawn()

        def inherit(name: str, part: int) -> int:
            return self._rng.choices((one[name][part], other[name][part], fresh[name][part]), (4, 4, 2))[0]

        return {name: (inherit(name, 0), inherit(name, 1)) for name in one}

    def _enter(self, choice: Choices) -> int:
        return self._race.enter(self._pools.candidate(choice), choice)


def front_of(entries: Sequence[Entry], ranking: Sequence[int]) -> list[int]:
    """Those of a ranking (best score first) that nobody before them matches in both cost and time of a run."""
    free = not any(entry.cost.msats for entry in entries)
    kept: list[int] = []
    for number in ranking:
        price, latency_ms = _per_run(entries[number], free=free)
        rivals = [_per_run(entries[k], free=free) for k in kept]
        if all(price < CLEARLY * its_price or latency_ms < CLEARLY * its_ms for its_price, its_ms in rivals):
            kept.append(number)
    return kept


def _per_run(entry: Entry, *, free: bool) -> tuple[float, float]:
    """What a run took on average: msats, or tokens where all is free; and milliseconds."""
    cost, runs = entry.cost, len(entry.scores_ppm)
    return (cost.prompt_tokens + cost.completion_tokens if free else cost.msats) / runs, cost.latency_ms / runs
