"""Both machines over a network that loses, doubles, delays and reorders, in processes that die: the books agree."""

from collections import Counter
from random import Random

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from swarmc.contracts.market import Feedback, JobResult, Purchase, Sale
from swarmc.contracts.relay import NostrEvent
from swarmc.contracts.wallet import Invoice, Payment
from swarmc.nostr import buyer, seller
from swarmc.nostr.events import sign_note
from swarmc.nostr.nip09 import deletion_note
from swarmc.nostr.nip90 import parse_feedback, parse_result
from tests.nostr.jobs import (
    CUSTOMER,
    NOW_S,
    PRICE_MSATS,
    REQUEST,
    TIMEOUT_S,
    feedback_event,
    invoice,
    order,
    payment,
    result_event,
    settlement,
)

END_S = NOW_S + 4 * seller.DONE_WITHIN_S


class World:
    """Relay, wallet, and two shells that keep every state before they act on it, and may die at any moment."""

    def __init__(self, seed: int, loss: float) -> None:
        self.dice, self.loss, self.now_s = Random(seed), loss, float(NOW_S)
        self.stored: list[NostrEvent] = []
        self.for_buyer: list[NostrEvent] = []
        self.for_seller: list[NostrEvent] = []
        self.paid: dict[str, Payment] = {}
        self.calls: Counter[str] = Counter()
        self.made: list[Invoice] = []
        self.purchase = buyer.begin(order(), NOW_S)
        self.sale: Sale | None = None
        self.resumed = False
        self.bought: list[buyer.Action] = []

    def lucky(self) -> bool:
        return self.dice.random() >= self.loss

    def publish(self, signed: NostrEvent, to: list[NostrEvent]) -> bool:
        """Whether the relays said that they took it; some did all the same where they said nothing."""
        told = self.lucky()
        if told or self.lucky():
            self.stored.append(signed)
            to.extend([signed] * (1 if self.lucky() else self.dice.choice([0, 2, 3])))
        return told

    def tell_buyer(self, said: buyer.Said) -> None:
        before, self.purchase = self.purchase, buyer.step(self.purchase, said, self.now_s)
        assert not before.final or self.purchase.state == before.state
        self.purchase = Purchase.model_validate_json(self.purchase.canonical())

    def tell_seller(self, said: seller.Said) -> None:
        assert self.sale is not None
        self.sale = Sale.model_validate_json(seller.step(self.sale, said, self.now_s).canonical())

    def hear_buyer(self, signed: NostrEvent) -> None:
        read = parse_feedback(signed, CUSTOMER) if signed.kind == 7000 else parse_result(signed, CUSTOMER)
        if isinstance(read, Feedback):
            self.tell_buyer(buyer.HeardFeedback(feedback=read))
        elif isinstance(read, JobResult):
            self.tell_buyer(buyer.HeardResult(result=read))

    def hear_seller(self, signed: NostrEvent) -> None:
        if signed.kind == 5 and self.sale is not None:
            self.tell_seller(seller.Cancelled(deletion=signed))
        elif signed.kind == REQUEST.kind and self.sale is None:
            self.sale = seller.begin(signed, self.now_s, PRICE_MSATS)

    def buy(self, action: buyer.Action) -> None:
        match action:
            case buyer.PublishRequest():
                taken = self.publish(action.event, self.for_seller)
                self.tell_buyer(buyer.Published(accepted=1) if taken else buyer.Unpublished(reason="no relay"))
            case buyer.Pay():
                self.pay(action.invoice)
            case buyer.FindPayment():
                found = self.paid.get(action.payment_hash)
                refused = buyer.PaymentRefused(reason="unsent")
                self.tell_buyer(refused if found is None else buyer.PaymentMade(payment=found))
            case buyer.FindAnswers():
                for signed in self.dice.sample(self.stored, len(self.stored)):
                    self.hear_buyer(signed)
            case buyer.Retract():
                self.publish(sign_note(deletion_note([REQUEST], int(self.now_s)), CUSTOMER), self.for_seller)

    def pay(self, asked: Invoice) -> None:
        self.calls[asked.payment_hash] += 1
        if self.lucky():
            self.paid[asked.payment_hash] = payment(asked, 1 + self.made.index(asked))
        if not self.lucky():
            self.resumed, self.bought = True, []  # The wallet was silent: from now on it is looked up.
        else:
            self.buy(buyer.FindPayment(payment_hash=asked.payment_hash))

    def sell(self, action: seller.Action) -> None:
        match action:
            case seller.Quote():
                self.quote(action.amount_msats)
            case seller.FindSettlement():
                self.find_settlement(action.payment_hash)
            case seller.SendFeedback() if self.publish(action.feedback, self.for_buyer):
                self.tell_seller(seller.FeedbackSent(event_id=action.feedback.id))
            case seller.Perform():
                self.perform()
            case seller.Deliver() if self.publish(action.result, self.for_buyer):
                self.tell_seller(seller.Delivered(accepted=1))

    def quote(self, amount_msats: int) -> None:
        asked = invoice(1 + len(self.made), amount_msats, at_s=int(self.now_s))
        self.made.append(asked)
        told = feedback_event("payment-required", asked)
        if self.lucky():  # Otherwise it dies with an invoice that nobody saw.
            self.tell_seller(seller.Quoted(invoice=asked, amount_msats=amount_msats, feedback=told))

    def find_settlement(self, payment_hash: str) -> None:
        if payment_hash in self.paid:
            came = settlement(next(one for one in self.made if one.payment_hash == payment_hash), at_s=int(self.now_s))
            self.tell_seller(seller.Settled(settlement=came))

    def perform(self) -> None:
        done = result_event(str(self.dice.random()))
        if self.lucky():
            self.tell_seller(seller.Performed(result=done))
        elif self.lucky():
            error = feedback_event("error")
            retryable = self.lucky()
            failed = seller.PerformFailed(code="venue", reason="x", retryable=retryable, feedback=error)
            self.tell_seller(failed)

    def turn(self) -> None:
        """One thing happens: somebody acts, hears or dies, or time passes."""
        turns = (self.buy_turn, self.sell_turn, self.hear_turn)
        self.dice.choice([*turns * 3, self.time_turn, self.die])()

    def buy_turn(self) -> None:
        wanted = buyer.due(self.purchase, self.now_s, resumed=self.resumed)
        for action in [one for one in wanted if one not in self.bought][:1]:
            self.bought.append(action)
            self.buy(action)

    def sell_turn(self) -> None:
        wanted = () if self.sale is None else seller.due(self.sale, self.now_s)
        if wanted:
            self.sell(self.dice.choice(wanted))

    def hear_turn(self) -> None:
        for queue, hear in ((self.for_buyer, self.hear_buyer), (self.for_seller, self.hear_seller)):
            if queue:
                hear(queue.pop(self.dice.randrange(len(queue))))

    def time_turn(self) -> None:
        self.pass_time(self.dice.choice([1, 2, 20]))

    def die(self) -> None:
        """Both processes may; what they kept is all that is left."""
        if not self.lucky():
            self.resumed, self.bought = True, []
            self.for_seller += [one for one in self.stored if one.kind == REQUEST.kind]

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell_buyer(buyer.TimePassed())
        if self.sale is not None:
            self.tell_seller(seller.TimePassed())

    def finish(self) -> None:
        """The deadline passes, both start again, and what is still due is done until nothing is."""
        self.pass_time(TIMEOUT_S)
        self.resumed = True
        for action in buyer.due(self.purchase, self.now_s, resumed=True):
            self.buy(action)
        self.pass_time(1)
        if self.sale is not None and self.sale.state == "quoted":
            self.sell(seller.due(self.sale, self.now_s)[-1])
        self.now_s = END_S
        for _ in range(2):
            self.pass_time(seller.DONE_WITHIN_S)


@pytest.mark.attack("C9")
@settings(max_examples=250, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.1, 0.3]), turns=st.integers(5, 120))
def test_over_any_network_and_through_any_deaths_both_books_agree(seed: int, loss: float, turns: int) -> None:
    world = World(seed, loss)
    for _ in range(turns):
        world.turn()
    world.finish()
    purchase, sale = world.purchase, world.sale
    event(f"bought {purchase.state} {purchase.failure}, sold {sale and sale.state} {sale and sale.failure}")
    assert purchase.final
    assert sale is None or sale.final
    moved_msats = sum(one.amount_msats for one in world.paid.values())
    assert (purchase.payment.amount_msats if purchase.payment else 0) == moved_msats
    assert (sale.earned_msats if sale else 0) == moved_msats
    assert sum(world.calls.values()) <= 1
    results = {one.id for one in world.stored if one.kind == REQUEST.kind + 1000}
    assert len(results) <= 1
    assert purchase.result is None or {purchase.result.event_id} == results
    assert purchase.refund_due == (purchase.state == "failed" and moved_msats > 0)
    assert sale is None or sale.refund_due == (sale.state == "failed" and moved_msats > 0)
