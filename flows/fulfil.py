"""Fulfil one job by the id of its request: go on with the step where it stands, each step a Prefect task."""

import asyncio

from prefect import flow, get_run_logger

from flows.storefront import open_storefront
from flows.trades import Trade
from swarmc.contracts.canonical import Contract
from swarmc.contracts.errors import LedgerError, RelayError, SpecError
from swarmc.contracts.market import DELETION, Sale
from swarmc.contracts.provider import ProviderSpec
from swarmc.contracts.relay import Filter
from swarmc.nostr import seller
from swarmc.nostr.admission import Load
from tasks.admit import Admitted, admit
from tasks.deliver import deliver, tell
from tasks.perform import given_up, perform
from tasks.quote import quote
from tasks.settle import settle
from tasks.shop import Shop
from tasks.stage import step

LOOK_EVERY_S = 1.0
TRIES = 3

admit_task = step("admit")(admit)
quote_task = step("quote")(quote)
settle_task = step("settle")(settle)
perform_task = step("perform")(perform)
deliver_task = step("deliver")(deliver)
tell_task = step("tell")(tell)


class Fulfilled(Contract):
    """How a job ended."""

    job_id: str
    state: str
    code: str = ""
    reason: str = ""
    earned_msats: int = 0
    simulated: bool = False
    refund_due: bool = False


@flow(name="fulfil-job", persist_result=True, validate_parameters=True)
async def fulfil_job(job_id: str, spec: ProviderSpec) -> Fulfilled:
    """Do one job of the market, from where it stands to its end.

    The id of its request is the key: run again, a job that is done stays done, and one that is paid for goes on.
    A job that the job book does not have is fetched from the relays. For many jobs there is `serve-market`, which
    must not run with the same identity meanwhile.

    Args:
        job_id: The id of the request event, 64 hex digits.
        spec: What is sold, as for `serve-market`.
    """
    if len(job_id) != 64 or not set(job_id) <= set("0123456789abcdef"):
        raise SpecError("`job_id` is the id of a request event: 64 hex digits")
    async with open_storefront(spec, job_id) as front:
        shop = front.shop
        trade = await _taken_up(shop, job_id)
        while not trade.sale.final or trade.said:
            if trade.said:
                trade.hear(trade.said.popleft(), shop.now_s())
                await _keep(shop, trade)
                continue
            actions = seller.due(trade.sale, shop.now_s())
            if not actions:
                break
            for said in await _do(shop, trade.sale, actions):
                trade.said.append(said)
    sale = trade.sale
    get_run_logger().info("job %s is %s %s", job_id[:16], sale.state, sale.code)
    return Fulfilled(
        job_id=job_id,
        state=sale.state,
        code=sale.code,
        reason=sale.reason,
        earned_msats=sale.earned_msats,
        simulated=shop.wallet.simulated,
        refund_due=sale.refund_due,
    )


async def _taken_up(shop: Shop, job_id: str) -> Trade:
    """The sale as the book has it, or as it begins."""
    record = await shop.book.get("sold", shop.owner, job_id)
    if record is not None:
        trade = Trade(Sale.model_validate_json(record.body), record.version)
    else:
        found = await shop.relay.fetch([Filter(ids=(job_id,), limit=1)])
        if not found.events:
            raise RelayError(f"no relay has the request {job_id[:16]}", found.answers, retryable=True)
        admitted: Admitted | None = await admit_task(shop, found.events[0], Load())
        if admitted is None:
            raise SpecError(f"job {job_id[:16]} is not for us, void, or older than jobs that are taken")
        trade = Trade(admitted.sale)
        if admitted.refused is not None:
            trade.said.append(admitted.refused)
    cancelled = await shop.relay.fetch([Filter(kinds=(DELETION,), tags={"e": (job_id,)})], limit=20)
    trade.said.extend(seller.Cancelled(deletion=event) for event in cancelled.events)
    return trade


async def _do(shop: Shop, sale: Sale, actions: tuple[seller.Action, ...]) -> list[seller.Said]:
    """Do the first thing that is due."""
    match actions[0]:
        case seller.Quote():
            return [await quote_task(shop, sale)]
        case seller.Accept():
            return [seller.AcceptedFree()]
        case seller.FindSettlement():
            said = await settle(shop, sale)
            if isinstance(said, seller.Settled):
                return [await settle_task(shop, sale)]
            await asyncio.sleep(LOOK_EVERY_S)
            return [said]
        case seller.Perform():
            return [await _performed(shop, sale)]
        case seller.Deliver():
            return [await deliver_task(shop, sale)]
        case seller.SendFeedback():
            return [await tell_task(shop, sale)]


async def _performed(shop: Shop, sale: Sale) -> seller.Said:
    """Ask the venue some times before the job is given up."""
    for left in reversed(range(TRIES)):
        said = await perform_task(shop, sale)
        if isinstance(said, seller.Performed) or not said.retryable:
            return said
        if not left:
            return given_up(shop, sale, said)
        await asyncio.sleep(LOOK_EVERY_S)
    raise AssertionError("the last try returns")


async def _keep(shop: Shop, trade: Trade) -> None:
    if not trade.unkept:
        return
    record = trade.record(shop.owner, simulated=shop.wallet.simulated)
    if not await shop.book.put(record, trade.what):
        raise LedgerError(
            f"job {record.job_id[:16]} was moved on by another process: let one alone serve with this identity"
        )
    trade.version += 1
    trade.unkept.clear()
