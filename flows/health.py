"""How a provider is: its relays, its wallet, its jobs, what it earned and owes; as a report, and as rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.trades import Pulse
from swarmc.contracts.errors import WalletError
from swarmc.contracts.job_book import JobTotal
from swarmc.contracts.relay import RelayHealth
from swarmc.nostr.keys import npub_of
from tasks.shop import Shop

SIMULATED = "SIMULATED, worth nothing"


@dataclass(frozen=True, slots=True)
class Money:
    """Of settled jobs, each counted once.

    Attributes:
        earned_msats: What came in, less what is to be given back.
        refunds_due: Jobs that were paid for and not done.
    """

    simulated: bool
    earned_msats: int
    jobs: int
    refunds_due: int
    refunds_due_msats: int


@dataclass(frozen=True, slots=True)
class Health:
    """A provider at one moment."""

    npub: str
    relays: tuple[RelayHealth, ...]
    wallet: str
    balance: str
    totals: tuple[JobTotal, ...]
    open_states: dict[str, int]
    problems: dict[str, int]
    ignored: int
    per_minute: int
    median_ms: int | None
    p95_ms: int | None

    @property
    def connected(self) -> int:
        return sum(relay.connected for relay in self.relays)

    @property
    def sentence(self) -> str:
        """One line for a log."""
        open_jobs = sum(self.open_states.values())
        earned = "; ".join(map(money_sentence, money(self.totals)))
        took = "" if self.median_ms is None else f", {self.median_ms} ms each"
        return (
            f"{self.connected} of {len(self.relays)} relays, {open_jobs} open jobs, "
            f"{self.per_minute} delivered in the last minute{took}; {earned}"
        )

    def markdown(self) -> str:
        """The report of the run's page."""
        lines = ["| what | how |", "|---|---|", f"| provider | `{self.npub}` |"]
        lines += [f"| relay {_cell(one.url)} | {_relay_words(one)} |" for one in self.relays]
        lines += [f"| wallet {self.wallet} | {self.balance} |"]
        lines += [f"| jobs {total.state} | {total.jobs:,} |" for total in self.totals]
        lines += [f"| earnings | {money_sentence(one)} |" for one in money(self.totals)]
        lines += [f"| open now: {state} | {count:,} |" for state, count in self.open_states.items() if count]
        lines.append(f"| delivered in the last minute | {self.per_minute:,} |")
        if self.median_ms is not None:
            lines.append(f"| from request to result | {self.median_ms:,} ms (95 % within {self.p95_ms:,} ms) |")
        lines.append(f"| ignored requests | {self.ignored:,} |")
        lines += [f"| trouble with {_cell(what)} | {count:,} times |" for what, count in self.problems.items()]
        return "\n".join(lines) + "\n"


async def health_of(shop: Shop, pulse: Pulse, now_s: float) -> Health:
    """Ask everything how it is. A wallet that is away is said to be.

    Raises:
        LedgerError: the job book cannot be read.
    """
    try:
        msats = await shop.wallet.balance_msats()
        balance = f"{msats:,} msats" + (f" ({SIMULATED})" if shop.wallet.simulated else "")
    except WalletError as error:
        balance = f"away: {_cell(str(error))[:120]}"
    return Health(
        npub=npub_of(shop.owner),
        relays=shop.relay.health,
        wallet=f"{shop.wallet.name}, {shop.wallet.network}",
        balance=balance,
        totals=await shop.book.totals("sold", shop.owner),
        open_states={state: count for state, count in sorted(pulse.states.items()) if count},
        problems=dict(pulse.problems),
        ignored=pulse.ignored,
        per_minute=pulse.per_minute(now_s),
        median_ms=pulse.took_ms(0.5),
        p95_ms=pulse.took_ms(0.95),
    )


def money(totals: Sequence[JobTotal]) -> tuple[Money, ...]:
    """Earnings by kind of money, play money apart; at least one line."""
    kinds = sorted({total.simulated for total in totals}) or [False]
    return tuple(_money([total for total in totals if total.simulated == kind], simulated=kind) for kind in kinds)


def money_sentence(one: Money) -> str:
    """What was earned, in words."""
    said = f"earned {one.earned_msats:,} msats by {one.jobs:,} jobs"
    if one.refunds_due:
        said += f"; to be refunded: {one.refunds_due_msats:,} msats of {one.refunds_due:,} jobs"
    return f"{said} ({SIMULATED})" if one.simulated else said


def _money(totals: Sequence[JobTotal], *, simulated: bool) -> Money:
    due_msats = sum(total.refunds_due_msats for total in totals)
    return Money(
        simulated=simulated,
        earned_msats=sum(total.msats for total in totals) - due_msats,
        jobs=sum(total.jobs for total in totals if total.state == "delivered"),
        refunds_due=sum(total.refunds_due for total in totals),
        refunds_due_msats=due_msats,
    )


def _relay_words(one: RelayHealth) -> str:
    words = f"{'connected' if one.connected else 'not connected'}, took {one.accepted:,}, refused {one.refused:,}"
    if one.latency_ms is not None:
        words += f", {one.latency_ms} ms"
    return words if one.connected or not one.last_reason else f"{words}: {_cell(one.last_reason)[:120]}"


def _cell(text: str) -> str:
    """A stranger's words, so that they stay in their cell."""
    return "".join(letter if letter.isprintable() and letter not in "|<>`[]" else " " for letter in text)
