"""Billing: from a run's account to its bill, and what a person is told of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from swarmc.contracts.bill import Bill, BillLine
from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Lane, Stage
from swarmc.contracts.money import Account, AccountLine, Tally
from swarmc.contracts.spec import CompileSpec

PERCENT_PPM = PPM // 100
SMALLEST_DIGITS = 2
"""Digits that are shown of an amount below a dollar."""

Charge = Callable[[int, int, int], int | None]
"""From prompt tokens, completion tokens and calls to their price in msats; `None` where it is not known."""
Play = Mapping[tuple[Stage, Lane], int]
"""By stage and lane, msats that were paid in play money."""


def unknown(prompt_tokens: int, completion_tokens: int, calls: int) -> int | None:  # noqa: ARG001 - a `Charge`
    """The price of a lane that cannot say it."""
    return None


@dataclass(frozen=True)
class Terms:
    """What a bill is written by.

    Attributes:
        msats_per_usd: The rate for dollars.
        reference: The lane that is compared with.
        charge: What that lane charges.
    """

    msats_per_usd: int
    reference: Lane | None = None
    charge: Charge = unknown


def reference_of(job: CompileSpec) -> Lane | None:
    """The lane of the best answers: `premium`, else `validation` where it is another than `swarm`; or none."""
    if "premium" in job.lanes:
        return "premium"
    return "validation" if job.differs("validation") else None


def bill_of(account: Account, terms: Terms, play: Play | None = None) -> Bill:
    """The bill of an account.

    Args:
        account: What the run bought.
        terms: The rate, and the lane that is compared with.
        play: What of it was play money.
    """
    mean = account.by_lane().get(terms.reference, Tally()) if terms.reference else Tally()
    lines = tuple(_line(line, terms, mean, play or {}) for line in account.lines)
    return Bill(run_id=account.run_id, reference=terms.reference, msats_per_usd=terms.msats_per_usd, lines=lines)


def dollars(msats: int, msats_per_usd: int) -> str:
    """The amount as a person reads it: cents, or two digits of what is less than one.

    >>> dollars(1_234_567, 1_000_000), dollars(4_321, 1_000_000), dollars(0, 1_000_000)
    ('$1.23', '$0.0043', '$0')
    """
    amount = Decimal(msats) / msats_per_usd
    if not amount:
        return "$0"
    return f"${amount:,.{max(2, SMALLEST_DIGITS - 1 - amount.adjusted())}f}"


def headings(bill: Bill) -> tuple[str, ...]:
    """Of the columns that `rows` fills."""
    paid = ("stage", "lane", "msats", "dollars")
    return (*paid, f"on {bill.reference}, msats", "dollars") if bill.reference else paid


def rows(bill: Bill) -> list[list[str]]:
    """A row per stage and lane, and their sum."""
    found = []
    for line in bill.lines:
        found.append([line.stage, line.lane, *_paid(bill, line.msats, line.simulated_msats)])
        play = bill.premium_simulated and (line.estimated or line.lane == bill.reference)
        found[-1] += _compared(bill, line.premium_msats, estimated=line.estimated, play=play)
    total = ["all", "", *_paid(bill, bill.msats, bill.simulated_msats)]
    whole = _compared(bill, bill.premium_msats, estimated=bill.estimated, play=bill.premium_simulated)
    return [*found, total + whole]


def sentences(bill: Bill) -> Iterator[str]:
    """What the numbers mean: the saving, and what they are made of."""
    if bill.simulated_msats or bill.premium_simulated:
        yield f"SIMULATED: {bill.simulated_msats:,} of {bill.msats:,} msats were paid in play money"
    if (premium := bill.premium_msats) is not None:
        told = f"the same {bill.calls:,} calls on lane {bill.reference} alone: {premium:,} msats"
        yield f"{told} ({dollars(premium, bill.msats_per_usd)}){_saved(bill)}"
    elif bill.reference is not None:
        yield f"what lane {bill.reference} would have cost is not known: it says no price, and no call was made there"
    if bill.estimated:
        yield f"estimated: by what a token of lane {bill.reference} cost on average in this run"
    if bill.reused:
        yield f"{bill.reused:,} calls were paid for by earlier runs and are in neither sum"
    if bill.lost:
        compared = f"; what is lost in other lanes is in no price of lane {bill.reference}" if bill.reference else ""
        yield f"{bill.lost:,} calls were lost and count at the most they can have cost{compared}"
    yield f"1 dollar is {bill.msats_per_usd:,} msats"


def _line(line: AccountLine, terms: Terms, mean: Tally, play: Play) -> BillLine:
    tally = line.tally
    premium, estimated = _premium(line, terms, mean)
    return BillLine(
        stage=line.stage,
        lane=line.lane,
        calls=tally.calls,
        reused=tally.reused,
        lost=tally.lost,
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        msats=tally.msats + tally.lost_msats,
        simulated_msats=play.get((line.stage, line.lane), 0),
        premium_msats=premium,
        estimated=estimated,
    )


def _premium(line: AccountLine, terms: Terms, mean: Tally) -> tuple[int | None, bool]:
    """What the line's calls cost on the reference lane, and whether that is an estimate."""
    tally = line.tally
    if terms.reference is None:
        return None, False
    if line.lane == terms.reference:
        return tally.msats + tally.lost_msats, False
    if not tally.calls:
        return 0, False
    price = terms.charge(tally.prompt_tokens, tally.completion_tokens, tally.calls)
    if price is not None:
        return price, False
    return (None, False) if not mean.calls else (_at_mean(tally, mean), True)


def _at_mean(tally: Tally, mean: Tally) -> int:
    """By the mean price of a token of either kind, or of a call where none were counted; rounded up.

    Sums alone do not tell what prompt tokens cost from what completion tokens do.
    """
    known = mean.prompt_tokens + mean.completion_tokens
    if known:
        return -(-mean.msats * (tally.prompt_tokens + tally.completion_tokens) // known)
    return -(-mean.msats * tally.calls // mean.calls)


def _paid(bill: Bill, msats: int, simulated_msats: int) -> list[str]:
    mark = " SIMULATED" if simulated_msats else ""
    return [f"{msats:,}{mark}", dollars(msats, bill.msats_per_usd) + mark]


def _compared(bill: Bill, msats: int | None, *, estimated: bool, play: bool) -> list[str]:
    if bill.reference is None:
        return []
    if msats is None:
        return ["not known", ""]
    mark = (" SIMULATED" if play else "") + (" estimated" if estimated else "")
    return [f"{msats:,}{mark}", dollars(msats, bill.msats_per_usd) + mark]


def _saved(bill: Bill) -> str:
    ratio = bill.saving_ppm
    if ratio is None:
        return ""
    return f", so {abs(ratio) / PERCENT_PPM:.1f} % {'was saved' if ratio >= 0 else 'more was paid'}"
