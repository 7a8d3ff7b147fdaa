"""Carries out what sales need done: listens, quotes, hears of payments, works, delivers, keeps every step.

The state machine `swarmc.nostr.seller` says what is due, the five steps in `tasks/` do it, and here is the loop
around them. A sale has a task only while there is something to do for it; one that waits for its payment costs a
few kilobytes and no time. What is published was kept before, so a process that dies at any moment leaves what the
next one needs.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self, final

from flows.driving import (
    FIRST_PAUSE_S,
    LATE_LOOK_S,
    LONGEST_PAUSE_S,
    LOOK,
    Driver,
    Elsewhere,
    Told,
    memory_rests,
)
from flows.trades import Pulse, Seen, Trade
from swarmc.contracts.errors import LedgerError, RelayError, RunFenced, SwarmcError, WalletError
from swarmc.contracts.job_book import JobRecord
from swarmc.contracts.market import DELETION, Sale
from swarmc.contracts.relay import Filter, NostrEvent
from swarmc.nostr import seller
from swarmc.nostr.nip09 import deleted_by
from tasks.admit import admitted
from tasks.shop import Shop

logger = logging.getLogger("swarmc.provider")

LOOKBACK_S = 300
"""Requests that are older than the listening began are heard too: a provider that restarts misses none of them."""

KNOWN_KINDS = (5000, 5001, 5002, 5003, 5050, 5100, 5200, 5250, 5300, 5301, 5302, 5303, 5900, 5930, 5931, 5932, 5933)
"""Kinds of jobs that are listened to where they name us, so that who asks in vain is told so."""

TICK_S = 0.25
BREATH_EVENTS = 32
MOST_DELETIONS = 10_000
MOST_LATE = 2_000
LATE_S = 3_600
"""So long after the end of a quote its money is still looked for."""

MOST_UNTOLD = 200
"""Refusals that wait for a relay; beyond them silence."""


@final
class Market:
    """Sells jobs, many at once, over one subscription. To be entered with `async with`.

    Args:
        shop: What it works with.
        capacity: Jobs that are performed at once.
        tell: Told of every move.

    Attributes:
        pulse: How busy it is.
        fatal: Set when it cannot go on: another process has our run, or the memory is gone.
    """

    def __init__(self, shop: Shop, *, capacity: int = 8, tell: Told = lambda sale, said: None) -> None:  # noqa: ARG005
        self.pulse = Pulse()
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._shop = shop
        self._tell = tell
        self._driver = Driver(shop, capacity, self.pulse, self._moved)
        self._trades: dict[str, Trade] = {}
        self._by_hash: dict[str, Trade] = {}
        self._late: OrderedDict[str, Trade] = OrderedDict()
        self._deletions: OrderedDict[tuple[str, str], NostrEvent] = OrderedDict()
        self._seen = Seen(int(shop.now_s()))
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._resume()
        self._listener = asyncio.create_task(self._listen())
        self._tasks = [asyncio.create_task(work()) for work in (self._hear_hints, self._tick)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        drivers = [trade.driver for trade in self._trades.values() if trade.driver is not None]
        tasks = [*self._tasks, *drivers, *([self._listener] if self._listener else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._driver.aclose()

    async def listening(self) -> None:
        """Wait until a relay was asked for requests."""
        await self._listening.wait()

    async def idle(self) -> None:
        """Wait until nothing that was accepted is left to be done."""
        while any(trade.sale.state in ("accepted", "performed") for trade in self._trades.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def close(self, grace_s: float) -> None:
        """Take nothing new; let what was paid for be done, for so many seconds at most. The rest is resumed later."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.idle()

    @property
    def open_sales(self) -> int:
        return len(self._trades)

    # What comes in.

    async def _resume(self) -> None:
        """Take up what an earlier process left: first what is paid for, then what may have been cancelled meanwhile."""
        records = await self._shop.book.unfinished("sold", self._shop.owner)
        trades = [Trade(Sale.model_validate_json(record.body), record.version) for record in records]
        trades.sort(key=lambda trade: trade.sale.settlement is None)
        for trade in trades:
            self._open(trade)
        for record in await self._shop.book.recent("sold", self._shop.owner, limit=MOST_LATE):
            self._watch_late(record)
        waiting = [trade for trade in trades if trade.sale.state in ("received", "quoted")]
        for start in range(0, len(waiting), 100):
            await self._look_for_deletions(waiting[start : start + 100])
        for trade in trades:
            self._go_on(trade)

    async def _look_for_deletions(self, trades: list[Trade]) -> None:
        wanted = Filter(kinds=(DELETION,), tags={"e": tuple(trade.sale.job_id for trade in trades)})
        try:
            found = await self._shop.relay.fetch([wanted])
        except RelayError as error:
            logger.warning("looking for cancellations made while we were away: %s", error)
            return
        for event in found.events:
            self._cancel(event)

    def _watch_late(self, record: JobRecord) -> None:
        """Money may still come in for a quote that expired before we were started."""
        if record.final and record.state == "failed" and record.payment_hash is not None and record.msats == 0:
            self._forget(Trade(Sale.model_validate_json(record.body), record.version))

    async def _listen(self) -> None:
        """Bring every event to what it is for, for as long as there are relays."""
        since, pause_s = int(self._shop.now_s()) - LOOKBACK_S, FIRST_PAUSE_S
        while True:
            try:
                async with self._shop.relay.subscribe(self._filters(since)) as events:
                    self._listening.set()
                    pause_s = FIRST_PAUSE_S
                    await self._read(events)
            except RelayError as error:
                self.pulse.problems["relays"] += 1
                logger.warning("listening for jobs: %s; listening anew", error)
            await asyncio.sleep(pause_s * (0.5 + random.random()))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            since = max(since, int(self._shop.now_s()) - self._shop.terms.max_age_s)

    def _filters(self, since: int) -> list[Filter]:
        terms = self._shop.terms
        named = Filter(kinds=KNOWN_KINDS, tags={"p": (terms.provider,)}, since=since)
        everybody = [Filter(kinds=terms.kinds, since=since)] if terms.open_jobs else []
        return [named, *everybody, Filter(kinds=(DELETION,), since=since)]

    async def _read(self, events: AsyncIterator[NostrEvent]) -> None:
        count = 0
        async for event in events:
            self._bring(event)
            count += 1
            if count % BREATH_EVENTS == 0:
                # A full queue gives without waiting: the others must live too.
                await asyncio.sleep(0)

    def _bring(self, event: NostrEvent) -> None:
        if event.kind == DELETION:
            self._cancel(event)
        elif self._seen.add(event) and event.id not in self._trades:
            self._admit(event)

    def _admit(self, event: NostrEvent) -> None:
        now_s = asyncio.get_running_loop().time()
        found = None
        if (event.pubkey, event.id) not in self._deletions:
            found = admitted(self._shop, event, self.pulse.load(event.pubkey, now_s))
        if found is None:
            self.pulse.ignored += 1
            return
        trade = Trade(found.sale, maybe_known=self._seen.may_be_known(event), began_s=now_s)
        if found.refused is not None:
            self.pulse.refused(now_s)
            if self.pulse.states["failed"] >= MOST_UNTOLD:
                self.pulse.ignored += 1
                return
            trade.said.append(found.refused)
        elif found.sale.amount_msats:
            self.pulse.quoted(now_s)
        self._open(trade)
        self._go_on(trade)

    def _cancel(self, deletion: NostrEvent) -> None:
        """Only its own author cancels a job; one that comes before its request is remembered."""
        for job_id in deleted_by(deletion):
            trade = self._trades.get(job_id)
            if trade is not None:
                self._say(trade, seller.Cancelled(deletion=deletion))
            else:
                self._deletions[(deletion.pubkey, job_id)] = deletion
                if len(self._deletions) > MOST_DELETIONS:
                    self._deletions.popitem(last=False)

    async def _hear_hints(self) -> None:
        """Look at once where the wallet hints that something came in. The tick looks at the rest."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async for payment_hash in self._shop.wallet.settlements():
                    pause_s = FIRST_PAUSE_S
                    self._hint(payment_hash)
            except WalletError as error:
                self._driver.note(error.code, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _hint(self, payment_hash: str) -> None:
        trade = self._by_hash.get(payment_hash) or self._late.get(payment_hash)
        if trade is not None:
            trade.rest.pop(LOOK, None)
            trade.pauses.pop(LOOK, None)
            # Said, so that a driver that is just ending begins anew.
            self._say(trade, seller.TimePassed())

    async def _tick(self) -> None:
        """Wake what has rested long enough."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = asyncio.get_running_loop().time()
            for trade in [*self._trades.values(), *self._late.values()]:
                if trade.driver is None and min(trade.rest.values(), default=0.0) <= now_s and not trade.stuck:
                    self._go_on(trade)

    # What is done about it.

    def _moved(self, sale: Sale, said: str) -> None:
        if said == "quoted" and sale.invoice is not None and sale.job_id in self._trades:
            self._by_hash[sale.invoice.payment_hash] = self._trades[sale.job_id]
        self._tell(sale, said)

    def _open(self, trade: Trade) -> None:
        self._trades[trade.sale.job_id] = trade
        trade.counted = True
        self.pulse.opened(trade.sale)
        self._driver.excuse(trade)
        if trade.payment_hash is not None:
            self._by_hash[trade.payment_hash] = trade

    def _say(self, trade: Trade, said: seller.Said) -> None:
        trade.said.append(said)
        self._go_on(trade)

    def _go_on(self, trade: Trade) -> None:
        if trade.driver is None and not trade.stuck and not self.fatal.done():
            trade.driver = asyncio.create_task(self._drive(trade))
            trade.driver.add_done_callback(lambda done: self._driven(trade, done))

    async def _drive(self, trade: Trade) -> None:
        try:
            await self._driver.drive(trade)
        except Elsewhere:
            self.pulse.problems["elsewhere"] += 1
            trade.said.clear()  # What was said of it is for whoever has it.
            self._close(trade)
        except RunFenced as error:
            self._end(error)
        except LedgerError as error:
            self._driver.note(error.code, error)
            memory_rests(trade)
        else:
            if trade.sale.final and not trade.said:
                self._forget(trade)

    def _driven(self, trade: Trade, done: "asyncio.Task[None]") -> None:
        trade.driver = None
        if done.cancelled() or self.fatal.done():
            return
        error = done.exception()
        if error is not None:
            # Not its text: it may quote what a customer wrote. The job stays in the book.
            trade.stuck = True
            self.pulse.problems["stuck"] += 1
            reason = type(error).__name__
            logger.error("job %s cannot go on (%s); it is resumed at the next start", trade.sale.job_id[:16], reason)
        elif trade.said and LedgerError.code not in trade.rest:
            self._go_on(trade)

    # What is over.

    def _forget(self, trade: Trade) -> None:
        """It is final. Where money may still come in for it, it is watched for a while."""
        self._close(trade)
        invoice = trade.sale.invoice
        if invoice is None or trade.sale.state != "failed":
            return
        if trade.sale.settlement is not None or invoice.expires_at + LATE_S < self._shop.now_s():
            self._late.pop(invoice.payment_hash, None)
            return
        trade.rest.setdefault(LOOK, asyncio.get_running_loop().time() + LATE_LOOK_S)
        self._late[invoice.payment_hash] = trade
        if len(self._late) > MOST_LATE:
            self._late.popitem(last=False)

    def _close(self, trade: Trade) -> None:
        if trade.counted:
            del self._trades[trade.sale.job_id]
            trade.counted = False
            self.pulse.closed(trade.sale)
            if not trade.excused:
                self.pulse.excused(trade.sale)
        if trade.payment_hash is not None:
            self._by_hash.pop(trade.payment_hash, None)

    def _end(self, error: SwarmcError) -> None:
        if not self.fatal.done():
            self.fatal.set_exception(error)
