"""Killed at random moments, a market pays, publishes and loses nothing that it should not; its audit would see it."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nostr_sdk import LocalRelayBuilder

from benchmarks.market_audit import CHECKS, Books, Payment
from benchmarks.market_victims import START_MSATS, asked
from blocks.relays.pool import RelayPool
from blocks.venues.swarm_desk import Hands
from blocks.wallets.ledger_account import LedgerAccount
from swarmc.contracts.completions import Usage
from swarmc.contracts.job_book import JobRecord
from swarmc.contracts.market import Purchase, Sale
from swarmc.contracts.money import Receipt, Tally
from swarmc.contracts.relay import NostrEvent
from swarmc.contracts.wallet import Invoice, Network, PaymentStatus, Settlement
from swarmc.contracts.wallet import Payment as MadePayment
from swarmc.nostr.events import sign_note
from swarmc.nostr.nip09 import deletion_note
from tests.market import Stranger, asking, honest, now_s, open_market
from tests.nostr import jobs
from tests.nostr.persistent_relay import program
from tests.nostr.relays import real_relay
from tests.sellers import open_customer, open_seller, reached

ROOT = Path(__file__).parents[2]
KEY = asked(0).request_id


@pytest.mark.slow
@pytest.mark.attack("B15")
@pytest.mark.parametrize("relays", ["forgetful", "kept"])
def test_through_kills_of_all_four_nothing_is_paid_or_published_twice_or_lost(relays: str, tmp_path: Path) -> None:
    if relays == "kept":
        program()  # Skips where it cannot be had.
    script = str(ROOT / "benchmarks/market_durability.py")
    command = [sys.executable, script, "--kills", "3", "--relays", relays, "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for victim in ("buyer", "seller", "wallet"):
        assert f"| {victim} | 3 |" in done.stdout
    assert done.stdout.count(" | 0 |\n") >= len(CHECKS)


@dataclass
class Cut:
    """A wallet whose process dies when it is to pay: nothing leaves it, and nobody is told."""

    wallet: LedgerAccount
    asked: asyncio.Event

    name = "ledger"
    network: Network = "regtest"
    simulated = True
    late_s = 0.0

    async def balance_msats(self) -> int:
        return await self.wallet.balance_msats()

    async def create_invoice(self, amount_msats: int, *, memo: str, expiry_s: int) -> Invoice:
        return await self.wallet.create_invoice(amount_msats, memo=memo, expiry_s=expiry_s)

    async def pay(self, invoice: Invoice, *, max_fee_msats: int) -> MadePayment:
        self.asked.set()
        return await asyncio.get_running_loop().create_future()

    async def find_payment(self, payment_hash: str) -> PaymentStatus:
        return await self.wallet.find_payment(payment_hash)

    async def find_settlement(self, payment_hash: str) -> Settlement | None:
        return await self.wallet.find_settlement(payment_hash)

    def settlements(self) -> AsyncIterator[str]:
        return self.wallet.settlements()


@pytest.mark.attack("B15")
async def test_a_payment_that_a_crash_cut_off_is_no_reason_not_to_buy_again(tmp_path: Path) -> None:
    at_work: set[asyncio.Task[None]] = set()

    async def side_by_side(stranger: Stranger, request: NostrEvent) -> None:
        at_work.add(asyncio.create_task(honest(stranger, request)))

    async with real_relay() as url, open_market(url, tmp_path) as market:
        stranger = await market.stranger(side_by_side)
        hands = await market.hands()
        assert isinstance(hands.wallet, LedgerAccount)
        cut = Cut(hands.wallet, asyncio.Event())
        dying = asyncio.create_task((await market.venue(replace(hands, wallet=cut))).complete(asking()))
        await cut.asked.wait()
        dying.cancel()
        await asyncio.wait([dying])
        answer = await (await market.venue(hands)).complete(asking())
        assert answer.text == "an answer"
        states = sorted((record.state, purchase.failure or "") for record, purchase in await market.bought())
        assert states == [("answered", ""), ("failed", "unsent")]
        assert await stranger.wallet.balance_msats() == stranger.price_msats


@asynccontextmanager
async def relay_at(port: int) -> AsyncIterator[str]:
    relay = LocalRelayBuilder().port(port).build()
    await relay.run()
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        relay.shutdown()


async def bought_as(hands: Hands, state: str) -> None:
    """Wait until the buyer's one job is in this state."""
    seen = []
    while [state] != seen:
        seen = [record.state for record in await hands.book.recent("bought")]
        assert "failed" not in seen
        await asyncio.sleep(0.02)


@pytest.mark.attack("D8")
async def test_an_answer_that_is_paid_for_is_not_given_up_while_a_relay_is_away(tmp_path: Path) -> None:
    requests: list[NostrEvent] = []

    async def taking(stranger: Stranger, request: NostrEvent) -> None:
        requests.append(request)
        await stranger.quote(request)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with real_relay() as url, open_market(url, tmp_path) as market:
        stranger = await market.stranger(taking)
        hands = await market.hands()
        dying = asyncio.create_task((await market.venue(hands, timeout_s=4.0)).complete(asking()))
        await bought_as(hands, "paid")
        dying.cancel()
        await asyncio.sleep(4.1)  # Its time is over before anybody asks for it again.
        async with RelayPool([url, f"ws://127.0.0.1:{port}"], timeout_s=5) as relays:
            venue = await market.venue(replace(hands, relay=relays))
            asked_again = asyncio.create_task(venue.complete(asking()))
            await asyncio.sleep(1.5)
            async with relay_at(port) as late, RelayPool([late]) as stranger.relay:
                await stranger.answer(requests[0])
                assert (await asked_again).text == "an answer"
        assert len(requests) == 1


@pytest.mark.attack("A5")
@pytest.mark.attack("B10")
async def test_a_known_job_that_is_heard_and_cancelled_again_after_a_restart_is_left_in_peace(tmp_path: Path) -> None:
    async with real_relay() as old, real_relay() as new, open_seller(old, tmp_path) as seller:
        async with open_customer(old, tmp_path) as customer, seller.selling():
            job = await customer.ask("what is it?", seller.shop.owner)
            await customer.pay(job)
            await seller.until(job, "delivered")
        async with RelayPool([new]) as relay:
            seller.shop = replace(seller.shop, relay=relay)
            async with open_customer(new, tmp_path, customer.key) as again, seller.selling() as market:
                # Together, so that the second comes while the first is looked up in the job book.
                deletion = sign_note(deletion_note([job], now_s()), again.key)
                await asyncio.gather(again.relay.publish(job), again.relay.publish(deletion))
                await asyncio.sleep(0.5)
                assert market.pulse.problems["elsewhere"] == 1
                assert market.open_sales == 0


@pytest.mark.attack("B9")
async def test_a_customer_that_cancelled_what_it_may_have_open_can_buy_again(tmp_path: Path) -> None:
    async with real_relay() as url, open_seller(url, tmp_path, max_open_per_customer=2) as seller:
        async with open_customer(url, tmp_path) as customer, seller.selling():
            left = [await customer.ask(f"number {number}", seller.shop.owner) for number in range(2)]
            for job in left:
                await customer.feedback(job, "payment-required")
            refused = await customer.ask("one too many", seller.shop.owner)
            assert "busy" in (await customer.feedback(refused, "error")).model_dump_json()
            await customer.publish(deletion_note(left, now_s()))
            await reached(lambda: all(seller.did(job, "cancelled")() for job in left))
        async with open_customer(url, tmp_path, customer.key) as customer, seller.selling():
            job = await customer.ask("now, and after a restart", seller.shop.owner)
            await customer.pay(job)
            await customer.result(job)


# The audit.


def sound() -> Books:
    """Books of one request that was paid, delivered and settled."""
    of, price = jobs.invoice(), jobs.PRICE_MSATS
    paid = jobs.payment(of).model_copy(update={"fee_msats": 0})
    purchase = Purchase(
        order=jobs.order(key=KEY), state="answered", started_at=jobs.NOW_S, invoice=of, payment=paid,
        result=jobs.result(),
    )  # fmt: skip
    sale = Sale(
        request=jobs.REQUEST, state="delivered", received_at=jobs.NOW_S, amount_msats=price, invoice=of,
        settlement=jobs.settlement(of), result=jobs.result_event(),
    )  # fmt: skip
    receipt = Receipt(
        run_id="kill-test", request_id=KEY, completion_id=KEY, stage="other", lane="swarm", venue="swarm", model="m",
        usage=Usage(cost_msats=price), settled_at_ms=1,
    )  # fmt: skip
    job_id = jobs.REQUEST.id
    return Books(
        purchases={job_id: purchase},
        purchased={job_id: record("bought", purchase.paid_msats)},
        sales={job_id: sale},
        sold={job_id: record("sold", sale.earned_msats)},
        payments=[Payment(of.payment_hash, price, "buyer", "seller")],
        balances={"buyer": START_MSATS - price, "seller": price},
        receipts=[receipt],
        total=Tally(calls=1, msats=price),
        budget_msats=price,
        results={job_id: {jobs.result_event().id}},
        last=0,
        said={"answered": 1, "msats": price, "bought": 0, "whole": True},
    )


def record(side: str, msats: int) -> JobRecord:
    return JobRecord.model_validate(
        {"side": side, "owner": jobs.CUSTOMER.pubkey, "job_id": jobs.REQUEST.id, "key": KEY, "state": "answered",
         "final": True, "version": 3, "msats": msats, "body": "{}"}
    )  # fmt: skip


def broken(books: Books) -> set[str]:
    again = replace(books, by_key={}, paid_hashes=set())
    return {check.__name__ for check in CHECKS if list(check(again))}


def test_books_that_are_sound_pass_the_audit() -> None:
    assert broken(sound()) == set()


def of_purchase(**changes: object) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        job_id = jobs.REQUEST.id
        books.purchases[job_id] = books.purchases[job_id].model_copy(update=changes)

    return change


def of_sale(**changes: object) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        job_id = jobs.REQUEST.id
        books.sales[job_id] = books.sales[job_id].model_copy(update=changes)

    return change


def another_job(books: Books) -> None:
    other = jobs.request(bid_msats=jobs.BID_MSATS + 1)
    order = jobs.order(other, key=KEY)
    of = jobs.invoice(2)
    purchase = books.purchases[jobs.REQUEST.id].model_copy(
        update={"order": order, "invoice": of, "payment": jobs.payment(of, 2)}
    )
    books.purchases[other.id] = purchase


FAULTS: dict[str, tuple[Callable[[Books], object], str]] = {
    "an invoice is paid twice": (lambda books: books.payments.append(books.payments[0]), "one_payment_a_hash"),
    "a request is paid twice": (another_job, "one_payment_a_request"),
    "a payment is in no book": (of_purchase(payment=None), "every_payment_is_known"),
    "a paid job is given up": (of_purchase(state="failed", failure="unanswered"), "paid_is_answered_or_due"),
    "a paid job is left open": (of_purchase(state="paid", result=None), "paid_is_answered_or_due"),
    "a second result": (lambda books: books.results[jobs.REQUEST.id].add("ab" * 32), "one_result_a_job"),
    "a result that was not kept": (of_sale(result=None), "one_result_a_job"),
    "a delivery that nobody saw": (lambda books: books.results.clear(), "delivered_is_published"),
    "earned and not paid": (lambda books: books.purchases.clear(), "paid_is_earned"),
    "paid for and not done": (of_sale(state="failed"), "paid_for_is_done"),
    "a msat is missing": (lambda books: books.balances.update(seller=jobs.PRICE_MSATS - 1), "sums_agree"),
    "settled twice": (lambda books: books.receipts.append(books.receipts[0]), "settled_is_used"),
    "over the budget": (lambda books: setattr(books, "budget_msats", 1), "budget_holds"),
    "paid and not accounted for": (lambda books: setattr(books, "total", Tally()), "budget_holds"),
    "a request without an answer": (lambda books: setattr(books, "last", 1), "everything_is_answered"),
    "asked again and bought": (lambda books: books.said.update(bought=1), "everything_is_answered"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_audit_finds_what_is_broken(fault: str) -> None:
    damage, check = FAULTS[fault]
    books = sound()
    damage(books)
    assert check in broken(books)
