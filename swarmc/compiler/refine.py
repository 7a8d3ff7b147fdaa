"""Refine: a module that tries another one several times, and gives the answer that a reward accepts.

The loop is that of DSPy's `Refine` and `BestOfN`, and the options are the seed's. It does not stand on
DSPy's classes, because in a compile they break four promises:

* they copy the wrapped module for each attempt, so a trace names predictors that nobody knows, and
  nothing can be demonstrated from it;
* their rollout ids live in the model's settings, which a metered engine never sees, so that every
  attempt would be answered from the ledger with the answer of the first;
* they print and swallow every error, a budget that ran out and a venue that is down included, and then
  give `None`; they count failures in the module itself, so that one example's failures use up another's;
* they have only `forward`, and DSPy's `Refine` buys a long extra call for every hint.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import dspy

from swarmc.compiler.attempts import Attempt, Change, Reward, is_awaitable, points
from swarmc.compiler.faults import broken_by
from swarmc.compiler.refining import RefineConfig
from swarmc.compiler.scope import current_scope
from swarmc.compiler.telling import reason
from swarmc.contracts.errors import BudgetExhausted, SwarmcError, VenueError, first_swarmc_error

MAX_HINT_VALUE_CHARS: Final = 300
"""Of one field of a refused answer."""


class RefineFailed(RuntimeError):
    """No attempt reached what is demanded. In an evaluation such an example scores 0, for this reason.

    Attributes:
        attempts: How many were made.
        best_score: The best reward, from 0 to 1; `None` when no attempt gave an answer.
        best: The answer that had it.
    """

    def __init__(self, message: str, attempts: int, best_score: float | None, best: Any) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.best_score = best_score
        self.best = best


class Refine(dspy.Module):
    """Tries a module until a reward accepts its answer.

    1. The first attempt is the module's own call, unchanged. It costs what the module costs alone, and
       is read from the ledger where the module alone was asked before.
    2. An answer whose reward is at least `threshold` is given at once.
    3. Otherwise the next attempt is a new sample, at temperature 1 unless the predictor or its model has
       one above 0, and its predictors read in a field `hint_` what was answered before, how it scored
       and what the reward said. An attempt in which the module raises is a refused one.
    4. With `best_of_n`, all attempts are made, independently and without hints, and the best is taken;
       the first of equals.
    5. After the last attempt the best answer is given if its reward is at least half of `threshold`;
       otherwise `RefineFailed` is raised. Both hold with `best_of_n` too.

    An infrastructure that fails (a venue, a budget) ends the refinement: venues and models have retries
    of their own, which wait. If an earlier answer reached half of `threshold`, it is given, otherwise the
    error is raised. An evaluation sees the error in any case, since a score that depends on when a budget
    ran out or a venue was down is no score.

    Samples are numbered by the program run's own sample and the attempt, so that a run that is killed and
    run again replays every attempt for nothing, and attempts can be nested.

    >>> short = Refine(dspy.Predict("question -> answer"), reward_fn=lambda args, said: len(said.answer) < 9)
    >>> [name for name, _ in short.named_predictors()], short.config.max_retries
    (['module'], 3)

    Args:
        module: The module; its predictors are found, compiled, saved and loaded as `module...`.
        max_retries: The most attempts, the first included.
        threshold: The least reward, from 0 to 1, that is accepted at once.
        best_of_n: Whether all attempts are made and the best is taken.
        reward_fn: `(args, prediction)`, where `args` are the inputs by name, to a bool or a number from 0
            to 1, or an object or mapping with such a `score` and maybe a `feedback`, which becomes a hint.
            May be async where the module is awaited. One that raises gives 0, for that reason. By default
            every answer is accepted, and attempts are made only while the module raises.
        fallback_lm: The model that makes an attempt again, and the later ones, after the models of
            the predictors could not answer. A compile takes it away: its calls would be outside of the
            budget, and scores would depend on who was down.

    Raises:
        ProgramError: an option that cannot be meant.
    """

    def __init__(
        self,
        module: dspy.Module,
        *,
        max_retries: int = 3,
        threshold: float = 0.5,
        best_of_n: bool = False,
        reward_fn: Reward | None = None,
        fallback_lm: dspy.BaseLM | None = None,
    ) -> None:
        super().__init__()
        self.config = RefineConfig(
            max_retries=max_retries,
            threshold=threshold,
            best_of_n=best_of_n,
            reward_fn=reward_fn,
            fallback_lm=fallback_lm,
        )
        self.config.check_module(module)
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        """The module's own answer.

        Raises:
            RefineFailed: no answer reached half of the threshold.
            MetricError: the reward is no score.
            SwarmcError: the infrastructure failed before an answer reached half of the threshold.
        """
        going = _Refinement(self.module, self.config)
        while going.unfinished:
            with going.judged():
                going.attempt()(**going.asked(inputs))
        return going.answer()

    async def aforward(self, **inputs: Any) -> Any:
        """As `forward`."""
        going = _Refinement(self.module, self.config)
        while going.unfinished:
            with going.judged():
                await going.attempt().acall(**going.asked(inputs))
        return going.answer()


def innermost(module: dspy.Module) -> dspy.Module:
    """The module that is refined, however often; any other module itself."""
    while isinstance(module, Refine):
        module = module.module
    return module


def can_be_awaited(module: dspy.Module) -> bool:
    """Whether awaiting the module blocks no loop and needs no thread: a `Refine` is as its module."""
    return is_awaitable(innermost(module))


def most_calls(module: dspy.Module) -> int:
    """Predictor calls of one run at most, if each is called once an attempt."""
    counts = {id(predictor): 1 for predictor in module.predictors()}
    for _, inner in module.named_sub_modules(Refine):
        if isinstance(inner, Refine):
            for predictor in inner.predictors():
                counts[id(predictor)] *= inner.config.max_retries
    return sum(counts.values())


def take_fallbacks(module: dspy.Module) -> tuple[str, ...]:
    """Take every `fallback_lm` away from the module.

    Returns:
        Where there was one, as `self.fallback_lm`.
    """
    taken = []
    for name, inner in module.named_sub_modules(Refine):
        if isinstance(inner, Refine) and inner.config.fallback_lm is not None:
            inner.config = replace(inner.config, fallback_lm=None)
            taken.append(f"{name}.fallback_lm")
    return tuple(taken)


@dataclass(frozen=True, slots=True)
class _Refused:
    """An attempt that was not accepted, as it is told to the next one."""

    number: int
    outcome: str


class _Refinement:
    """One call of a `Refine`: decides after each attempt whether there is another, and what it is told."""

    def __init__(self, module: dspy.Module, config: RefineConfig) -> None:
        self.unfinished = True
        self._module = module
        self._config = config
        self._number = 1
        self._lm: Any = None
        self._best: Attempt | None = None
        self._refused: list[_Refused] = []
        self._last_error: Exception | None = None
        self._broken: SwarmcError | None = None
        self._now: Attempt

    def attempt(self) -> Attempt:
        """The next attempt, to be called with what `asked` gives."""
        change = Change(self._number, self._hint(), self._lm)
        self._now = Attempt(self._module, self._config.reward_fn, change)
        return self._now

    def asked(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the attempt is called with."""
        hint = self._hint()
        return {"attempt": self._number, "inputs": dict(inputs), **({"hint": hint} if hint else {})}

    @contextmanager
    def judged(self) -> Iterator[None]:
        """The attempt is made inside; what became of it decides how it goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a user's program may raise anything
            self._failed(error)
        else:
            self._take(self._now)

    def answer(self) -> Any:
        """The best answer, its predictor calls noted in DSPy's trace as if it had been the only one.

        Raises:
            RefineFailed: it is not good enough, or there is none.
            SwarmcError: the same, because the infrastructure failed.
        """
        best = self._best
        if best is None or 2 * best.score_ppm < self._config.threshold_ppm:
            raise self._broken or self._failure() from self._last_error
        trace = dspy.settings.trace
        if trace is not None:
            trace.extend(best.trace)
        return best.prediction

    def _take(self, done: Attempt) -> None:
        if self._best is None or done.score_ppm > self._best.score_ppm:
            self._best = done
        accepted = done.score_ppm >= self._config.threshold_ppm and not self._config.best_of_n
        said = f"Answered {_shown(done.prediction)}, which scored {points(done.score_ppm)}"
        self._refused.append(_Refused(self._number, f"{said}. {done.feedback}".strip()))
        self._next(over=accepted)

    def _failed(self, error: Exception) -> None:
        """The attempt raised: it is refused, made again by the fallback, or the last one."""
        broken, self._last_error = broken_by(error), error
        unanswered = isinstance(broken or first_swarmc_error(error), VenueError)
        if unanswered and self._lm is None and self._config.fallback_lm is not None:
            self._lm = self._config.fallback_lm
        elif broken is None:
            self._refused.append(_Refused(self._number, f"Failed: {reason(error)}"))
            self._next(over=False)
        elif isinstance(broken, VenueError | BudgetExhausted):
            _leave(broken)
            self._broken, self.unfinished = broken, False
        else:
            raise broken

    def _next(self, *, over: bool) -> None:
        self.unfinished = not over and self._number < self._config.max_retries
        self._number += 1

    def _hint(self) -> str:
        if self._config.best_of_n or not self._refused:
            return ""
        lines = [f"Attempt {refused.number}: {refused.outcome}" for refused in self._refused]
        demanded = (
            f"Every earlier attempt at these inputs was refused; {points(self._config.threshold_ppm)} is demanded."
        )
        return "\n".join([demanded, *lines])

    def _failure(self) -> RefineFailed:
        config, count, best = self._config, self._number - 1, self._best
        wanted, least = points(config.threshold_ppm), points(config.threshold_ppm // 2)
        found = f"the best score was {points(best.score_ppm)}" if best else "no attempt gave an answer"
        last = f"; the last one {self._refused[-1].outcome[0].lower()}{self._refused[-1].outcome[1:]}"
        message = (
            f"Refine failed after {count} attempts: no prediction met threshold {wanted}, {found}, and at least half "
            f"({least}) is returned; raise max_retries, lower threshold, or mend the program or its reward_fn{last}"
        )
        score = best.score_ppm / 1_000_000 if best else None
        return RefineFailed(" ".join(message.split()), count, score, best.prediction if best else None)


def _leave(broken: SwarmcError) -> None:
    """Leave an error in the program run's scope, where an evaluation finds it even if an answer is given."""
    failures = current_scope().failures
    if broken not in failures:
        failures.append(broken)


def _shown(prediction: Any) -> str:
    """An answer's fields in one line, bounded."""
    fields = dict(prediction) if isinstance(prediction, dspy.Prediction) else {"value": prediction}
    return "; ".join(f"{name}: {_cut(' '.join(str(value).split()))}" for name, value in fields.items()) or "nothing"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_HINT_VALUE_CHARS else text[:MAX_HINT_VALUE_CHARS] + "..."
