"""A job on the market: what is asked, offered, quoted, answered, and how far each side has come with it.

Words and kinds are those of NIP-90 (jobs) and NIP-89 (offers). Times are Unix seconds, money is msats.
`Purchase` and `Sale` are the two sides' states; `swarmc.nostr.buyer` and `swarmc.nostr.seller` move them.
"""

from typing import Annotated, Literal

from pydantic import Field

from swarmc.contracts.canonical import Contract
from swarmc.contracts.completions import FinishReason
from swarmc.contracts.relay import Hex64, Kind, NostrEvent, UnixSeconds
from swarmc.contracts.wallet import Invoice, Msats, Network, Payment, Settlement

TEXT_GENERATION: Kind = 5050
FEEDBACK: Kind = 7000
HANDLER: Kind = 31_990
DELETION: Kind = 5
RESULT_OFFSET = 1000
"""A result's kind is its request's and this."""

Encryption = Literal["nip44", "nip04"]
"""How a job's inputs and its result are hidden from everybody but the two."""


class JobInput(Contract):
    """One `i` tag. `type` is any word a stranger wrote; NIP-90 knows url, event, job and text."""

    data: str
    type: str = "text"
    relay: str = ""
    marker: str = ""


class Ask(Contract):
    """What is asked for, before anybody signs it.

    Attributes:
        params: Names and values in their order; of a name given twice the last counts.
        bid_msats: The most that the customer pays; `None` when it does not say.
        relays: Where the customer wants to be answered.
        providers: Who may do it; anybody when empty.
    """

    kind: Kind = TEXT_GENERATION
    inputs: tuple[JobInput, ...] = ()
    output: str = ""
    params: tuple[tuple[str, str], ...] = ()
    bid_msats: Msats | None = None
    relays: tuple[str, ...] = ()
    providers: tuple[Hex64, ...] = ()
    expires_at: UnixSeconds | None = None

    def param(self, *names: str) -> str | None:
        """The last value of a parameter that has one of these names."""
        return next((value for name, value in reversed(self.params) if name in names), None)


class Job(Ask):
    """What a request event asks for, once it is read and, where it was encrypted, decrypted.

    Attributes:
        encryption: How it was encrypted; `None` when it was in clear.
    """

    event_id: Hex64
    customer: Hex64
    created_at: UnixSeconds
    encryption: Encryption | None = None


class Feedback(Contract):
    """A kind 7000 event. `status` is any word; NIP-90 knows payment-required, processing, error, success, partial."""

    event_id: Hex64
    provider: Hex64
    customer: Hex64
    job_id: Hex64
    created_at: UnixSeconds
    status: str
    extra: str = ""
    amount_msats: Msats | None = None
    bolt11: str | None = None
    content: str = ""


class Answer(Contract):
    """What a provider says to a text generation job, beside the bare text of NIP-90.

    Attributes:
        model: What answered, as the provider names it; empty when it does not say.
        prompt_tokens: As the provider counted; `None` when it does not say.
        completion_tokens: The same of what was said.
    """

    text: str
    model: str = ""
    finish_reason: FinishReason = "stop"
    prompt_tokens: int | None = Field(default=None, ge=0)
    completion_tokens: int | None = Field(default=None, ge=0)


class JobResult(Contract):
    """A result event, read and decrypted.

    Attributes:
        request_json: What it gives as our request event, if it does.
        amount_msats: What it says that it costs.
    """

    event_id: Hex64
    provider: Hex64
    customer: Hex64
    job_id: Hex64
    kind: Kind
    created_at: UnixSeconds
    answer: Answer
    status: str = "success"
    amount_msats: Msats | None = None
    bolt11: str | None = None
    request_json: str | None = None
    encryption: Encryption | None = None


class PriceList(Contract):
    """What a job costs: a part for the request and parts for its tokens, rounded up, at least `min_msats`."""

    min_msats: Msats = 0
    request_msats: Msats = 0
    input_msats_per_1k_tokens: Msats = 0
    output_msats_per_1k_tokens: Msats = 0

    def price_msats(self, prompt_tokens: int, most_completion_tokens: int) -> int:
        """The price of a job of so many tokens."""
        by_token = self.input_msats_per_1k_tokens * prompt_tokens
        by_token += self.output_msats_per_1k_tokens * most_completion_tokens
        return max(self.min_msats, self.request_msats - (-by_token // 1000))


class Announcement(Contract):
    """What a provider offers, before it is signed.

    Attributes:
        name_d: The `d` tag, which tells apart the offers of one provider.
        models: What it runs, the default first; empty when it does not say.
        prices: `None` when it names no price: then every job is quoted.
        messages: It reads a chat's messages as they are (see `swarmc.nostr.generation`), not only plain text.
        encryption: What it can decrypt.
        network: Which money it takes; `None` when it does not say.
        simulated: Its money is not real.
    """

    name_d: str = "swarmc"
    kinds: tuple[Kind, ...] = Field(min_length=1)
    name: str = ""
    about: str = ""
    models: tuple[str, ...] = ()
    prices: PriceList | None = None
    messages: bool = False
    encryption: tuple[Encryption, ...] = ()
    network: Network | None = None
    simulated: bool = False
    relays: tuple[str, ...] = ()


class Offer(Announcement):
    """An announcement that was signed (NIP-89): the newest event of its kind, author and `d` counts."""

    event_id: Hex64
    provider: Hex64
    created_at: UnixSeconds


class Order(Contract):
    """What a buyer settled before anything is sent.

    Attributes:
        key: What it is bought for: the completion's request id. Jobs of one key are tries for the same answer.
        request: The signed request event.
        provider: Who is to do it; `None` for open bidding, where the first quote that may be paid pins it.
        bid_msats: Most that is paid for the job itself.
        max_fee_msats: Most that is paid for the payment.
        network: Which money is paid.
        timeout_s: Seconds after which it is given up.
    """

    key: str
    request: NostrEvent
    provider: Hex64 | None = None
    bid_msats: Msats
    max_fee_msats: Msats = 0
    network: Network
    simulated: bool
    timeout_s: Annotated[int, Field(ge=1)]


PurchaseState = Literal["drafted", "published", "paying", "paid", "answered", "failed"]
"""`paying`: a payment may have been sent and must be looked up before anything else is done about it."""

Failure = Literal["unpublished", "refused", "too_dear", "unpaid", "unsent", "unanswered", "undelivered", "stopped"]
"""No relay took it; the provider said error; no quote that may be paid; the wallet refused to pay; the wallet was away
and paid nothing; nobody answered in time and nothing was paid; paid, and no result in time; given up by us."""


class Purchase(Contract):
    """A job as its buyer knows it. Moved only by `swarmc.nostr.buyer.step`.

    Attributes:
        started_at: When it was drafted, by the clock that `step` is given.
        provider: Who does it, once that is settled.
        invoice: The one that was approved; never another after it.
        result: The first result that holds.
        ignored: Messages that were not what they had to be: from others, for others, or too late.
        unpayable: Quotes that were not paid: above the bid, or with no invoice that may be paid.
        reason: A sentence for people, where it failed or a message was ignored last.
        refund_due: It was paid, and failed.
    """

    order: Order
    state: PurchaseState = "drafted"
    started_at: UnixSeconds
    accepted_by: int = 0
    provider: Hex64 | None = None
    invoice: Invoice | None = None
    payment: Payment | None = None
    result: JobResult | None = None
    failure: Failure | None = None
    reason: str = ""
    ignored: int = 0
    unpayable: int = 0
    refund_due: bool = False

    @property
    def job_id(self) -> str:
        return self.order.request.id

    @property
    def final(self) -> bool:
        return self.state in ("answered", "failed")

    @property
    def paid_msats(self) -> int:
        """What it cost so far, proven by the preimage."""
        return 0 if self.payment is None else self.payment.cost_msats


SaleState = Literal["received", "quoted", "accepted", "performed", "delivered", "failed"]
"""`accepted`: to be done, because it was paid for or is free. `performed`: its result is signed and kept."""

SaleFailure = Literal["rejected", "expired", "cancelled", "error", "timed_out"]


class Sale(Contract):
    """A job as its seller knows it. Moved only by `swarmc.nostr.seller.step`.

    Attributes:
        request: The request event as it came: of an encrypted job the ciphertext.
        customer: Who asked.
        received_at: When it came, by the clock that `step` is given.
        amount_msats: What was quoted; 0 for a free job.
        result: The signed result event. There is one, whatever happens.
        feedback: The signed feedback event that is still to be published, if there is one.
        code: Stable word of a refusal or failure.
        refund_due: It was paid for and not done.
    """

    request: NostrEvent
    state: SaleState = "received"
    received_at: UnixSeconds
    amount_msats: Msats = 0
    invoice: Invoice | None = None
    settlement: Settlement | None = None
    result: NostrEvent | None = None
    feedback: NostrEvent | None = None
    failure: SaleFailure | None = None
    code: str = ""
    reason: str = ""
    refund_due: bool = False

    @property
    def job_id(self) -> str:
        return self.request.id

    @property
    def customer(self) -> str:
        return self.request.pubkey

    @property
    def final(self) -> bool:
        return self.state in ("delivered", "failed") and self.feedback is None

    @property
    def earned_msats(self) -> int:
        """What came in for it, refunds due not taken off."""
        return 0 if self.settlement is None else self.settlement.amount_msats
