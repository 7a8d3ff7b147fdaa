"""What a refinement is asked for, checked before anything is paid for."""

import inspect
from dataclasses import dataclass
from typing import Any, Final

import dspy

from swarmc.compiler.attempts import Reward
from swarmc.contracts.canonical import ppm
from swarmc.contracts.errors import ProgramError

MOST_ATTEMPTS: Final = 1_000


@dataclass(frozen=True, slots=True)
class RefineConfig:
    """The options of a `Refine`. A copy of a program shares them, so rewards and models are never copied.

    Raises:
        ProgramError: an option that cannot be meant.
    """

    max_retries: int = 3
    threshold: float = 0.5
    best_of_n: bool = False
    reward_fn: Reward | None = None
    fallback_lm: Any = None

    def __post_init__(self) -> None:
        _check_count(self.max_retries)
        _check_threshold(self.threshold)
        if not isinstance(self.best_of_n, bool):
            raise ProgramError(
                f"Refine's best_of_n is {self.best_of_n!r}; it is True or False: say how many attempts in max_retries"
            )
        if self.reward_fn is not None:
            _check_reward(self.reward_fn)
        elif self.best_of_n:
            raise ProgramError("Refine's best_of_n needs a reward_fn; without one all answers are equally good")
        if self.fallback_lm is not None and not isinstance(self.fallback_lm, dspy.BaseLM):
            raise ProgramError(f"Refine's fallback_lm is {self.fallback_lm!r}; give a model: dspy.LM('provider/model')")

    def __deepcopy__(self, _memo: object) -> "RefineConfig":
        return self

    @property
    def threshold_ppm(self) -> int:
        """The threshold in parts per million, so that no rounding decides."""
        return ppm(self.threshold)

    def check_module(self, module: Any) -> None:
        """Whether it can be refined.

        Raises:
            ProgramError: it is no module.
        """
        if not isinstance(module, dspy.Module):
            asked = f"{module.__name__}(...)" if inspect.isclass(module) else "dspy.Predict('question -> answer')"
            raise ProgramError(f"Refine wraps a dspy.Module, and {module!r} is none; give one: {asked}")


def _check_count(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_ATTEMPTS:
        raise ProgramError(
            f"Refine's max_retries is {value!r}; it is the number of attempts, the first included: 1 to {MOST_ATTEMPTS}"
        )


def _check_threshold(value: Any) -> None:
    # Written so that a NaN is refused too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ProgramError(f"Refine's threshold is {value!r}; it is a number from 0 to 1, as rewards are")


def _check_reward(value: Any) -> None:
    if not callable(value):
        raise ProgramError(f"Refine's reward_fn is {value!r}; it is a function of (args, prediction) to 0..1")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return  # Written in C; the first call will tell.
    try:
        signature.bind({}, None)
    except TypeError as error:
        raise ProgramError(
            f"Refine's reward_fn is called with (args, prediction), and {value!r} does not take that: {error}"
        ) from error
