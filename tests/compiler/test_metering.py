"""The meter over a real ledger: nothing bought twice, nothing bought that no budget allows, nothing lost."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from blocks.ledger import SqlLedger
from swarmc.compiler.metering import Metered, Purse, Remembered
from swarmc.compiler.scope import scoped
from swarmc.contracts.completions import CompletionRequest, Message
from swarmc.contracts.errors import BudgetExhausted, VenueError
from swarmc.contracts.money import Budget, BudgetPolicy


def request(number):
    return CompletionRequest(lane="swarm", model="m", messages=(Message(role="user", content=f"q{number}"),))


def yes(_request):
    return {"answer": "yes"}


@asynccontextmanager
async def lane(path, venue, run_id="run", emit=lambda event: None, **budget):
    """A remembered, metered venue in a run of its own."""
    policy = BudgetPolicy(run=Budget(**budget))
    async with (
        SqlLedger.open(f"sqlite:///{path}/ledger.db") as ledger,
        ledger.open_run(run_id, spec_id="sha256:" + "0" * 64, name="test", budget=policy) as lease,
    ):
        purse = Purse(ledger, run_id, lease.epoch, "swarm", emit)
        remembered = Remembered(Metered(venue, purse), purse)
        yield remembered, ledger
        await remembered.drain(1)


async def test_what_was_bought_is_read_and_not_bought_again(venue_of, tmp_path):
    venue = venue_of(yes, price_msats=7)
    async with lane(tmp_path, venue) as (meter, ledger):
        first = await meter.complete(request(1))
        again = await meter.complete(request(1))
        account = await ledger.account("run")
    assert first == again
    assert len(venue.asked) == 1
    assert (account.total.calls, account.total.msats) == (1, 7)


async def test_another_run_reads_what_an_earlier_one_paid(venue_of, tmp_path):
    venue = venue_of(yes, price_msats=7)
    async with lane(tmp_path, venue, "first") as (meter, _):
        await meter.complete(request(1))
    async with lane(tmp_path, venue, "second") as (meter, ledger):
        await meter.complete(request(1))
        total = (await ledger.account("second")).total
    assert (total.calls, total.reused, total.msats) == (0, 1, 0)


async def test_equal_requests_at_once_are_one_purchase(venue_of, tmp_path):
    venue = venue_of(yes, latency_s=0.05)
    async with lane(tmp_path, venue) as (meter, _):
        await asyncio.gather(*(meter.complete(request(1)) for _ in range(40)))
    assert len(venue.asked) == 1


@pytest.mark.parametrize("budget", [{"max_calls": 10}, {"max_msats": 70}])
async def test_fifty_tasks_against_a_budget_of_ten_calls_buy_ten(venue_of, tmp_path, budget):
    venue = venue_of(yes, price_msats=7, latency_s=0.01)
    async with lane(tmp_path, venue, **budget) as (meter, ledger):
        answers = await asyncio.gather(*(meter.complete(request(i)) for i in range(50)), return_exceptions=True)
        total = (await ledger.account("run")).total
    refused = [answer for answer in answers if isinstance(answer, BudgetExhausted)]
    assert (len(venue.asked), total.calls, len(refused)) == (10, 10, 40)
    assert refused[0].scope == "run"


async def test_a_refused_connection_gives_the_money_back(venue_of, tmp_path):
    def refused(_request):
        raise VenueError("nobody there", retryable=True)

    async with lane(tmp_path, venue_of(refused, price_msats=7), max_calls=1) as (meter, ledger):
        for number in range(3):
            with pytest.raises(VenueError):
                await meter.complete(request(number))
        total = (await ledger.account("run")).total
    assert (total.failed, total.lost, total.lost_msats, total.reserved) == (3, 0, 0, 0)


async def test_a_call_that_may_be_billed_counts_against_the_budget(venue_of, tmp_path):
    def hangs(_request):
        raise VenueError("no answer in 5 s", retryable=True, paid_unknown=True)

    async with lane(tmp_path, venue_of(hangs, price_msats=7), max_calls=1) as (meter, ledger):
        with pytest.raises(VenueError):
            await meter.complete(request(1))
        with pytest.raises(BudgetExhausted):
            await meter.complete(request(2))
        total = (await ledger.account("run")).total
    assert (total.lost, total.lost_msats) == (1, 7)


async def test_a_purchase_goes_on_when_its_asker_is_cancelled(venue_of, tmp_path):
    venue = venue_of(yes, latency_s=0.1)
    async with lane(tmp_path, venue) as (meter, ledger):
        asker = asyncio.create_task(meter.complete(request(1)))
        await asyncio.sleep(0.05)
        asker.cancel()
        await asyncio.gather(asker, return_exceptions=True)
        await meter.drain(1)
        total = (await ledger.account("run")).total
        await meter.complete(request(1))
    assert (total.calls, total.lost) == (1, 0)
    assert len(venue.asked) == 1


async def test_a_purchase_that_outlasts_the_grace_period_is_lost_and_said_so(venue_of, tmp_path):
    async with lane(tmp_path, venue_of(yes, latency_s=30)) as (meter, ledger):
        asker = asyncio.create_task(meter.complete(request(1)))
        await asyncio.sleep(0.05)
        await meter.drain(0.01)
        total = (await ledger.account("run")).total
        await asyncio.gather(asker, return_exceptions=True)
    assert (total.calls, total.lost, total.reserved) == (0, 1, 0)


async def test_calls_are_booked_under_their_stage(venue_of, tmp_path):
    async with lane(tmp_path, venue_of(yes)) as (meter, ledger):
        for stage, count in (("bootstrap", 2), ("search", 3)):
            with scoped(stage):
                await asyncio.gather(*(meter.complete(request(f"{stage}{i}")) for i in range(count)))
        by_stage = (await ledger.account("run")).by_stage()
    assert {stage: tally.calls for stage, tally in by_stage.items()} == {"bootstrap": 2, "search": 3}


async def test_every_answer_and_every_failed_attempt_is_told(venue_of, tmp_path):
    told = []
    async with lane(tmp_path, venue_of(yes, price_msats=3), emit=told.append) as (meter, _):
        await meter.complete(request(1))
        await meter.complete(request(1))
    assert [(event.kind, event.source) for event in told] == [("call_ended", "bought"), ("call_ended", "replayed")]
