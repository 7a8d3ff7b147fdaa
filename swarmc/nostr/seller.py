"""The seller of a job as a state machine: what was said moves the sale, what is due follows from its state alone.

The shell: `parse_job`, then `admit` (see `swarmc.nostr.admission`). Ignored jobs leave no trace; of a refused one the
sale is first kept after `step(begin(...), Refused(...))`; of an accepted one after
`begin(request, now_s, admission.amount_msats)`. Then it loops: carry out what is `due` (what is under way is not
started again), `step` with what happened, keep, and so on. What came in for the invoice of a sale that is over is
said too (`Settled`): it becomes a refund that is due.
"""

from typing import Annotated, Literal

from pydantic import Field

from swarmc.contracts.canonical import Contract
from swarmc.contracts.market import RESULT_OFFSET, Sale, SaleFailure
from swarmc.contracts.relay import Hex64, NostrEvent
from swarmc.contracts.wallet import Invoice, Msats, Settlement
from swarmc.nostr.nip09 import deletes

GRACE_S = 60
"""So long after an invoice expired its sale waits: a payment may have been on its way."""

QUOTE_WITHIN_S = 3_600
"""So long a wallet that is away is waited for."""

DONE_WITHIN_S = 86_400
"""So long a job that is to be done stays open."""

CANCELLED = "cancelled"
_FAILURE_OF_CODE: dict[str, SaleFailure] = {"late": "expired", CANCELLED: "cancelled"}


class Refused(Contract):
    """The job is not taken. `feedback` is the signed refusal, where one is told."""

    said: Literal["refused"] = "refused"
    code: str
    reason: str
    feedback: NostrEvent | None = None


class Quoted(Contract):
    """The wallet made an invoice; `feedback` is the signed `payment-required` with it, not yet published."""

    said: Literal["quoted"] = "quoted"
    invoice: Invoice
    amount_msats: Msats
    feedback: NostrEvent


class AcceptedFree(Contract):
    """A job that costs nothing begins."""

    said: Literal["accepted_free"] = "accepted_free"


class Settled(Contract):
    """The wallet found what came in for our invoice.

    Attributes:
        feedback: The signed `error`, where `unfit_settlement` says that it does not start the job.
    """

    said: Literal["settled"] = "settled"
    settlement: Settlement
    feedback: NostrEvent | None = None


class Performed(Contract):
    """The work is done; `result` is the signed result event, not yet published."""

    said: Literal["performed"] = "performed"
    result: NostrEvent


class PerformFailed(Contract):
    """The work failed. If `retryable` it stays to be done; otherwise `feedback` is the signed `error`.

    Attributes:
        code: `timed_out` when it took too long.
    """

    said: Literal["perform_failed"] = "perform_failed"
    code: str
    reason: str
    retryable: bool
    feedback: NostrEvent | None = None


class Delivered(Contract):
    """So many relays took the result."""

    said: Literal["delivered"] = "delivered"
    accepted: int = Field(ge=1)


class FeedbackSent(Contract):
    """The relays took this feedback event."""

    said: Literal["feedback_sent"] = "feedback_sent"
    event_id: Hex64


class Cancelled(Contract):
    """Somebody published a deletion (kind 5)."""

    said: Literal["cancelled"] = "cancelled"
    deletion: NostrEvent


class TimePassed(Contract):
    """Nothing happened, but it is later."""

    said: Literal["time_passed"] = "time_passed"


Said = Annotated[
    Refused
    | Quoted
    | AcceptedFree
    | Settled
    | Performed
    | PerformFailed
    | Delivered
    | FeedbackSent
    | Cancelled
    | TimePassed,
    Field(discriminator="said"),
]


class Quote(Contract):
    """Make an invoice over this and sign `payment-required`; say `Quoted`. Wallet down: try again later."""

    action: Literal["quote"] = "quote"
    amount_msats: Msats


class Accept(Contract):
    """It is free: say `AcceptedFree`."""

    action: Literal["accept"] = "accept"


class Perform(Contract):
    """Do the work and sign its result; say `Performed` or `PerformFailed`."""

    action: Literal["perform"] = "perform"


class Deliver(Contract):
    """Publish this result until relays take it; say `Delivered`."""

    action: Literal["deliver"] = "deliver"
    result: NostrEvent


class SendFeedback(Contract):
    """Publish this feedback; say `FeedbackSent`."""

    action: Literal["feedback"] = "feedback"
    feedback: NostrEvent


class FindSettlement(Contract):
    """Ask the wallet, now and when it hints; say `Settled` if money came in, else `TimePassed`."""

    action: Literal["find_settlement"] = "find_settlement"
    payment_hash: Hex64


Action = Quote | Accept | Perform | Deliver | SendFeedback | FindSettlement


def begin(request: NostrEvent, now_s: float, amount_msats: int = 0) -> Sale:
    """A sale that is received, over so much; free when that is 0."""
    return Sale(request=request, received_at=int(now_s), amount_msats=amount_msats)


def step(sale: Sale, said: Said, now_s: float) -> Sale:
    """The sale after this was said. Total: anything may be said in any state, and nothing raises.

    What was said once does nothing when it is said again.
    """
    match said:
        case Settled():
            return _settled(sale, said)
        case FeedbackSent():
            sent = sale.feedback is not None and sale.feedback.id == said.event_id
            return sale.model_copy(update={"feedback": None}) if sent else sale
        case Cancelled():
            return _cancelled(sale) if deletes(said.deletion, sale.request) else sale
        case TimePassed():
            return _later(sale, now_s)
    match sale.state:
        case "received":
            return _admitted(sale, said)
        case "accepted":
            return _worked(sale, said)
        case "performed" if isinstance(said, Delivered):
            return sale.model_copy(update={"state": "delivered", "feedback": None})
    return sale


def due(sale: Sale, now_s: float) -> tuple[Action, ...]:  # noqa: ARG001 - a shell gives both machines the time.
    """What is to be done, in this order; the same after a crash."""
    telling = () if sale.feedback is None else (SendFeedback(feedback=sale.feedback),)
    match sale.state:
        case "received":
            return (Quote(amount_msats=sale.amount_msats),) if sale.amount_msats else (Accept(),)
        case "quoted" if sale.invoice is not None:
            return (*telling, FindSettlement(payment_hash=sale.invoice.payment_hash))
        case "accepted":
            return (*telling, Perform())
        case "performed" if sale.result is not None:
            return (*telling, Deliver(result=sale.result))
    return telling


def unfit_settlement(sale: Sale, settlement: Settlement) -> tuple[str, str] | None:
    """Code and sentence of why this money does not start the job: too little, too late, or cancelled."""
    invoice = sale.invoice
    if sale.state != "quoted" or invoice is None:
        return "late", "money came in for a job that was over"
    if sale.code == CANCELLED:
        return CANCELLED, "money came in for a job that its customer had cancelled"
    if settlement.settled_at > invoice.expires_at:
        return "late", "money came in after the invoice had expired"
    if settlement.amount_msats < sale.amount_msats:
        return "underpaid", f"{settlement.amount_msats} msats came in, {sale.amount_msats} were quoted"
    return None


def _admitted(sale: Sale, said: Said) -> Sale:
    match said:
        case Quoted():
            return _quoted(sale, said)
        case AcceptedFree() if sale.amount_msats == 0:
            return sale.model_copy(update={"state": "accepted"})
        case Refused():
            return _failed(sale, "rejected", said.code, said.reason, said.feedback)
    return sale


def _worked(sale: Sale, said: Said) -> Sale:
    match said:
        case Performed() if _is_result(sale, said.result):
            return sale.model_copy(update={"state": "performed", "result": said.result, "code": "", "reason": ""})
        case PerformFailed():
            return _unperformed(sale, said)
    return sale


def _quoted(sale: Sale, said: Quoted) -> Sale:
    invoice, feedback = said.invoice, said.feedback
    told = next((tag[1:3] for tag in feedback.tags if tag[:1] == ("amount",)), ())
    agreed = said.amount_msats > 0 and invoice.amount_msats == said.amount_msats
    if not agreed or told != (str(said.amount_msats), invoice.bolt11) or sale.job_id not in feedback.values("e"):
        reason = "a quote was dropped: its invoice, its amount and what was to be told of them differ"
        return sale.model_copy(update={"code": "bad_quote", "reason": reason})
    update = {"state": "quoted", "invoice": invoice, "amount_msats": said.amount_msats, "feedback": feedback}
    return sale.model_copy(update={**update, "code": "", "reason": ""})


def _settled(sale: Sale, said: Settled) -> Sale:
    settlement = said.settlement
    if sale.invoice is None or sale.invoice.payment_hash != settlement.payment_hash or sale.settlement is not None:
        return sale
    unfit = unfit_settlement(sale, settlement)
    paid = sale.model_copy(update={"settlement": settlement})
    if unfit is None:
        # A quote that was not told yet need not be told any more.
        return paid.model_copy(update={"state": "accepted", "feedback": None})
    if sale.state == "failed":
        return paid.model_copy(update={"refund_due": True})
    code, reason = unfit
    failure = _FAILURE_OF_CODE.get(code, "rejected")
    return _failed(paid, failure, code, reason, said.feedback)


def _unperformed(sale: Sale, said: PerformFailed) -> Sale:
    if said.retryable:
        return sale.model_copy(update={"code": said.code, "reason": said.reason})
    failure = "timed_out" if said.code == "timed_out" else "error"
    return _failed(sale, failure, said.code, said.reason, said.feedback)


def _cancelled(sale: Sale) -> Sale:
    reason = "its customer deleted the request"
    if sale.state == "received" or (sale.state == "accepted" and sale.settlement is None):
        return _failed(sale, "cancelled", CANCELLED, reason, None)
    if sale.state == "quoted":
        # It may be paid all the same, as long as its invoice lives: until then it is not over.
        return sale.model_copy(update={"code": CANCELLED, "reason": reason, "feedback": None})
    return sale


def _later(sale: Sale, now_s: float) -> Sale:
    since = sale.received_at if sale.settlement is None else max(sale.received_at, sale.settlement.settled_at)
    match sale.state:
        case "quoted" if sale.invoice is not None and now_s >= sale.invoice.expires_at + GRACE_S:
            if sale.code == CANCELLED:
                return _failed(sale, "cancelled", CANCELLED, sale.reason, None)
            return _failed(sale, "expired", "unpaid", "its invoice was not paid in time", None)
        case "received" if now_s >= sale.received_at + QUOTE_WITHIN_S:
            return _failed(sale, "expired", "unquoted", sale.reason or "no invoice could be made in time", None)
        case "accepted" | "performed" if now_s >= since + DONE_WITHIN_S:
            reason = sale.reason or f"it was not done and delivered in {DONE_WITHIN_S} s"
            return _failed(sale, "timed_out", "timed_out", reason, None)
        case "failed" if now_s >= sale.received_at + DONE_WITHIN_S and sale.feedback is not None:
            return sale.model_copy(update={"feedback": None})
    return sale


def _failed(sale: Sale, failure: SaleFailure, code: str, reason: str, feedback: NostrEvent | None) -> Sale:
    update = {"state": "failed", "failure": failure, "code": code, "reason": reason, "feedback": feedback}
    return sale.model_copy(update={**update, "refund_due": sale.settlement is not None})


def _is_result(sale: Sale, result: NostrEvent) -> bool:
    return result.kind == sale.request.kind + RESULT_OFFSET and sale.job_id in result.values("e")
