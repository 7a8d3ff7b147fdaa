"""COPRO (Khattab et al. 2023): instructions written from the scored history of earlier instructions.

Differs from DSPy's where measurement said so: candidates race on shared examples and losers leave
early, instead of each meeting the whole set; the rounds share one race, so nothing is scored twice,
and it goes on while the next round's instructions are written.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from swarmc.compiler.demands import proposals
from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.proposing import propose_for_all
from swarmc.compiler.race import Choices, Heats, Race, Unit, Writing
from swarmc.compiler.reflection import unfenced
from swarmc.compiler.studies import with_earlier_instructions
from swarmc.contracts.candidates import Demo, Pools, SearchResult, Study
from swarmc.contracts.canonical import PPM
from swarmc.contracts.plan import Demand
from swarmc.contracts.ports import Workbench
from swarmc.contracts.spec import PlannedSearch

DEPTH = 3
BREADTH = 6
HEAT = 10
SHOWN = 8
HISTORY_PROMPT = """You improve the instruction of one step of a language model program.
The step reads {inputs} and writes {outputs}.
These instructions were tried, best first, each with its score on examples (0 to 1):

{history}

Write one new instruction that will score higher than all of them. It must stand alone.
Give its text within ``` and nothing else."""


class COPRO:
    """Implements the `Optimizer` port. Demonstrations stay the program's own."""

    name = "COPRO"

    async def bootstrap(self, bench: Workbench) -> dict[str, tuple[tuple[Demo, ...], ...]]:
        return {name: (choice.demos,) for name, choice in bench.own.predictors.items()}

    async def propose(
        self, bench: Workbench, demo_sets: Mapping[str, Sequence[Sequence[Demo]]]
    ) -> dict[str, tuple[str, ...]]:
        return with_earlier_instructions(bench, await propose_for_all(bench, demo_sets))

    async def search(self, bench: Workbench, pools: Pools) -> SearchResult:
        return await _Rounds(bench, pools).run()

    def demand(self, spec: PlannedSearch, predictors: int, train: int) -> Demand:  # noqa: ARG002 - the port's
        return Demand(proposals=proposals(spec, predictors), writings=(DEPTH - 1) * BREADTH * predictors)


class _Rounds:
    """A race of all instructions; at the end of every round but the last, children of the leader are written.

    Implements the race's `Policy`.
    """

    def __init__(self, bench: Workbench, pools: Pools) -> None:
        self._bench = bench
        self._race = Race(bench, bench.ids("search"), in_flight=bench.spec.in_flight, units=bench.spec.runs)
        self._heats = Heats(HEAT, len(self._race.order), self._race.tell_trial)
        self._texts = {name: list(instructions) for name, instructions in pools.instructions.items()}
        self._demo_sets = pools.demo_sets
        self._rounds = deque(bench.spec.runs * number // DEPTH for number in range(1, DEPTH))
        self._due: deque[tuple[str, int]] = deque()
        self._written = 0
        self._awaited = 0
        own: Choices = dict.fromkeys(pools.instructions, (0, 0))
        self._enter(own)
        for name, instructions in pools.instructions.items():
            for index in range(len(instructions)):
                self._enter({**own, name: (index, 0)})

    async def run(self) -> SearchResult:
        """Race until the runs or the budget are used up, or one is left."""
        ended = await self._race.run(self)
        return self._race.result(self._race.ranking(), ended, Study(pools=self._pools))

    def choose(self, race: Race) -> int | Writing | None:
        """Children when a round is over, and otherwise who has met the fewest examples."""
        if self._rounds and race.asked >= self._rounds[0]:
            self._end_round(race)
        number = self._heats.choose(race)
        if number is None and self._rounds and race.told == race.asked and not self._due and not self._awaited:
            self._end_round(race)
        return self._writing(race) if self._due and race.may_write else number

    def told(self, race: Race, unit: Unit, score_ppm: int) -> None:
        """Look for losers at the end of a heat."""
        self._heats.told(race, unit, score_ppm)

    @property
    def _pools(self) -> Pools:
        return Pools(
            instructions={name: tuple(texts) for name, texts in self._texts.items()}, demo_sets=self._demo_sets
        )

    def _end_round(self, race: Race) -> None:
        self._rounds.popleft()
        leader = race.leader()
        if leader is not None and race.may_write:
            self._due.extend((name, leader) for name in self._texts)

    def _writing(self, race: Race) -> Writing:
        """Have children of the leader written for the next predictor."""
        name, leader = self._due.popleft()
        choice = race.entries[leader].choice
        prompt = self._prompt(name)
        numbers = range(self._written, self._written + BREADTH)
        self._written += BREADTH
        self._awaited += 1

        async def write() -> Sequence[str]:
            return await gather_or_cancel(self._bench.write(prompt, rollout_id=n) for n in numbers)

        def told(answers: Sequence[str]) -> None:
            self._awaited -= 1
            for text in filter(None, map(unfenced, answers)):
                if text not in self._texts[name]:
                    self._texts[name].append(text)
                self._enter({**choice, name: (self._texts[name].index(text), 0)})

        return Writing(write, told)

    def _enter(self, choice: Choices) -> None:
        self._race.enter(self._pools.candidate(choice), choice)

    def _prompt(self, name: str) -> str:
        """The best instructions that a predictor was tried with, and what they scored at best."""
        scores: dict[str, int] = {}
        for number in self._race.ranking():
            entry = self._race.entries[number]
            scores.setdefault(entry.candidate.predictors[name].instruction, entry.score.mean_ppm)
        tried = [f"```\n{text}\n```\nscore: {mean / PPM:.2f}" for text, mean in list(scores.items())[:SHOWN]]
        info = self._bench.predictors[name]
        return HISTORY_PROMPT.format(
            inputs=", ".join(info.inputs), outputs=", ".join(info.outputs), history="\n\n".join(tried)
        )
