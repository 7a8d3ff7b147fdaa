"""One attempt of a refinement: a sample of its own of the wrapped module, with a hint, judged by the reward.

Nothing is copied for it. What differs between attempts (sample, temperature, hint, model) is put in
where every predictor passes, the adapter, so predictors stay the objects that a compile knows, their
traces hold the user's own inputs, and the constant beginning of a prompt stays constant.
"""

import asyncio
import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from time import time_ns
from typing import Any, Final

import dspy
from dspy.utils.callback import BaseCallback

from swarmc.compiler.faults import broken_by
from swarmc.compiler.metrics import Metric
from swarmc.compiler.scope import active_call, current_scope, resampled
from swarmc.compiler.telling import Teller, part_of, plain_fields, reason
from swarmc.contracts.canonical import PPM
from swarmc.contracts.errors import ProgramError
from swarmc.contracts.events import ModuleEnded

Reward = Callable[[Mapping[str, Any], Any], Any]

HINT: Final = "hint_"
"""The field under which a predictor reads what became of earlier attempts."""

RETRY_TEMPERATURE: Final = 1.0
SAMPLE_DIGITS: Final = 13


def sample_of(rollout_id: int, attempt: int, depth: int = 0) -> int:
    """The rollout id of an attempt of a program run; the first one's is the run's own.

    Others are 52 bits of a hash, so that no attempt is the sample of another run, or of an attempt
    inside of an attempt.

    Args:
        rollout_id: Of the run, or of the attempt that this one is inside of.
        attempt: From 1.
        depth: How many attempts this one is inside of.
    """
    if attempt == 1:
        return rollout_id
    digest = hashlib.sha256(f"refine:{rollout_id}:{attempt}:{depth}".encode()).hexdigest()
    return int(digest[:SAMPLE_DIGITS], 16)


@dataclass(frozen=True, slots=True)
class Change:
    """What an attempt changes for the predictors that it calls.

    Attributes:
        number: Of the attempt, from 1.
        hint: What to tell them; empty for nothing.
        lm: The model in place of theirs.
    """

    number: int
    hint: str = ""
    lm: Any = None

    def within(self, outer: "Change | None") -> "Change":
        """This change for an attempt that is made inside of another: what it leaves open is the outer one's."""
        if outer is None:
            return self
        hints = [hint for hint in (outer.hint, self.hint) if hint]
        return Change(max(self.number, outer.number), "\n".join(hints), self.lm or outer.lm)

    def sampling(self, lm: Any, given: MutableMapping[str, Any], rollout_id: int) -> MutableMapping[str, Any]:
        """A call's settings, made those of a sample of its own, also for DSPy's own cache."""
        if self.number == 1:
            return given
        defaults: Mapping[str, Any] = getattr(lm, "kwargs", None) or {}
        temperature = given.get("temperature") or defaults.get("temperature") or RETRY_TEMPERATURE
        own = given.get("rollout_id") or defaults.get("rollout_id")
        sample = sample_of(rollout_id, own + 1) if isinstance(own, int) and own > 0 else rollout_id
        return {**given, "temperature": temperature, "rollout_id": sample}


class Attempt(dspy.Module):
    """One attempt. DSPy's callbacks see it as a module of this name, and a told program run as an operator.

    Args:
        module: What is tried.
        reward: Its judge; `None` accepts every answer.
        change: What this attempt changes.

    Attributes:
        prediction: What the module gave.
        score_ppm: The reward, in parts per million.
        feedback: What the reward said, or why it gave none.
        trace: The predictor calls, where DSPy keeps a trace.
    """

    def __init__(self, module: dspy.Module, reward: Reward | None, change: Change) -> None:
        teller = current_scope().teller
        super().__init__(callbacks=[OfAttempt(teller)] if teller is not None else [])
        self.prediction: Any = None
        self.score_ppm = 0
        self.feedback = ""
        self.trace: list[Any] = []
        self._tried = module
        self._reward = reward
        self._change = change

    def forward(self, attempt: int, inputs: Mapping[str, Any], hint: str = "") -> dspy.Prediction:  # noqa: ARG002
        """Try and judge; `attempt` and `hint` are for whoever watches.

        Raises:
            Exception: the module's, or the infrastructure's behind it.
        """
        with self._steered():
            self.prediction = self._tried(**inputs)
        with _reward_errors() as failed:
            value = self._asked(inputs)
            if inspect.isawaitable(value):
                _drop(value)
                raise ProgramError("the reward_fn of a Refine is async and so is awaited only by `acall`; call that")
            self._take(value)
        return self._told(failed)

    async def aforward(self, attempt: int, inputs: Mapping[str, Any], hint: str = "") -> dspy.Prediction:  # noqa: ARG002
        """As `forward`. A module with only `forward` is run in a thread."""
        with self._steered():
            if is_awaitable(self._tried):
                self.prediction = await self._tried.acall(**inputs)
            else:
                self.prediction = await asyncio.to_thread(self._tried, **inputs)
        with _reward_errors() as failed:
            value = self._asked(inputs)
            self._take(await value if inspect.isawaitable(value) else value)
        return self._told(failed)

    @contextmanager
    def _steered(self) -> Iterator[None]:
        """Predictors called inside are this attempt's.

        Raises:
            SwarmcError: the infrastructure failed, whatever the module made of it.
        """
        outer, change = current_scope(), self._change
        before = len(outer.failures)
        settings = {
            "adapter": _steering(dspy.settings.adapter or dspy.ChatAdapter(), change),
            "trace": None if dspy.settings.trace is None else self.trace,
        }
        with resampled(sample_of(outer.rollout_id, change.number, outer.depth), **settings) as scope:
            try:
                yield
            except Exception as error:
                if len(scope.failures) > before:
                    raise scope.failures[before] from error
                raise
            if len(scope.failures) > before:
                # The module swallowed it; its answer was made without the model's.
                raise scope.failures[before]

    def _asked(self, inputs: Mapping[str, Any]) -> Any:
        if self._reward is None:
            return True
        # The reward's own predictors are no part of the program.
        with dspy.context(trace=None):
            return self._reward(dict(inputs), self.prediction)

    def _take(self, value: Any) -> None:
        self.score_ppm, self.feedback = _checker(_name(self._reward)).judge(value, None)

    def _told(self, failed: list[Exception]) -> dspy.Prediction:
        failure = f"the reward raised {reason(failed[0])}" if failed else None
        self.feedback = failure or self.feedback
        shown = dict(self.prediction) if isinstance(self.prediction, dspy.Prediction) else self.prediction
        return dspy.Prediction(outputs=shown, score_ppm=self.score_ppm, failure=failure)


class OfAttempt(BaseCallback):
    """Tells of attempts in a program run that is told of."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller

    def on_module_start(self, call_id: str, instance: Any, inputs: Mapping[str, Any]) -> None:  # noqa: ARG002
        given = inputs.get("kwargs", inputs)
        self._teller.module_started(call_id[:16], (f"attempt {given['attempt']}", "Attempt"), None, given)

    def on_module_end(self, call_id: str, outputs: Any | None, exception: BaseException | None = None) -> None:
        at_ns = time_ns()
        self._teller.emit(
            ModuleEnded(
                **part_of(self._teller.run_id, call_id[:16], active_call(current_scope()), at_ns),
                outputs=plain_fields(outputs.toDict()) if isinstance(outputs, dspy.Prediction) else None,
                failure=reason(exception),
            )
        )


def is_awaitable(module: dspy.Module) -> bool:
    """Whether the module has an `aforward` of its own."""
    return callable(getattr(type(module), "aforward", None))


@contextmanager
def _reward_errors() -> Iterator[list[Exception]]:
    """A reward that raises gives no score, unless the infrastructure is behind it. Gives what was raised."""
    failed: list[Exception] = []
    try:
        yield failed
    except Exception as error:  # noqa: BLE001 - a user's reward may raise anything
        failed.append(error)
    if failed and (broken := broken_by(failed[0])) is not None:
        raise broken from failed[0]


def _drop(value: Any) -> None:
    if inspect.iscoroutine(value):
        value.close()


@lru_cache(maxsize=64)
def _checker(name: str) -> Metric:
    """Reads a value as metrics' values are read, with errors that name the reward."""
    return Metric(f"reward_fn {name}", lambda value, _nothing: value)


def _name(reward: Any) -> str:
    return repr(getattr(reward, "__name__", type(reward).__name__))


class _Steered:
    """An adapter's calls and last messages, changed as an attempt wants them."""

    change: Change

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        lm, lm_kwargs = self._steer(lm, lm_kwargs)
        return super().__call__(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        lm, lm_kwargs = self._steer(lm, lm_kwargs)
        return await super().acall(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]

    def format_user_message_content(
        self, signature: Any, inputs: Any, prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        if main_request and self.change.hint:
            own = inputs.get(HINT)
            hint = self.change.hint if own is None else f"{own}\n{self.change.hint}"
            signature, inputs = _hinted(signature), {**inputs, HINT: hint}
        return super().format_user_message_content(signature, inputs, prefix, suffix, main_request)  # type: ignore[misc]

    def _steer(self, lm: Any, lm_kwargs: Any) -> tuple[Any, Any]:
        lm = self.change.lm or lm
        return lm, self.change.sampling(lm, lm_kwargs, current_scope().rollout_id)


def _steering(adapter: Any, change: Change) -> Any:
    """The adapter as it is where nothing changes; otherwise one of its kind and its name that makes the change."""
    if isinstance(adapter, _Steered):
        change = change.within(adapter.change)
    elif change == Change(1):
        return adapter
    made = copy.copy(adapter)
    if not isinstance(adapter, _Steered):
        made.__class__ = _steered_class(type(adapter))
    made.change = change
    return made


@lru_cache(maxsize=32)
def _steered_class(kind: type) -> type:
    return type(kind.__name__, (_Steered, kind), {})


@lru_cache(maxsize=512)
def _hinted(signature: Any) -> Any:
    """The signature with a field for the hint. Made once: making a signature costs as much as a call."""
    if HINT in signature.fields:
        return signature
    return signature.append(HINT, dspy.InputField(desc="what became of earlier attempts at these inputs"), str)


def points(score_ppm: int) -> str:
    """A score as people write it."""
    return f"{score_ppm / PPM:.6f}".rstrip("0").ljust(3, "0")
