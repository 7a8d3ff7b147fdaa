"""A market seen from its seller: a real relay, play money, a job book in SQLite, and customers that pay."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from blocks.ledger import SqlJobBook, SqlLedger
from blocks.relays.pool import RelayPool
from blocks.wallets.ledger_account import LedgerAccount
from flows.market import Market
from swarmc.compiler.metering import Metered, Purse
from swarmc.contracts.completions import Completion, CompletionRequest, Usage
from swarmc.contracts.errors import WalletError
from swarmc.contracts.market import FEEDBACK, Ask, JobInput, PriceList, Sale
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.ports import Venue
from swarmc.contracts.relay import Filter, NostrEvent, UnsignedNote
from swarmc.contracts.wallet import Invoice, Network, Payment, PaymentStatus, Settlement
from swarmc.nostr.admission import Terms
from swarmc.nostr.events import sign_note
from swarmc.nostr.invoices import decode_invoice
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip90 import request_note
from tasks.shop import Shop

MODEL = "echo-1"
PRICE_MSATS = 1_500


class EchoVenue:
    """Answers at once with what it was asked, and counts.

    Attributes:
        asked: Every request, as it came.
        gate: Answers wait while it is closed.
        fails: Raised in place of an answer, the first one first.
        price_msats: What an answer may cost.
    """

    name = "echo"
    model = MODEL

    def __init__(self) -> None:
        self.asked: list[CompletionRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: list[Exception] = []
        self.price_msats = 0

    def quote(self, request: CompletionRequest) -> int:
        return self.price_msats

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked.append(request)
        await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        usage = Usage(prompt_tokens=3, completion_tokens=2)
        return Completion(text=f"echo: {request.messages[-1].content}", model=MODEL, usage=usage, venue=self.name)


@dataclass
class Customer:
    """Asks, hears what is said to it, and pays when it is told to.

    Attributes:
        heard: Everything that was published to it, by the job it names.
    """

    relay: RelayPool
    wallet: LedgerAccount
    key: SecretKey = field(default_factory=SecretKey.generate)
    heard: dict[str, list[NostrEvent]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        filters = [Filter(kinds=(FEEDBACK, 6050), tags={"p": (self.key.pubkey,)}, since=int(time.time()) - 60)]
        async with self.relay.subscribe(filters) as events:
            async for event in events:
                for job_id in event.values("e"):
                    self.heard.setdefault(job_id, []).append(event)
                self.changed.set()

    async def ask(self, text: str, provider: str | None, **fields: object) -> NostrEvent:
        """Publish a job; `created_at` may be given."""
        created_at = fields.pop("created_at", int(time.time()))
        providers = () if provider is None else (provider,)
        ask = Ask.model_validate({"inputs": (JobInput(data=text),), "providers": providers} | fields)
        return await self.publish(request_note(ask, int(str(created_at))))

    async def publish(self, note: UnsignedNote) -> NostrEvent:
        event = sign_note(note, self.key)
        await self.relay.publish(event)
        return event

    async def feedback(self, job: NostrEvent, status: str) -> NostrEvent:
        """The first feedback of this status."""
        return await self._first(job, lambda one: one.kind == FEEDBACK and status in one.values("status"))

    async def result(self, job: NostrEvent) -> NostrEvent:
        return await self._first(job, lambda one: one.kind == job.kind + 1000)

    async def pay(self, job: NostrEvent) -> Payment:
        """Pay the quote of a job."""
        quote = await self.feedback(job, "payment-required")
        return await self.wallet.pay(decode_invoice(amount_of(quote)[1]), max_fee_msats=0)

    def results(self, job: NostrEvent) -> list[NostrEvent]:
        return [one for one in self.heard.get(job.id, []) if one.kind == job.kind + 1000]

    async def _first(self, job: NostrEvent, fits: Callable[[NostrEvent], bool]) -> NostrEvent:
        async with asyncio.timeout(20):
            while True:
                for one in self.heard.get(job.id, []):
                    if fits(one):
                        return one
                self.changed.clear()
                await self.changed.wait()


async def reached(holds: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is looked at tells nobody
            await asyncio.sleep(0.01)


def amount_of(event: NostrEvent) -> tuple[str, str]:
    """Amount and invoice, as the tag says them."""
    _, amount, bolt11, *_ = (*next(tag for tag in event.tags if tag[0] == "amount"), "")
    return amount, bolt11


class TroubledWallet:
    """A seller's wallet that is away, or finds less than what came in. It passes on everything else.

    Attributes:
        away: Nothing can be asked of it.
        short_msats: By how much less it finds.
    """

    def __init__(self, wallet: LedgerAccount) -> None:
        self.away = False
        self.short_msats = 0
        self._wallet = wallet

    @property
    def name(self) -> str:
        return self._wallet.name

    @property
    def network(self) -> Network:
        return self._wallet.network

    @property
    def simulated(self) -> bool:
        return self._wallet.simulated

    async def balance_msats(self) -> int:
        self._check()
        return await self._wallet.balance_msats()

    async def create_invoice(self, amount_msats: int, *, memo: str, expiry_s: int) -> Invoice:
        self._check()
        return await self._wallet.create_invoice(amount_msats, memo=memo, expiry_s=expiry_s)

    async def pay(self, invoice: Invoice, *, max_fee_msats: int) -> Payment:
        return await self._wallet.pay(invoice, max_fee_msats=max_fee_msats)

    async def find_payment(self, payment_hash: str) -> PaymentStatus:
        return await self._wallet.find_payment(payment_hash)

    async def find_settlement(self, payment_hash: str) -> Settlement | None:
        self._check()
        found = await self._wallet.find_settlement(payment_hash)
        less = {"amount_msats": found.amount_msats - self.short_msats} if found else {}
        return found and found.model_copy(update=less)

    def settlements(self) -> AsyncIterator[str]:
        return self._wallet.settlements()

    def _check(self) -> None:
        if self.away:
            raise WalletError("the wallet is away", retryable=True)


@dataclass
class Seller:
    """A provider's parts, and what a test wants to look at.

    Attributes:
        moves: What happened to its sales.
    """

    shop: Shop
    venue: EchoVenue
    wallet: LedgerAccount
    book: SqlJobBook
    moves: list[tuple[str, str]] = field(default_factory=list)

    def troubled(self) -> TroubledWallet:
        """From now on it sells with a wallet that can be made to fail."""
        wallet = TroubledWallet(self.wallet)
        self.shop = replace(self.shop, wallet=wallet)
        return wallet

    def did(self, job: NostrEvent, said: str) -> Callable[[], bool]:
        """Whether this happened to the job's sale by now."""
        return lambda: (job.id, said) in self.moves

    @asynccontextmanager
    async def selling(self, **options: int) -> AsyncIterator[Market]:
        def tell(sale: Sale, said: str) -> None:
            self.moves.append((sale.job_id, said))

        async with Market(self.shop, tell=tell, **options) as market:
            await market.listening()
            yield market

    async def sale(self, job: NostrEvent) -> Sale | None:
        """As the job book has it."""
        record = await self.book.get("sold", self.shop.owner, job.id)
        return None if record is None else Sale.model_validate_json(record.body)

    async def until(self, job: NostrEvent, *states: str) -> Sale:
        """Wait until the job book has it in one of these states."""
        async with asyncio.timeout(20):
            while True:
                sale = await self.sale(job)
                if sale is not None and sale.state in states:
                    return sale
                await asyncio.sleep(0.01)


@asynccontextmanager
async def open_seller(
    url: str, folder: Path, key: SecretKey | None = None, venue: EchoVenue | None = None, **terms: object
) -> AsyncIterator[Seller]:
    """A seller whose memory is in `folder`; `terms` are fields of its terms."""
    key, venue = key or SecretKey.generate(), venue or EchoVenue()
    database = f"sqlite:///{folder}/ledger.db"
    said = {"provider": key.pubkey, "prices": PriceList(request_msats=PRICE_MSATS)} | terms
    async with (
        SqlLedger(database) as ledger,
        SqlJobBook.open(database) as book,
        ledger.open_run("provider", spec_id="sha256:" + "0" * 64, name="provider", budget=BudgetPolicy()) as lease,
        LedgerAccount.opened(folder / "wallet.db", "seller") as wallet,
        RelayPool([url], key=key, private=True) as relay,
    ):
        purse = Purse(ledger, lease.run_id, lease.epoch, "swarm", lambda event: None)
        metered: Venue = Metered(venue, purse)
        shop = Shop(relay, wallet, book, metered, key, Terms.model_validate(said), (venue.model,))
        yield Seller(shop, venue, wallet, book)


@asynccontextmanager
async def open_customer(url: str, folder: Path, key: SecretKey | None = None) -> AsyncIterator[Customer]:
    """A customer with money, who listens."""
    async with (
        RelayPool([url]) as relay,
        LedgerAccount.opened(folder / "wallet.db", "customer", start_msats=10**9) as wallet,
    ):
        customer = Customer(relay, wallet, key or SecretKey.generate())
        listening = asyncio.create_task(customer.listen())
        await asyncio.sleep(0.05)
        try:
            yield customer
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
