"""The buyer's machine: it pays one checked invoice of the one it asked, at most once, and accounts for every msat."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from swarmc.contracts.market import Purchase
from swarmc.contracts.wallet import Invoice
from swarmc.nostr import buyer
from swarmc.nostr.buyer import (
    FindAnswers,
    FindPayment,
    HeardFeedback,
    HeardResult,
    Pay,
    PaymentMade,
    PaymentRefused,
    Published,
    PublishRequest,
    Retract,
    Stopped,
    TimePassed,
    Unpublished,
    begin,
    due,
    moved,
    step,
)
from swarmc.nostr.events import event_json
from tests.nostr.jobs import (
    BID_MSATS,
    NOW_S,
    PRICE_MSATS,
    PROVIDER,
    REQUEST,
    STRANGER,
    TIMEOUT_S,
    feedback,
    invoice,
    order,
    payment,
    request,
    result,
)

INVOICE = invoice()
QUOTE = HeardFeedback(feedback=feedback("payment-required", INVOICE))
PAID = PaymentMade(payment=payment(INVOICE))
ANSWER = HeardResult(result=result())
ERROR = HeardFeedback(feedback=feedback("error", extra="no room"))
LATE_S = NOW_S + TIMEOUT_S
SAID: TypeAdapter[buyer.Said] = TypeAdapter(buyer.Said)


def after(*said: buyer.Said, of: Purchase | None = None, now_s: float = NOW_S + 3, **changes) -> Purchase:
    purchase = of or begin(order(**changes), NOW_S)
    for one in said:
        purchase = step(purchase, one, now_s)
    return purchase


def quote(of: Invoice | None = None, **changes) -> HeardFeedback:
    return HeardFeedback(feedback=feedback("payment-required", of, **changes))


def test_a_job_that_goes_well_is_published_quoted_paid_and_answered() -> None:
    purchase = begin(order(), NOW_S)
    assert due(purchase, NOW_S) == (PublishRequest(event=REQUEST),)
    purchase = after(Published(accepted=2), of=purchase)
    assert (purchase.state, due(purchase, NOW_S)) == ("published", ())
    purchase = after(QUOTE, of=purchase)
    assert (purchase.state, due(purchase, NOW_S)) == ("paying", (Pay(invoice=INVOICE, max_fee_msats=10),))
    purchase = after(PAID, of=purchase)
    assert (purchase.state, due(purchase, NOW_S)) == ("paid", ())
    purchase = after(ANSWER, of=purchase)
    assert (purchase.state, due(purchase, NOW_S)) == ("answered", ())
    assert (purchase.paid_msats, purchase.refund_due, purchase.accepted_by) == (PRICE_MSATS + 1, False, 2)


@pytest.mark.attack("D10")
def test_a_free_provider_is_not_waited_for() -> None:
    purchase = after(Published(accepted=1), ANSWER)
    assert (purchase.state, purchase.paid_msats) == ("answered", 0)


@pytest.mark.attack("D9")
def test_what_is_said_before_the_publishing_is_over_counts() -> None:
    assert after(QUOTE).state == "paying"
    assert after(ANSWER).state == "answered"
    assert after(ERROR).failure == "refused"
    assert after(QUOTE, Unpublished(reason="x"), Published(accepted=1), PAID, ANSWER).accepted_by == 1


@pytest.mark.attack("D1")
def test_a_stranger_is_neither_paid_nor_believed() -> None:
    bad = (
        quote(invoice(9), by=STRANGER),
        HeardResult(result=result("bait", by=STRANGER)),
        HeardFeedback(feedback=feedback("error", by=STRANGER)),
    )
    purchase = after(Published(accepted=1), *bad)
    assert (purchase.state, purchase.ignored, purchase.invoice) == ("published", 3, None)
    assert after(QUOTE, *bad, PAID, *bad, ANSWER).result == ANSWER.result


@pytest.mark.attack("D2")
def test_open_bidding_is_over_once_a_quote_is_approved() -> None:
    theirs = quote(invoice(9), by=STRANGER)
    purchase = after(Published(accepted=1), theirs, QUOTE, ANSWER, provider=None)
    assert (purchase.state, purchase.provider, purchase.result) == ("paying", STRANGER.pubkey, None)
    assert purchase.ignored == 2


def test_in_open_bidding_a_refusal_or_a_dear_quote_leaves_it_to_others() -> None:
    purchase = after(ERROR, quote(invoice(9, BID_MSATS + 1), by=STRANGER), provider=None)
    assert (purchase.state, purchase.unpayable) == ("drafted", 1)
    assert after(QUOTE, of=purchase).provider == PROVIDER.pubkey
    assert after(Published(accepted=1), TimePassed(), of=purchase, now_s=LATE_S).failure == "too_dear"


@pytest.mark.attack("D3")
def test_a_result_of_another_kind_job_customer_or_request_is_ignored() -> None:
    other = request(output="x")
    for changes in (
        {"kind": 6051},
        {"job_id": other.id},
        {"customer": STRANGER.pubkey},
        {"request_json": event_json(other)},
        {"request_json": "{"},
        {"request_json": json.dumps({**json.loads(event_json(REQUEST)), "tags": []})},
        {"status": "error"},
    ):
        purchase = after(HeardResult(result=result().model_copy(update=changes)))
        assert (purchase.state, purchase.ignored) == ("drafted", 1), changes


def test_a_result_that_repeats_our_request_is_believed_however_it_is_written() -> None:
    for text in (event_json(REQUEST), json.dumps(json.loads(event_json(REQUEST)), indent=1, sort_keys=True)):
        assert after(HeardResult(result=result().model_copy(update={"request_json": text}))).state == "answered"


@pytest.mark.attack("D4")
@pytest.mark.parametrize(
    ("said", "why"),
    [
        (quote(invoice(1, BID_MSATS + 1)), "above the bid"),
        (quote(invoice(1, 3_000), amount_msats=2_000), "its quote"),
        (quote(invoice(1, network="bitcoin")), "bitcoin"),
        (quote(invoice(at_s=NOW_S - 601)), "expired"),
        (quote(INVOICE, bolt11="lnbcrt1xyz"), "cannot be read"),
        (quote(INVOICE, bolt11=None), "without an invoice"),
        (quote(INVOICE, amount_msats=0), "without an amount"),
        (quote(INVOICE).model_copy(update={"unpayable": "no budget is left"}), "no budget"),
    ],
)
def test_an_invoice_that_is_not_as_agreed_is_not_paid(said: HeardFeedback, why: str) -> None:
    purchase = after(Published(accepted=1), said)
    assert (purchase.state, purchase.failure, purchase.invoice) == ("failed", "too_dear", None)
    assert why in purchase.reason
    assert due(purchase, NOW_S) == (Retract(request_id=REQUEST.id),)


@pytest.mark.attack("D5")
def test_an_invoice_that_leaves_its_amount_open_is_not_paid() -> None:
    assert "open" in after(quote(invoice(1, None), amount_msats=PRICE_MSATS)).reason


@pytest.mark.attack("D7")
def test_of_two_quotes_one_is_paid() -> None:
    purchase = after(QUOTE, quote(invoice(2)), QUOTE)
    assert purchase.invoice == INVOICE
    assert after(PAID, quote(invoice(2)), of=purchase) == after(PAID, of=purchase)


@pytest.mark.attack("D8")
def test_what_was_paid_and_not_answered_in_time_is_undelivered_and_to_be_paid_back() -> None:
    purchase = after(QUOTE, PAID, TimePassed(), now_s=LATE_S - 1)
    assert purchase.state == "paid"
    purchase = after(TimePassed(), of=purchase, now_s=LATE_S)
    assert (purchase.failure, purchase.refund_due) == ("undelivered", True)
    assert due(purchase, LATE_S) == ()


def test_an_error_after_the_payment_is_undelivered_too() -> None:
    purchase = after(QUOTE, PAID, ERROR)
    assert (purchase.failure, purchase.refund_due) == ("undelivered", True)
    assert "no room" in purchase.reason


@pytest.mark.attack("D15")
def test_of_a_thousand_results_the_first_counts_and_the_rest_are_only_counted() -> None:
    other = HeardResult(result=result("5"))
    first = after(ANSWER)
    flooded = after(*[other] * 1000, ANSWER, of=first)
    assert flooded == first.model_copy(update={"ignored": 1000})
    assert not moved(first, flooded)


@pytest.mark.attack("D16")
@pytest.mark.parametrize("skew_s", [-86_400, 86_400])
def test_a_clock_that_is_a_day_off_pays_no_expired_invoice(skew_s: int) -> None:
    expired = quote(invoice(at_s=NOW_S - 7_200))
    assert step(begin(order(), NOW_S + skew_s), expired, NOW_S + skew_s).invoice is None
    theirs = quote(invoice(at_s=NOW_S - 7_200 + skew_s))
    assert step(begin(order(), NOW_S), theirs, NOW_S).invoice is None


def test_a_result_while_a_payment_is_on_its_way_ends_nothing_until_the_payment_is_known() -> None:
    purchase = after(QUOTE, ANSWER, TimePassed(), Stopped(reason="x"), now_s=NOW_S + 9)
    assert (purchase.state, purchase.result) == ("paying", ANSWER.result)
    assert after(PAID, of=purchase).paid_msats == PRICE_MSATS + 1
    free = after(PaymentRefused(reason="no route"), of=purchase)
    assert (free.state, free.paid_msats, free.refund_due) == ("answered", 0, False)


def test_an_unknown_payment_is_looked_up_whatever_the_time_and_never_made_again() -> None:
    purchase = after(TimePassed(), of=after(QUOTE), now_s=LATE_S + 10**6)
    assert purchase.state == "paying"
    looked_up = (FindPayment(payment_hash=INVOICE.payment_hash),)
    assert due(purchase, LATE_S, resumed=True) == looked_up
    assert after(PaymentRefused(reason="never sent"), of=purchase).failure == "unpaid"


@pytest.mark.attack("D18")
def test_a_payment_that_is_found_after_all_is_in_the_books() -> None:
    purchase = after(QUOTE, PaymentRefused(reason="refused"), PAID)
    assert (purchase.state, purchase.paid_msats, purchase.refund_due) == ("failed", PRICE_MSATS + 1, True)
    wrong = PaymentMade(payment=payment(invoice(2), 2))
    assert after(QUOTE, wrong).payment is None
    assert after(QUOTE, PAID, wrong).payment == PAID.payment


def test_what_may_be_paid_is_not_given_up() -> None:
    stop = Stopped(reason="enough")
    assert after(stop).failure == "stopped"
    assert after(Published(accepted=1), stop).failure == "stopped"
    assert after(QUOTE, stop).state == "paying"
    assert after(QUOTE, PAID, stop, ANSWER).state == "answered"


def test_after_a_restart_and_shortly_before_the_end_stored_answers_are_asked_for() -> None:
    purchase = after(Published(accepted=1))
    assert due(purchase, NOW_S, resumed=True) == (FindAnswers(why="resumed"),)
    assert due(purchase, LATE_S - 5) == (FindAnswers(why="last_call"),)
    assert due(begin(order(), NOW_S), NOW_S, resumed=True) == (
        PublishRequest(event=REQUEST),
        FindAnswers(why="resumed"),
    )


def test_a_job_that_nobody_took_or_answered_says_which() -> None:
    assert after(Unpublished(reason="x")).failure == "unpublished"
    assert after(TimePassed(), now_s=LATE_S).failure == "unpublished"
    assert after(Published(accepted=1), TimePassed(), now_s=LATE_S).failure == "unanswered"


def test_words_that_nobody_knows_change_nothing() -> None:
    purchase = after(Published(accepted=1))
    for status in ("processing", "partial", "success", "chain-scheduled", ""):
        assert after(HeardFeedback(feedback=feedback(status)), of=purchase) is purchase


everything = st.sampled_from(
    [
        Published(accepted=1),
        Unpublished(reason="x"),
        QUOTE,
        quote(invoice(2)),
        quote(invoice(3), by=STRANGER),
        quote(invoice(4, BID_MSATS + 1)),
        ERROR,
        HeardFeedback(feedback=feedback("error", by=STRANGER)),
        HeardFeedback(feedback=feedback("processing")),
        ANSWER,
        HeardResult(result=result("5")),
        HeardResult(result=result("6", by=STRANGER)),
        PAID,
        PaymentMade(payment=payment(invoice(2), 2)),
        PaymentMade(payment=payment(invoice(3), 3)),
        PaymentRefused(reason="x"),
        TimePassed(),
        Stopped(reason="x"),
    ]
)
scripts = st.lists(st.tuples(everything, st.integers(0, 2 * TIMEOUT_S)), max_size=12)


def check(before: Purchase, now: Purchase) -> None:
    """What holds of every step, whatever was said."""
    assert before.invoice in (None, now.invoice)
    assert before.payment in (None, now.payment)
    assert before.result in (None, now.result)
    assert not before.final or now.state == before.state
    assert not before.final or now.failure == before.failure
    assert now.refund_due == (now.state == "failed" and now.payment is not None)
    assert (now.failure is not None) == (now.state == "failed")
    assert (now.result is not None) or now.state != "answered"
    assert now.invoice is not None or now.state not in ("paying", "paid")


@settings(max_examples=300, deadline=None)
@given(script=scripts, provider=st.sampled_from([None, PROVIDER.pubkey]))
def test_whatever_is_said_in_whatever_order_the_books_hold(script, provider) -> None:
    purchase = begin(order(provider=provider), NOW_S)
    for said, later_s in script:
        now = step(purchase, said, NOW_S + later_s)
        check(purchase, now)
        again = step(now, said, NOW_S + later_s)
        assert again.model_copy(update={"ignored": 0, "unpayable": 0}) == now.model_copy(
            update={"ignored": 0, "unpayable": 0}
        )
        purchase = Purchase.model_validate_json(now.canonical())
        assert purchase == now
        assert SAID.validate_json(said.model_dump_json()) == said
        assert due(purchase, NOW_S + later_s) == due(purchase, NOW_S + later_s)
    ended = step(purchase, TimePassed(), NOW_S + TIMEOUT_S)
    assert ended.final or ended.state == "paying"
    known = step(step(ended, PaymentRefused(reason="unsent"), LATE_S), TimePassed(), LATE_S)
    assert known.final


@settings(max_examples=200, deadline=None)
@given(script=st.lists(st.tuples(everything, st.booleans()), max_size=12))
def test_through_any_crashes_the_wallet_is_asked_to_pay_once(script) -> None:
    purchase, resumed = begin(order(), NOW_S), False
    done: list[buyer.Action] = []
    pays = 0
    for said, crash in script:
        purchase = step(purchase, said, NOW_S + 1)
        if crash:
            purchase, resumed, done = Purchase.model_validate_json(purchase.canonical()), True, []
        for action in due(purchase, NOW_S + 1, resumed=resumed):
            if action not in done:
                done.append(action)
                pays += isinstance(action, Pay)
    assert pays <= 1
