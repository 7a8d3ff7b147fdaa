"""The race: candidates meet on the same examples in one fixed order, and those that cannot win leave it.

The unit is one candidate on one example, and one sample of it. Its outcome is a score, or 0 when
the model or the program failed; a venue that is down raises instead. Examples stream: as long as a
policy names candidates, `in_flight` units are out, and unit n + in_flight is chosen when unit n was
told. What is chosen therefore depends on scores alone, never on the order in which they arrived.

A policy may also have texts written. That takes longer than a unit, so units go on meanwhile, and
the texts are told a fixed number of units later: again a point that depends on scores alone.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from swarmc.compiler.intervals import mean_score, paired_difference
from swarmc.contracts.candidates import (
    Candidate,
    Measured,
    Outcome,
    RunCost,
    Score,
    SearchResult,
    Study,
    Trial,
)
from swarmc.contracts.canonical import ContentId
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.ports import Workbench

Ended = Literal["completed", "budget"]
Choices = dict[str, tuple[int, int]]
FEWEST_SHARED = 8
ROUNDS = 6
"""Units in flight are at most such a part of all units: a race of few would be over before a score is told."""
WRITING_LAG = 2
"""Texts are told when so many times the units in flight were told since they were asked for: what a model
needs to write an instruction is some times what it needs for an answer."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One candidate on one example.

    Attributes:
        entry: The candidate's number in the race.
        position: The example's place in the order; from the order's length on, further samples.
        example_id: The example.
        sample: 0 the first time a candidate meets the example.
    """

    entry: int
    position: int
    example_id: ContentId
    sample: int


@dataclass(frozen=True, slots=True)
class Writing:
    """Texts that a policy wants while the race goes on.

    Attributes:
        write: Has them written; called at once.
        told: Called with them, or with nothing when the budget refused them.
    """

    write: Callable[[], Awaitable[Sequence[str]]]
    told: Callable[[Sequence[str]], None]


@dataclass
class Entry:
    """A candidate in the race.

    Attributes:
        candidate: Its text.
        choice: Its pool indices by predictor.
        asked: How many units of it were chosen: always the first ones of the order.
        scores_ppm: What was told, by position.
        dropped: It cannot win any more.
        cost: What its told units took.
    """

    candidate: Candidate
    choice: Choices = field(default_factory=dict)
    asked: int = 0
    scores_ppm: dict[int, int] = field(default_factory=dict)
    dropped: bool = False
    cost: RunCost = field(default_factory=RunCost)

    @property
    def score(self) -> Score:
        """Mean and interval of what was told; at least one unit must be."""
        return mean_score(list(self.scores_ppm.values()))


class Policy(Protocol):
    """Who runs next."""

    def choose(self, race: "Race") -> int | Writing | None:
        """The entry that gets the next unit, or texts to be written; nothing before another score or text is told."""
        ...

    def told(self, race: "Race", unit: Unit, score_ppm: int) -> None:
        """A score, in the order of choosing."""
        ...


class Race:
    """The entries, their scores, and the loop that fills the lanes.

    Args:
        bench: Where candidates are scored.
        order: The examples, in the order in which every candidate meets them.
        in_flight: Units that are out at once. Part of the result: a search that is run again needs the same.
        units: How many may be asked for in all.
        samples: How often a candidate may meet each example.

    Attributes:
        entries: The candidates, in the order of entering.
        asked: Units that were chosen.
        told: Units whose scores are in.
        may_write: The budget has refused no text yet.
    """

    def __init__(
        self, bench: Workbench, order: Sequence[ContentId], *, in_flight: int, units: int, samples: int = 1
    ) -> None:
        self.entries: list[Entry] = []
        self.units = units
        self.asked = 0
        self.told = 0
        self.may_write = True
        self.order = tuple(order)
        self._bench = bench
        self._in_flight = max(1, min(in_flight, units // ROUNDS))
        self._samples = samples
        self._numbers: dict[ContentId, int] = {}
        self._trials: list[Trial] = []
        self._out: deque[tuple[Unit, asyncio.Task[Outcome]]] = deque()
        self._writings: deque[tuple[int, Writing, asyncio.Task[Sequence[str] | None]]] = deque()

    def enter(self, candidate: Candidate, choice: Choices | None = None) -> int:
        """Let a candidate in, at any time; the same text keeps its number, its first choice and its scores."""
        number = self._numbers.setdefault(candidate.content_id, len(self.entries))
        if number == len(self.entries):
            self.entries.append(Entry(candidate, choice or {}))
        return number

    def is_open(self, number: int) -> bool:
        """There are examples that this entry has not met, and it was not dropped."""
        entry = self.entries[number]
        return not entry.dropped and entry.asked < len(self.order) * self._samples

    async def run(self, policy: Policy) -> Ended:
        """Choose, ask and tell until the policy names nobody, or the units or the budget are used up.

        Raises:
            VenueError: a venue stayed down; what was told stays in the entries.
        """
        try:
            while True:
                self._fill(policy)
                if self._writings and (not self._out or self.told >= self._writings[0][0]):
                    await self._tell_texts()
                elif self._out:
                    self._tell(policy, self._out[0][0], await self._out[0][1])
                    self._out.popleft()
                else:
                    return "completed"
        except BudgetExhausted:
            await self._keep_bought(policy)
            return "budget"
        finally:
            tasks: list[asyncio.Task[Any]] = [task for _, task in self._out]
            tasks += [task for _, _, task in self._writings]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._out.clear()
            self._writings.clear()

    def drop_losers(self, leader: int) -> None:
        """Drop every entry whose paired difference to the leader lies below 0 with its whole interval."""
        best = self.entries[leader]
        for number, entry in enumerate(self.entries):
            if number != leader and not entry.dropped and cannot_win(entry, best):
                entry.dropped = True

    def leader(self) -> int | None:
        """Of the entries that were not dropped, the first of the ranking."""
        return next((number for number in self.ranking() if not self.entries[number].dropped), None)

    def ranking(self) -> list[int]:
        """The entries that were scored, by the lower end of their interval: a few lucky examples are not enough."""
        told = [n for n, entry in enumerate(self.entries) if entry.scores_ppm]
        return sorted(told, key=lambda n: (-self.entries[n].score.low_ppm, n))

    def tell_trial(self, number: int) -> None:
        """Say what an entry scored so far, as the search's next trial."""
        entry = self.entries[number]
        trial = Trial(
            number=len(self._trials),
            choice=entry.choice,
            candidate_id=entry.candidate.content_id,
            score=entry.score,
            runs=self.told,
        )
        self._trials.append(trial)
        self._bench.tell_trial(trial)

    def result(self, finalists: Sequence[int], ended: Ended, study: Study) -> SearchResult:
        """How the search went, with the best of `finalists` handed on."""
        best = [self.entries[number] for number in finalists[: self._bench.spec.finalists]]
        told = [entry for entry in self.entries if entry.scores_ppm]
        return SearchResult(
            trials=tuple(self._trials),
            finalists=tuple((entry.candidate, entry.score) for entry in best),
            ended=ended,
            measured=tuple(
                Measured(
                    candidate_id=entry.candidate.content_id, choice=entry.choice, score=entry.score, cost=entry.cost
                )
                for entry in told
            ),
            study=study.model_copy(update={"best": tuple(entry.choice for entry in best)}),
        )

    def _fill(self, policy: Policy) -> None:
        """Start units until all places are taken or the policy names nobody, and the writings that it names between."""
        while len(self._out) < self._in_flight and self.asked < self.units:
            chosen = policy.choose(self)
            if chosen is None:
                return
            if isinstance(chosen, Writing):
                due = self.told + WRITING_LAG * self._in_flight
                self._writings.append((due, chosen, asyncio.create_task(_written(chosen))))
            else:
                unit = self._next(chosen)
                self._out.append((unit, asyncio.create_task(self._score(unit))))

    def _next(self, number: int) -> Unit:
        entry = self.entries[number]
        position, count = entry.asked, len(self.order)
        entry.asked += 1
        self.asked += 1
        return Unit(number, position, self.order[position % count], position // count)

    async def _score(self, unit: Unit) -> Outcome:
        candidate = self.entries[unit.entry].candidate
        evaluation = await self._bench.evaluate(candidate, (unit.example_id,), rollout_id=unit.sample)
        return evaluation.outcomes[0]

    def _tell(self, policy: Policy, unit: Unit, outcome: Outcome) -> None:
        entry = self.entries[unit.entry]
        entry.scores_ppm[unit.position] = outcome.score_ppm
        entry.cost += outcome.cost
        self.told += 1
        policy.told(self, unit, outcome.score_ppm)

    async def _tell_texts(self) -> None:
        _, writing, task = self._writings[0]
        texts = await task
        self._writings.popleft()
        self.may_write = self.may_write and texts is not None
        writing.told(texts or ())

    async def _keep_bought(self, policy: Policy) -> None:
        """Tell the scores that were bought although the budget refused others. Other errors still raise."""
        while self._out:
            unit, task = self._out.popleft()
            try:
                outcome = await task
            except BudgetExhausted:
                continue
            self._tell(policy, unit, outcome)


async def _written(writing: Writing) -> Sequence[str] | None:
    """The texts; nothing when they could not be bought, which ends the writing and not the race."""
    try:
        return await writing.write()
    except BudgetExhausted:
        return None


def cannot_win(entry: Entry, leader: Entry) -> bool:
    """The leader is better on the examples that both met, beyond what chance explains."""
    shared = [position for position in entry.scores_ppm if position in leader.scores_ppm]
    if len(shared) < FEWEST_SHARED:
        return False
    ours, theirs = ([one.scores_ppm[position] for position in shared] for one in (entry, leader))
    return paired_difference(ours, theirs).high_ppm < 0


@dataclass
class Heats:
    """A policy for a list of candidates: all meet the same examples, heat by heat, and losers leave.

    Args:
        heat: Examples that every entry meets before losers are looked for.
        most: Examples that an entry meets at most.
        ended: Called with an entry's number whenever it ends a heat.
    """

    heat: int
    most: int
    ended: Callable[[int], None] = lambda number: None  # noqa: ARG005

    def choose(self, race: Race) -> int | None:
        """The entry with the fewest units; of equals the first. Nobody when one is left or all have met enough."""
        running = [n for n in range(len(race.entries)) if race.is_open(n) and race.entries[n].asked < self.most]
        rivals = sum(not entry.dropped for entry in race.entries)
        if not running or (rivals == 1 and race.entries[running[0]].asked >= self.heat):
            return None
        return min(running, key=lambda n: race.entries[n].asked)

    def told(self, race: Race, unit: Unit, score_ppm: int) -> None:  # noqa: ARG002 - the port's
        """Look for losers whenever an entry ends a heat."""
        if len(race.entries[unit.entry].scores_ppm) % self.heat:
            return
        self.ended(unit.entry)
        if (leader := race.leader()) is not None:
            race.drop_losers(leader)
