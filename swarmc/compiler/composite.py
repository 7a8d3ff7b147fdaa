"""Composite metrics: proxies first, truths where these are satisfied, one weighed score with a sentence from each."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import dspy

from swarmc.compiler.answers import Answered, Opinion
from swarmc.compiler.judges import Judge
from swarmc.compiler.proxies import Form, Proxy, make_proxy
from swarmc.compiler.truths import diff, no_sandbox, run_commands, try_commands
from swarmc.compiler.weighing import weighted
from swarmc.contracts.canonical import PPM
from swarmc.contracts.errors import MetricError
from swarmc.contracts.metrics import (
    CommandPart,
    DiffPart,
    FunctionPart,
    JudgePart,
    MetricSpec,
    Part,
    label,
    tier_of,
)
from swarmc.contracts.ports import Sandbox


class Judging(Protocol):
    """A metric that is a plain function, under its name."""

    def judge(self, example: dspy.Example, prediction: Any) -> tuple[int, str]: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """What one part said; no opinion where it was not asked, and why."""

    part: Part
    opinion: Opinion | None
    why_not: str = ""

    def __str__(self) -> str:
        if self.opinion is None:
            return f"{label(self.part)} not asked: {self.why_not}"
        said = f": {self.opinion.feedback}" if self.opinion.feedback else ""
        return f"{label(self.part)} {self.opinion.score_ppm / PPM:.2f}{said}"


@final
class Composite:
    """A `MetricSpec` that can be asked.

    Args:
        spec: What it is made of.
        outputs: The program's output fields.
        load: Finds a metric by name.
        sandbox: Where commands run.

    Raises:
        MetricError: a pattern, a schema or a function that is none; commands, and no sandbox to run them in.
    """

    def __init__(
        self, spec: MetricSpec, outputs: Collection[str], load: Callable[[str], Judging], sandbox: Sandbox | None
    ) -> None:
        self.name = spec.title
        self._spec = spec
        self._outputs = tuple(dict.fromkeys(outputs))
        self._sandbox = sandbox
        if sandbox is None and spec.commands:
            raise no_sandbox(spec.commands[0])
        # By their place: equal parts are asked as often as they are named.
        self._functions = {at: load(p.metric) for at, p in enumerate(spec.parts) if isinstance(p, FunctionPart)}
        self._proxies: dict[int, Proxy] = {at: make_proxy(p) for at, p in enumerate(spec.parts) if isinstance(p, Form)}

    async def assess(self, example: dspy.Example, prediction: Any, judge: Judge) -> tuple[int, str]:
        """The score in parts per million, and what each part said of it, in lines.

        Raises:
            MetricError: a part returned what is no score, or the example lacks what it needs.
            BudgetExhausted, VenueError: as the judge's lane.
            SandboxError: commands could not be run.
        """
        measured = await self.measure(example, prediction, judge)
        score_ppm = weighted((one.opinion.score_ppm if one.opinion else 0, one.part.weight_ppm) for one in measured)
        return score_ppm, "\n".join(map(str, measured))

    async def measure(self, example: dspy.Example, prediction: Any, judge: Judge) -> Sequence[Measured]:
        """What every part says, in the order of the spec; errors as of `assess`."""
        answered = Answered(example, prediction, self._outputs)
        found = {at: Measured(part, self._at_once(at, part, answered)) for at, part in self._of("proxy")}
        low = [one for one in found.values() if one.opinion and one.opinion.score_ppm < self._threshold(one.part)]
        for at, part in self._of("truth"):
            if low:
                found[at] = Measured(part, None, _below(low[0], self._threshold(low[0].part)))
            else:
                found[at] = Measured(part, await self._truth(at, part, answered, judge))
        return [found[at] for at in range(len(self._spec.parts))]

    def rehearse(self, example: dspy.Example) -> None:
        """Ask every part that costs nothing about an example's own answer, so that what is broken is found first.

        Raises:
            MetricError: a part raised, or the example lacks what it needs.
        """
        gold = dspy.Prediction(**dict(example.labels()))
        answered = Answered(example, gold, self._outputs)
        for at, part in enumerate(self._spec.parts):
            if isinstance(part, JudgePart | CommandPart):
                continue
            try:
                self._at_once(at, part, answered)
            except MetricError:
                raise
            except Exception as error:
                raise MetricError(
                    f"the part {label(part)!r} of the metric raised {type(error).__name__}: {error} when given an "
                    "example's own answer; mend it and run again"
                ) from error

    async def rehearse_commands(self, example: dspy.Example) -> None:
        """Begin the commands on an example's own answer, so that what they lack is found first.

        Raises:
            SandboxError: one cannot be run.
            MetricError: the example lacks what it needs.
        """
        answered = Answered(example, dspy.Prediction(**dict(example.labels())), self._outputs)
        for part in self._spec.commands:
            if self._sandbox is not None:
                await try_commands(part, answered, self._sandbox)

    def _of(self, tier: str) -> list[tuple[int, Part]]:
        return [(at, part) for at, part in enumerate(self._spec.parts) if tier_of(part) == tier]

    def _at_once(self, at: int, part: Part, answered: Answered) -> Opinion:
        """The opinion of a part that asks nobody."""
        if at in self._functions:
            return Opinion(*self._functions[at].judge(answered.example, answered.prediction))
        if isinstance(part, DiffPart):
            return diff(part, answered)
        return self._proxies[at](answered)

    async def _truth(self, at: int, part: Part, answered: Answered, judge: Judge) -> Opinion:
        if isinstance(part, JudgePart):
            return await judge.opinion(part, answered, self._spec.rollouts, self._spec.aggregation)
        if isinstance(part, CommandPart) and self._sandbox is not None:
            return await run_commands(part, answered, self._sandbox)
        return self._at_once(at, part, answered)

    def _threshold(self, part: Part) -> int:
        own = None if isinstance(part, DiffPart | JudgePart | CommandPart) else part.threshold_ppm
        return self._spec.proxy_threshold_ppm if own is None else own


def _below(one: Measured, threshold_ppm: int) -> str:
    score_ppm = one.opinion.score_ppm if one.opinion else 0
    return f"{label(one.part)} scored {score_ppm / PPM:.2f}, below {threshold_ppm / PPM:.2f}"
