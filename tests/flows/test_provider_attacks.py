"""What strangers try against a seller: old, foreign, cheap, many, forged, underpaid."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection

from blocks.relays.pool import RelayPool
from swarmc.contracts.market import Ask, JobInput, PriceList
from swarmc.contracts.relay import UnsignedNote
from swarmc.nostr.events import sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip09 import deletion_note
from swarmc.nostr.nip90 import request_note
from tests.nostr.relays import LyingRelay, honest, lying_relay, real_relay, send
from tests.sellers import PRICE_MSATS, Customer, Seller, amount_of, open_customer, open_seller, reached


@pytest.fixture
async def relay() -> AsyncIterator[str]:
    async with real_relay() as url:
        yield url


async def marker(seller: Seller, customer: Customer) -> None:
    """A job that is quoted: what was published before it was seen by then."""
    await customer.feedback(await customer.ask(f"marker {time.time_ns()}", seller.shop.owner), "payment-required")


@pytest.mark.attack("B1")
@pytest.mark.attack("A5")
async def test_a_request_that_was_seen_before_a_restart_is_not_run_or_invoiced_again(
    relay: str, tmp_path: Path
) -> None:
    key = SecretKey.generate()
    async with open_customer(relay, tmp_path) as customer:
        async with open_seller(relay, tmp_path, key) as seller, seller.selling():
            job = await customer.ask("hello", seller.shop.owner)
            await customer.pay(job)
            await seller.until(job, "delivered")
        async with open_seller(relay, tmp_path, key) as again, again.selling():
            await marker(again, customer)
            assert again.venue.asked == []
            assert job.id not in {job_id for job_id, _ in again.moves}
        assert len(customer.results(job)) == 1


@pytest.mark.attack("B1")
@pytest.mark.attack("B2")
async def test_jobs_of_long_ago_are_ignored_and_jobs_of_the_future_refused(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        old = await customer.ask("old", seller.shop.owner, created_at=int(time.time()) - 4_000)
        future = await customer.ask("future", seller.shop.owner, created_at=int(time.time()) + 700)
        refusal = await customer.feedback(future, "error")
        assert "future" in refusal.tags[0][2]
        await marker(seller, customer)
        assert await seller.sale(old) is None


@pytest.mark.attack("B3")
async def test_a_job_for_another_provider_is_ignored(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        other = await customer.ask("hello", SecretKey.generate().pubkey)
        await marker(seller, customer)
        assert await seller.sale(other) is None
        assert customer.heard.get(other.id) is None


@pytest.mark.attack("B4")
async def test_a_kind_that_is_not_offered_is_refused_only_to_who_named_us(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        now_s = int(time.time())
        named = UnsignedNote(kind=5100, created_at=now_s, tags=(("i", "a cat", "text"), ("p", seller.shop.owner)))
        anybody = UnsignedNote(kind=5100, created_at=now_s, tags=(("i", "a dog", "text"),))
        first, second = await customer.publish(named), await customer.publish(anybody)
        await customer.feedback(first, "error")
        await marker(seller, customer)
        assert customer.heard.get(second.id) is None
        assert seller.venue.asked == []


@pytest.mark.attack("B8")
async def test_a_bid_below_the_price_is_refused_with_the_price_and_without_an_invoice(
    relay: str, tmp_path: Path
) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        job = await customer.ask("hello", seller.shop.owner, bid_msats=PRICE_MSATS - 1)
        refusal = await customer.feedback(job, "error")
        assert amount_of(refusal) == (str(PRICE_MSATS), "")
        sale = await seller.until(job, "failed")
        assert (sale.code, sale.invoice) == ("bid", None)


async def test_a_model_that_is_not_run_is_refused_before_anything_is_paid(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        job = await customer.ask("hello", seller.shop.owner, params=(("model", "llama3.2"),))
        await customer.feedback(job, "error")
        assert (await seller.until(job, "failed")).code == "request"


@pytest.mark.attack("B9")
async def test_one_key_cannot_fill_the_shop_and_open_quotes_are_bounded(relay: str, tmp_path: Path) -> None:
    async with (
        open_seller(relay, tmp_path, max_open_per_customer=5, max_unpaid=8, max_refusals_per_minute=10) as seller,
        seller.selling() as market,
        open_customer(relay, tmp_path) as greedy,
        open_customer(relay, tmp_path) as other,
    ):
        await asyncio.gather(*(greedy.ask(f"job {n}", seller.shop.owner) for n in range(200)))
        job = await other.ask("me too", seller.shop.owner)
        await other.feedback(job, "payment-required")
        assert market.pulse.states["quoted"] == 6
        many = [SecretKey.generate() for _ in range(20)]
        for key in many:
            tags = (("i", "hello", "text"), ("p", seller.shop.owner))
            note = UnsignedNote(kind=5050, created_at=int(time.time()), tags=tags)
            await other.relay.publish(sign_note(note, key))
        await reached(lambda: market.pulse.ignored >= 200)
        assert market.pulse.states["quoted"] == 8
        assert sum(said == "refused" for _, said in seller.moves) == 10


@pytest.mark.attack("B10")
async def test_only_its_author_cancels_a_job(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        ask = Ask(inputs=(JobInput(data="hello"),), providers=(seller.shop.owner,))
        job = sign_note(request_note(ask, int(time.time())), customer.key)
        forged = UnsignedNote(kind=5, created_at=int(time.time()), tags=(("e", job.id), ("k", "5050")))
        # Before the job, because a strict relay refuses it once it knows whose the job is.
        await customer.relay.publish(sign_note(forged, SecretKey.generate()))
        await customer.relay.publish(job)
        await customer.feedback(job, "payment-required")
        assert (job.id, "cancelled") not in seller.moves
        await customer.publish(deletion_note([job], int(time.time())))
        await reached(seller.did(job, "cancelled"))
        await customer.pay(job)
        sale = await seller.until(job, "failed")
        assert (sale.code, sale.refund_due, seller.venue.asked) == ("cancelled", True, [])


@pytest.mark.attack("C3")
async def test_too_little_money_starts_nothing_and_is_owed_back(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller:
        seller.troubled().short_msats = 1
        async with seller.selling(), open_customer(relay, tmp_path) as customer:
            job = await customer.ask("hello", seller.shop.owner)
            await customer.pay(job)
            await customer.feedback(job, "error")
            sale = await seller.until(job, "failed")
            assert (sale.code, sale.refund_due, seller.venue.asked) == ("underpaid", True, [])


@pytest.mark.attack("C8")
async def test_one_payment_starts_one_job(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        jobs = [await customer.ask(f"job {number}", seller.shop.owner) for number in range(3)]
        for job in jobs:
            await customer.feedback(job, "payment-required")
        await customer.pay(jobs[1])
        await seller.until(jobs[1], "delivered")
        await asyncio.sleep(0.3)
        assert [one.messages[-1].content for one in seller.venue.asked] == ["job 1"]


@pytest.mark.attack("C10")
async def test_a_wallet_that_is_away_delays_a_quote_and_loses_no_job(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller:
        wallet = seller.troubled()
        wallet.away = True
        async with seller.selling(), open_customer(relay, tmp_path) as customer:
            job = await customer.ask("hello", seller.shop.owner)
            assert (await seller.until(job, "received")).invoice is None
            assert customer.heard.get(job.id) is None
            wallet.away = False
            await customer.pay(job)
            assert (await customer.result(job)).content == "echo: hello"


@pytest.mark.attack("C10")
async def test_a_result_that_no_relay_takes_is_kept_until_one_does(tmp_path: Path) -> None:
    refused = 0

    async def handle(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        nonlocal refused
        if message[0] == "EVENT" and message[1]["kind"] == 6050 and refused < 2:
            refused += 1
            await send(socket, "OK", message[1]["id"], False, "error: the disk is full")
        else:
            await honest(relay, socket, message)

    async with lying_relay(handle) as lying, open_seller(lying.url, tmp_path, require_payment=False) as seller:
        async with RelayPool([lying.url]) as relay:
            ask = Ask(inputs=(JobInput(data="hello"),), providers=(seller.shop.owner,))
            job = sign_note(request_note(ask, int(time.time())), SecretKey.generate())
            await relay.publish(job)
        async with seller.selling():
            sale = await seller.until(job, "delivered")
        assert (refused, len(seller.venue.asked)) == (2, 1)
        assert [one["id"] for one in lying.events.values() if one["kind"] == 6050] == [sale.result and sale.result.id]


async def test_a_job_that_would_cost_more_than_it_brings_is_refused(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path, prices=PriceList(request_msats=10)) as seller:
        seller.venue.price_msats = 11
        async with seller.selling(), open_customer(relay, tmp_path) as customer:
            job = await customer.ask("hello", seller.shop.owner)
            await customer.feedback(job, "error")
            assert (await seller.until(job, "failed")).code == "cost"
