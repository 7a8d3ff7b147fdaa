"""The buyer of a job as a state machine: what was said moves it, what is due follows from its state alone.

The shell loops: `step` with what happened, keep the purchase (`moved` says whether it is worth it), then carry out
what `due` gives. An action that is equal to one carried out or under way in this process is not started again.
`paying` is kept before `Pay` is carried out. After a restart, and after a `Pay` whose outcome is not known, the
shell calls `due` with `resumed=True`: then the payment is looked up, never made again.
"""

from typing import Annotated, Literal

import orjson
from pydantic import Field

from swarmc.contracts.canonical import Contract
from swarmc.contracts.market import RESULT_OFFSET, Failure, Feedback, JobResult, Order, Purchase
from swarmc.contracts.relay import Hex64, NostrEvent
from swarmc.contracts.wallet import Invoice, Msats, Payment
from swarmc.nostr.invoices import decode_invoice

LAST_CALL_S = 5
"""So long before the deadline, a quarter of the whole time at most, stored answers are asked for once more."""

MAX_AHEAD_S = 600
"""So far in the future an invoice may have been made, by our clock."""

MAX_REASON_LETTERS = 300

_NO_RESULT = frozenset({"error", "partial", "payment-required", "processing"})
_KEPT = ("state", "accepted_by", "provider", "invoice", "payment", "result", "refund_due")


class Published(Contract):
    """So many relays took the request."""

    said: Literal["published"] = "published"
    accepted: int = Field(ge=1)


class Unpublished(Contract):
    """No relay took it, for this reason."""

    said: Literal["unpublished"] = "unpublished"
    reason: str


class HeardFeedback(Contract):
    """Somebody signed feedback that names our job.

    Attributes:
        unpayable: Why the shell will not pay its invoice, if so: another job has it, or no budget is left.
    """

    said: Literal["feedback"] = "feedback"
    feedback: Feedback
    unpayable: str = ""


class HeardResult(Contract):
    """Somebody signed a result that names our job.

    Attributes:
        worthless: Why the shell does not take it for an answer, if so: it is empty, or says what was asked.
    """

    said: Literal["result"] = "result"
    result: JobResult
    worthless: str = ""


class PaymentMade(Contract):
    """The wallet paid; its port has checked the preimage."""

    said: Literal["paid"] = "paid"
    payment: Payment


class PaymentRefused(Contract):
    """It is certain that nothing was paid, and nothing will be: the wallet refused, or knows of no payment.

    Attributes:
        passing: The wallet was away or busy: another job may well be paid.
    """

    said: Literal["payment_refused"] = "payment_refused"
    reason: str
    passing: bool = False


class TimePassed(Contract):
    """Nothing happened, but it is later."""

    said: Literal["time_passed"] = "time_passed"


class Stopped(Contract):
    """We give it up. What is paid for, or may be, is waited for all the same."""

    said: Literal["stopped"] = "stopped"
    reason: str


Said = Annotated[
    Published | Unpublished | HeardFeedback | HeardResult | PaymentMade | PaymentRefused | TimePassed | Stopped,
    Field(discriminator="said"),
]


class PublishRequest(Contract):
    """Publish this; say `Published` or `Unpublished`. To publish it again does no harm."""

    action: Literal["publish"] = "publish"
    event: NostrEvent


class Pay(Contract):
    """Pay this, once; say `PaymentMade` or `PaymentRefused`. Not known which: ask `due` with `resumed=True`."""

    action: Literal["pay"] = "pay"
    invoice: Invoice
    max_fee_msats: Msats


class FindPayment(Contract):
    """Ask the wallet until it knows; say `PaymentMade` when settled, `PaymentRefused` when certainly unsent."""

    action: Literal["find_payment"] = "find_payment"
    payment_hash: Hex64


class FindAnswers(Contract):
    """Fetch stored feedback and results of the job and say each, then `TimePassed`."""

    action: Literal["find_answers"] = "find_answers"
    why: Literal["resumed", "last_call"]


class Retract(Contract):
    """Publish a deletion (kind 5) of the request: it was given up and nothing was paid. Best effort."""

    action: Literal["retract"] = "retract"
    request_id: Hex64


Action = PublishRequest | Pay | FindPayment | FindAnswers | Retract


def begin(order: Order, now_s: float) -> Purchase:
    """A drafted purchase."""
    return Purchase(order=order, started_at=int(now_s), provider=order.provider)


def deadline_s(purchase: Purchase) -> int:
    """Unix time at which it is given up, unless a payment's outcome is not known then."""
    return purchase.started_at + purchase.order.timeout_s


def step(purchase: Purchase, said: Said, now_s: float) -> Purchase:
    """The purchase after this was said. Total: anything may be said in any state, and nothing raises.

    What a message did once it does not do again; only what is ignored is counted each time.
    """
    match said:
        case PaymentMade():
            return _paid(purchase, said.payment)
        case HeardResult():
            return _answered(purchase, said)
        case HeardFeedback():
            return _told(purchase, said, now_s)
        case PaymentRefused():
            return _unpaid(purchase, said)
        case Published() if not purchase.final:
            state = "published" if purchase.state == "drafted" else purchase.state
            return purchase.model_copy(update={"state": state, "accepted_by": max(purchase.accepted_by, said.accepted)})
        case Unpublished() if purchase.state == "drafted":
            return _failed(purchase, "unpublished", said.reason)
        case Stopped() if purchase.state in ("drafted", "published"):
            return _failed(purchase, "stopped", said.reason)
        case TimePassed() if now_s >= deadline_s(purchase):
            return _too_late(purchase)
    return purchase


def due(purchase: Purchase, now_s: float, *, resumed: bool = False) -> tuple[Action, ...]:
    """What is to be done, in this order. `resumed`: see the module."""
    order = purchase.order
    match purchase.state:
        case "drafted":
            return (PublishRequest(event=order.request), *_last_look(purchase, now_s, resumed))
        case "paying" if purchase.invoice is not None:
            if resumed:
                return (FindPayment(payment_hash=purchase.invoice.payment_hash),)
            return (Pay(invoice=purchase.invoice, max_fee_msats=order.max_fee_msats),)
        case "published" | "paid":
            return _last_look(purchase, now_s, resumed)
        # A provider that refused works no more on it.
        case "failed" if purchase.payment is None and purchase.failure != "refused":
            return (Retract(request_id=order.request.id),)
    return ()


def moved(before: Purchase, after: Purchase) -> bool:
    """Whether there is something to keep: more than a count of messages that changed nothing."""
    return before is not after and any(getattr(before, name) != getattr(after, name) for name in _KEPT)


def _last_look(purchase: Purchase, now_s: float, resumed: bool) -> tuple[Action, ...]:
    looks: list[Action] = [FindAnswers(why="resumed")] if resumed else []
    if now_s >= deadline_s(purchase) - min(LAST_CALL_S, purchase.order.timeout_s / 4):
        looks.append(FindAnswers(why="last_call"))
    return tuple(looks)


def _told(purchase: Purchase, said: HeardFeedback, now_s: float) -> Purchase:
    feedback = said.feedback
    fault = _misdirected(purchase, feedback.job_id, feedback.customer, feedback.provider)
    if fault or purchase.final:
        return _ignored(purchase, fault or "feedback came after the job was over")
    if feedback.status == "error":
        words = feedback.extra or feedback.content[:MAX_REASON_LETTERS] or "without a reason"
        return _refused(purchase, f"the provider refused the job: {words}")
    # Everything else, `processing` and words that we do not know too, is news and no more.
    if feedback.status != "payment-required" or purchase.state not in ("drafted", "published"):
        return purchase
    quote = said.unpayable or _payable(purchase, feedback, now_s)
    if isinstance(quote, Invoice):
        update = {"state": "paying", "invoice": quote, "provider": feedback.provider, "reason": ""}
        return purchase.model_copy(update=update)
    if purchase.provider is not None:
        return _failed(purchase, "too_dear", quote)
    return purchase.model_copy(update={"unpayable": purchase.unpayable + 1, "reason": quote})


def _refused(purchase: Purchase, sentence: str) -> Purchase:
    if purchase.provider is None:
        return _ignored(purchase, sentence)  # Another may still do it.
    match purchase.state:
        case "paid":
            return _failed(purchase, "undelivered", sentence)
        case "paying":
            return _ignored(purchase, sentence)  # Whether it was paid comes first; the error is found again then.
    return _failed(purchase, "refused", sentence)


def _answered(purchase: Purchase, said: HeardResult) -> Purchase:
    result = said.result
    if purchase.result is not None and purchase.result.event_id == result.event_id:
        return purchase
    fault = _misdirected(purchase, result.job_id, result.customer, result.provider) or _unfit(purchase, result)
    if fault or purchase.final or purchase.result is not None:
        return _ignored(purchase, fault or "a result came after the first one, or after the job was over")
    if said.worthless:
        return _refused(purchase, f"the provider's result is none: {said.worthless}")
    # A payment on its way is still to be accounted for: then the purchase is not over.
    state = "paying" if purchase.state == "paying" else "answered"
    return purchase.model_copy(
        update={"state": state, "result": result, "provider": result.provider, "reason": ""},
    )


def _paid(purchase: Purchase, payment: Payment) -> Purchase:
    invoice = purchase.invoice
    if invoice is None or invoice.payment_hash != payment.payment_hash or purchase.payment is not None:
        return purchase
    if purchase.state == "paying":
        state = "paid" if purchase.result is None else "answered"
        return purchase.model_copy(update={"state": state, "payment": payment})
    # The wallet had said that nothing was paid. It was: the books say so, whatever became of the job.
    return purchase.model_copy(update={"payment": payment, "refund_due": purchase.state == "failed"})


def _unpaid(purchase: Purchase, said: PaymentRefused) -> Purchase:
    if purchase.state != "paying":
        return purchase
    if purchase.result is not None:
        return purchase.model_copy(update={"state": "answered"})
    return _failed(purchase, "unsent" if said.passing else "unpaid", said.reason)


def _too_late(purchase: Purchase) -> Purchase:
    waited = f"in {purchase.order.timeout_s} s"
    match purchase.state:
        case "drafted":
            return _failed(purchase, "unpublished", f"no relay took the request {waited}")
        case "published" if purchase.unpayable:
            return _failed(purchase, "too_dear", purchase.reason)
        case "published":
            return _failed(purchase, "unanswered", f"nobody answered {waited}")
        case "paid":
            return _failed(purchase, "undelivered", f"it was paid, and no result came {waited}")
    return purchase


def _failed(purchase: Purchase, failure: Failure, reason: str) -> Purchase:
    refund_due = purchase.payment is not None
    update = {"state": "failed", "failure": failure, "reason": reason, "refund_due": refund_due}
    return purchase.model_copy(update=update)


def _ignored(purchase: Purchase, reason: str) -> Purchase:
    update: dict[str, object] = {"ignored": purchase.ignored + 1}
    if not purchase.final:
        update["reason"] = reason
    return purchase.model_copy(update=update)


def _misdirected(purchase: Purchase, job_id: str, customer: str, provider: str) -> str:
    request = purchase.order.request
    if job_id != request.id or customer != request.pubkey:
        return "a message was about another job"
    if purchase.provider not in (None, provider):
        return f"a message came from {provider}, who was not asked"
    return ""


def _unfit(purchase: Purchase, result: JobResult) -> str:
    """Why this is no result of our request, if so."""
    request = purchase.order.request
    if result.kind != request.kind + RESULT_OFFSET:
        return f"a result has kind {result.kind}, not {request.kind + RESULT_OFFSET}"
    if result.status in _NO_RESULT:
        return f"a result has the status {result.status}"
    if result.request_json is not None and not _is_ours(result.request_json, request):
        return "a result repeats another request than was signed"
    return ""


def _is_ours(text: str, request: NostrEvent) -> bool:
    try:
        value = orjson.loads(text)
    except ValueError:
        return False
    said = (request.id, request.pubkey, request.created_at, request.kind, request.content)
    names = ("id", "pubkey", "created_at", "kind", "content")
    if not isinstance(value, dict) or tuple(value.get(name) for name in names) != said:
        return False
    return value.get("tags") == [list(tag) for tag in request.tags] and value.get("sig", request.sig) == request.sig


def _payable(purchase: Purchase, feedback: Feedback, now_s: float) -> Invoice | str:
    """The quote's invoice, or why it may not be paid. What is cheap to see is looked at before it is decoded."""
    order, amount_msats = purchase.order, feedback.amount_msats
    if not amount_msats or not feedback.bolt11:
        return "a quote came without an amount or without an invoice"
    if amount_msats > order.bid_msats:
        return f"the quote of {amount_msats} msats is above the bid of {order.bid_msats}"
    if now_s >= deadline_s(purchase):
        return "a quote came when the time was over"
    try:
        invoice = decode_invoice(feedback.bolt11)
    except ValueError as error:
        return f"the quote's invoice cannot be read: {error}"
    return _misfit(order, invoice, amount_msats, now_s) or invoice


def _misfit(order: Order, invoice: Invoice, amount_msats: int, now_s: float) -> str:
    if invoice.amount_msats is None:
        return "the invoice leaves its amount open"
    if invoice.amount_msats != amount_msats:
        return f"the invoice asks for {invoice.amount_msats} msats, its quote for {amount_msats}"
    if invoice.network != order.network:
        return f"the invoice asks for money of {invoice.network}, ours is of {order.network}"
    if invoice.expires_at <= now_s:
        return "the invoice is expired"
    # By a clock of ours that is slow an expired invoice looks alive, but made in the future.
    if invoice.created_at > now_s + MAX_AHEAD_S:
        return f"the invoice was made {invoice.created_at - int(now_s)} s in the future: one of the clocks is wrong"
    return ""
