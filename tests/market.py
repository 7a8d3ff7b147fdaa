"""A market for tests: a real relay, play money, and providers that do as their scripts say."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocks.ledger.job_book import SqlJobBook
from blocks.relays.pool import RelayPool
from blocks.venues.swarm import Habits, SwarmVenue
from blocks.venues.swarm_desk import Desk, Hands
from blocks.venues.swarm_offers import Offers
from blocks.wallets.ledger_account import LedgerAccount
from blocks.wallets.ledger_wallet import LedgerWallet
from swarmc.contracts.completions import CompletionRequest, Message, Sampling
from swarmc.contracts.job_book import JobRecord
from swarmc.contracts.market import Announcement, Answer, Job, PriceList, Purchase
from swarmc.contracts.relay import Filter, NostrEvent, UnsignedNote
from swarmc.contracts.wallet import Invoice
from swarmc.nostr.events import sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip89 import offer_note
from swarmc.nostr.nip90 import feedback_note, parse_job, result_note

MODEL = "toy"
BID_MSATS = 1_000

Script = Callable[["Stranger", NostrEvent], Awaitable[None]]


def now_s() -> int:
    return int(time.time())


@dataclass
class Stranger:
    """A provider that answers every request that names it by its script.

    Attributes:
        seen: The requests, as they came.
    """

    relay: RelayPool
    wallet: LedgerAccount
    script: Script
    key: SecretKey = field(default_factory=SecretKey.generate)
    price_msats: int = 100
    seen: list[NostrEvent] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def work(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the next requests."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def announce(self, **fields: object) -> None:
        said = {
            "kinds": (5050,),
            "models": (MODEL,),
            "prices": PriceList(request_msats=self.price_msats),
            "messages": True,
            "encryption": ("nip44",),
            "network": "regtest",
            "simulated": True,
        }
        announcement = Announcement.model_validate(said | fields)
        await self.say(offer_note(announcement, now_s()))

    async def serve(self, ready: asyncio.Event) -> None:
        async with self.relay.subscribe([Filter(kinds=(5050,), since=now_s() - 60)]) as events:
            ready.set()
            async for event in events:
                if self.key.pubkey in event.values("p"):
                    self.seen.append(event)
                    await self.script(self, event)

    async def say(self, note: UnsignedNote, key: SecretKey | None = None) -> NostrEvent:
        """Publish a note, signed by us or by somebody else."""
        event = sign_note(note, key or self.key)
        await self.relay.publish(event)
        return event

    def job(self, request: NostrEvent) -> Job:
        job = parse_job(request, self.key)
        assert isinstance(job, Job), job
        return job

    async def quote(
        self, request: NostrEvent, amount_msats: int | None = None, key: SecretKey | None = None
    ) -> Invoice:
        amount = self.price_msats if amount_msats is None else amount_msats
        invoice = await self.wallet.create_invoice(amount, memo="a job", expiry_s=60)
        await self.bill(request, amount, invoice.bolt11, key)
        return invoice

    async def bill(self, request: NostrEvent, amount_msats: int, bolt11: str, key: SecretKey | None = None) -> None:
        note = feedback_note(request, "payment-required", now_s(), amount_msats=amount_msats, bolt11=bolt11)
        await self.say(note, key)

    async def paid(self, invoice: Invoice, within_s: float = 5.0) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while await self.wallet.find_settlement(invoice.payment_hash) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                return True
        return False

    async def answer(self, request: NostrEvent, text: str = "an answer", key: SecretKey | None = None) -> NostrEvent:
        answer = Answer(text=text, model=MODEL, prompt_tokens=7, completion_tokens=3)
        return await self.say(result_note(self.job(request), answer, now_s(), key=self.key), key)


async def honest(stranger: Stranger, request: NostrEvent) -> None:
    """Quotes, waits for its money, answers."""
    invoice = await stranger.quote(request)
    if await stranger.paid(invoice):
        await stranger.answer(request)


@dataclass
class Market:
    """One relay, one network of play money, one buyer, and whoever sells."""

    url: str
    folder: Path
    stack: AsyncExitStack
    key: SecretKey = field(default_factory=SecretKey.generate)
    strangers: list[Stranger] = field(default_factory=list)

    async def wallet(self, account: str, start_msats: int = 0) -> LedgerAccount:
        block = LedgerWallet(path=self.folder / "wallet.db", account=account, start_msats=start_msats)
        return await self.stack.enter_async_context(block.open())

    async def book(self) -> SqlJobBook:
        return await self.stack.enter_async_context(SqlJobBook.open(f"sqlite:///{self.folder}/ledger.db"))

    async def relay(self, url: str | None = None) -> RelayPool:
        return await self.stack.enter_async_context(RelayPool([url or self.url], timeout_s=5.0))

    async def stranger(self, script: Script, *, price_msats: int = 100, announce: bool = True) -> Stranger:
        """Somebody who sells, and listens from now on."""
        name = f"seller-{len(self.strangers)}"
        stranger = Stranger(await self.relay(), await self.wallet(name), script, price_msats=price_msats)
        if announce:
            await stranger.announce()
        ready = asyncio.Event()
        task = asyncio.create_task(stranger.serve(ready))
        self.stack.push_async_callback(_ended, task)
        await ready.wait()
        self.strangers.append(stranger)
        return stranger

    async def hands(self, start_msats: int = 1_000_000, relay_url: str | None = None) -> Hands:
        wallet = await self.wallet("buyer", start_msats)
        return Hands(await self.relay(relay_url), wallet, await self.book(), self.key)

    async def venue(self, hands: Hands | None = None, **habits: object) -> SwarmVenue:
        """The buyer's venue."""
        hands = hands or await self.hands()
        desk = await self.stack.enter_async_context(Desk(hands))
        said = {"model": MODEL, "bid_msats": BID_MSATS, "timeout_s": 5.0, "relays": (self.url,), "patience_s": 2.0}
        return SwarmVenue(hands, desk, Offers(hands.relay, 5050), Habits(**{**said, **habits}))

    async def bought(self) -> list[tuple[JobRecord, Purchase]]:
        """Every job of the buyer, oldest first."""
        records = (await (await self.book()).recent("bought"))[::-1]
        return [(record, Purchase.model_validate_json(record.body)) for record in records]


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def open_market(url: str, folder: Path) -> AsyncIterator[Market]:
    """A market on a relay that is there."""
    async with AsyncExitStack() as stack:
        yield Market(url, folder, stack)


def asking(text: str = "What is the capital of Peru?", rollout_id: int = 0) -> CompletionRequest:
    return CompletionRequest(
        lane="swarm",
        model=MODEL,
        messages=(Message(role="system", content="Be brief."), Message(role="user", content=text)),
        sampling=Sampling(temperature_ppm=0, max_tokens=16),
        rollout_id=rollout_id,
    )
