"""Two parties and what they sign for each other: requests, invoices, feedback, results, all real."""

import hashlib

from swarmc.contracts.market import Answer, Ask, Feedback, Job, JobInput, JobResult, Order
from swarmc.contracts.relay import NostrEvent
from swarmc.contracts.wallet import Invoice, Network, Payment, Settlement
from swarmc.nostr.events import sign_note
from swarmc.nostr.invoices import Node, make_invoice
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip90 import feedback_note, parse_feedback, parse_job, parse_result, request_note, result_note

CUSTOMER = SecretKey((1).to_bytes(32, "big"))
PROVIDER = SecretKey((2).to_bytes(32, "big"))
STRANGER = SecretKey((3).to_bytes(32, "big"))
NODE = Node((4).to_bytes(32, "big"), "regtest")
NOW_S = 1_700_000_000
TIMEOUT_S = 60
PRICE_MSATS = 2_000
BID_MSATS = 5_000


def ask(**changes) -> Ask:
    given = Ask(inputs=(JobInput(data="What is 2 + 2?"),), bid_msats=BID_MSATS, providers=(PROVIDER.pubkey,))
    return given.model_copy(update=changes)


def request(**changes) -> NostrEvent:
    return sign_note(request_note(ask(**changes), NOW_S), CUSTOMER)


REQUEST = request()


def job(event: NostrEvent = REQUEST) -> Job:
    read = parse_job(event, PROVIDER)
    assert isinstance(read, Job)
    return read


def order(event: NostrEvent = REQUEST, **changes) -> Order:
    given = Order(
        key="answer",
        request=event,
        provider=PROVIDER.pubkey,
        bid_msats=BID_MSATS,
        max_fee_msats=10,
        network="regtest",
        simulated=True,
        timeout_s=TIMEOUT_S,
    )
    return given.model_copy(update=changes)


def preimage(number: int) -> bytes:
    return number.to_bytes(32, "big")


def invoice(
    number: int = 1, amount_msats: int | None = PRICE_MSATS, *, network: Network = "regtest", at_s: int = NOW_S
) -> Invoice:
    node = NODE if network == "regtest" else Node((4).to_bytes(32, "big"), network)
    payment_hash = hashlib.sha256(preimage(number)).hexdigest()
    return make_invoice(node, payment_hash, amount_msats, created_at=at_s, expiry_s=600)


def payment(of: Invoice, number: int = 1) -> Payment:
    return Payment(
        payment_hash=of.payment_hash,
        preimage=preimage(number).hex(),
        amount_msats=of.amount_msats or 0,
        fee_msats=1,
        simulated=True,
    )


def settlement(of: Invoice, amount_msats: int | None = None, at_s: int = NOW_S + 5) -> Settlement:
    amount_msats = of.amount_msats if amount_msats is None else amount_msats
    return Settlement(payment_hash=of.payment_hash, amount_msats=amount_msats or 0, settled_at=at_s, simulated=True)


def feedback_event(
    status: str, of: Invoice | None = None, *, by: SecretKey = PROVIDER, event: NostrEvent = REQUEST, **changes
) -> NostrEvent:
    quoted = {} if of is None else {"amount_msats": of.amount_msats, "bolt11": of.bolt11}
    return sign_note(feedback_note(event, status, NOW_S + 1, **{**quoted, **changes}), by, aux=bytes(32))


def feedback(status: str, of: Invoice | None = None, **changes) -> Feedback:
    read = parse_feedback(feedback_event(status, of, **changes), CUSTOMER)
    assert isinstance(read, Feedback)
    return read


def result_event(text: str = "4", *, by: SecretKey = PROVIDER, event: NostrEvent = REQUEST) -> NostrEvent:
    answer = Answer(text=text, model="toy", prompt_tokens=5, completion_tokens=1)
    return sign_note(result_note(job(event), answer, NOW_S + 2, key=by), by, aux=bytes(32))


def result(text: str = "4", **changes) -> JobResult:
    read = parse_result(result_event(text, **changes), CUSTOMER)
    assert isinstance(read, JobResult)
    return read
