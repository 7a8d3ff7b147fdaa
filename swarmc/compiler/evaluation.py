"""Evaluation: run a dressed program on examples, all at once, and tell three outcomes apart.

Scored; failed by the model (a score of 0 with its reason); or broken by a venue, a budget or the
ledger, which is an error of the run and never a 0.
"""

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dspy

from swarmc.compiler.awaiting import gather_or_cancel
from swarmc.compiler.faults import broken_by
from swarmc.compiler.intervals import mean_score
from swarmc.compiler.judges import Judge
from swarmc.compiler.metrics import Scorer
from swarmc.compiler.programs import Program, to_demo
from swarmc.compiler.scope import SETTING, Scope, scoped
from swarmc.compiler.telling import MAX_FAILURE_CHARS, Teller, reason
from swarmc.contracts.candidates import Attempt, Candidate, Demo, Demonstration, Evaluation, Outcome
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import SwarmcError

DRESSED_KEPT = 64


@dataclass(frozen=True)
class Run:
    """One program run on one example: its outcome, the trace DSPy kept of its predictor calls, who answered them."""

    outcome: Outcome
    trace: tuple[tuple[Any, dict[str, Any], Any], ...] = ()
    feedback: str = ""
    prediction: Any = None
    voices: tuple[str, ...] = ()


class Evaluator:
    """Runs candidates of one program on examples of one dataset.

    Args:
        program: The program.
        metric: Scores a prediction; a judge in it is asked in the lane `judge`.
        examples: Every example by its id.
        lms: A model by lane; lanes that are missing use `swarm`.
        adapter: How DSPy writes prompts.
        concurrency: Most program runs at once; the lanes limit the calls themselves.
    """

    def __init__(
        self,
        program: Program,
        metric: Scorer,
        examples: Mapping[str, dspy.Example],
        lms: Mapping[Lane, dspy.LM],
        adapter: dspy.Adapter,
        concurrency: int,
    ) -> None:
        self.program = program
        self._metric = metric
        self._judging = Judge(self.lm)
        self._examples = examples
        self._lms = lms
        self._adapter = adapter
        self._slots = asyncio.Semaphore(concurrency)
        self._threads = None if program.awaitable else ThreadPoolExecutor(concurrency, "swarmc-forward")
        self._dressed: OrderedDict[str, dspy.Module] = OrderedDict()
        self._teller: Teller | None = None
        self._demonstrated: set[tuple[str, str, int]] = set()

    @property
    def demonstrated(self) -> int:
        """How many program runs were made for demonstrations; one that is made again counts once."""
        return len(self._demonstrated)

    def tell(self, teller: Teller) -> None:
        """From now on every program run is told of."""
        self._teller = teller
        self._dressed.clear()

    def lm(self, lane: Lane) -> dspy.LM:
        """The lane's model, or the swarm's."""
        return self._lms.get(lane) or self._lms["swarm"]

    def example(self, example_id: str) -> dspy.Example:
        """An example by its id."""
        return self._examples[example_id]

    @property
    def adapter(self) -> dspy.Adapter:
        return self._adapter

    async def evaluate(
        self, candidate: Candidate, example_ids: Sequence[str], *, lane: Lane = "swarm", rollout_id: int = 0
    ) -> Evaluation:
        """Score a candidate on examples, awaited concurrently.

        Raises:
            BudgetExhausted: calls that these examples need could not be bought.
            VenueError: a venue stayed down through its retries.
            MetricError: the metric returned what is no score.
        """
        runs = await gather_or_cancel(
            self._run(candidate, key, lane, rollout_id, keep_trace=False) for key in example_ids
        )
        outcomes = tuple(run.outcome for run in runs)
        return Evaluation(
            candidate_id=candidate.content_id,
            outcomes=outcomes,
            score=mean_score([outcome.score_ppm for outcome in outcomes]),
        )

    async def ask(self, candidate: Candidate, example_id: str, *, lane: Lane, rollout_id: int = 0) -> Run:
        """One program run of `evaluate`, with what it answered. Raises as `evaluate`."""
        return await self._run(candidate, example_id, lane, rollout_id, keep_trace=False)

    async def demonstrate(self, candidate: Candidate, example_id: str, *, rollout_id: int = 0) -> Demonstration:
        """Run a candidate in the teacher's lane and keep what each predictor was asked and answered.

        A predictor that was called several times gives its last call.
        """
        self._demonstrated.add((candidate.content_id, example_id, rollout_id))
        run = await self._run(candidate, example_id, "teacher", rollout_id, keep_trace=True)
        demos = _steps(self._module(candidate), run)
        return Demonstration(example_id=example_id, score_ppm=run.outcome.score_ppm, demos=demos)

    async def attempt(
        self, candidate: Candidate, example_id: str, *, lane: Lane = "swarm", rollout_id: int = 0
    ) -> Attempt:
        """Score a candidate on one example with the calls of `evaluate`, and keep what was asked, answered and said."""
        run = await self._run(candidate, example_id, lane, rollout_id, keep_trace=True)
        example = self._examples[example_id]
        return Attempt(
            example_id=example_id,
            score_ppm=run.outcome.score_ppm,
            feedback=run.outcome.failure or run.feedback,
            expected=to_demo(dict(example.labels())).fields,
            steps=_steps(self._module(candidate), run),
            cost=run.outcome.cost,
        )

    def close(self) -> None:
        """Let the threads of a synchronous program go."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _module(self, candidate: Candidate) -> dspy.Module:
        """The dressed program, made once per candidate: a copy costs as much as a call."""
        key = candidate.content_id
        if key not in self._dressed:
            self._dressed[key] = self.program.dressed(candidate)
            if self._teller is not None:
                self._teller.watch(self._dressed[key])
            if len(self._dressed) > DRESSED_KEPT:
                self._dressed.popitem(last=False)
        self._dressed.move_to_end(key)
        return self._dressed[key]

    async def _run(self, candidate: Candidate, key: str, lane: Lane, rollout_id: int, *, keep_trace: bool) -> Run:
        async with self._slots:
            with scoped(rollout_id=rollout_id) as scope:
                if self._teller is not None:
                    self._teller.started(scope, dict(self._examples[key].inputs()), candidate.content_id, key)
                run = Run(Outcome(example_id=key, score_ppm=0, failure="it did not end"))
                try:
                    run = await self._told_run(self._module(candidate), key, lane, scope, keep_trace=keep_trace)
                finally:
                    if self._teller is not None:
                        self._teller.ended(scope, run.prediction, run.outcome.score_ppm, run.outcome.failure)
        return run

    async def _told_run(self, module: dspy.Module, key: str, lane: Lane, scope: Scope, *, keep_trace: bool) -> Run:
        """One program run, its outcome and what it took.

        Raises:
            SwarmcError: the infrastructure failed, whatever the program made of it.
        """
        example = self._examples[key]
        trace: list[Any] | None = [] if keep_trace else None
        settings = {"lm": self.lm(lane), "adapter": self._adapter, "trace": trace, "disable_history": True}
        prediction = failure = None
        with dspy.context(**settings, **{SETTING: scope}):
            try:
                prediction = await self._call(module, dict(example.inputs()))
            except Exception as error:  # noqa: BLE001 - a user's program may raise anything
                failure = _reason_of_failure(error, scope)
        await scope.settled()
        if scope.failures:
            # The program swallowed it; its answer was made without the model's.
            raise scope.failures[0]
        voices = tuple(sorted({one.venue for one in scope.completions if one.venue}))
        if failure is not None:
            return Run(Outcome(example_id=key, score_ppm=0, failure=failure, cost=scope.cost()), voices=voices)
        score_ppm, failure, feedback = await self._judge(example, prediction)
        outcome = Outcome(example_id=key, score_ppm=score_ppm, failure=failure, cost=scope.cost())
        return Run(outcome, tuple(trace or ()), feedback, prediction, voices)

    async def _call(self, module: dspy.Module, inputs: dict[str, Any]) -> Any:
        if self._threads is None:
            return await module.acall(**inputs)
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: context.run(module, **inputs))

    async def _judge(self, example: dspy.Example, prediction: Any) -> tuple[int, str | None, str]:
        """What the metric says: the score, why there is none, the feedback."""
        try:
            score_ppm, feedback = await self._metric.assess(example, prediction, self._judging)
        except SwarmcError:
            raise
        except Exception as error:  # noqa: BLE001 - a user's metric may raise anything
            return 0, _reason("the metric", error), ""
        return score_ppm, None, feedback


def _steps(module: dspy.Module, run: Run) -> dict[str, Demo]:
    """What each predictor was asked and answered; of one that was called several times, the last call."""
    names = {id(predictor): name for name, predictor in module.named_predictors()}
    steps: dict[str, Demo] = {}
    for predictor, inputs, prediction in run.trace:
        if (name := names.get(id(predictor))) is not None:
            steps[name] = to_demo({**inputs, **dict(prediction), "augmented": True})
    return steps


def _reason_of_failure(error: Exception, scope: Scope) -> str:
    """Why the run scores 0, when program or model are at fault; otherwise raises the infrastructure's own error."""
    if scope.failures:
        raise scope.failures[0]
    if (broken := broken_by(error)) is not None:
        raise broken
    return _reason("the program", error)


def _reason(who: str, error: Exception) -> str:
    return f"{who} raised {reason(error)}"[:MAX_FAILURE_CHARS]
