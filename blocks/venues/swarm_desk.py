"""Carries out what purchases need done: publishes, listens, pays.

The state machine `swarmc.nostr.buyer` says what is due; here are its hands. A job is kept in the job book before it
is paid, when it is over, and every second that it takes in between: a process that dies at any moment leaves what the
next one needs. A request that nothing was paid for may be forgotten, because its quote is then never paid.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from time import monotonic, time
from types import TracebackType
from typing import Any, Self, final

from swarmc.contracts.errors import LedgerError, RelayError, WalletError
from swarmc.contracts.job_book import JobBook, JobRecord
from swarmc.contracts.market import FEEDBACK, RESULT_OFFSET, TEXT_GENERATION, JobResult, Order, Purchase
from swarmc.contracts.relay import Filter, NostrEvent, Relay
from swarmc.contracts.wallet import Wallet
from swarmc.nostr import buyer
from swarmc.nostr.events import sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip09 import deletion_note
from swarmc.nostr.nip90 import Unreadable, parse_feedback, parse_result
from swarmc.nostr.written import body_of, history_line

logger = logging.getLogger(__name__)

MOST_WAITING = 64
"""Messages about one job that wait to be heard; what a flood brings beyond them is counted and left."""

LOOKBACK_S = 120
"""Answers that are older than the listening began are heard too: clocks of strangers differ."""

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
RESUBSCRIBE_S = 1.0
PAID_PATIENCE_S = 20.0
"""So long relays that are away are asked again for an answer that is paid for, before it is given up."""

ASK_AGAIN_S = 1.0
ABANDONED_AFTER_S = 3600


Judge = Callable[[JobResult], str]
"""Why a result is no answer, whoever signed it; empty when it may be one."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What a desk works with: relays to speak over, money, memory, and who we are."""

    relay: Relay
    wallet: Wallet
    book: JobBook
    key: SecretKey
    auto_pay: bool = True
    now_s: Callable[[], float] = time


@dataclass(slots=True)
class _Trade:
    """A purchase that is being driven.

    Attributes:
        version: The last that is in the job book; 0 when it is not there yet.
        unkept: What was said since then.
    """

    purchase: Purchase
    version: int
    judge: Judge
    resumed: bool = False
    said: asyncio.Queue[buyer.Said] = field(default_factory=lambda: asyncio.Queue(MOST_WAITING))
    done: list[buyer.Action] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)


@final
class Desk:
    """Buys jobs, many at once, over one subscription. To be entered with `async with`.

    Attributes:
        unsolicited: Messages that named no job of ours that is open, or could not be read, by reason.
    """

    def __init__(self, hands: Hands) -> None:
        self.unsolicited: Counter[str] = Counter()
        self._hands = hands
        self._trades: dict[str, _Trade] = {}
        self._stack = AsyncExitStack()
        self._reader: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()
        self._opened_s = monotonic()

    async def __aenter__(self) -> Self:
        events = await self._stack.enter_async_context(self._hands.relay.subscribe(self._filters()))
        self._reader = asyncio.create_task(self._read(events))
        self._errand(self._settle_abandoned())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._reader, *self._errands) if task is not None]
        if self._errands:
            await asyncio.wait(self._errands, timeout=1.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()

    async def buy(self, order: Order, judge: Judge) -> Purchase:
        """Drive a new order to its end.

        Raises:
            LedgerError: the job book cannot be used; nothing was published or paid that it does not hold.
        """
        purchase = buyer.begin(order, self._hands.now_s())
        return await self._drive(_Trade(purchase, 0, judge, unkept=['{"said":"drafted"}']))

    async def resume(self, record: JobRecord, judge: Judge) -> Purchase:
        """Drive a purchase on that an earlier process left. Its payment is looked up, never made again."""
        purchase = Purchase.model_validate_json(record.body)
        return await self._drive(_Trade(purchase, record.version, judge, resumed=True))

    async def _settle_abandoned(self) -> None:
        """Drive on what no live process can still be driving, so that every payment is accounted for."""
        now_s = self._hands.now_s()
        for record in await self._hands.book.unfinished("bought", self._hands.key.pubkey):
            purchase = Purchase.model_validate_json(record.body)
            if buyer.deadline_s(purchase) + ABANDONED_AFTER_S < now_s and purchase.job_id not in self._trades:
                with suppress(LedgerError):  # Somebody asked for it meanwhile.
                    await self.resume(record, lambda _: "")

    async def _drive(self, trade: _Trade) -> Purchase:
        job_id = trade.purchase.job_id
        self._trades[job_id] = trade
        try:
            while not trade.purchase.final:
                for said in await self._next(trade):
                    await self._hear(trade, said)
            await self._keep(trade)
            self._retract(trade)
            return trade.purchase
        except asyncio.CancelledError:
            self._give_up(trade)
            raise
        finally:
            del self._trades[job_id]

    async def _next(self, trade: _Trade) -> list[buyer.Said]:
        """Do what is due and not done yet, or else wait for what somebody says until the deadline."""
        now_s = self._hands.now_s()
        for action in buyer.due(trade.purchase, now_s, resumed=trade.resumed):
            if action not in trade.done:
                trade.done.append(action)
                return await self._do(trade, action)
        # A last call is due shortly before the deadline: look up now and then.
        left_s = max(0.05, min(buyer.deadline_s(trade.purchase) - now_s, 1.0))
        try:
            async with asyncio.timeout(left_s):
                return [await trade.said.get()]
        except TimeoutError:
            await self._keep(trade)
            return [buyer.TimePassed()]

    async def _do(self, trade: _Trade, action: buyer.Action) -> list[buyer.Said]:
        match action:
            case buyer.PublishRequest():
                return [await self._publish(action.event)]
            case buyer.Pay():
                return await self._pay(trade, action)
            case buyer.FindPayment():
                return [await self._find_payment(action.payment_hash)]
            case buyer.FindAnswers():
                return [*await self._find_answers(trade), buyer.TimePassed()]
            case buyer.Retract():
                return []

    async def _publish(self, event: NostrEvent) -> buyer.Said:
        try:
            published = await self._hands.relay.publish(event)
        except RelayError as error:
            return buyer.Unpublished(reason=str(error)[:300])
        return buyer.Published(accepted=len(published.accepted))

    async def _pay(self, trade: _Trade, action: buyer.Pay) -> list[buyer.Said]:
        try:
            paying = self._hands.wallet.pay(action.invoice, max_fee_msats=action.max_fee_msats)
            # Whoever gives us up must not cut a payment in two: it ends, and is found again.
            return [buyer.PaymentMade(payment=await asyncio.shield(asyncio.ensure_future(paying)))]
        except WalletError as error:
            if error.unknown:
                trade.resumed = True
                return []
            return [buyer.PaymentRefused(reason=str(error)[:300], passing=error.retryable)]

    async def _find_payment(self, payment_hash: str) -> buyer.Said:
        pause_s = FIRST_PAUSE_S
        while True:
            with suppress(WalletError):
                status = await self._hands.wallet.find_payment(payment_hash)
                if status.payment is not None:
                    return buyer.PaymentMade(payment=status.payment)
                # What a process before us asked for just before it died may still be on its way.
                if status.state == "unsent" and monotonic() - self._opened_s >= self._hands.wallet.late_s:
                    reason = status.reason or "the wallet knows of no such payment"
                    return buyer.PaymentRefused(reason=reason, passing=True)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _find_answers(self, trade: _Trade) -> list[buyer.Said]:
        """What the relays have. What was paid for may be on one that is away now: such are waited for a while."""
        ends_s = monotonic() + (PAID_PATIENCE_S if trade.purchase.state == "paid" else 0.0)
        while True:
            found, whole = await self._fetch_answers(trade.purchase)
            heard = not trade.said.empty() or any(isinstance(said, buyer.HeardResult) for said in found)
            if whole or heard or monotonic() >= ends_s:
                return found
            await asyncio.sleep(ASK_AGAIN_S)

    async def _fetch_answers(self, purchase: Purchase) -> tuple[list[buyer.Said], bool]:
        """Stored feedback and results of a job, and whether every relay was heard."""
        kinds = (FEEDBACK, purchase.order.request.kind + RESULT_OFFSET)
        try:
            found = await self._hands.relay.fetch([Filter(kinds=kinds, tags={"e": (purchase.job_id,)})], limit=50)
        except RelayError as error:
            logger.warning("looking for answers to job %s: %s", purchase.job_id[:16], error)
            return [], False
        whole = all(answer.outcome == "accepted" for answer in found.answers)
        return [said for event in found.events if (said := self._read_event(event)) is not None], whole

    async def _hear(self, trade: _Trade, said: buyer.Said) -> None:
        said = self._judged(trade, said)
        before, trade.purchase = trade.purchase, buyer.step(trade.purchase, said, self._hands.now_s())
        if buyer.moved(before, trade.purchase):
            trade.unkept.append(said.model_dump_json(exclude_none=True))
        if trade.purchase.state == "paying" and before.state != "paying" and not await self._try_keep(trade):
            # Another job of ours has this invoice: it buys nothing to pay it once more.
            trade.purchase = before
            if isinstance(said, buyer.HeardFeedback):
                doubled = said.model_copy(update={"unpayable": "its invoice was given for another job before"})
                trade.purchase = buyer.step(before, doubled, self._hands.now_s())
                trade.unkept.append(doubled.model_dump_json(exclude_none=True))

    def _judged(self, trade: _Trade, said: buyer.Said) -> buyer.Said:
        match said:
            case buyer.HeardResult():
                return said.model_copy(update={"worthless": trade.judge(said.result)})
            case buyer.HeardFeedback() if not self._hands.auto_pay and said.feedback.bolt11 is not None:
                return said.model_copy(update={"unpayable": "auto_pay is off, so no invoice is paid"})
        return said

    async def _keep(self, trade: _Trade) -> None:
        if not await self._try_keep(trade):
            raise LedgerError(
                f"job {trade.purchase.job_id[:16]} was moved on by another process while this one drove it; "
                "give every running compile an identity of its own"
            )

    async def _try_keep(self, trade: _Trade) -> bool:
        """Keep what was said since the last time, as one version."""
        if not trade.unkept:
            return True
        trade.version += 1
        kept = await self._hands.book.put(self._record(trade), history_line(trade.unkept))
        if kept:
            trade.unkept.clear()
        else:
            trade.version -= 1
            trade.unkept.pop()
        return kept

    def _record(self, trade: _Trade) -> JobRecord:
        purchase = trade.purchase
        return JobRecord.model_construct(
            side="bought",
            owner=self._hands.key.pubkey,
            job_id=purchase.job_id,
            key=purchase.order.key,
            state=purchase.state,
            final=purchase.final,
            version=trade.version,
            counterparty=purchase.provider or "",
            msats=purchase.paid_msats,
            simulated=purchase.order.simulated,
            refund_due=purchase.refund_due,
            payment_hash=purchase.invoice.payment_hash if purchase.invoice else None,
            body=body_of(purchase),
        )

    def _retract(self, trade: _Trade) -> None:
        """Tell the relays that nobody need do the job any more. Best effort, and nobody waits for it."""
        wanted = [action for action in buyer.due(trade.purchase, self._hands.now_s()) if action not in trade.done]
        if any(isinstance(action, buyer.Retract) for action in wanted):
            note = deletion_note([trade.purchase.order.request], int(self._hands.now_s()))
            self._errand(self._publish_quietly(sign_note(note, self._hands.key)))

    def _give_up(self, trade: _Trade) -> None:
        """The asker is gone. What may have been paid stays open in the book, for whoever asks again."""
        if trade.purchase.state in ("drafted", "published"):
            stopped = buyer.Stopped(reason="the asker gave up")
            trade.purchase = buyer.step(trade.purchase, stopped, self._hands.now_s())
            trade.unkept.append(stopped.model_dump_json())
            self._errand(self._keep_quietly(trade))
            self._retract(trade)

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _publish_quietly(self, event: NostrEvent) -> None:
        with suppress(RelayError):
            await self._hands.relay.publish(event)

    async def _keep_quietly(self, trade: _Trade) -> None:
        with suppress(LedgerError):
            await self._try_keep(trade)

    def _filters(self) -> list[Filter]:
        kinds = (FEEDBACK, TEXT_GENERATION + RESULT_OFFSET)
        since = int(self._hands.now_s()) - LOOKBACK_S
        return [Filter(kinds=kinds, tags={"p": (self._hands.key.pubkey,)}, since=since)]

    async def _read(self, events: AsyncIterator[NostrEvent]) -> None:
        """Bring every event to the trade it names, for as long as there are relays."""
        while True:
            try:
                async for event in events:
                    self._bring(event)
            except RelayError as error:
                logger.warning("listening for answers: %s; listening anew", error)
            await asyncio.sleep(RESUBSCRIBE_S)
            await self._stack.aclose()
            with suppress(RelayError):
                events = await self._stack.enter_async_context(self._hands.relay.subscribe(self._filters()))

    def _bring(self, event: NostrEvent) -> None:
        trade = next((self._trades[name] for name in event.values("e") if name in self._trades), None)
        if trade is None:
            self.unsolicited["no open job"] += 1
        elif trade.said.full():
            self.unsolicited["flood"] += 1
        elif (said := self._read_event(event)) is not None:
            trade.said.put_nowait(said)

    def _read_event(self, event: NostrEvent) -> buyer.Said | None:
        if event.kind == FEEDBACK:
            feedback = parse_feedback(event, self._hands.key)
            if not isinstance(feedback, Unreadable):
                return buyer.HeardFeedback(feedback=feedback)
            self.unsolicited[feedback.code] += 1
            return None
        result = parse_result(event, self._hands.key)
        if not isinstance(result, Unreadable):
            return buyer.HeardResult(result=result)
        self.unsolicited[result.code] += 1
        return None
