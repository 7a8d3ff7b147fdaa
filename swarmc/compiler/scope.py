"""Where a call belongs: the stage and the sample it is made for, carried by a context variable.

DSPy strips its `rollout_id` before a custom engine sees the request, and user programs may swallow
exceptions. Both facts are met here: the evaluator opens a scope around one program run, the engine
reads the sample number from it and leaves the first infrastructure failure in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from swarmc.contracts.completions import Stage
from swarmc.contracts.errors import SwarmcError


@dataclass(slots=True)
class Scope:
    """One program run. `failures` are errors of venues, budgets and ledger, in the order they came."""

    stage: Stage = "other"
    rollout_id: int = 0
    failures: list[SwarmcError] = field(default_factory=list)


_scope: ContextVar[Scope] = ContextVar("swarmc_scope")


def current_scope() -> Scope:
    """The scope of the running call; a fresh one (stage `other`) outside of any."""
    return _scope.get(None) or Scope()


@contextmanager
def scoped(stage: Stage | None = None, rollout_id: int = 0) -> Iterator[Scope]:
    """Calls made inside belong to `stage` (default: that of the enclosing scope) and this sample."""
    scope = Scope(stage or current_scope().stage, rollout_id)
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)
