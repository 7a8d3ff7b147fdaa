"""COPRO (Khattab et al. 2023): instructions written from the scored history of earlier instructions.

Differs from DSPy's where measurement said so: candidates race on shared examples and losers leave
early, instead of each meeting the whole set; the rounds share one race, so nothing is scored twice.
"""

from collections.abc import Mapping, Sequence

from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.race import Heats, Race
from swarmc.contracts.candidates import Candidate, Demo, Pools, PredictorChoice, SearchResult, Trial
from swarmc.contracts.canonical import PPM
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.ports import Workbench

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
        return {
            name: (info.instruction, *await bench.instructions(name, demo_sets[name][0]))
            for name, info in bench.predictors.items()
        }

    async def search(self, bench: Workbench, pools: Pools, trials: int) -> SearchResult:
        return await _Rounds(bench, pools, trials * min(bench.spec.minibatch, len(bench.ids("search")))).run()


class _Rounds:
    """Race, write from the history, race on: `DEPTH` rounds of equal length."""

    def __init__(self, bench: Workbench, pools: Pools, runs: int) -> None:
        self._bench = bench
        self._runs = runs
        self._race = Race(bench, bench.ids("search"), in_flight=bench.spec.in_flight, units=0)
        self._heats = Heats(HEAT, len(self._race.order), self._heat_ended)
        self._texts = {name: list(instructions) for name, instructions in pools.instructions.items()}
        self._written = 0
        self._trials: list[Trial] = []
        self._race.enter(pools.baseline)
        for name, instructions in pools.instructions.items():
            for instruction in instructions:
                self._race.enter(with_instruction(pools.baseline, name, instruction))

    async def run(self) -> SearchResult:
        ended = "completed"
        for number in range(1, DEPTH + 1):
            self._race.units = -(-self._runs * number // DEPTH)
            ended = await self._race.run(self._heats)
            if ended == "budget" or number == DEPTH or not await self._write():
                break
        finalists = [(self._race.entries[n].candidate, self._race.entries[n].score) for n in self._race.ranking()]
        return SearchResult(
            trials=tuple(self._trials), finalists=tuple(finalists[: self._bench.spec.finalists]), ended=ended
        )

    async def _write(self) -> bool:
        """Let children of the leader in, for every predictor; false when the budget allows none."""
        leader = self._race.leader()
        if leader is None:
            return False
        parent = self._race.entries[leader].candidate
        try:
            for name in parent.predictors:
                prompt = self._prompt(name)
                numbers = range(self._written, self._written + BREADTH)
                self._written += BREADTH
                answers = await gather_or_cancel(self._bench.write(prompt, rollout_id=n) for n in numbers)
                for text in dict.fromkeys(filter(None, map(unfenced, answers))):
                    self._race.enter(with_instruction(parent, name, text))
        except BudgetExhausted:
            return False
        return True

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

    def _heat_ended(self, number: int) -> None:
        entry = self._race.entries[number]
        trial = Trial(
            number=len(self._trials),
            choice={name: (self._index(name, one.instruction), 0) for name, one in entry.candidate.predictors.items()},
            candidate_id=entry.candidate.content_id,
            score=entry.score,
        )
        self._trials.append(trial)
        self._bench.tell_trial(trial)

    def _index(self, name: str, instruction: str) -> int:
        """The instruction's place in the pool, or behind it in the order of writing."""
        if instruction not in self._texts[name]:
            self._texts[name].append(instruction)
        return self._texts[name].index(instruction)


def with_instruction(candidate: Candidate, name: str, instruction: str) -> Candidate:
    """The candidate with one predictor's instruction replaced."""
    changed = PredictorChoice(instruction=instruction, demos=candidate.predictors[name].demos)
    return Candidate(predictors={**candidate.predictors, name: changed})


def unfenced(answer: str) -> str:
    """The text between the first pair of ```, or all of it."""
    parts = answer.split("```")
    return (parts[1] if len(parts) > 2 else answer).strip()
