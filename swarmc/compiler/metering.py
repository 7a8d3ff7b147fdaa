"""The meter: nothing is bought that is known, nothing is bought that no budget allows.

Two wrappers with the port of a venue. `Remembered` is the outer one: it reads the ledger first and
lets equal requests in flight share one purchase. `Metered` is the inner one: reserve, buy, settle.
Retries and limits go between them, so that a replay waits for no rate limit and a second try is a
second reservation (the first may have been billed).
"""

import asyncio
from dataclasses import dataclass
from time import time, time_ns

from swarmc.compiler.around import Around
from swarmc.compiler.scope import Scope, active_call, current_scope
from swarmc.contracts.completions import Completion, CompletionRequest, Lane
from swarmc.contracts.errors import BudgetExhausted, SwarmcError, VenueError
from swarmc.contracts.events import NS_PER_MS, CallEnded, CallFailed, Emit
from swarmc.contracts.money import Claim, Granted, Held, Known, Refused
from swarmc.contracts.ports import Ledger, Venue

FIRST_POLL_S = 0.005
LAST_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Purse:
    """Whose money is spent: a lane of a run, at the epoch this process opened it with."""

    ledger: Ledger
    run_id: str
    epoch: int
    lane: Lane
    emit: Emit


class Metered(Around):
    """A venue that buys only what its purse allows, and settles every answer before anybody sees it."""

    def __init__(self, venue: Venue, purse: Purse) -> None:
        super().__init__(venue)
        self._purse = purse

    async def complete(self, request: CompletionRequest) -> Completion:
        """Reserve, buy, settle.

        Raises:
            BudgetExhausted: a budget of the run, the stage or the lane does not allow the call.
            RunFenced: another process has taken the run.
            VenueError: the venue did not answer; its reservation is given back, or kept as lost.
        """
        scope = current_scope()
        answer = await self._reserve(request, scope)
        if isinstance(answer, Known):
            return answer.completion
        try:
            completion = await self._venue.complete(request)
        except SwarmcError as error:
            lost = isinstance(error, VenueError) and error.paid_unknown
            await self._purse.ledger.release(answer.reservation_id, lost=lost)
            self._tell_failure(request, scope, error)
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._purse.ledger.release(answer.reservation_id, lost=True))
            raise
        await self._purse.ledger.settle(answer.reservation_id, request, completion)
        return completion

    async def _reserve(self, request: CompletionRequest, scope: Scope) -> Known | Granted:
        """Ask until the ledger says yes, known or no. `Held` ends when a call in flight does."""
        purse = self._purse
        claim = Claim(
            run_id=purse.run_id,
            epoch=purse.epoch,
            request_id=request.request_id,
            stage=scope.stage,
            lane=purse.lane,
            max_msats=self._venue.quote(request),
        )
        pause_s = FIRST_POLL_S
        while isinstance(answer := await purse.ledger.reserve(claim), Held):
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LAST_POLL_S)
        if isinstance(answer, Refused):
            raise BudgetExhausted(
                f"the budget of {answer.scope} is {answer.limit} {answer.unit}, of which {answer.used} are used; "
                f"the next call in lane {purse.lane!r} would exceed it",
                scope=answer.scope,
            )
        return answer

    def _tell_failure(self, request: CompletionRequest, scope: Scope, error: SwarmcError) -> None:
        self._purse.emit(
            CallFailed(
                run_id=self._purse.run_id,
                at_ms=now_ms(),
                stage=scope.stage,
                lane=self._purse.lane,
                request_id=request.request_id,
                code=error.code,
                message=str(error)[:500],
                parent_id=active_call(scope),
                at_ns=time_ns(),
            )
        )


class Remembered(Around):
    """A venue that reads what was ever bought, and buys the same thing once however often it is asked."""

    def __init__(self, venue: Venue, purse: Purse) -> None:
        super().__init__(venue)
        self._purse = purse
        self._buying: dict[str, asyncio.Task[Completion]] = {}

    async def complete(self, request: CompletionRequest) -> Completion:
        """The completion, read or bought. Errors are those of `Metered`, and are left in the scope too.

        A purchase goes on when its asker is cancelled: it is paid for, so it is kept.
        """
        scope = current_scope()
        try:
            return await self._read_or_buy(request, scope)
        except SwarmcError as error:
            if not (isinstance(error, VenueError) and error.fault != "venue"):
                scope.failures.append(error)
            raise

    async def drain(self, grace_s: float) -> None:
        """Wait for purchases in flight; after `grace_s` seconds cancel them (they are then counted as lost)."""
        tasks = list(self._buying.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_or_buy(self, request: CompletionRequest, scope: Scope) -> Completion:
        key, started_ns = request.request_id, time_ns()
        task = self._buying.get(key)
        if task is None:
            purse = self._purse
            known = await purse.ledger.known(purse.run_id, scope.stage, purse.lane, key)
            if known is not None:
                self._tell(_Answered(request, known, started_ns, bought=False), scope)
                return known
            # Another asker of the same request may have begun to buy while we were reading.
            task = self._buying.get(key)
        bought = task is None
        if task is None:
            task = asyncio.create_task(self._venue.complete(request))
            self._buying[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        completion = await asyncio.shield(task)
        self._tell(_Answered(request, completion, started_ns, bought=bought), scope)
        return completion

    def _forget(self, key: str, task: asyncio.Task[Completion]) -> None:
        self._buying.pop(key, None)
        if not task.cancelled():
            task.exception()  # Marks it as seen: its asker may be gone.

    def _tell(self, answered: "_Answered", scope: Scope) -> None:
        completion, ended_ns = answered.completion, time_ns()
        self._purse.emit(
            CallEnded(
                run_id=self._purse.run_id,
                at_ms=ended_ns // NS_PER_MS,
                stage=scope.stage,
                lane=self._purse.lane,
                request_id=answered.request.request_id,
                source="bought" if answered.bought else "replayed",
                usage=completion.usage,
                latency_ms=completion.latency_ms,
                parent_id=active_call(scope),
                model=completion.model,
                venue=completion.venue,
                started_ns=answered.started_ns,
                ended_ns=ended_ns,
            )
        )


@dataclass(frozen=True, slots=True)
class _Answered:
    """A completion that reached its asker."""

    request: CompletionRequest
    completion: Completion
    started_ns: int
    bought: bool


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time() * 1000)
