"""Carries one sale forward: what is due is done, what happened is heard, what matters is kept before others know it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import final

from flows.trades import Pulse, Trade
from swarmc.contracts.errors import LedgerError, RelayError, SwarmcError, WalletError
from swarmc.contracts.market import Sale
from swarmc.contracts.relay import NostrEvent
from swarmc.nostr import seller
from swarmc.nostr.nip90 import feedback_note
from tasks.deliver import deliver, tell
from tasks.perform import given_up, perform
from tasks.quote import quote
from tasks.settle import settle
from tasks.shop import Shop

logger = logging.getLogger("swarmc.provider")

FIRST_LOOK_S = 2.0
LATE_LOOK_S = 60.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
PROCESSING_AFTER_S = 2.0
"""A job that takes longer is said to be `processing`."""

KEEP_AFTER_S = 0.05
"""Work that takes longer is begun for a sale that is kept as paid; shorter work is kept with its payment, at once.
After a crash in between the wallet still knows of the payment, and the ledger of the work."""

LOOK = "find_settlement"
RECEIVED = '{"said":"received"}'

Told = Callable[[Sale, str], None]
"""Is told of every move: the sale as it now is, and the word of what was said."""


class Elsewhere(Exception):
    """Another process has this sale, or is done with it: nothing that we were about to do for it is ours to do."""


@final
class Driver:
    """Drives sales, each by one caller at a time.

    Args:
        shop: What it works with.
        capacity: Jobs that are performed at once.
        pulse: Where it is counted.
        tell: Told of every move.
    """

    def __init__(self, shop: Shop, capacity: int, pulse: Pulse, tell: Told) -> None:
        self._shop = shop
        self._places = asyncio.Semaphore(capacity)
        self._pulse = pulse
        self._tell = tell
        self._errands: set[asyncio.Task[None]] = set()

    async def drive(self, trade: Trade) -> None:
        """Carry out what is due until there is nothing, or all of it rests.

        Raises:
            Elsewhere: another process has the sale.
            LedgerError: the job book or the ledger cannot be used; nothing was told that is not kept.
        """
        if trade.maybe_known:
            if await self._shop.book.get("sold", self._shop.owner, trade.sale.job_id) is not None:
                raise Elsewhere
            trade.maybe_known = False
        while (action := self._next(trade)) is not None:
            await self._keep_before(trade, action)
            await self._do(trade, action)
        if trade.dirty:
            await self._keep(trade)

    async def aclose(self) -> None:
        for task in self._errands:
            task.cancel()
        await asyncio.gather(*self._errands, return_exceptions=True)

    def note(self, what: str, error: SwarmcError) -> None:
        """Count and log something that may pass."""
        self._pulse.problems[what] += 1
        logger.warning("%s; tried again later", error)

    def _next(self, trade: Trade) -> seller.Action | None:
        """Hear what was said, then choose the first thing that is due and does not rest."""
        while trade.said:
            self._hear(trade, trade.said.popleft())
        if trade.rest:
            now_s = _now_s()
            trade.rest = {name: until_s for name, until_s in trade.rest.items() if until_s > now_s}
        sale = trade.sale
        for action in seller.due(sale, self._shop.now_s()):
            if action.action not in trade.rest:
                return action
        if sale.state == "failed" and sale.invoice is not None and sale.settlement is None and LOOK not in trade.rest:
            # Money may have come in all the same: then it is owed back.
            return seller.FindSettlement(payment_hash=sale.invoice.payment_hash)
        return None

    def _hear(self, trade: Trade, said: seller.Said) -> None:
        before = trade.sale.state
        if not trade.hear(said, self._shop.now_s()):
            return
        if trade.counted and trade.sale.state != before:
            self._pulse.moved(before, trade.sale.state)
        self.excuse(trade)
        if isinstance(said, seller.Delivered):
            self._pulse.was_delivered(_now_s(), trade.began_s)
        self._tell(trade.sale, said.said)

    def excuse(self, trade: Trade) -> None:
        """A job that was cancelled is no burden of its customer's, or one that crashes often could buy no more."""
        if trade.counted and not trade.excused and trade.sale.code == seller.CANCELLED:
            trade.excused = True
            self._pulse.excused(trade.sale)

    async def _keep_before(self, trade: Trade, action: seller.Action) -> None:
        """What others are told is kept before. A refusal is told first: nothing hangs on it, and it is kept once."""
        told_first = trade.version == 0 and trade.sale.state == "failed"
        if trade.dirty and not told_first and isinstance(action, seller.SendFeedback | seller.Deliver):
            await self._keep(trade)

    async def _do(self, trade: Trade, action: seller.Action) -> None:
        """Do one thing. What fails in a way that may pass rests for a while, and nothing is lost."""
        name = action.action
        try:
            said = await self._carry_out(trade, action)
        except (RelayError, WalletError) as error:
            self.note(error.code, error)
            trade.rest_for(name, _now_s(), FIRST_PAUSE_S, LONGEST_PAUSE_S)
            trade.said.append(seller.TimePassed())
            if not trade.version and not trade.unkept:
                trade.unkept.append(RECEIVED)
                trade.dirty = True
            return
        if said is None:
            return
        trade.said.append(said)
        if isinstance(said, seller.TimePassed):
            self._look_later(trade)
        elif isinstance(said, seller.PerformFailed) and said.retryable:
            self._pulse.problems["venue"] += 1
            trade.rest_for(name, _now_s(), 1.0, LONGEST_PAUSE_S)
        else:
            trade.pauses.pop(name, None)

    async def _carry_out(self, trade: Trade, action: seller.Action) -> seller.Said | None:
        shop, sale = self._shop, trade.sale
        match action:
            case seller.Quote():
                return await quote(shop, sale)
            case seller.Accept():
                return seller.AcceptedFree()
            case seller.FindSettlement():
                return await settle(shop, sale)
            case seller.Perform():
                return await self._perform(trade)
            case seller.SendFeedback():
                return await tell(shop, sale)
            case seller.Deliver():
                return await deliver(shop, sale)

    async def _perform(self, trade: Trade) -> seller.Said | None:
        async with self._places:
            if trade.said:  # It was cancelled, maybe, while it waited for its place.
                return None
            trade.tried_s = trade.tried_s or _now_s()
            processing = asyncio.get_running_loop().call_later(PROCESSING_AFTER_S, self._say_processing, trade.sale)
            working = asyncio.create_task(perform(self._shop, trade.sale))
            try:
                await asyncio.wait({working}, timeout=KEEP_AFTER_S)
                if trade.dirty and not working.done():
                    await self._keep(trade)
                said = await working
            finally:
                working.cancel()
                processing.cancel()
        too_long = _now_s() - trade.tried_s >= self._shop.job_timeout_s
        if isinstance(said, seller.PerformFailed) and said.retryable and too_long:
            return given_up(self._shop, trade.sale, said)
        return said

    def _say_processing(self, sale: Sale) -> None:
        event = self._shop.signed(feedback_note(sale.request, "processing", int(self._shop.now_s())))
        task = asyncio.create_task(self._publish_quietly(event))
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _publish_quietly(self, event: NostrEvent) -> None:
        with suppress(RelayError):
            await self._shop.relay.publish(event)

    def _look_later(self, trade: Trade) -> None:
        """Look again soon, then more rarely."""
        if trade.sale.state == "failed":
            trade.rest[LOOK] = _now_s() + LATE_LOOK_S
        else:
            trade.rest_for(LOOK, _now_s(), FIRST_LOOK_S, LONGEST_PAUSE_S)

    async def _keep(self, trade: Trade) -> None:
        record = trade.record(self._shop.owner, simulated=self._shop.wallet.simulated)
        kept_lines = len(trade.unkept)
        if not await self._shop.book.put(record, trade.what):
            found = await self._shop.book.get("sold", self._shop.owner, record.job_id)
            # A put whose commit was in doubt may have been ours.
            if found is None or (found.version, found.body) != (record.version, record.body):
                raise Elsewhere
        trade.version += 1
        del trade.unkept[:kept_lines]
        trade.dirty = False


def memory_rests(trade: Trade) -> None:
    """The job book was away: leave the sale as it is for a while."""
    trade.rest_for(LedgerError.code, _now_s(), FIRST_PAUSE_S, LONGEST_PAUSE_S)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
