"""A race that the surrogate steers: visits of a few examples, written instructions, a final of the best."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from swarmc.compiler.race import Choices, Race, Unit, Writing
from swarmc.compiler.reflection import Reflections, failures
from swarmc.compiler.sampler import OUTCOMES, SurrogateSampler
from swarmc.compiler.studies import earlier_choices, expect_earlier, study_of
from swarmc.contracts.candidates import Pools, SearchResult
from swarmc.contracts.canonical import PPM
from swarmc.contracts.ports import Workbench

FINAL_SHARE = 0.2
FINAL_OPTIMISM = 0.5


@dataclass(eq=False)
class _Visit:
    """A trial of the race: one combination on its next few examples."""

    trial: optuna.trial.Trial
    entry: int
    left: int
    waiting: int = 0
    outcomes: dict[str, float] = field(default_factory=dict)


class SteeredRace:
    """A race that the surrogate steers. Implements the race's `Policy`.

    A visit that was told becomes one trial of the study: its value is the visit's mean, its
    attribute `outcomes` holds the scores by example. For the last `FINAL_SHARE` of the runs only
    the `halving` best combinations are chosen from. Instructions that are written on the way take
    places that were kept for them.

    Args:
        bench: Where candidates are scored.
        pools: What is chosen from at first.
    """

    def __init__(self, bench: Workbench, pools: Pools) -> None:
        self._bench = bench
        self._pools = pools
        space = space_of(pools, bench.spec.reflections)
        self._asked: dict[str, BaseDistribution] = dict(space)
        self._sampler = SurrogateSampler(space, seed=bench.seed)
        for name, texts in pools.instructions.items():
            for number in range(bench.spec.reflections):
                self._sampler.shut(keys_of(name)[0], len(texts) + number)
        self._study = new_study(self._sampler, self._first())
        self._race = Race(bench, bench.ids("search"), in_flight=bench.spec.in_flight, units=bench.spec.runs)
        self._reflections = Reflections(bench, bench.spec.runs)
        self._current: _Visit | None = None
        self._visits: dict[Unit, _Visit] = {}
        self._unfinished: list[_Visit] = []
        self._entry_of: dict[tuple[int, ...], int] = {}

    async def run(self) -> SearchResult:
        """Race until the runs or the budget are used up."""
        ended = await self._race.run(self)
        for visit in self._unfinished:
            if visit.outcomes:
                self._end(visit)
        entries = dict.fromkeys(self._entry_of[choice] for choice, _ in self._sampler.ranking())
        scored = [number for number in entries if self._race.entries[number].scores_ppm]
        return self._race.result(scored, ended, study_of(self._sampler.model, self._pools))

    def choose(self, race: Race) -> int | Writing | None:
        """The combination being visited, else the sampler's next; nobody when all have met all examples."""
        if self._sampler.only is None and race.asked >= race.units * (1 - FINAL_SHARE):
            self._begin_final()
        if self._sampler.only is None and (writing := self._writing(race)) is not None:
            return writing
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

    def _first(self) -> list[Choices]:
        """What is visited first: what an earlier search ended with, and the program's own."""
        own: Choices = dict.fromkeys(self._pools.instructions, (0, 0))
        if self._bench.earlier is None:
            return [own]
        expect_earlier(self._sampler.model, self._bench.earlier, self._pools)
        found = earlier_choices(self._bench.earlier, self._pools)
        return [*(choice for choice in found if choice != own), own]

    def _visit(self, race: Race) -> _Visit:
        trial = self._study.ask(self._asked)
        choice = {
            name: (trial.params[i], trial.params[d]) for name in self._pools.instructions for i, d in [keys_of(name)]
        }
        entry = race.enter(self._pools.candidate(choice), choice)
        self._entry_of[self._sampler.choice_of(trial.params)] = entry
        visit = _Visit(trial, entry, self._bench.spec.visit)
        self._unfinished.append(visit)
        return visit

    def _end(self, visit: _Visit) -> None:
        visit.trial.set_user_attr(OUTCOMES, visit.outcomes)
        self._study.tell(visit.trial, sum(visit.outcomes.values()) / len(visit.outcomes))
        self._race.tell_trial(visit.entry)

    def _writing(self, race: Race) -> Writing | None:
        """Have the next instruction written, where one is due and something failed that it can be written from."""
        name = self._reflections.due(race)
        parent = self._parent(race) if name is not None else None
        if name is None or parent is None:
            return None
        choice = race.entries[parent].choice

        def told(texts: Sequence[str]) -> None:
            for text in texts:
                self._let_in(name, text, choice)

        return self._reflections.writing(race, parent, name, told)

    def _parent(self, race: Race) -> int | None:
        """Of the combinations that failed somewhere, the best in one sample of what is believed."""
        draw = self._sampler.imagine()
        tried = [choice for choice, _ in self._sampler.ranking() if failures(race, self._entry_of[choice])]
        return self._entry_of[max(tried, key=draw.value)] if tried else None

    def _let_in(self, name: str, text: str, parent: Choices) -> None:
        """Give a written instruction its place, and a first visit beside its parent's demonstrations."""
        texts = self._pools.instructions[name]
        if text in texts or self._sampler.only is not None:
            return
        self._pools = self._pools.with_instruction(name, text)
        self._sampler.open(keys_of(name)[0], len(texts), parent[name][0])
        self._study.enqueue_trial(params_of({**parent, name: (len(texts), parent[name][1])}))

    def _begin_final(self) -> None:
        """From now on only the best few are chosen; a visit that was begun ends where it is."""
        best = self._sampler.ranking(FINAL_OPTIMISM)[: self._bench.spec.halving]
        if not best:
            return
        self._sampler.only = {choice for choice, _ in best}
        if self._current is not None:
            self._current.left = 0


def new_study(sampler: optuna.samplers.BaseSampler, first: Sequence[Choices]) -> optuna.Study:
    """A study in memory that begins with these choices."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for choice in first:
        study.enqueue_trial(params_of(choice))
    return study


def space_of(pools: Pools, places: int = 0) -> dict[str, CategoricalDistribution]:
    """Optuna's parameters: by predictor, the indices of its instructions and of its demonstration sets.

    Args:
        pools: What there is.
        places: Kept for further instructions.
    """
    space = {}
    for name, texts in pools.instructions.items():
        instruction, demos = keys_of(name)
        space[instruction] = CategoricalDistribution(tuple(range(len(texts) + places)))
        space[demos] = CategoricalDistribution(tuple(range(len(pools.demo_sets[name]))))
    return space


def params_of(choice: Choices) -> dict[str, int]:
    """Optuna's parameters of a choice."""
    return {key: at for name, one in choice.items() for key, at in zip(keys_of(name), one, strict=True)}


def keys_of(name: str) -> tuple[str, str]:
    """Optuna's names of a predictor's two choices."""
    return f"{name}/instruction", f"{name}/demos"
