"""Which jobs a seller takes: for us, fresh, readable, of a kind and size that is done here, and paid enough."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from swarmc.contracts.canonical import Contract
from swarmc.contracts.market import TEXT_GENERATION, Encryption, Job, PriceList
from swarmc.contracts.relay import Hex64, Kind
from swarmc.contracts.wallet import Msats
from swarmc.nostr.generation import price_of
from swarmc.nostr.invoices import MAX_MSATS
from swarmc.nostr.nip90 import Unreadable


class Terms(Contract):
    """On which terms a seller takes jobs.

    Attributes:
        provider: Our public key.
        require_payment: Otherwise every job is free.
        open_jobs: Jobs that name no provider are taken too.
        unit_msats: The smallest amount that the wallet can ask for: prices are rounded up to it.
        input_types: Types of inputs that are read.
        max_open: Sales that are not over, of everybody.
        max_open_per_customer: The same of one key.
        max_unpaid: Quotes that are open, of everybody.
        max_quotes_per_minute: Invoices made, for everybody.
        max_refusals_per_minute: Refusals told; beyond it, silence.
    """

    provider: Hex64
    kinds: tuple[Kind, ...] = (TEXT_GENERATION,)
    prices: PriceList = PriceList()
    require_payment: bool = True
    unit_msats: int = Field(default=1, ge=1)
    encryption: tuple[Encryption, ...] = ("nip44", "nip04")
    open_jobs: bool = True
    input_types: tuple[str, ...] = ("text",)
    max_input_bytes: int = 262_144
    max_age_s: int = 3_600
    max_future_s: int = 600
    quote_expiry_s: int = 600
    max_open: int = 1_000
    max_open_per_customer: int = 64
    max_unpaid: int = 500
    max_quotes_per_minute: int = 12_000
    max_refusals_per_minute: int = 600


class Load(Contract):
    """How busy the seller is: sales that are not over, and what was done in the last minute."""

    open: int = 0
    open_of_customer: int = 0
    unpaid: int = 0
    quotes_last_minute: int = 0
    refusals_last_minute: int = 0


class Admission(Contract):
    """Whether a job is taken. An ignored one is not answered; a refused one gets `error` feedback.

    Attributes:
        code: Stable word of a refusal.
        amount_msats: What it costs, also when it is refused for its bid; 0 when it is free.
    """

    outcome: Literal["accepted", "refused", "ignored"]
    code: str = ""
    reason: str = ""
    amount_msats: Msats = 0


def admit(job: Job | Unreadable, terms: Terms, load: Load, now_s: float) -> Admission:
    """Whether a job is taken and for how much. Pure; a job that was seen before, by its id, is the caller's to know.

    Only who addressed us is told of a refusal, and not without end. What is not for us, is old or is void is ignored.
    """
    addressees = job.addressees if isinstance(job, Unreadable) else job.providers
    addressed = terms.provider in addressees
    if not addressed and (addressees or not terms.open_jobs):
        return Admission(outcome="ignored", code="not_ours", reason="the job is for another provider")
    if job.created_at < now_s - terms.max_age_s:
        return Admission(outcome="ignored", code="stale", reason=f"the job is older than {terms.max_age_s} s")
    if isinstance(job, Unreadable):
        verdict = Admission(outcome="refused", code=job.code, reason=job.reason)
    elif job.expires_at is not None and job.expires_at <= now_s:
        return Admission(outcome="ignored", code="expired", reason="the job is void by its own expiration")
    else:
        verdict = _verdict(job, terms, load, now_s)
    told = addressed and load.refusals_last_minute < terms.max_refusals_per_minute
    return verdict if verdict.outcome == "accepted" or told else verdict.model_copy(update={"outcome": "ignored"})


def _verdict(job: Job, terms: Terms, load: Load, now_s: float) -> Admission:
    """Of a job that is ours to judge."""
    amount_msats = _price(job, terms)
    input_bytes = sum(len(text) for text in _texts(job))
    refusals = (
        (job.created_at > now_s + terms.max_future_s, "future", "the job was made in the future: set your clock"),
        (job.kind not in terms.kinds, "kind", f"jobs of kind {job.kind} are not done here"),
        (
            job.encryption is not None and job.encryption not in terms.encryption,
            "encryption",
            f"jobs encrypted by {job.encryption} are not read here",
        ),
        (
            any(given.type not in terms.input_types for given in job.inputs),
            "input_type",
            f"inputs are read here when their type is {', '.join(terms.input_types)}",
        ),
        (
            input_bytes > terms.max_input_bytes,
            "too_large",
            f"the job has {input_bytes} bytes of input; at most {terms.max_input_bytes} are read",
        ),
        (_is_busy(load, terms, paid=amount_msats > 0), "busy", "too many jobs are under way: try again later"),
        (
            job.bid_msats is not None and job.bid_msats < amount_msats,
            "bid",
            f"the job costs {amount_msats} msats, its bid is {job.bid_msats}",
        ),
    )
    for refuses, code, reason in refusals:
        if refuses:
            return Admission(outcome="refused", code=code, reason=reason, amount_msats=amount_msats)
    return Admission(outcome="accepted", amount_msats=amount_msats)


def _price(job: Job, terms: Terms) -> int:
    """Rounded up to what the wallet can ask for, so that an invoice is never over nothing."""
    if not terms.require_payment:
        return 0
    units = -(-price_of(terms.prices, job) // terms.unit_msats)
    return min(units * terms.unit_msats, MAX_MSATS)


def _texts(job: Job) -> Iterator[bytes]:
    for given in job.inputs:
        yield given.data.encode("utf-8", "replace")
    for name, value in job.params:
        yield (name + value).encode("utf-8", "replace")


def _is_busy(load: Load, terms: Terms, *, paid: bool) -> bool:
    if load.open >= terms.max_open or load.open_of_customer >= terms.max_open_per_customer:
        return True
    return paid and (load.unpaid >= terms.max_unpaid or load.quotes_last_minute >= terms.max_quotes_per_minute)
