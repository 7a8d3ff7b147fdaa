"""The step of a sale that does the work: the venue is asked, and its answer becomes the one signed result."""

import asyncio

from swarmc.compiler.scope import scoped
from swarmc.contracts.completions import Completion
from swarmc.contracts.errors import BudgetExhausted, VenueError
from swarmc.contracts.market import Job, Sale
from swarmc.nostr.generation import answer_of
from swarmc.nostr.nip90 import Unreadable, parse_job, result_note
from swarmc.nostr.seller import Performed, PerformFailed
from tasks.shop import Shop

MOST_RESULT_BYTES = 60_000
"""Of a result's text: public relays mostly take events of 64 KiB."""

TIMED_OUT = "timed_out"
_TELL = {
    TIMED_OUT: "the model did not answer in time",
    VenueError.code: "the model could not answer",
    BudgetExhausted.code: "the budget here does not allow it",
    "request": "the model does not take what the job asks for",
    "too_large": "the answer is too long for an event: ask for fewer tokens",
}
"""What everybody may read of a failure. The venue's own words are not told: they may quote the job."""


async def perform(shop: Shop, sale: Sale) -> Performed | PerformFailed:
    """Do the job and sign its result; nothing is published yet.

    Asked again after a crash, what the venue had answered is read from the ledger.

    Raises:
        LedgerError: the answer cannot be remembered. It is to be tried again.
    """
    job = parse_job(sale.request, shop.key)
    if isinstance(job, Unreadable):
        return _failed(shop, sale, job.code, job.reason)
    try:
        completion = await _asked(shop, job)
        return _signed(shop, sale, job, completion)
    except TimeoutError:
        return _failed(shop, sale, TIMED_OUT, f"no answer within {shop.job_timeout_s:g} s")
    except BudgetExhausted as error:
        return _failed(shop, sale, error.code, _own(job, str(error)))
    except VenueError as error:
        if error.retryable:
            return PerformFailed(code=error.code, reason=_own(job, str(error)), retryable=True)
        code = "request" if error.fault != "venue" else error.code
        return _failed(shop, sale, code, _own(job, str(error)))
    except ValueError as error:
        return _failed(shop, sale, "request", _own(job, str(error)))


def given_up(shop: Shop, sale: Sale, failed: PerformFailed) -> PerformFailed:
    """A failure that might pass, after it did not for too long."""
    return _failed(shop, sale, failed.code, failed.reason)


async def _asked(shop: Shop, job: Job) -> Completion:
    with scoped("serve"):
        async with asyncio.timeout(shop.job_timeout_s):
            return await shop.venue.complete(shop.asked_of(job))


def _signed(shop: Shop, sale: Sale, job: Job, completion: Completion) -> Performed | PerformFailed:
    answer = answer_of(completion)
    if len(answer.text.encode("utf-8", "replace")) > MOST_RESULT_BYTES:
        return _failed(shop, sale, "too_large", f"the answer has more than {MOST_RESULT_BYTES} bytes")
    paid = sale.invoice is not None and sale.settlement is not None
    note = result_note(
        job,
        answer,
        int(shop.now_s()),
        amount_msats=sale.amount_msats if paid else None,
        bolt11=sale.invoice.bolt11 if sale.invoice is not None and paid else None,
        key=shop.key,
    )
    return Performed(result=shop.signed(note))


def _failed(shop: Shop, sale: Sale, code: str, reason: str) -> PerformFailed:
    told = _TELL.get(code, "the job could not be done")
    return PerformFailed(
        code=code, reason=reason, retryable=False, feedback=shop.error_feedback(sale.request, code, told)
    )


def _own(job: Job, words: str) -> str:
    """What our own books say of a failure: of an encrypted job nothing that might quote it."""
    return "the venue's words are not kept: the job was encrypted" if job.encryption is not None else words[:300]
