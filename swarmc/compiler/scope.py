"""Where a call belongs: the stage and the sample it is made for, carried by a context variable.

DSPy strips its `rollout_id` before a custom engine sees the request, and user programs may swallow
exceptions. Both facts are met here: the evaluator opens a scope around one program run, the engine
reads the sample number from it and leaves what every call brought back in it, the meter the first
infrastructure failure. Threads that DSPy starts (`dspy.Parallel`) inherit its settings and no
context variables, so the scope of a run is a setting as well.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID

from swarmc.contracts.candidates import RunCost
from swarmc.contracts.completions import Completion, Stage
from swarmc.contracts.errors import SwarmcError

SETTING = "swarmc_scope"
"""The scope's name among DSPy's settings."""

STRAGGLER_POLL_S = 0.005


Made = dict[int, tuple[object, str, str]]
"""By the object's identity, a value of a program run, and the call and the field that made it."""


@dataclass(slots=True)
class Scope:
    """One program run. Lists and sets are only added to and taken from whole, so threads may share them.

    Attributes:
        stage: What the calls are booked under.
        rollout_id: Which sample of equal prompts.
        failures: Errors of venues, budgets and ledger, in the order they came.
        completions: What the calls brought back, bought or read.
        in_flight: A mark for every call that has not ended.
        call_id: The program run's, where it is told of.
        made: Where the run's values came from.
        teller: Who tells of the run's parts.
        depth: How many attempts the calls are inside of.
    """

    stage: Stage = "other"
    rollout_id: int = 0
    failures: list[SwarmcError] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    in_flight: set[object] = field(default_factory=set)
    call_id: str | None = None
    made: Made = field(default_factory=dict)
    teller: Any = None
    depth: int = 0

    async def settled(self) -> None:
        """Wait for calls that the program began and left: what a run took must not depend on their timing."""
        while self.in_flight:  # noqa: ASYNC110 - calls of other threads end without a loop to tell it
            await asyncio.sleep(STRAGGLER_POLL_S)

    def cost(self) -> RunCost:
        """What the calls took so far. Equal completions in any order give equal costs."""
        done = self.completions
        return RunCost(
            calls=len(done),
            prompt_tokens=sum([one.usage.prompt_tokens for one in done]),
            completion_tokens=sum([one.usage.completion_tokens for one in done]),
            msats=sum([one.usage.cost_msats for one in done]),
            latency_ms=sum([one.latency_ms for one in done]),
        )


_scope: ContextVar[Scope] = ContextVar("swarmc_scope")
ACTIVE: ContextVar[str | None] = ContextVar("swarmc_active_call", default=None)
"""The predictor call that is being made."""


def current_scope() -> Scope:
    """The scope of the running call; a fresh one (stage `other`) outside of any."""
    return _scope.get(None) or dspy.settings.get(SETTING) or Scope()


def active_call(scope: Scope) -> str | None:
    """The call that is being made: a predictor's, or one that DSPy calls back for, or the program run itself."""
    tool = ACTIVE_CALL_ID.get()
    return ACTIVE.get() or (tool[:16] if tool else scope.call_id)


@contextmanager
def scoped(stage: Stage | None = None, rollout_id: int = 0) -> Iterator[Scope]:
    """Calls made inside belong to `stage` (default: that of the enclosing scope) and this sample."""
    scope = Scope(stage or current_scope().stage, rollout_id)
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


@contextmanager
def resampled(rollout_id: int, **settings: Any) -> Iterator[Scope]:
    """Calls made inside, in threads too, are the same program run's, and another sample of equal prompts.

    Args:
        rollout_id: The sample.
        settings: Of DSPy's, what else is different inside.
    """
    outer = current_scope()
    scope = replace(outer, rollout_id=rollout_id, depth=outer.depth + 1)
    token = _scope.set(scope)
    try:
        with dspy.context(**settings, **{SETTING: scope}):
            yield scope
    finally:
        _scope.reset(token)
