"""What must hold after a market's processes were killed: every book is read, every job and msat is accounted for."""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.market_victims import RESULT, RUN, START_MSATS, World, asked
from blocks.ledger import SqlLedger
from blocks.ledger.job_book import SqlJobBook
from blocks.relays.pool import RelayPool
from blocks.wallets.ledger_audit import audited
from swarmc.contracts.errors import RelayError, WalletError
from swarmc.contracts.job_book import JobRecord, Side
from swarmc.contracts.market import Purchase, Sale
from swarmc.contracts.money import Receipt, Tally
from swarmc.contracts.relay import Filter

_PAYMENTS = """
SELECT payment_hash, amount_msats, payer.name, payee.name FROM payments
JOIN invoices ON invoices.id = payments.invoice
JOIN accounts payer ON payer.id = payments.payer JOIN accounts payee ON payee.id = invoices.payee
"""
JOBS_AT_ONCE = 50


class Payment(NamedTuple):
    """A row of the wallets' file."""

    payment_hash: str
    amount_msats: int
    payer: str
    payee: str


class Fault(NamedTuple):
    """Something that does not hold, of a job where it is about one."""

    sentence: str
    job_id: str = ""


@dataclass
class Books:
    """All that both sides, the wallets and the relays know.

    Attributes:
        results: Ids of the result events seen for a job.
        last: Number of the last request.
        said: What the buyer said of its last run, from the first request to the last.
    """

    purchases: dict[str, Purchase]
    purchased: dict[str, JobRecord]
    sales: dict[str, Sale]
    sold: dict[str, JobRecord]
    payments: list[Payment]
    balances: dict[str, int]
    receipts: list[Receipt]
    total: Tally
    budget_msats: int
    results: dict[str, set[str]]
    last: int
    said: dict[str, int]
    damage: str = ""
    by_key: dict[str, list[Purchase]] = field(default_factory=dict)
    paid_hashes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for purchase in self.purchases.values():
            self.by_key.setdefault(purchase.order.key, []).append(purchase)
        self.paid_hashes = {payment.payment_hash for payment in self.payments}


async def read_books(world: World) -> Books:
    """Read everything, when all processes but the relays are at their end."""
    async with SqlJobBook.open(world.book_url("buyer")) as book:
        bought = await book.recent("bought", world.keys["buyer"].pubkey, limit=10**7)
    async with SqlJobBook.open(world.book_url("seller")) as book:
        sold = await book.recent("sold", world.keys["seller"].pubkey, limit=10**7)
    async with SqlLedger.open(world.book_url("buyer")) as ledger:
        receipts = [receipt async for receipt in ledger.receipts(RUN)]
        total = (await ledger.account(RUN)).total
    payments, balances, damage = _wallets(world.folder / "wallet.db")
    return Books(
        purchases={record.job_id: Purchase.model_validate_json(record.body) for record in bought},
        purchased={record.job_id: record for record in bought},
        sales={record.job_id: Sale.model_validate_json(record.body) for record in sold},
        sold={record.job_id: record for record in sold},
        payments=payments,
        balances=balances,
        receipts=receipts,
        total=total,
        budget_msats=world.budget_msats,
        results=await _results(world, [record.job_id for record in bought]),
        last=int(world.last.read_text()),
        said=json.loads((world.folder / "said.json").read_text()),
        damage=damage,
    )


def _wallets(path: Path) -> tuple[list[Payment], dict[str, int], str]:
    damage = ""
    try:
        audited(path)
    except WalletError as error:
        damage = str(error)
    with closing(sqlite3.connect(path)) as database:
        payments = [Payment(*row) for row in database.execute(_PAYMENTS)]
        balances = dict(database.execute("SELECT name, balance_msats FROM accounts"))
    return payments, balances, damage


async def _results(world: World, job_ids: list[str]) -> dict[str, set[str]]:
    """Every result that a relay has now, or ever gave to the witness."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for line in world.results.read_text().splitlines():
        job_id, _, event_id = line.partition(" ")
        found[job_id].add(event_id)
    async with RelayPool(world.relays, timeout_s=20.0) as relays:
        for start in range(0, len(job_ids), JOBS_AT_ONCE):
            wanted = Filter(kinds=(RESULT,), tags={"e": tuple(job_ids[start : start + JOBS_AT_ONCE])})
            try:
                fetched = await relays.fetch([wanted], limit=500)
            except RelayError as error:
                raise SystemExit(f"the relays cannot be asked for the results: {error}") from error
            for event in fetched.events:
                for job_id in event.values("e"):
                    found[job_id].add(event.id)
    return found


# What must hold. Each yields what does not.


def one_payment_a_hash(books: Books) -> Iterator[Fault]:
    """no invoice is paid twice"""
    for payment_hash, times in Counter(payment.payment_hash for payment in books.payments).items():
        if times > 1:
            yield Fault(f"{payment_hash} was paid {times} times")
    hashes = Counter(purchase.invoice.payment_hash for purchase in books.purchases.values() if purchase.invoice)
    yield from (Fault(f"{name} is the invoice of {times} jobs") for name, times in hashes.items() if times > 1)


def one_payment_a_request(books: Books) -> Iterator[Fault]:
    """no request is paid twice, but where the earlier payment is due back"""
    for purchases in books.by_key.values():
        kept = [one for one in purchases if _was_paid(books, one) and not one.refund_due]
        for purchase in kept[1:]:
            yield Fault(f"it was paid, and so was {kept[0].job_id} for the same request", purchase.job_id)


def every_payment_is_known(books: Books) -> Iterator[Fault]:
    """every payment of the wallet is in the buyer's book, over the same msats"""
    by_hash = {one.invoice.payment_hash: one for one in books.purchases.values() if one.invoice}
    for payment in books.payments:
        purchase = by_hash.get(payment.payment_hash)
        if purchase is None:
            yield Fault(f"the payment {payment} belongs to no job")
        elif purchase.paid_msats != payment.amount_msats:
            yield Fault(f"{payment.amount_msats} msats were paid, the book says {purchase.paid_msats}", purchase.job_id)


def paid_is_answered_or_due(books: Books) -> Iterator[Fault]:
    """every paid job is answered, or flagged as due back"""
    for job_id, purchase in books.purchases.items():
        if _was_paid(books, purchase) and purchase.state != "answered" and not purchase.refund_due:
            yield Fault(f"it was paid and is {purchase.state}", job_id)
        if not purchase.final:
            yield Fault(f"it was left {purchase.state}", job_id)


def one_result_a_job(books: Books) -> Iterator[Fault]:
    """no job has two results"""
    for job_id, events in books.results.items():
        if len(events) > 1:
            yield Fault(f"results {', '.join(sorted(events))} were published", job_id)
        sale = books.sales.get(job_id)
        if sale is None or sale.result is None or sale.result.id not in events:
            yield Fault(f"a result was published that is not the one in the seller's book: {sorted(events)}", job_id)


def delivered_is_published(books: Books) -> Iterator[Fault]:
    """every delivered result was seen on a relay"""
    for job_id, sale in books.sales.items():
        if sale.state == "delivered" and not books.results.get(job_id):
            yield Fault("the seller's book says that it was delivered", job_id)


def paid_is_earned(books: Books) -> Iterator[Fault]:
    """what the buyer paid for a job is what the seller earned by it"""
    for job_id in books.purchases.keys() | books.sales.keys():
        purchase, sale = books.purchases.get(job_id), books.sales.get(job_id)
        paid, earned = purchase.paid_msats if purchase else 0, sale.earned_msats if sale else 0
        if paid != earned:
            yield Fault(f"the buyer paid {paid} msats, the seller earned {earned}", job_id)


def paid_for_is_done(books: Books) -> Iterator[Fault]:
    """every job that the seller was paid for is delivered, or flagged as due back"""
    for job_id, sale in books.sales.items():
        if sale.earned_msats and sale.state != "delivered" and not sale.refund_due:
            yield Fault(f"{sale.earned_msats} msats came in and it is {sale.state} {sale.code}", job_id)


def sums_agree(books: Books) -> Iterator[Fault]:
    """buyer's book, seller's book and both balances agree to the msat"""
    paid = sum(record.msats for record in books.purchased.values())
    earned = sum(record.msats for record in books.sold.values())
    moved = START_MSATS - books.balances.get("buyer", 0), books.balances.get("seller", 0)
    if not paid == earned == moved[0] == moved[1]:
        yield Fault(f"paid {paid}, earned {earned}, left the buyer {moved[0]}, reached the seller {moved[1]} msats")
    if books.damage:
        yield Fault(books.damage)


def settled_is_used(books: Books) -> Iterator[Fault]:
    """the run settled each answer once, at what it was paid with"""
    times = Counter(receipt.request_id for receipt in books.receipts)
    for receipt in books.receipts:
        used = [one for one in books.by_key.get(receipt.request_id, []) if one.state == "answered"]
        costs = [one.paid_msats for one in used]
        if times[receipt.request_id] > 1 or receipt.usage.cost_msats not in costs:
            job_id = used[0].job_id if used else ""
            yield Fault(f"settled {times[receipt.request_id]} times, at {receipt.usage.cost_msats} of {costs}", job_id)
        if len(used) > 1:
            yield Fault(f"{len(used)} jobs were answered for one request", used[1].job_id)
    settled = sum(receipt.usage.cost_msats for receipt in books.receipts)
    if settled != books.total.msats or (books.said["whole"] and books.said["msats"] != settled):
        yield Fault(f"receipts say {settled} msats, the account {books.total.msats}, the answers {books.said['msats']}")


def budget_holds(books: Books) -> Iterator[Fault]:
    """the budget holds, and what was paid and not settled is counted as lost"""
    spent = books.total.msats + books.total.lost_msats
    if spent > books.budget_msats:
        yield Fault(f"{spent} msats are settled or lost, of a budget of {books.budget_msats}")
    paid = sum(payment.amount_msats for payment in books.payments)
    if paid > spent:
        yield Fault(f"{paid} msats were paid, {spent} are settled or lost")
    if books.total.reserved:
        yield Fault(f"{books.total.reserved} reservations are left")


def everything_is_answered(books: Books) -> Iterator[Fault]:
    """every request is answered, and asked again it is free"""
    settled = {receipt.request_id for receipt in books.receipts}
    for number in range(books.last + 1):
        key = asked(number).request_id
        if key not in settled:
            jobs = books.by_key.get(key, [])
            yield Fault(f"request {number} has no answer in {len(jobs)} jobs", jobs[-1].job_id if jobs else "")
    if books.said["answered"] != books.last + 1 or (books.said["whole"] and books.said["bought"]):
        yield Fault(f"asked again, {books.said['answered']} are answered and {books.said['bought']} were bought")


def _was_paid(books: Books, purchase: Purchase) -> bool:
    known = purchase.invoice is not None and purchase.invoice.payment_hash in books.paid_hashes
    return known or purchase.paid_msats > 0


Check = Callable[[Books], Iterator[Fault]]
CHECKS: tuple[Check, ...] = (
    one_payment_a_hash,
    one_payment_a_request,
    every_payment_is_known,
    paid_is_answered_or_due,
    one_result_a_job,
    delivered_is_published,
    paid_is_earned,
    paid_for_is_done,
    sums_agree,
    settled_is_used,
    budget_holds,
    everything_is_answered,
)


async def history_of(world: World, job_id: str) -> list[str]:
    """What both sides wrote down of a job, in the order it happened."""
    lines: list[tuple[int, str]] = []
    sides: tuple[tuple[Side, str], ...] = (("bought", "buyer"), ("sold", "seller"))
    for side, owner in sides:
        async with SqlJobBook.open(world.book_url(owner)) as book:
            moves = await book.history(side, world.keys[owner].pubkey, job_id)
            record = await book.get(side, world.keys[owner].pubkey, job_id)
        lines += [(move.at_us, f"{move.at_us / 1e6:.3f} {owner} {move.version} {move.what[:400]}") for move in moves]
        if record is not None:
            lines.append((2**62, f"now: {owner} {record.state} {record.msats} msats, refund_due {record.refund_due}"))
    return [line for _, line in sorted(lines)]
