"""The processes of the kill test of the market: relays, a wallet, a provider, a buyer, and a witness of results.

Each is started again with the same arguments after it was killed and goes on from what is on disk. `<name>.ready` in
the folder says that a process is in business.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from flows.lanes import metered_lane
from flows.serve import Voice, serve_here
from swarmc.compiler.metering import Purse, Remembered
from swarmc.contracts.completions import CompletionRequest, Message, Sampling
from swarmc.contracts.errors import RelayError, SwarmcError, WalletError
from swarmc.contracts.events import CallEnded
from swarmc.contracts.money import Budget, BudgetPolicy
from swarmc.contracts.provider import ProviderSpec
from swarmc.contracts.relay import Filter, NostrEvent, UnsignedNote
from swarmc.contracts.spec import LaneSpec
from swarmc.contracts.wallet import Wallet
from swarmc.nostr.encryption import decrypt_any, encrypt_as
from swarmc.nostr.events import sign_note
from swarmc.nostr.invoices import decode_invoice
from swarmc.nostr.keys import SecretKey

RUN = "kill-test"
START_MSATS = 10**12
BID_MSATS = 1_000
MODEL = "counting"
RESULT = 6050
INFO, REQUEST, RESPONSE = 13_194, 23_194, 23_195
METHODS = "pay_invoice lookup_invoice get_balance get_info"


@dataclass(frozen=True)
class World:
    """What every process is told.

    Attributes:
        folder: Where everything is kept.
        relays: Their addresses.
        kept: The relays keep their events on disk; otherwise they forget them when they are killed.
        model_url: Where the provider's model is.
        rate_per_s: Purchases that the buyer begins in a second at most.
        budget_msats: The buyer's.
    """

    folder: Path
    relays: tuple[str, ...]
    kept: bool
    model_url: str
    keys: dict[str, SecretKey]
    in_flight: int = 16
    rate_per_s: float = 25.0
    job_timeout_s: float = 20.0
    wallet_timeout_s: float = 2.0
    wallet_grace_s: float = 2.0
    budget_msats: int = 10**9

    def ready(self, name: str) -> Path:
        return self.folder / f"{name}.ready"

    @property
    def last(self) -> Path:
        """Holds the number of the last request, once it is settled which one that is."""
        return self.folder / "last"

    def begun(self) -> tuple[int, int]:
        """Numbers of requests: all below the first are answered, none above the second is begun."""
        path = self.folder / "begun"
        first, newest = map(int, path.read_text().split()) if path.exists() else (0, 0)
        return first, newest

    def note_begun(self, first: int, newest: int) -> None:
        write_whole(self.folder / "begun", f"{first} {newest}")

    @property
    def results(self) -> Path:
        """Every result that was published, by its job."""
        return self.folder / "results.txt"

    @property
    def wallet_uri(self) -> str:
        relays = "&".join(f"relay={url}" for url in self.relays)
        return f"nostr+walletconnect://{self.keys['wallet'].pubkey}?{relays}&secret={self.keys['client'].nsec()}"

    def book_url(self, side: str) -> str:
        return f"sqlite:///{self.folder}/{side}.db"


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all: others read it meanwhile, and the writer may be killed."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def asked(number: int) -> CompletionRequest:
    """The request of this number: each another, and of another length, so that prices differ."""
    words = f"ticket {number} label=red " + "and so on " * (number % 37)
    return CompletionRequest(
        lane="swarm",
        model=MODEL,
        messages=(Message(role="system", content="Sort the ticket."), Message(role="user", content=words)),
        sampling=Sampling(temperature_ppm=0, max_tokens=32),
    )


# A relay.


def keep_events(world: World, number: int) -> NoReturn:
    """Become nostr-relay with its SQLite file."""
    from tests.nostr.persistent_relay import SETTINGS, program

    folder = world.folder / f"relay-{number}"
    folder.mkdir(exist_ok=True)
    settings = folder / "relay.yaml"
    settings.write_text(SETTINGS.format(folder=folder, port=world.relays[number].rpartition(":")[2]))
    os.environ["HOME"] = str(folder)
    os.chdir(folder)
    os.execv(program(), [str(program()), "-c", str(settings), "serve", "--use-uvicorn"])


async def carry_events(world: World, number: int) -> None:
    """Be a relay whose memory ends with it."""
    from nostr_sdk import LocalRelayBuilder, RateLimit

    port = int(world.relays[number].rpartition(":")[2])
    limits = RateLimit(max_reqs=10_000, notes_per_minute=10**9)
    relay = LocalRelayBuilder().port(port).rate_limit(limits).default_filter_limit(10_000).build()
    await relay.run()
    await asyncio.Event().wait()


# The wallet.


async def keep_wallet(world: World) -> None:
    """Pay for the buyer whatever it asks for over NIP-47, until killed."""
    from blocks.relays.pool import RelayPool
    from blocks.wallets.ledger_account import LedgerAccount

    async with (
        LedgerAccount.opened(world.folder / "wallet.db", "buyer", start_msats=START_MSATS) as wallet,
        RelayPool(world.relays, timeout_s=3.0) as relay,
        asyncio.TaskGroup() as group,
    ):
        service = _Service(wallet, relay, world)
        group.create_task(service.announce())
        wanted = Filter(kinds=(REQUEST,), tags={"p": (service.key.pubkey,)}, since=int(time.time()) - 5)
        while True:
            with suppress(RelayError):
                async with relay.subscribe([wanted]) as events:
                    world.ready("wallet").touch()
                    async for request in events:
                        group.create_task(service.answer(request))
            await asyncio.sleep(0.2)


class _Service:
    """A wallet service as NIP-47 wants it: it acts on each request once, and on none that is expired."""

    def __init__(self, wallet: Wallet, relay: Any, world: World) -> None:
        self.key = world.keys["wallet"]
        self._client = world.keys["client"].pubkey
        self._wallet = wallet
        self._relay = relay

    async def announce(self) -> None:
        note = UnsignedNote(kind=INFO, created_at=int(time.time()), tags=(("encryption", "nip44_v2"),), content=METHODS)
        event = sign_note(note, self.key)
        while True:
            with suppress(RelayError):
                await self._relay.publish(event)
                return
            await asyncio.sleep(0.2)

    async def answer(self, request: NostrEvent) -> None:
        if request.pubkey != self._client or any(int(at) <= time.time() for at in request.values("expiration")):
            return
        text, scheme = decrypt_any(request.content, self.key, request.pubkey)
        question = json.loads(text)
        body = {"result_type": question["method"], "error": None, "result": None}
        try:
            body["result"] = await self._do(question["method"], question["params"])
        except LookupError:
            body["error"] = {"code": "NOT_FOUND", "message": "no such payment"}
        except WalletError as error:
            body["error"] = {"code": "INTERNAL" if error.unknown else "PAYMENT_FAILED", "message": str(error)[:200]}
        content = encrypt_as(scheme, json.dumps(body), self.key, request.pubkey)
        tags = (("p", request.pubkey), ("e", request.id))
        note = UnsignedNote(kind=RESPONSE, created_at=int(time.time()), tags=tags, content=content)
        with suppress(RelayError):
            await self._relay.publish(sign_note(note, self.key))

    async def _do(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        match method:
            case "pay_invoice":
                paid = await self._wallet.pay(decode_invoice(params["invoice"]), max_fee_msats=0)
                return {"preimage": paid.preimage, "fees_paid": 0}
            case "lookup_invoice":
                return await self._look_up(params["payment_hash"])
            case "get_balance":
                return {"balance": await self._wallet.balance_msats()}
        return {"alias": "kill test", "network": self._wallet.network, "methods": METHODS.split()}

    async def _look_up(self, payment_hash: str) -> dict[str, Any]:
        payment = (await self._wallet.find_payment(payment_hash)).payment
        if payment is None:
            raise LookupError
        return {
            "type": "outgoing",
            "state": "settled",
            "payment_hash": payment_hash,
            "preimage": payment.preimage,
            "amount": payment.amount_msats,
            "fees_paid": payment.fee_msats,
            "created_at": int(time.time()),
            "settled_at": int(time.time()),
        }


# The provider.


async def sell(world: World) -> None:
    """Serve as `swarmc provider start` does, until killed or asked to end."""
    os.environ["SWARMC_NOSTR_KEY"] = world.keys["seller"].nsec()
    spec = ProviderSpec(
        name="kill test",
        venue=LaneSpec(venue=world.model_url, model=MODEL),
        relays=world.relays,
        wallet=f"{world.folder}/wallet.db:seller",
        ledger=world.book_url("seller"),
        require_payment=True,
        min_price_msats=50,
        input_msats_per_1k_tokens=900,
        output_msats_per_1k_tokens=300,
        capacity=world.in_flight,
        health_every_s=1.0,
    )
    voice = Voice(
        opened=lambda _: world.ready("seller").touch(),
        health=lambda health: print(f"{time.time():.3f} {health.sentence} {dict(health.problems)}", flush=True),
        trouble=lambda sentence: print(f"{time.time():.3f} trouble: {sentence}", flush=True),
    )
    await serve_here(spec, None, voice)


# The buyer.


async def buy(world: World) -> None:
    """Complete request after request, many at a time, until the last one is settled; then say what they cost."""
    whole = world.last.exists()
    first, begun = (0, 0) if whole else world.begun()
    numbers = count(first)
    open_ones: set[int] = set()
    costs: dict[int, int] = {}
    bought: list[str] = []

    async with _lane(world, bought) as lane:
        world.ready("buyer").touch()

        async def one_after_another() -> None:
            for number in numbers:
                if world.last.exists() and number > int(world.last.read_text()):
                    return
                open_ones.add(number)
                world.note_begun(min(open_ones), max(begun, number))
                costs[number] = await _completed(lane, number)
                open_ones.discard(number)

        await asyncio.gather(*(one_after_another() for _ in range(world.in_flight)))
    said = {"answered": len(costs), "msats": sum(costs.values()), "bought": len(bought), "whole": whole}
    (world.folder / "said.json").write_text(json.dumps(said))


async def _completed(lane: Remembered, number: int) -> int:
    """What the request of this number cost, however often it has to be tried."""
    while True:
        try:
            return (await lane.complete(asked(number))).usage.cost_msats
        except SwarmcError as error:
            print(f"{time.time():.3f} request {number}: {error.code} {error}", flush=True)
            if error.code == "budget":
                raise
            await asyncio.sleep(0.5)


@asynccontextmanager
async def _lane(world: World, bought: list[str]) -> AsyncIterator[Remembered]:
    """A lane on the market as a compile has it, whose wallet is asked over NIP-47."""
    from blocks.ledger import SqlLedger
    from blocks.ledger.job_book import SqlJobBook
    from blocks.relays.pool import RelayPool
    from blocks.venues.swarm import HALF_LIFE_S, Habits, SwarmVenue
    from blocks.venues.swarm_desk import Desk, Hands
    from blocks.venues.swarm_offers import Offers
    from blocks.wallets.nwc import NwcWallet
    from swarmc.nostr.nip47 import parse_uri

    key, url = world.keys["buyer"], world.book_url("buyer")
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(SqlLedger.open(url))
        budget = BudgetPolicy(run=Budget(max_msats=world.budget_msats))
        run = ledger.open_run(RUN, spec_id="sha256:" + "0" * 64, name=RUN, budget=budget, wait_s=15)
        lease = await stack.enter_async_context(run)
        relay = await stack.enter_async_context(RelayPool(world.relays, timeout_s=3.0, key=key))
        uri = parse_uri(world.wallet_uri)
        wallet = NwcWallet(uri, timeout_s=world.wallet_timeout_s, simulated=True, grace_s=world.wallet_grace_s)
        await stack.enter_async_context(wallet)
        hands = Hands(relay, wallet, await stack.enter_async_context(SqlJobBook.open(url)), key)
        standings = await hands.book.standings(key.pubkey, now_us=int(1e6 * time.time()), half_life_s=HALF_LIFE_S)
        desk = await stack.enter_async_context(Desk(hands))
        habits = Habits(MODEL, BID_MSATS, timeout_s=world.job_timeout_s, relays=world.relays)
        venue = SwarmVenue(hands, desk, Offers(relay, 5050, standings), habits)

        def tell(event: object) -> None:
            if isinstance(event, CallEnded) and event.source == "bought":
                bought.append(event.request_id)

        purse = Purse(ledger, RUN, lease.epoch, "swarm", tell)
        spec = LaneSpec(concurrency=world.in_flight, rate_per_s=world.rate_per_s, attempts=4)
        lane = metered_lane(venue, spec, purse)
        stack.push_async_callback(lane.drain, 10.0)
        yield lane


# The witness.


async def witness(world: World) -> None:
    """Write down every result that any relay ever gives: relays that are killed may forget."""
    from blocks.relays.pool import RelayPool

    since = int(time.time()) - 5
    async with RelayPool(world.relays, timeout_s=3.0) as relay:
        with world.results.open("a", buffering=1) as results:
            while True:
                with suppress(RelayError):
                    async with relay.subscribe([Filter(kinds=(RESULT,), since=since)]) as events:
                        world.ready("witness").touch()
                        async for event in events:
                            results.writelines(f"{job_id} {event.id}\n" for job_id in event.values("e"))
                await asyncio.sleep(0.2)
