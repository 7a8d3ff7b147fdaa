"""Buyer and seller together: the market answers as the local model does, and all books agree."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from blocks.ledger import SqlLedger
from blocks.venues import LlamaCpp
from flows.lanes import metered_lane
from swarmc.compiler.metering import Purse, Remembered
from swarmc.compiler.scope import scoped
from swarmc.contracts.completions import CompletionRequest, Message, Sampling
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.market import Announcement, PriceList
from swarmc.contracts.money import Budget, BudgetPolicy
from swarmc.contracts.ports import Venue
from swarmc.contracts.spec import LaneSpec
from swarmc.nostr.nip89 import offer_note
from tests.market import BID_MSATS, Market, open_market
from tests.nostr.relays import real_relay
from tests.sellers import Seller, open_seller

PRICE_MSATS = 130
LANE = LaneSpec(concurrency=16, attempts=3)


def asking(model: str, text: str, temperature_ppm: int = 0) -> CompletionRequest:
    return CompletionRequest(
        lane="swarm",
        model=model,
        messages=(Message(role="system", content="Route it."), Message(role="user", content=text)),
        sampling=Sampling(temperature_ppm=temperature_ppm, max_tokens=12),
    )


@asynccontextmanager
async def metered(venue: Venue, folder: Path, budget: BudgetPolicy) -> AsyncIterator[tuple[Remembered, SqlLedger]]:
    """The venue as a compile asks it."""
    async with (
        SqlLedger.open(f"sqlite:///{folder}/ledger.db") as ledger,
        ledger.open_run("run", spec_id="sha256:" + "0" * 64, name="run", budget=budget) as lease,
    ):
        purse = Purse(ledger, lease.run_id, lease.epoch, "swarm", lambda event: None)
        lane = metered_lane(venue, LANE, purse)
        yield lane, ledger
        await lane.drain(5.0)


async def announce(seller: Seller, model: str) -> None:
    announcement = Announcement(
        kinds=(5050,), models=(model,), prices=seller.shop.terms.prices, messages=True, encryption=("nip44",),
        network="regtest", simulated=True,
    )  # fmt: skip
    await seller.shop.relay.publish(seller.shop.signed(offer_note(announcement, int(seller.shop.now_s()))))


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    async with real_relay() as url, open_market(url, tmp_path / "buyer") as market:
        (tmp_path / "buyer").mkdir()
        yield market


@asynccontextmanager
async def selling(market: Market, venue: Venue) -> AsyncIterator[Seller]:
    """Our own seller on the buyer's network of money."""
    prices = PriceList(request_msats=PRICE_MSATS)
    async with AsyncExitStack() as stack:
        seller = await stack.enter_async_context(
            open_seller(market.url, market.folder, venue=venue, prices=prices, max_open_per_customer=200)
        )
        await stack.enter_async_context(seller.selling())
        await announce(seller, venue.model)
        yield seller


async def test_the_market_answers_as_the_local_model_does_and_both_ledgers_agree_to_the_msat(market: Market) -> None:
    async with LlamaCpp().open() as local, selling(market, local) as seller:
        requests = [asking(local.model, f"The parcel {n} is late") for n in range(6)]
        # Sampled answers too: the seed that a local model derives from the request travels with the job.
        requests += [asking(local.model, f"I cannot log in {n}", temperature_ppm=900_000) for n in range(6)]
        here = [await local.complete(request) for request in requests]
        venue = await market.venue(model=local.model)
        async with metered(venue, market.folder, BudgetPolicy()) as (lane, ledger):
            there = await asyncio.gather(*(lane.complete(request) for request in requests))
            account = await ledger.account("run")
        assert [one.text for one in there] == [one.text for one in here]
        assert [one.finish_reason for one in there] == [one.finish_reason for one in here]
        assert [one.usage.completion_tokens for one in there] == [one.usage.completion_tokens for one in here]
        earned = sum(total.msats for total in await seller.book.totals("sold", seller.shop.owner))
        assert earned == account.total.msats == PRICE_MSATS * len(requests) == await seller.wallet.balance_msats()
        bought = await (await market.book()).totals("bought", market.key.pubkey)
        assert sum(total.msats for total in bought) == earned


@pytest.mark.attack("D6")
async def test_fifty_parallel_calls_do_not_overspend_a_budget_of_ten(market: Market) -> None:
    from tests.sellers import EchoVenue

    echo = EchoVenue()
    async with selling(market, echo) as seller:
        hands = await market.hands()
        venue = await market.venue(hands, model=echo.model)
        budget = BudgetPolicy(run=Budget(max_msats=10 * PRICE_MSATS + BID_MSATS - 1))
        async with metered(venue, market.folder, budget) as (lane, ledger):

            async def ask(number: int) -> bool:
                with scoped("search"):
                    try:
                        await lane.complete(asking(echo.model, f"question {number}"))
                    except BudgetExhausted:
                        return False
                return True

            answered = await asyncio.gather(*(ask(number) for number in range(50)))
            account = await ledger.account("run")
        spent = 1_000_000 - await hands.wallet.balance_msats()
        assert spent == account.total.msats == PRICE_MSATS * sum(answered)
        assert 10 <= sum(answered) <= 17, "as many as fit, while the bid of one more call was free"
        assert spent <= 10 * PRICE_MSATS + BID_MSATS - 1
        assert await seller.wallet.balance_msats() == spent
