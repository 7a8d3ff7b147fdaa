"""The race: candidates meet on the same examples in one fixed order, and those that cannot win leave it.

The unit is one candidate on one example, and one sample of it. Its outcome is a score, or 0 when
the model or the program failed; a venue that is down raises instead. Examples stream: as long as a
policy names candidates, `in_flight` units are out, and unit n + in_flight is chosen when unit n was
told. What is chosen therefore depends on scores alone, never on the order in which they arrived.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from swarmc.compiler.intervals import mean_score, paired_difference
from swarmc.contracts.candidates import Candidate, Score
from swarmc.contracts.canonical import ContentId
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.ports import Workbench

Ended = Literal["completed", "budget"]
FEWEST_SHARED = 8


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


@dataclass
class Entry:
    """A candidate in the race.

    Attributes:
        candidate: Its text.
        asked: How many units of it were chosen: always the first ones of the order.
        scores_ppm: What was told, by position.
        dropped: It cannot win any more.
    """

    candidate: Candidate
    asked: int = 0
    scores_ppm: dict[int, int] = field(default_factory=dict)
    dropped: bool = False

    @property
    def score(self) -> Score:
        """Mean and interval of what was told; at least one unit must be."""
        return mean_score(list(self.scores_ppm.values()))


class Policy(Protocol):
    """Who runs next."""

    def choose(self, race: "Race") -> int | None:
        """The entry that gets the next unit; nothing when no more is wanted before another score is told."""
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
    """

    def __init__(
        self, bench: Workbench, order: Sequence[ContentId], *, in_flight: int, units: int, samples: int = 1
    ) -> None:
        self.entries: list[Entry] = []
        self.units = units
        self.asked = 0
        self.order = tuple(order)
        self._bench = bench
        self._in_flight = in_flight
        self._samples = samples
        self._numbers: dict[ContentId, int] = {}

    def enter(self, candidate: Candidate) -> int:
        """Let a candidate in, at any time; the same text keeps its number and its scores."""
        number = self._numbers.setdefault(candidate.content_id, len(self.entries))
        if number == len(self.entries):
            self.entries.append(Entry(candidate))
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
        out: deque[tuple[Unit, asyncio.Task[int]]] = deque()
        try:
            while True:
                while len(out) < self._in_flight and (unit := self._next(policy)) is not None:
                    out.append((unit, asyncio.create_task(self._score(unit))))
                if not out:
                    return "completed"
                self._tell(policy, out[0][0], await out[0][1])
                out.popleft()
        except BudgetExhausted:
            await self._keep_bought(policy, out)
            return "budget"
        finally:
            for _, task in out:
                task.cancel()
            await asyncio.gather(*(task for _, task in out), return_exceptions=True)

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

    def _next(self, policy: Policy) -> Unit | None:
        if self.asked >= self.units or (number := policy.choose(self)) is None:
            return None
        entry = self.entries[number]
        position, count = entry.asked, len(self.order)
        entry.asked += 1
        self.asked += 1
        return Unit(number, position, self.order[position % count], position // count)

    async def _score(self, unit: Unit) -> int:
        candidate = self.entries[unit.entry].candidate
        evaluation = await self._bench.evaluate(candidate, (unit.example_id,), rollout_id=unit.sample)
        return evaluation.outcomes[0].score_ppm

    def _tell(self, policy: Policy, unit: Unit, score_ppm: int) -> None:
        self.entries[unit.entry].scores_ppm[unit.position] = score_ppm
        policy.told(self, unit, score_ppm)

    async def _keep_bought(self, policy: Policy, out: deque[tuple[Unit, asyncio.Task[int]]]) -> None:
        """Tell the scores that were bought although the budget refused others. Other errors still raise."""
        while out:
            unit, task = out.popleft()
            try:
                score_ppm = await task
            except BudgetExhausted:
                continue
            self._tell(policy, unit, score_ppm)


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
