"""What every step does around its work: say that it begins and ends, mark its calls, publish its report."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

from prefect import Task, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from swarmc.compiler.metering import now_ms
from swarmc.compiler.scope import scoped
from swarmc.contracts.completions import Stage
from swarmc.contracts.errors import BudgetExhausted, SwarmcError, first_swarmc_error
from swarmc.contracts.events import Emit, StageEnded, StageStarted

RETRY_DELAYS_S = [5.0]

P = ParamSpec("P")
R = TypeVar("R")
Work = Callable[P, Coroutine[Any, Any, R]]
Ended = Literal["completed", "budget", "failed"]


def step(name: str) -> Callable[[Work[P, R]], Task[P, Coroutine[Any, Any, R]]]:
    """A Prefect task as all steps are: retried when the error says so, its result kept, never cached.

    The ledger is the memory: a step that is run again reads what it had bought, so a cache could
    only disagree with it.
    """
    return task(
        name=name,
        cache_policy=NO_CACHE,
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=RETRY_DELAYS_S,
        retry_condition_fn=is_retryable,
        persist_result=True,
    )


def live(name: str) -> Callable[[Work[P, R]], Task[P, Coroutine[Any, Any, R]]]:
    """A Prefect task whose result is made anew every time: live objects, or what is written down elsewhere."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)


@dataclass
class StageNotes:
    """What a step says of its end: `ended`, one sentence, and the report."""

    ended: Ended = "completed"
    sentence: str = ""
    report: str = ""


@asynccontextmanager
async def stage(name: Stage, run_id: str, emit: Emit, calls_planned: int | None = None) -> AsyncIterator[StageNotes]:
    """Calls made inside belong to the stage; its start, end and report are told.

    Args:
        name: The stage.
        run_id: Whose stage.
        emit: Where to tell.
        calls_planned: Upper bound of completions that will be asked for.
    """
    notes = StageNotes()
    emit(StageStarted(run_id=run_id, at_ms=now_ms(), stage=name, calls_planned=calls_planned))
    ended: Ended = "failed"
    try:
        with scoped(name):
            yield notes
        ended = notes.ended
    except BudgetExhausted as error:
        ended, notes.sentence = "budget", str(error)
        raise
    finally:
        emit(StageEnded(run_id=run_id, at_ms=now_ms(), stage=name, ended=ended, note=notes.sentence))
    await publish(f"compile-{name}", notes)


async def publish(key: str, notes: StageNotes) -> None:
    """Log the sentence and show the report on the run's page; outside of a Prefect run, do nothing."""
    if TaskRunContext.get() is None:
        return
    if notes.sentence:
        get_run_logger().info(notes.sentence)
    if notes.report:
        await acreate_markdown_artifact(notes.report, key=key, description=notes.sentence or None)


async def is_retryable(_task: Task, _run: TaskRun, state: State) -> bool:
    """Whether a failed step may succeed unchanged: only our own errors say so, and only of themselves."""
    error = await state.aresult(raise_on_failure=False)
    known = first_swarmc_error(error) if isinstance(error, BaseException) else None
    return isinstance(known, SwarmcError) and known.retryable
