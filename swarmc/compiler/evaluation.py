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
from dspy.utils.exceptions import LMError

from swarmc.compiler.intervals import mean_score
from swarmc.compiler.metrics import Metric
from swarmc.compiler.programs import Program, to_demo
from swarmc.compiler.scope import Scope, scoped
from swarmc.contracts.candidates import Attempt, Candidate, Demo, Demonstration, Evaluation, Outcome
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import MetricError, VenueError, first_swarmc_error

DRESSED_KEPT = 64
MAX_FAILURE_CHARS = 300


@dataclass(frozen=True)
class Run:
    """One program run on one example: its outcome, and the trace DSPy kept of its predictor calls."""

    outcome: Outcome
    trace: tuple[tuple[Any, dict[str, Any], Any], ...] = ()
    feedback: str = ""


class Evaluator:
    """Runs candidates of one program on examples of one dataset.

    Args:
        program: The program.
        metric: Scores a prediction.
        examples: Every example by its id.
        lms: A model by lane; lanes that are missing use `swarm`.
        adapter: How DSPy writes prompts.
        concurrency: Most program runs at once; the lanes limit the calls themselves.
    """

    def __init__(
        self,
        program: Program,
        metric: Metric,
        examples: Mapping[str, dspy.Example],
        lms: Mapping[Lane, dspy.LM],
        adapter: dspy.Adapter,
        concurrency: int,
    ) -> None:
        self.program = program
        self._metric = metric
        self._examples = examples
        self._lms = lms
        self._adapter = adapter
        self._slots = asyncio.Semaphore(concurrency)
        self._threads = None if program.awaitable else ThreadPoolExecutor(concurrency, "swarmc-forward")
        self._dressed: OrderedDict[str, dspy.Module] = OrderedDict()

    def lm(self, lane: Lane) -> dspy.LM:
        """The lane's model, or the swarm's."""
        return self._lms.get(lane) or self._lms["swarm"]

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
        module = self._module(candidate)
        runs = await gather_or_cancel(self._run(module, key, lane, rollout_id, keep_trace=False) for key in example_ids)
        outcomes = tuple(run.outcome for run in runs)
        return Evaluation(
            candidate_id=candidate.content_id,
            outcomes=outcomes,
            score=mean_score([outcome.score_ppm for outcome in outcomes]),
        )

    async def demonstrate(self, candidate: Candidate, example_id: str, *, rollout_id: int = 0) -> Demonstration:
        """Run a candidate in the teacher's lane and keep what each predictor was asked and answered.

        A predictor that was called several times gives its last call.
        """
        module = self._module(candidate)
        run = await self._run(module, example_id, "teacher", rollout_id, keep_trace=True)
        return Demonstration(example_id=example_id, score_ppm=run.outcome.score_ppm, demos=_steps(module, run))

    async def attempt(self, candidate: Candidate, example_id: str, *, rollout_id: int = 0) -> Attempt:
        """Score a candidate on one example with the calls of `evaluate`, and keep what was asked, answered and said."""
        module = self._module(candidate)
        run = await self._run(module, example_id, "swarm", rollout_id, keep_trace=True)
        example = self._examples[example_id]
        return Attempt(
            example_id=example_id,
            score_ppm=run.outcome.score_ppm,
            feedback=run.outcome.failure or run.feedback,
            expected=to_demo(dict(example.labels())).fields,
            steps=_steps(module, run),
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
            if len(self._dressed) > DRESSED_KEPT:
                self._dressed.popitem(last=False)
        self._dressed.move_to_end(key)
        return self._dressed[key]

    async def _run(self, module: dspy.Module, key: str, lane: Lane, rollout_id: int, *, keep_trace: bool) -> Run:
        example = self._examples[key]
        trace: list[Any] | None = [] if keep_trace else None
        settings = {"lm": self.lm(lane), "adapter": self._adapter, "trace": trace, "disable_history": True}
        async with self._slots:
            with scoped(rollout_id=rollout_id) as scope, dspy.context(**settings):
                try:
                    prediction = await self._call(module, dict(example.inputs()))
                except Exception as error:  # noqa: BLE001 - a user's program may raise anything
                    return Run(_failed(key, error, scope))
            if scope.failures:
                # The program swallowed it; its answer was made without the model's.
                raise scope.failures[0]
        outcome, feedback = self._score(key, example, prediction)
        return Run(outcome, tuple(trace or ()), feedback)

    async def _call(self, module: dspy.Module, inputs: dict[str, Any]) -> Any:
        if self._threads is None:
            return await module.acall(**inputs)
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: context.run(module, **inputs))

    def _score(self, key: str, example: dspy.Example, prediction: Any) -> tuple[Outcome, str]:
        try:
            score_ppm, feedback = self._metric.judge(example, prediction)
            return Outcome(example_id=key, score_ppm=score_ppm), feedback
        except MetricError:
            raise
        except Exception as error:  # noqa: BLE001 - a user's metric may raise anything
            return Outcome(example_id=key, score_ppm=0, failure=_reason("the metric", error)), ""


def _steps(module: dspy.Module, run: Run) -> dict[str, Demo]:
    """What each predictor was asked and answered; of one that was called several times, the last call."""
    names = {id(predictor): name for name, predictor in module.named_predictors()}
    steps: dict[str, Demo] = {}
    for predictor, inputs, prediction in run.trace:
        if (name := names.get(id(predictor))) is not None:
            steps[name] = to_demo({**inputs, **dict(prediction), "augmented": True})
    return steps


def _failed(key: str, error: Exception, scope: Scope) -> Outcome:
    """A score of 0 when the program or the model is at fault; otherwise the infrastructure's own error."""
    if scope.failures:
        raise scope.failures[0]
    known = first_swarmc_error(error)
    at_fault = isinstance(known, VenueError) and known.fault != "venue"
    if known is not None and not at_fault:
        raise known
    if known is None and isinstance(error, LMError):
        raise VenueError(f"the model call failed outside the meter: {error}") from error
    return Outcome(example_id=key, score_ppm=0, failure=_reason("the program", error))


def _reason(who: str, error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{who} raised {type(error).__name__}: {first_line}"[:MAX_FAILURE_CHARS]


async def gather_or_cancel(awaitables: Any) -> list[Any]:
    """`asyncio.gather`, but the first error cancels the others and is raised bare once they have stopped."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
