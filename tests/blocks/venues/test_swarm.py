"""The market as a venue: real relay, real invoices of play money, strangers that are honest and strangers that lie."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from swarmc.contracts.errors import VenueError
from swarmc.contracts.relay import NostrEvent
from swarmc.nostr.keys import SecretKey, npub_of
from swarmc.nostr.nip90 import feedback_note
from tests.market import BID_MSATS, Market, Stranger, asking, honest, now_s, open_market
from tests.nostr.relays import real_relay


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    async with real_relay() as url, open_market(url, tmp_path) as market:
        yield market


async def test_a_completion_is_bought_paid_for_and_answered(market: Market) -> None:
    stranger = await market.stranger(honest)
    venue = await market.venue()
    completion = await venue.complete(asking())
    assert completion.text == "an answer"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 3)
    assert completion.usage.cost_msats == 100
    assert completion.usage.simulated
    assert completion.venue == f"swarm:{npub_of(stranger.key.pubkey)[:16]}"
    assert await stranger.wallet.balance_msats() == 100


async def test_what_was_asked_reaches_the_provider_word_for_word_and_nobody_else_can_read_it(market: Market) -> None:
    stranger = await market.stranger(honest)
    await (await market.venue()).complete(asking("the secret sauce"))
    (request,) = stranger.seen
    assert "sauce" not in request.model_dump_json()
    assert '{"content":"the secret sauce"' in stranger.job(request).inputs[0].data
    assert stranger.job(request).param("max_tokens") == "16"


async def test_secrets_are_cut_out_of_a_prompt_before_it_leaves(market: Market) -> None:
    stranger = await market.stranger(honest)
    await (await market.venue()).complete(asking("my key is sk-proj-abcdefghijklmnopqrstuvwxyz123456"))
    assert "abcdefghijklmnop" not in stranger.job(stranger.seen[0]).inputs[0].data


async def test_the_cheapest_provider_is_asked(market: Market) -> None:
    dear = await market.stranger(honest, price_msats=500)
    cheap = await market.stranger(honest, price_msats=50)
    completion = await (await market.venue()).complete(asking())
    assert completion.usage.cost_msats == 50
    assert (len(dear.seen), len(cheap.seen)) == (0, 1)
    assert await dear.wallet.balance_msats() == 0


@pytest.mark.attack("D10")
async def test_a_free_provider_is_not_waited_for(market: Market) -> None:
    async def free(stranger: Stranger, request: NostrEvent) -> None:
        await stranger.answer(request)

    await market.stranger(free, price_msats=0)
    venue = await market.venue()
    await venue.complete(asking("warm up"))
    started_s = time.monotonic()
    completion = await venue.complete(asking())
    assert time.monotonic() - started_s < 1.0
    assert completion.usage.cost_msats == 0
    assert not completion.usage.simulated


@pytest.mark.attack("D1")
async def test_an_invoice_of_somebody_who_was_not_asked_is_never_paid(market: Market) -> None:
    thief = SecretKey.generate()

    async def robbed(stranger: Stranger, request: NostrEvent) -> None:
        await stranger.quote(request, 60, thief)
        await honest(stranger, request)

    stranger = await market.stranger(robbed)
    completion = await (await market.venue()).complete(asking())
    assert completion.usage.cost_msats == 100
    assert await stranger.wallet.balance_msats() == 100
    ((_, purchase),) = await market.bought()
    assert purchase.ignored >= 1


@pytest.mark.attack("D1")
async def test_a_result_of_somebody_who_was_not_asked_is_never_returned(market: Market) -> None:
    async def forged(stranger: Stranger, request: NostrEvent) -> None:
        await stranger.answer(request, "a lie", SecretKey.generate())
        await honest(stranger, request)

    await market.stranger(forged)
    assert (await (await market.venue()).complete(asking())).text == "an answer"


@pytest.mark.attack("D4")
async def test_a_quote_above_the_bid_is_not_paid(market: Market) -> None:
    async def greedy(stranger: Stranger, request: NostrEvent) -> None:
        await stranger.quote(request, BID_MSATS + 1)

    stranger = await market.stranger(greedy)
    with pytest.raises(VenueError, match=r"too_dear: the quote of 1001 msats is above the bid of 1000"):
        await (await market.venue()).complete(asking())
    assert await stranger.wallet.balance_msats() == 0


@pytest.mark.attack("D4")
async def test_an_invoice_over_more_than_its_quote_is_not_paid(market: Market) -> None:
    async def switched(stranger: Stranger, request: NostrEvent) -> None:
        invoice = await stranger.wallet.create_invoice(900, memo="x", expiry_s=60)
        await stranger.bill(request, 100, invoice.bolt11)

    stranger = await market.stranger(switched)
    with pytest.raises(VenueError, match="asks for 900 msats, its quote for 100"):
        await (await market.venue()).complete(asking())
    assert await stranger.wallet.balance_msats() == 0


@pytest.mark.attack("D4")
async def test_one_invoice_for_two_jobs_is_paid_once(market: Market) -> None:
    first: list[str] = []

    async def doubled(stranger: Stranger, request: NostrEvent) -> None:
        if not first:
            first.append((await stranger.quote(request)).bolt11)
            await asyncio.sleep(0.2)
            await stranger.answer(request)
        else:
            await stranger.bill(request, 100, first[0])

    stranger = await market.stranger(doubled)
    venue = await market.venue(timeout_s=2.0)
    await venue.complete(asking())
    with pytest.raises(VenueError, match="given for another job"):
        await venue.complete(asking("another"))
    assert await stranger.wallet.balance_msats() == 100


@pytest.mark.attack("D7")
async def test_of_two_invoices_for_one_job_one_is_paid(market: Market) -> None:
    async def twice(stranger: Stranger, request: NostrEvent) -> None:
        invoices = [await stranger.quote(request), await stranger.quote(request)]
        await stranger.paid(invoices[0])
        await asyncio.sleep(0.2)
        await stranger.answer(request)

    stranger = await market.stranger(twice)
    await (await market.venue()).complete(asking())
    assert await stranger.wallet.balance_msats() == 100


@pytest.mark.attack("D8")
async def test_who_takes_the_money_and_does_not_deliver_gets_no_second_payment(market: Market) -> None:
    async def cheat(stranger: Stranger, request: NostrEvent) -> None:
        await stranger.quote(request)

    cheater = await market.stranger(cheat, price_msats=10)
    good = await market.stranger(honest, price_msats=500)
    venue = await market.venue(timeout_s=3.0)
    with pytest.raises(VenueError, match="undelivered") as caught:
        await venue.complete(asking())
    assert caught.value.paid_unknown
    assert caught.value.retryable
    assert (await venue.complete(asking())).usage.cost_msats == 500
    assert await cheater.wallet.balance_msats() == 10
    assert await good.wallet.balance_msats() == 500
    (record, _), _ = await market.bought()
    assert record.refund_due
    assert record.msats == 10


@pytest.mark.attack("D9")
async def test_an_answer_that_comes_while_we_publish_is_heard(market: Market) -> None:
    async def hasty(stranger: Stranger, request: NostrEvent) -> None:
        await stranger.answer(request)

    await market.stranger(hasty, price_msats=0)
    venue = await market.venue()
    texts = await asyncio.gather(*(venue.complete(asking(f"question {n}")) for n in range(20)))
    assert len(texts) == 20


@pytest.mark.attack("D14")
@pytest.mark.parametrize("bait", ["  ", "What is the capital of Peru?"])
async def test_an_empty_or_echoed_answer_is_no_answer(market: Market, bait: str) -> None:
    async def baiting(stranger: Stranger, request: NostrEvent) -> None:
        await stranger.answer(request, bait)

    baiter = await market.stranger(baiting, price_msats=0)
    venue = await market.venue()
    with pytest.raises(VenueError, match=r"empty|repeats") as caught:
        await venue.complete(asking())
    assert caught.value.retryable
    good = await market.stranger(honest, price_msats=200)
    assert (await venue.complete(asking())).venue.endswith(npub_of(good.key.pubkey)[:16])
    assert len(baiter.seen) == 1


@pytest.mark.attack("D15")
async def test_of_a_thousand_results_the_first_counts_and_the_rest_do_no_harm(market: Market) -> None:
    async def spam(stranger: Stranger, request: NostrEvent) -> None:
        await stranger.answer(request, "the first")
        for number in range(300):
            await stranger.answer(request, f"spam {number}")

    await market.stranger(spam, price_msats=0)
    assert (await (await market.venue()).complete(asking())).text == "the first"


async def busy(stranger: Stranger, request: NostrEvent) -> None:
    await stranger.say(feedback_note(request, "error", now_s(), extra="busy: come back later"))


async def test_where_one_provider_refuses_the_next_one_is_asked(market: Market) -> None:
    await market.stranger(busy, price_msats=10)
    await market.stranger(honest, price_msats=300)
    assert (await (await market.venue()).complete(asking())).usage.cost_msats == 300


async def test_samples_of_one_prompt_are_asked_of_distinct_providers_as_far_as_there_are(market: Market) -> None:
    for price in (10, 20, 30):
        await market.stranger(honest, price_msats=price)
    venue = await market.venue()
    costs = [(await venue.complete(asking(rollout_id=number))).usage.cost_msats for number in range(4)]
    assert costs == [10, 20, 30, 10]
    assert (await venue.complete(asking("another prompt"))).usage.cost_msats == 10


async def test_a_refusal_is_told_where_nobody_else_is_there(market: Market) -> None:
    await market.stranger(busy)
    with pytest.raises(VenueError, match="busy: come back later") as caught:
        await (await market.venue()).complete(asking())
    assert caught.value.retryable


async def test_nobody_who_fits_is_an_error_that_says_whom_it_saw_and_why_not(market: Market) -> None:
    await market.stranger(honest, price_msats=5_000)
    with pytest.raises(VenueError, match=r"asks 5000 msats, above the bid of 1000") as caught:
        await (await market.venue(patience_s=0.1)).complete(asking())
    assert not caught.value.retryable


async def test_a_provider_that_comes_a_moment_later_is_found(market: Market) -> None:
    venue = await market.venue(patience_s=5.0)
    asked = asyncio.create_task(venue.complete(asking()))
    await asyncio.sleep(0.3)
    await market.stranger(honest)
    assert (await asked).text == "an answer"


async def test_an_empty_wallet_pays_nothing_and_says_so(market: Market) -> None:
    await market.stranger(honest)
    venue = await market.venue(await market.hands(start_msats=99))
    with pytest.raises(VenueError, match="unpaid") as caught:
        await venue.complete(asking())
    assert not caught.value.retryable
    assert not caught.value.paid_unknown


async def test_who_switches_auto_pay_off_pays_nothing(market: Market) -> None:
    stranger = await market.stranger(honest)
    hands = await market.hands()
    venue = await market.venue(replace(hands, auto_pay=False), auto_pay=False)
    with pytest.raises(VenueError, match="auto_pay is off"):
        await venue.complete(asking())
    assert await stranger.wallet.balance_msats() == 0


async def test_what_was_answered_before_its_process_died_is_read_and_not_bought_again(market: Market) -> None:
    stranger = await market.stranger(honest)
    await (await market.venue()).complete(asking())
    again = await (await market.venue()).complete(asking())
    assert again.text == "an answer"
    assert again.usage.cost_msats == 100
    assert len(stranger.seen) == 1
    assert await stranger.wallet.balance_msats() == 100


async def test_a_purchase_whose_asker_gives_up_is_taken_up_by_the_next_one_without_a_second_payment(
    market: Market,
) -> None:
    late = asyncio.Event()

    async def slow(stranger: Stranger, request: NostrEvent) -> None:
        invoice = await stranger.quote(request)
        await stranger.paid(invoice)
        await late.wait()
        await stranger.answer(request)

    stranger = await market.stranger(slow)
    asked = asyncio.create_task((await market.venue()).complete(asking()))
    await anext(stranger.wallet.settlements())
    await asyncio.sleep(0.2)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    late.set()
    completion = await (await market.venue()).complete(asking())
    assert completion.usage.cost_msats == 100
    assert await stranger.wallet.balance_msats() == 100
    assert len(stranger.seen) == 1
