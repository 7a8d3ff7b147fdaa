"""The one thread that talks to the database: it gathers what was asked meanwhile and commits it together.

A commit costs the same for one operation and for a hundred, so while one transaction runs the next
batch grows. Coroutines of any loop and any thread may ask; each loop is answered by one call.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from blocks.ledger.database import Database, DatabaseError, Trouble
from swarmc.contracts.errors import LedgerError

T = TypeVar("T")
Operation = TypeVar("Operation")
Answer = TypeVar("Answer")

Serve = Callable[[Database, Sequence[Operation]], Sequence[Answer | LedgerError]]
"""Answers operations in order and commits what they changed, all of it or nothing."""

MAX_BATCH = 256
"""Operations in one transaction, so that one transaction stays some milliseconds long."""
MAX_TRIES = 20
"""Of a transaction that loses races: each loss means that another process won."""


@dataclass(slots=True)
class _Asked:
    """An operation or a job, and who waits for it; nobody, for a withdrawal."""

    future: asyncio.Future[Any] | None
    operation: Any = None
    job: Callable[[Database], Any] | None = None


class Writer(Generic[Operation, Answer]):
    """Runs operations and jobs on a `Database`, in the order they were asked.

    Args:
        database: Used by this writer alone.
        serve: Does a batch of operations. It runs again after a lost race, and for each operation alone when
            one of them may be at fault.
    """

    def __init__(self, database: Database, serve: Serve[Operation, Answer]) -> None:
        self._database = database
        self._serve = serve
        self._queue: SimpleQueue[_Asked | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._is_open = True
        self._process_id = os.getpid()
        # A daemon, because a program that dies without closing must die; the ledger stands that at any moment.
        self._thread = threading.Thread(target=self._work, name="swarmc-ledger", daemon=True)
        self._thread.start()

    async def ask(self, operation: Operation) -> Answer:
        """The operation's answer, once it is committed.

        Raises:
            SwarmcError: the operation's own error.
            LedgerError: the database could not be used.
        """
        future = asyncio.get_running_loop().create_future()
        self._put(_Asked(future, operation))
        return await future

    async def call(self, job: Callable[[Database], T]) -> T:
        """What `job` returns. It runs between batches and may run again after a lost race."""
        future = asyncio.get_running_loop().create_future()
        self._put(_Asked(future, job=job))
        return await future

    def tell(self, operation: Operation) -> None:
        """Leave an operation to be done after those already asked."""
        with suppress(LedgerError):  # closed meanwhile: closing a run has dealt with its reservations
            self._put(_Asked(None, operation))

    async def aclose(self) -> None:
        """Finish what was asked, then end the thread and the connection."""
        with self._gate:
            was_open, self._is_open = self._is_open, False
            if was_open:
                self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _put(self, asked: _Asked) -> None:
        if os.getpid() != self._process_id:
            raise LedgerError("this ledger was opened before a fork: open it again in the child process")
        with self._gate:
            if not self._is_open:
                raise LedgerError(f"the ledger at {self._database.dialect.where} is closed: open it again")
            self._queue.put(asked)

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch = self._drain()
            is_open = None not in batch
            for job, group in groupby(filter(None, batch), key=lambda item: item.job):
                asked = list(group)
                _deliver(asked, self._answers(asked) if job is None else [self._done(job)] * len(asked))
        self._database.dialect.close()
        self._database.close()

    def _drain(self) -> list[_Asked | None]:
        """What is there, waiting for the first."""
        batch = [self._queue.get()]
        with suppress(Empty):
            while batch[-1] is not None and len(batch) < MAX_BATCH:
                batch.append(self._queue.get_nowait())
        return batch

    def _answers(self, asked: list[_Asked]) -> Sequence[Answer | LedgerError]:
        operations = [item.operation for item in asked]
        try:
            return self._attempt(lambda database: self._serve(database, operations))
        except LedgerError as error:
            alone = isinstance(error, DatabaseError) and error.trouble in (Trouble.ALONE, Trouble.AGAIN)
            if alone and len(asked) > 1:
                return [answer for item in asked for answer in self._answers([item])]
            return [error] * len(asked)

    def _done(self, job: Callable[[Database], T]) -> T | LedgerError:
        try:
            return self._attempt(job)
        except LedgerError as error:
            return error

    def _attempt(self, work: Callable[[Database], T]) -> T:
        may_reconnect = True
        for left in reversed(range(MAX_TRIES)):
            try:
                with self._database.guarded():
                    self._database.ensure_open()
                    return work(self._database)
            except DatabaseError as error:
                lost = error.trouble is Trouble.LOST
                if lost:
                    self._database.close()
                again = error.trouble is Trouble.AGAIN or (lost and may_reconnect)
                if not again or not left:
                    raise
                may_reconnect = may_reconnect and not lost
        raise AssertionError("the last try returns or raises")


def _deliver(asked: Iterable[_Asked], answers: Iterable[Any]) -> None:
    """Answer each loop in one call."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for item, answer in zip(asked, answers, strict=True):
        if item.future is not None:
            by_loop.setdefault(item.future.get_loop(), []).append((item.future, answer))
    for loop, pairs in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in pairs:
        if future.done():
            continue  # its task was cancelled; what it asked for is done all the same
        if isinstance(answer, LedgerError):
            future.set_exception(_own_copy(answer))
        else:
            future.set_result(answer)


def _own_copy(error: LedgerError) -> LedgerError:
    """An error of the public tree for one waiter: a shared one would collect everybody's traceback."""
    kind = LedgerError if isinstance(error, DatabaseError) else type(error)
    copy = kind(str(error), retryable=error.retryable)
    copy.__cause__ = error.__cause__
    return copy
