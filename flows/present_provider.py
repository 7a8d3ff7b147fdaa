"""What the command line shows of a provider: its offer, its jobs, what they brought."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.health import SIMULATED, money, money_sentence
from flows.serve import Served
from flows.storefront import Storefront
from swarmc.contracts.errors import WalletError
from swarmc.contracts.job_book import JobRecord, JobTotal
from swarmc.contracts.market import Offer, PriceList, Sale
from swarmc.contracts.relay import RelayAnswer
from swarmc.contracts.wallet import Wallet
from swarmc.nostr.keys import npub_of

NPUB_LETTERS = 14
ID_LETTERS = 8


def present_front(console: Console, front: Storefront) -> None:
    """What is offered, once, at the start."""
    shop, offer = front.shop, front.announcement
    wallet = f"{shop.wallet.name} on {shop.wallet.network}" + (f" ({SIMULATED})" if shop.wallet.simulated else "")
    rows = (
        ("provider", shop.key.npub),
        ("offers", f"kind 5050, text generation, as {', '.join(shop.names)}"),
        ("runs on", front.sentence),
        ("price", _price(offer.prices)),
        ("wallet", wallet),
        ("relays", ", ".join(offer.relays)),
    )
    for name, value in rows:
        console.print(_plain(f"{name:9} {value}"), soft_wrap=True)


def present_move(console: Console, sale: Sale, said: str) -> None:
    """One line for what happened to a job. Nothing of what was asked or answered is shown."""
    if said in ("time_passed", "feedback_sent"):
        return
    words = f"{sale.job_id[:ID_LETTERS]}  {npub_of(sale.customer)[:NPUB_LETTERS]}  {said}"
    if said in ("quoted", "settled"):
        words += f"  {sale.amount_msats:,} msats"
    if sale.state == "failed":
        words += f"  {sale.code}: {sale.reason}"
    console.print(_plain(words + ("  REFUND DUE" if sale.refund_due else "")), soft_wrap=True)


def present_trouble(console: Console, sentence: str) -> None:
    """Something that may pass."""
    console.print(_plain(sentence), style="yellow", soft_wrap=True)


def present_served(console: Console, served: Served) -> None:
    """The end of a time of serving."""
    said = f"stopped: {served.delivered:,} jobs delivered"
    if served.unfinished:
        said += f", {served.unfinished:,} open (the next start takes them up)"
    console.print(said, highlight=False)


async def present_status(
    console: Console, npub: str, offers: Sequence[Offer], answers: Sequence[RelayAnswer], wallet: Wallet
) -> None:
    """What the world can see of a provider, and how its wallet is."""
    console.print(_plain(f"provider  {npub}"))
    for offer in offers:
        console.print(_plain(f"offer     {', '.join(offer.models)}; {_price(offer.prices)}"), soft_wrap=True)
    if not offers:
        console.print("offer     none stands on these relays: `swarmc provider start` announces it")
    for answer in answers:
        words = "answers" if answer.outcome == "accepted" else f"{answer.outcome}: {answer.reason}"
        console.print(_plain(f"relay     {answer.url} {words}"), soft_wrap=True)
    try:
        balance = f"{await wallet.balance_msats():,} msats"
    except WalletError as error:
        balance = f"away: {error}"
    mark = f" ({SIMULATED})" if wallet.simulated else ""
    console.print(_plain(f"wallet    {wallet.name} on {wallet.network}: {balance}{mark}"), soft_wrap=True)


def present_jobs(console: Console, records: Sequence[JobRecord], now_s: float) -> None:
    """One line a job."""
    if not records:
        console.print("no jobs yet; `swarmc provider start` takes them")
        return
    table = Table("job", "customer", "state", "why", box=None, pad_edge=False)
    for head in ("msats", "age"):
        table.add_column(head, justify="right")
    for record in records:
        sale = Sale.model_validate_json(record.body)
        msats = f"{record.msats:,}" + (" play" if record.simulated and record.msats else "")
        why = f"{sale.code} REFUND DUE".strip() if sale.refund_due else sale.code
        customer = npub_of(record.counterparty)[:NPUB_LETTERS]
        cells = (record.job_id[:ID_LETTERS], customer, record.state, why, msats, _age(now_s - sale.received_at))
        table.add_row(*map(_plain, cells))
    console.print(table)


def present_earnings(console: Console, totals: Sequence[JobTotal]) -> None:
    """By state, then in a sentence for each kind of money."""
    table = Table("state", "money", box=None, pad_edge=False)
    for head in ("jobs", "msats", "refunds due"):
        table.add_column(head, justify="right")
    for total in totals:
        kind = "play" if total.simulated else "real"
        table.add_row(total.state, kind, f"{total.jobs:,}", f"{total.msats:,}", f"{total.refunds_due_msats:,}")
    if totals:
        console.print(table)
    for one in money(totals):
        console.print(money_sentence(one), highlight=False, soft_wrap=True)


def _price(prices: PriceList | None) -> str:
    if prices is None:
        return "each job is quoted"
    if prices == PriceList():
        return "free"
    words = f"{prices.price_msats(0, 0):,} msats and up"
    if prices.input_msats_per_1k_tokens or prices.output_msats_per_1k_tokens:
        words += (
            f"; {prices.input_msats_per_1k_tokens:,} in and {prices.output_msats_per_1k_tokens:,} out per 1,000 tokens"
        )
    return words


def _age(seconds: float) -> str:
    for size, letter in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {letter}"
    return f"{max(seconds, 0):.0f} s"


def _plain(text: str) -> Text:
    """A stranger's text without the characters that command a terminal."""
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))
