"""The ledger over a SQL database: the port's methods, for coroutines of any loop and any thread."""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self, final, get_args

from blocks.ledger import jobs
from blocks.ledger.batch import serve
from blocks.ledger.books import Answer, Lookup, Operation, Release, Reserve, Settle
from blocks.ledger.opened import Opened
from blocks.ledger.purchases import purchases_after
from swarmc.contracts.bundle import Purchase
from swarmc.contracts.canonical import ContentId, content_id
from swarmc.contracts.completions import Completion, CompletionRequest, Lane, Stage
from swarmc.contracts.errors import LedgerError, RunFenced, boundary
from swarmc.contracts.money import (
    Account,
    BudgetPolicy,
    Claim,
    Granted,
    Held,
    Known,
    Receipt,
    Refused,
    ReserveAnswer,
    RunRecord,
    RunState,
)
from swarmc.contracts.ports import RunLease

GRACE_S = 0.25
"""Least time to try for a run: who looks whether it is owned holds its lock file for a moment."""
POLL_S = 0.02
MOST_IDS = 200_000
"""Ids of completions that are kept in memory, some 30 MB: what is not among them need not be looked up."""
STAGES = get_args(Stage)
LANES = get_args(Lane)


@dataclass(frozen=True)
class Lease:
    """The right to work on one run; see `RunLease`."""

    run_id: str
    epoch: int
    recovered: int


@final
class SqlLedger(Opened[Operation, Answer]):
    """A ledger in SQLite or PostgreSQL; see `Ledger`. Make one with `SqlLedger.open` and `async with`.

    One thread of its own talks to the database and commits what was asked meanwhile together. Every
    method may be awaited from any event loop of the process; a forked child must open its own.
    All methods raise `LedgerError` when the database cannot be used; what had been answered stays
    kept, and the ledger works again when the cause is gone.

    Args:
        url: `sqlite:////path/ledger.db` or `postgresql+psycopg://user:password@host/database`.

    Raises:
        LedgerError: the URL cannot be read, or its driver cannot be loaded.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, serve)
        self._origin = uuid.uuid4().hex
        self._numbers = itertools.count(1)

    @classmethod
    def open(cls, url: str) -> Self:
        """A ledger, to be entered with `async with`."""
        return cls(url)

    @asynccontextmanager
    async def open_run(
        self, run_id: str, *, spec_id: str, name: str, budget: BudgetPolicy, wait_s: float = 0
    ) -> AsyncIterator[Lease]:
        """Take the run for this process; see `Ledger.open_run`.

        Leaving closes the epoch: its claims are refused from then on, and what it still had reserved
        is lost, because those calls were cut off.
        """
        desk = self._desk
        opening = jobs.Opening(run_id, spec_id, name, budget.canonical().decode())
        ownership = jobs.Ownership(run_id)
        try:
            await self._take(ownership, wait_s)
            epoch, recovered = await desk.call(lambda database: jobs.begin_epoch(database, opening))
            try:
                yield Lease(run_id, epoch, recovered)
            except BaseException:
                with suppress(LedgerError):  # why the work ended matters more; the next opening finds the rest
                    await desk.call(lambda database: jobs.end_epoch(database, run_id, epoch))
                raise
            await desk.call(lambda database: jobs.end_epoch(database, run_id, epoch))
        finally:
            with suppress(LedgerError):  # a ledger that is closed, or lost its connection, owns nothing
                await desk.call(ownership.free)

    async def reserve(self, claim: Claim) -> ReserveAnswer:
        """See `Ledger.reserve`. Cancelled, it leaves nothing reserved.

        Raises:
            RunFenced: the claim's epoch is not the run's, or was closed.
            LedgerError: the run is unknown.
        """
        reservation_id = f"{self._origin}-{next(self._numbers)}"
        try:
            answer = await self._desk.ask(Reserve(claim, reservation_id))
        except asyncio.CancelledError:
            self._desk.tell(Release(reservation_id, "withdrawn"))
            raise
        if isinstance(answer, bytes):
            return Known(completion=_completion(answer, claim.request_id))
        assert isinstance(answer, (Granted, Held, Refused)), answer
        return answer

    async def known(self, run_id: str, stage: str, lane: str, request_id: ContentId) -> Completion | None:
        """See `Ledger.known`.

        Raises:
            LedgerError: no such stage or lane; or the run is unknown and another had bought it.
        """
        if stage not in STAGES or lane not in LANES:
            raise LedgerError(f"{stage!r} is no stage or {lane!r} is no lane: write {STAGES} and {LANES}")
        answer = await self._desk.ask(Lookup(run_id, stage, lane, request_id))
        return _completion(answer, request_id) if isinstance(answer, bytes) else None

    async def settle(self, reservation_id: str, request: CompletionRequest, completion: Completion) -> None:
        """See `Ledger.settle`. A reservation that was thought lost is settled all the same: it was paid.

        Cancelled, it is still done. Sent twice, it is done once.

        Raises:
            LedgerError: no such reservation, it is another request's, or the completion has no canonical form.
        """
        doing = f"storing the completion of {request.request_id} (release its reservation as lost)"
        with boundary(LedgerError, doing, ValueError):
            body = completion.canonical()
        await self._desk.ask(
            Settle(
                reservation_id=reservation_id,
                request_id=request.request_id,
                request=request.body,
                completion=body,
                completion_id=content_id(body),
                venue=_text(completion.venue),
                model=_text(completion.model),
                usage=completion.usage,
            )
        )

    async def release(self, reservation_id: str, *, lost: bool) -> None:
        """See `Ledger.release`. What was settled or released before stays as it is."""
        await self._desk.ask(Release(reservation_id, "lost" if lost else "failed"))

    async def account(self, run_id: str) -> Account:
        return await self._desk.call(lambda database: jobs.account(database, run_id))

    async def finish_run(self, lease: RunLease, state: RunState, *, manifest_uri: str | None = None) -> None:
        """Write down how the run ended. No `manifest_uri` keeps the one it has.

        Raises:
            RunFenced: another process took the run over.
        """
        await self._desk.call(lambda database: jobs.end_run(database, lease.run_id, lease.epoch, state, manifest_uri))

    async def runs(self, *, limit: int = 50) -> list[RunRecord]:
        return await self._desk.call(lambda database: jobs.newest_runs(database, limit))

    async def find_run(self, run_id_prefix: str) -> RunRecord:
        return await self._desk.call(lambda database: jobs.find_run(database, run_id_prefix))

    async def unfinished_run(self, spec_id: str) -> RunRecord | None:
        return await self._desk.call(lambda database: jobs.unfinished_run(database, spec_id))

    async def receipts(self, run_id: str) -> AsyncIterator[Receipt]:
        """Every settled call of the run, oldest first.

        Raises:
            LedgerError: no such run.
        """
        page, after = await self._page(run_id, (0, ""))
        while page:
            for receipt in page:
                yield receipt
            page, after = await self._page(run_id, after)

    async def purchases(self, run_id: str) -> AsyncIterator[Purchase]:
        """See `Ledger.purchases`."""
        after = (0, "")
        while True:
            page, after = await self._purchases(run_id, after)
            if not page:
                return
            for purchase in page:
                yield purchase

    async def _purchases(self, run_id: str, after: tuple[int, str]) -> tuple[list[Purchase], tuple[int, str]]:
        return await self._desk.call(lambda database: purchases_after(database, run_id, after))

    async def _page(self, run_id: str, after: tuple[int, str]) -> tuple[list[Receipt], tuple[int, str]]:
        return await self._desk.call(lambda database: jobs.receipts_after(database, run_id, after))

    async def _take(self, ownership: jobs.Ownership, wait_s: float) -> None:
        deadline = time.monotonic() + max(wait_s, GRACE_S)
        run_id = ownership.run_id
        while not await self._desk.call(ownership.take):
            if time.monotonic() > deadline:
                owner = await self._desk.call(lambda database: database.dialect.owner_of(database, run_id))
                raise RunFenced(
                    f"run {run_id!r} is held by {owner or 'another process'}: "
                    "wait until that is done, end it, or start another run"
                )
            await asyncio.sleep(POLL_S)


def _completion(body: bytes, request_id: str) -> Completion:
    with boundary(LedgerError, f"reading the completion of {request_id} (its row in the ledger is damaged)"):
        return Completion.model_validate_json(body)


def _text(name: str) -> str:
    """A stranger's name for a text column, which in PostgreSQL holds no NUL. The completion keeps its own."""
    return name.replace("\0", "\N{REPLACEMENT CHARACTER}")
