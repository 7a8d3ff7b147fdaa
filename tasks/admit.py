"""The first step of a sale: whether a request becomes one, and at what price."""

from typing import NamedTuple

from swarmc.contracts.errors import VenueError
from swarmc.contracts.market import Job, Sale
from swarmc.contracts.relay import NostrEvent
from swarmc.nostr import admission
from swarmc.nostr.admission import Admission, Load
from swarmc.nostr.nip90 import Unreadable, parse_job
from swarmc.nostr.seller import Refused, begin
from tasks.shop import Shop


class Admitted(NamedTuple):
    """A sale that began, and what is to be said to it at once where the job is not taken."""

    sale: Sale
    refused: Refused | None = None


async def admit(shop: Shop, request: NostrEvent, load: Load) -> Admitted | None:
    """Read a request and decide. Nothing is kept, published or bought yet.

    Args:
        shop: Who is asked.
        request: A verified event, not seen before.
        load: How busy we are.

    Returns:
        Nothing for a job that is to be ignored.
    """
    return admitted(shop, request, load)


def admitted(shop: Shop, request: NostrEvent, load: Load) -> Admitted | None:
    """The same at once: a flood of requests is not worth a task each."""
    now_s = shop.now_s()
    job = parse_job(request, shop.key)
    verdict = admission.admit(job, shop.terms, load, now_s)
    if verdict.outcome == "accepted" and isinstance(job, Job):
        verdict = _doable(shop, job, verdict, load)
    if verdict.outcome == "ignored":
        return None
    sale = begin(request, now_s, verdict.amount_msats)
    if verdict.outcome == "accepted":
        return Admitted(sale)
    feedback = shop.error_feedback(request, verdict.code, _public(job, verdict), verdict.amount_msats)
    return Admitted(sale, Refused(code=verdict.code, reason=verdict.reason, feedback=feedback))


def _doable(shop: Shop, job: Job, verdict: Admission, load: Load) -> Admission:
    """The same, unless the venue cannot do this job, or not for less than it costs: known before it is quoted."""
    try:
        cost_msats = shop.venue.quote(shop.asked_of(job))
    except ValueError as error:
        code, reason = "request", str(error)
    except VenueError as error:
        code, reason = error.code, "what it would cost here cannot be told before it is done: set max_tokens"
    else:
        if cost_msats <= verdict.amount_msats:
            return verdict
        code, reason = "cost", "the job costs more to do than it would bring"
    told = shop.owner in job.providers and load.refusals_last_minute < shop.terms.max_refusals_per_minute
    return Admission(
        outcome="refused" if told else "ignored", code=code, reason=reason, amount_msats=verdict.amount_msats
    )


def _public(job: Job | Unreadable, verdict: Admission) -> str:
    """What everybody may read of why it is refused."""
    hidden = isinstance(job, Job) and job.encryption is not None and verdict.code == "request"
    return "the job holds something that is not done here" if hidden else verdict.reason
