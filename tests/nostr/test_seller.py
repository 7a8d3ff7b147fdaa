"""The seller's machine: who is let in, one result a job, nothing done unpaid, every msat accounted for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from swarmc.contracts.market import JobInput, PriceList, Sale
from swarmc.nostr import seller
from swarmc.nostr.admission import Admission, Load, Terms, admit
from swarmc.nostr.events import sign_note
from swarmc.nostr.nip09 import deletion_note
from swarmc.nostr.nip90 import encrypted_request_note, parse_job
from swarmc.nostr.seller import (
    Accept,
    AcceptedFree,
    Cancelled,
    Deliver,
    Delivered,
    FeedbackSent,
    FindSettlement,
    Perform,
    Performed,
    PerformFailed,
    Quote,
    Quoted,
    Refused,
    SendFeedback,
    Settled,
    TimePassed,
    begin,
    due,
    step,
    unfit_settlement,
)
from tests.nostr.jobs import (
    BID_MSATS,
    CUSTOMER,
    NOW_S,
    PRICE_MSATS,
    PROVIDER,
    REQUEST,
    STRANGER,
    ask,
    feedback_event,
    invoice,
    request,
    result_event,
    settlement,
)

TERMS = Terms(provider=PROVIDER.pubkey, prices=PriceList(request_msats=PRICE_MSATS))
INVOICE = invoice()
QUOTED = Quoted(invoice=INVOICE, amount_msats=PRICE_MSATS, feedback=feedback_event("payment-required", INVOICE))
PAID = Settled(settlement=settlement(INVOICE))
DONE = Performed(result=result_event())
SENT = FeedbackSent(event_id=QUOTED.feedback.id)
DELIVERED = Delivered(accepted=1)
ERROR = feedback_event("error", extra="sorry")
CANCELLED = Cancelled(deletion=sign_note(deletion_note([REQUEST], NOW_S + 2), CUSTOMER))
FORGED = Cancelled(deletion=sign_note(deletion_note([REQUEST], NOW_S + 2), STRANGER))
EXPIRED_S = INVOICE.expires_at + seller.GRACE_S
FAR_S = NOW_S + 3 * seller.DONE_WITHIN_S
SAID: TypeAdapter[seller.Said] = TypeAdapter(seller.Said)


def after(
    *said: seller.Said, of: Sale | None = None, now_s: float = NOW_S + 3, amount_msats: int = PRICE_MSATS
) -> Sale:
    sale = of or begin(REQUEST, NOW_S, amount_msats)
    for one in said:
        sale = step(sale, one, now_s)
    return sale


def let_in(load: Load | None = None, *, terms: Terms = TERMS, now_s: float = NOW_S, **changes) -> Admission:
    return admit(parse_job(request(**changes), PROVIDER), terms, load or Load(), now_s)


def test_a_job_that_fits_is_accepted_for_its_price() -> None:
    assert let_in() == Admission(outcome="accepted", amount_msats=PRICE_MSATS)
    assert let_in(providers=()).outcome == "accepted"
    assert let_in(bid_msats=None).amount_msats == PRICE_MSATS
    free = let_in(terms=TERMS.model_copy(update={"require_payment": False}), bid_msats=0)
    assert free == Admission(outcome="accepted", amount_msats=0)


@pytest.mark.attack("B1")
def test_an_old_job_is_neither_done_nor_invoiced_nor_answered() -> None:
    assert let_in(now_s=NOW_S + 3_600).outcome == "accepted"
    assert let_in(now_s=NOW_S + 3_601).outcome == "ignored"
    assert let_in(expires_at=NOW_S + 60, now_s=NOW_S + 60).outcome == "ignored"


@pytest.mark.attack("B2")
def test_a_job_from_the_future_is_refused() -> None:
    assert let_in(now_s=NOW_S - 600).outcome == "accepted"
    assert let_in(now_s=NOW_S - 601).code == "future"


@pytest.mark.attack("B3")
def test_a_job_for_another_is_ignored_also_when_it_is_encrypted() -> None:
    assert let_in(providers=(STRANGER.pubkey,)).outcome == "ignored"
    theirs = encrypted_request_note(ask(providers=(STRANGER.pubkey,)), NOW_S, CUSTOMER, "nip44")
    assert admit(parse_job(sign_note(theirs, CUSTOMER), PROVIDER), TERMS, Load(), NOW_S).outcome == "ignored"
    assert let_in(providers=(), terms=TERMS.model_copy(update={"open_jobs": False})).outcome == "ignored"


@pytest.mark.attack("B4")
def test_a_kind_that_is_not_offered_is_refused_only_to_who_addressed_us() -> None:
    assert let_in(kind=5100).outcome == "refused"
    assert let_in(kind=5100, providers=()) == let_in(kind=5100).model_copy(update={"outcome": "ignored"})


@pytest.mark.attack("B5")
def test_too_much_input_is_refused_before_any_work() -> None:
    terms = TERMS.model_copy(update={"max_input_bytes": 20})
    assert let_in(terms=terms, inputs=(JobInput(data="é" * 11),)).code == "too_large"
    assert let_in(terms=terms, params=(("a" * 10, "b" * 11),)).code == "too_large"
    many = parse_job(request(inputs=(JobInput(data="x"),) * 65), PROVIDER)
    assert admit(many, TERMS, Load(), NOW_S).code == "too_large"


def test_an_input_that_would_have_to_be_fetched_is_refused() -> None:
    for kind in ("url", "event", "job"):
        assert let_in(inputs=(JobInput(data="http://127.0.0.1", type=kind),)).code == "input_type"


@pytest.mark.attack("B8")
def test_a_bid_below_the_price_is_refused_with_the_price() -> None:
    refused = let_in(bid_msats=PRICE_MSATS - 1)
    assert (refused.outcome, refused.code, refused.amount_msats) == ("refused", "bid", PRICE_MSATS)


@pytest.mark.attack("B9")
@pytest.mark.parametrize(
    ("field", "limit"),
    [
        ("open", "max_open"),
        ("open_of_customer", "max_open_per_customer"),
        ("unpaid", "max_unpaid"),
        ("quotes_last_minute", "max_quotes_per_minute"),
    ],
)
def test_what_is_under_way_is_bounded(field: str, limit: str) -> None:
    most = getattr(TERMS, limit)
    assert let_in(Load(**{field: most - 1})).outcome == "accepted"
    assert let_in(Load(**{field: most})).code == "busy"


@pytest.mark.attack("B9")
def test_a_flood_of_bad_jobs_is_answered_with_silence() -> None:
    assert let_in(Load(refusals_last_minute=TERMS.max_refusals_per_minute), kind=5100).outcome == "ignored"


def test_an_encryption_that_is_not_read_is_refused() -> None:
    hidden = sign_note(encrypted_request_note(ask(), NOW_S, CUSTOMER, "nip04"), CUSTOMER)
    terms = TERMS.model_copy(update={"encryption": ("nip44",)})
    assert admit(parse_job(hidden, PROVIDER), terms, Load(), NOW_S).code == "encryption"
    assert admit(parse_job(hidden, PROVIDER), TERMS, Load(), NOW_S).outcome == "accepted"


@pytest.mark.attack("C2")
@pytest.mark.parametrize(("price", "asked"), [(1, 1_000), (1_999, 2_000), (2_000, 2_000)])
def test_a_part_of_a_satoshi_is_rounded_up_where_the_wallet_knows_whole_ones(price: int, asked: int) -> None:
    terms = TERMS.model_copy(update={"prices": PriceList(request_msats=price), "unit_msats": 1_000})
    assert let_in(terms=terms).amount_msats == asked


def test_a_paid_job_is_quoted_paid_done_and_delivered() -> None:
    sale = begin(REQUEST, NOW_S, PRICE_MSATS)
    assert due(sale, NOW_S) == (Quote(amount_msats=PRICE_MSATS),)
    sale = after(QUOTED, of=sale)
    finding = FindSettlement(payment_hash=INVOICE.payment_hash)
    assert (sale.state, due(sale, NOW_S)) == ("quoted", (SendFeedback(feedback=QUOTED.feedback), finding))
    sale = after(SENT, of=sale)
    assert due(sale, NOW_S) == (finding,)
    sale = after(PAID, of=sale)
    assert (sale.state, due(sale, NOW_S)) == ("accepted", (Perform(),))
    sale = after(DONE, of=sale)
    assert (sale.state, due(sale, NOW_S)) == ("performed", (Deliver(result=DONE.result),))
    sale = after(DELIVERED, of=sale)
    assert (sale.final, sale.earned_msats, sale.refund_due, due(sale, NOW_S)) == (True, PRICE_MSATS, False, ())


def test_a_free_job_is_done_at_once() -> None:
    assert due(begin(REQUEST, NOW_S), NOW_S) == (Accept(),)
    assert after(AcceptedFree(), DONE, DELIVERED, amount_msats=0).state == "delivered"
    assert after(AcceptedFree()).state == "received"


def test_a_refused_job_is_told_once_and_over() -> None:
    sale = after(Refused(code="bid", reason="too little", feedback=ERROR))
    assert (sale.state, sale.failure, sale.final, due(sale, NOW_S)) == (
        "failed",
        "rejected",
        False,
        (SendFeedback(feedback=ERROR),),
    )
    assert after(FeedbackSent(event_id=ERROR.id), of=sale).final
    assert after(Refused(code="bid", reason="x")).final


@pytest.mark.attack("B10")
def test_only_the_author_cancels_a_job() -> None:
    assert after(FORGED).state == "received"
    assert after(CANCELLED).failure == "cancelled"
    assert after(AcceptedFree(), CANCELLED, amount_msats=0).failure == "cancelled"
    other = Cancelled(deletion=sign_note(deletion_note([request(output="x")], NOW_S), CUSTOMER))
    assert after(other).state == "received"


def test_a_cancelled_quote_is_over_when_its_invoice_is_and_what_came_in_is_paid_back() -> None:
    sale = after(QUOTED, CANCELLED)
    assert due(sale, NOW_S) == (FindSettlement(payment_hash=INVOICE.payment_hash),)
    assert after(TimePassed(), of=sale, now_s=EXPIRED_S).failure == "cancelled"
    paid = after(PAID, of=sale)
    assert (paid.failure, paid.refund_due) == ("cancelled", True)
    assert after(QUOTED, PAID, CANCELLED).state == "accepted"


@pytest.mark.attack("C1")
def test_a_quote_whose_parts_differ_is_not_published() -> None:
    for bad in (
        QUOTED.model_copy(update={"amount_msats": 1}),
        QUOTED.model_copy(update={"invoice": invoice(2)}),
        QUOTED.model_copy(update={"invoice": invoice(1, None)}),
        QUOTED.model_copy(update={"feedback": feedback_event("payment-required", INVOICE, amount_msats=1)}),
        QUOTED.model_copy(
            update={"feedback": feedback_event("payment-required", INVOICE, event=request(output="other"))}
        ),
    ):
        sale = after(bad)
        assert (sale.state, sale.code, sale.invoice) == ("received", "bad_quote", None)


@pytest.mark.attack("C3")
def test_too_little_money_starts_nothing_and_is_to_be_paid_back() -> None:
    little = settlement(INVOICE, PRICE_MSATS - 1)
    assert unfit_settlement(after(QUOTED), little) == ("underpaid", "1999 msats came in, 2000 were quoted")
    sale = after(QUOTED, Settled(settlement=little, feedback=ERROR))
    assert (sale.failure, sale.code, sale.refund_due, sale.feedback) == ("rejected", "underpaid", True, ERROR)
    assert sale.earned_msats == PRICE_MSATS - 1


@pytest.mark.attack("C4")
def test_money_for_an_expired_invoice_starts_nothing_and_is_to_be_paid_back() -> None:
    late = Settled(settlement=settlement(INVOICE, at_s=INVOICE.expires_at + 1))
    sale = after(QUOTED, late)
    assert (sale.failure, sale.refund_due) == ("expired", True)
    sale = after(late, of=after(QUOTED, TimePassed(), now_s=EXPIRED_S))
    assert (sale.state, sale.failure, sale.refund_due, due(sale, FAR_S)) == ("failed", "expired", True, ())


def test_money_that_came_in_time_and_was_told_late_starts_the_job() -> None:
    assert after(TimePassed(), of=after(QUOTED), now_s=EXPIRED_S - 1).state == "quoted"
    in_time = Settled(settlement=settlement(INVOICE, at_s=INVOICE.expires_at))
    assert after(in_time, of=after(QUOTED), now_s=EXPIRED_S).state == "accepted"


@pytest.mark.attack("C8")
def test_a_payment_settles_one_job_once() -> None:
    other = Settled(settlement=settlement(invoice(2)))
    assert after(QUOTED, other).state == "quoted"
    sale = after(QUOTED, PAID)
    assert after(PAID, Settled(settlement=settlement(INVOICE, 9_999)), other, of=sale) == sale
    assert after(PAID).settlement is None


@pytest.mark.attack("C10")
def test_while_the_wallet_is_away_the_job_is_kept() -> None:
    assert after(TimePassed(), now_s=NOW_S + seller.QUOTE_WITHIN_S - 1).state == "received"
    assert after(TimePassed(), now_s=NOW_S + seller.QUOTE_WITHIN_S).code == "unquoted"


def test_work_that_fails_for_good_after_payment_is_told_and_to_be_paid_back() -> None:
    again = after(QUOTED, PAID, PerformFailed(code="venue", reason="down", retryable=True))
    assert (again.state, due(again, NOW_S)) == ("accepted", (Perform(),))
    sale = after(PerformFailed(code="venue", reason="gone", retryable=False, feedback=ERROR), of=again)
    assert (sale.failure, sale.refund_due, due(sale, NOW_S)) == ("error", True, (SendFeedback(feedback=ERROR),))
    assert after(
        AcceptedFree(), PerformFailed(code="timed_out", reason="", retryable=False), amount_msats=0
    ).failure == ("timed_out")


def test_a_job_has_one_result_whatever_comes_later() -> None:
    sale = after(QUOTED, PAID, DONE, Performed(result=result_event("5")))
    assert sale.result == DONE.result
    assert after(QUOTED, PAID, Performed(result=result_event(event=request(output="x")))).result is None
    assert after(DONE).result is None


def test_what_cannot_be_delivered_is_given_up_after_a_day_and_to_be_paid_back() -> None:
    sale = after(TimePassed(), of=after(QUOTED, PAID, DONE), now_s=NOW_S + seller.DONE_WITHIN_S)
    assert sale.state == "performed"
    sale = after(TimePassed(), of=sale, now_s=FAR_S)
    assert (sale.failure, sale.refund_due) == ("timed_out", True)


everything = st.sampled_from(
    [
        Refused(code="x", reason="x", feedback=ERROR),
        QUOTED,
        QUOTED.model_copy(update={"invoice": invoice(2), "feedback": feedback_event("payment-required", invoice(2))}),
        QUOTED.model_copy(update={"amount_msats": BID_MSATS}),
        AcceptedFree(),
        PAID,
        Settled(settlement=settlement(invoice(2))),
        Settled(settlement=settlement(INVOICE, 1), feedback=ERROR),
        Settled(settlement=settlement(INVOICE, at_s=FAR_S)),
        DONE,
        Performed(result=result_event("5")),
        PerformFailed(code="x", reason="x", retryable=True),
        PerformFailed(code="x", reason="x", retryable=False, feedback=ERROR),
        DELIVERED,
        SENT,
        FeedbackSent(event_id=ERROR.id),
        CANCELLED,
        FORGED,
        TimePassed(),
    ]
)
moments = st.sampled_from([0, 5, 700, seller.QUOTE_WITHIN_S, seller.DONE_WITHIN_S, FAR_S - NOW_S])
scripts = st.lists(st.tuples(everything, moments), max_size=14)


def check(before: Sale, now: Sale) -> None:
    """What holds of every step, whatever was said."""
    assert before.invoice in (None, now.invoice)
    assert before.settlement in (None, now.settlement)
    assert before.result in (None, now.result)
    assert before.state not in ("delivered", "failed") or now.state == before.state
    assert not before.final or now.final
    assert now.refund_due == (now.state == "failed" and now.settlement is not None)
    assert (now.failure is not None) == (now.state == "failed")
    if now.state in ("accepted", "performed", "delivered") and now.amount_msats:
        assert now.settlement is not None
        assert now.settlement.amount_msats >= now.amount_msats
    assert now.state not in ("performed", "delivered") or now.result is not None
    assert now.invoice is None or now.invoice.amount_msats == now.amount_msats


@settings(max_examples=300, deadline=None)
@given(script=scripts, amount_msats=st.sampled_from([0, PRICE_MSATS]))
def test_whatever_is_said_in_whatever_order_the_books_hold(script, amount_msats: int) -> None:
    sale = begin(REQUEST, NOW_S, amount_msats)
    history = []
    for said, later_s in script:
        now = step(sale, said, NOW_S + later_s)
        check(sale, now)
        assert step(now, said, NOW_S + later_s) == now or isinstance(said, TimePassed)
        history.append((said.model_dump_json(), NOW_S + later_s))
        sale = Sale.model_validate_json(now.canonical())
        assert sale == now
    told_again = begin(REQUEST, NOW_S, amount_msats)
    for text, at_s in history:
        told_again = step(told_again, SAID.validate_json(text), at_s)
    assert told_again == sale
    ended = step(step(sale, TimePassed(), FAR_S + FAR_S), TimePassed(), FAR_S + FAR_S)
    assert ended.final
