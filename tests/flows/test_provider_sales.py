"""Sales from request to result: what is told, paid, kept and counted, over a real relay and with play money."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nostr_sdk import ClientBuilder, EventBuilder, Filter, Keys, Kind, RelayUrl, ReqTarget, Tag

from swarmc.contracts.errors import VenueError
from swarmc.contracts.market import Ask, Encryption, JobInput, JobResult
from swarmc.nostr.invoices import decode_invoice
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip90 import encrypted_request_note, parse_result
from tests.nostr.relays import real_relay
from tests.sellers import MODEL, PRICE_MSATS, amount_of, open_customer, open_seller, reached

SECRET = "the treasure lies under the old oak"


@pytest.fixture
async def relay() -> AsyncIterator[str]:
    async with real_relay() as url:
        yield url


async def test_a_paid_job_is_quoted_paid_done_and_delivered(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        job = await customer.ask("hello", seller.shop.owner)
        await customer.feedback(job, "payment-required")
        assert seller.venue.asked == []
        await customer.pay(job)
        result = parse_result(await customer.result(job))
        assert isinstance(result, JobResult)
        assert (result.answer.text, result.answer.model) == ("echo: hello", MODEL)
        sale = await seller.until(job, "delivered")
        assert sale.final
        assert sale.earned_msats == PRICE_MSATS == await seller.wallet.balance_msats()
        assert [said for _, said in seller.moves] == ["quoted", "feedback_sent", "settled", "performed", "delivered"]


@pytest.mark.attack("C1")
async def test_tag_invoice_and_price_are_one_amount(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        job = await customer.ask("hello", seller.shop.owner)
        amount, bolt11 = amount_of(await customer.feedback(job, "payment-required"))
        assert int(amount) == decode_invoice(bolt11).amount_msats == PRICE_MSATS


@pytest.mark.attack("C2")
async def test_a_wallet_of_whole_satoshis_rounds_a_price_up_and_never_to_nothing(relay: str, tmp_path: Path) -> None:
    async with (
        open_seller(relay, tmp_path, unit_msats=1_000) as seller,
        seller.selling(),
        open_customer(relay, tmp_path) as customer,
    ):
        job = await customer.ask("hello", seller.shop.owner)
        amount, bolt11 = amount_of(await customer.feedback(job, "payment-required"))
        assert int(amount) == decode_invoice(bolt11).amount_msats == 2_000


async def test_a_free_job_is_done_at_once(relay: str, tmp_path: Path) -> None:
    async with (
        open_seller(relay, tmp_path, require_payment=False) as seller,
        seller.selling(),
        open_customer(relay, tmp_path) as customer,
    ):
        job = await customer.ask("hello", None)
        assert (await customer.result(job)).content == "echo: hello"
        assert (await seller.until(job, "delivered")).invoice is None


async def test_a_foreign_client_is_served(relay: str, tmp_path: Path) -> None:
    keys = Keys.generate()
    tags = [["i", "hello", "prompt"], ["param", "max_tokens", "9"], ["output", "text/plain"]]
    event = EventBuilder(Kind(5050), "").tags([Tag.parse(tag) for tag in tags]).finalize(keys)
    client = ClientBuilder().build()
    async with open_seller(relay, tmp_path, require_payment=False) as seller, seller.selling():
        await client.add_relay(RelayUrl.parse(relay))
        await client.connect()
        await client.send_event(event)
        await reached(lambda: (event.id().to_hex(), "delivered") in seller.moves)
        results = await client.fetch_events(ReqTarget.auto([Filter().kind(Kind(6050)).pubkey(keys.public_key())]))
        assert [one.content() for one in results] == ["echo: hello"]
    assert seller.venue.asked[0].sampling.max_tokens == 9
    await client.shutdown()


@pytest.mark.attack("B12")
@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
async def test_an_encrypted_job_is_answered_as_it_came_and_shows_in_no_event_record_or_log(
    relay: str, tmp_path: Path, scheme: Encryption, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "swarmc")
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        ask = Ask(inputs=(JobInput(data=SECRET),), providers=(seller.shop.owner,))
        note = encrypted_request_note(ask, int(seller.shop.now_s()), customer.key, scheme)
        job = await customer.publish(note)
        await customer.pay(job)
        event = await customer.result(job)
        await seller.until(job, "delivered")
        read = parse_result(event, customer.key)
        assert isinstance(read, JobResult)
        assert (read.answer.text, read.encryption) == (f"echo: {SECRET}", scheme)
    public = "".join(one.model_dump_json() for one in customer.heard[job.id]) + caplog.text
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        public += "".join(
            f"{row}" for table in ("jobs", "job_moves") for row in database.execute(f"SELECT * FROM swarmc_{table}")
        )
    assert SECRET not in public
    assert job.id in public


@pytest.mark.attack("B12")
async def test_the_venues_words_about_an_encrypted_job_are_repeated_nowhere(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path, require_payment=False) as seller, seller.selling():
        seller.venue.fails.append(VenueError(f"cannot do {SECRET!r}", fault="request"))
        async with open_customer(relay, tmp_path) as customer:
            ask = Ask(inputs=(JobInput(data=SECRET),), providers=(seller.shop.owner,))
            job = await customer.publish(encrypted_request_note(ask, int(seller.shop.now_s()), customer.key, "nip44"))
            refusal = await customer.feedback(job, "error")
            sale = await seller.until(job, "failed")
    assert SECRET not in refusal.model_dump_json() + sale.model_dump_json()


async def test_a_customer_is_answered_on_the_relay_that_it_names(relay: str, tmp_path: Path) -> None:
    async with real_relay() as elsewhere, open_seller(relay, tmp_path, require_payment=False) as seller:
        key = SecretKey.generate()
        async with (
            seller.selling(),
            open_customer(relay, tmp_path, key) as customer,
            open_customer(elsewhere, tmp_path, key) as listener,
        ):
            job = await customer.ask("hello", seller.shop.owner, relays=(elsewhere,))
            assert (await listener.result(job)).content == "echo: hello"


@pytest.mark.attack("B14")
async def test_the_same_words_asked_twice_are_two_jobs(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        jobs = [await customer.ask("hello", seller.shop.owner, params=(("salt", word),)) for word in "ab"]
        for job in jobs:
            await customer.pay(job)
            await customer.result(job)
            await seller.until(job, "delivered")
        assert len(seller.venue.asked) == 2
        assert await seller.wallet.balance_msats() == 2 * PRICE_MSATS


@pytest.mark.attack("C9")
@pytest.mark.attack("C11")
async def test_earnings_are_what_the_wallet_holds_and_marked_as_play_money(relay: str, tmp_path: Path) -> None:
    async with open_seller(relay, tmp_path) as seller, seller.selling(), open_customer(relay, tmp_path) as customer:
        for number in range(5):
            job = await customer.ask(f"number {number}", seller.shop.owner)
            quote = await customer.feedback(job, "payment-required")
            assert any(tag[:3] == ("status", "payment-required", "simulated money") for tag in quote.tags)
            if number:
                await customer.pay(job)
                await seller.until(job, "delivered")
        totals = await seller.book.totals("sold", seller.shop.owner)
        assert sum(total.msats for total in totals) == 4 * PRICE_MSATS == await seller.wallet.balance_msats()
        assert all(total.simulated for total in totals)
