"""A sale that is being driven, how it is written down, and how busy a provider is with all of them."""

import asyncio
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from swarmc.contracts.job_book import JobRecord
from swarmc.contracts.market import Sale
from swarmc.contracts.relay import NostrEvent
from swarmc.nostr import seller
from swarmc.nostr.admission import Load
from swarmc.nostr.written import body_of, history_line

MOST_SEEN = 50_000
MINUTE_S = 60.0
MOST_TIMED = 1_000
"""Deliveries of which the time they took is remembered."""

_BULKY = {"result", "feedback", "invoice", "deletion"}


@dataclass(slots=True)
class Trade:
    """A sale that is being driven by one task at most.

    Attributes:
        version: The last that is in the job book; 0 when it is not there yet.
        said: What happened and is not heard yet.
        unkept: What was heard since the sale was kept last, as JSON.
        dirty: Some of it is worth a version of its own.
        maybe_known: It may be in the job book already, from before this process.
        rest: By the word of an action, until when it is not tried (again).
        pauses: By the same word, how long it rested last.
        began_s: When the loop heard of it, on the loop's clock; `None` when an earlier process did.
        tried_s: When it was performed first.
        counted: It is among the open ones.
        excused: Its customer cancelled it: it is watched for money, and counts no more against its customer.
        stuck: A fault of ours ended its driver: it is left for the next start.
        driver: The task that carries out what is due, while something is.
    """

    sale: Sale
    version: int = 0
    said: deque[seller.Said] = field(default_factory=deque)
    unkept: list[str] = field(default_factory=list)
    dirty: bool = False
    maybe_known: bool = False
    rest: dict[str, float] = field(default_factory=dict)
    pauses: dict[str, float] = field(default_factory=dict)
    began_s: float | None = None
    tried_s: float | None = None
    counted: bool = False
    excused: bool = False
    stuck: bool = False
    driver: "asyncio.Task[None] | None" = None

    @property
    def payment_hash(self) -> str | None:
        return None if self.sale.invoice is None else self.sale.invoice.payment_hash

    def hear(self, said: seller.Said, now_s: float) -> bool:
        """Move the sale. Whether it moved."""
        before, self.sale = self.sale, seller.step(self.sale, said, now_s)
        if self.sale is before or self.sale == before:
            return False
        self.unkept.append(_line(said))
        # To tell a thing twice does no harm, so that it was told is no reason to write while more is to come.
        self.dirty = self.dirty or self.sale.final or not isinstance(said, seller.FeedbackSent)
        return True

    def rest_for(self, action: str, now_s: float, first_s: float, longest_s: float) -> None:
        """Leave an action for a while, twice as long as the last time."""
        pause_s = min(2 * self.pauses.get(action, first_s / 2), longest_s)
        self.pauses[action] = pause_s
        self.rest[action] = now_s + pause_s

    def record(self, owner: str, *, simulated: bool) -> JobRecord:
        """The next version, as the job book keeps it."""
        sale = self.sale
        return JobRecord.model_construct(
            side="sold",
            owner=owner,
            job_id=sale.job_id,
            key=sale.job_id,
            state=sale.state,
            final=sale.final,
            version=self.version + 1,
            counterparty=sale.customer,
            msats=sale.earned_msats,
            simulated=simulated,
            refund_due=sale.refund_due,
            payment_hash=self.payment_hash,
            body=body_of(sale),
        )

    @property
    def what(self) -> str:
        """What was heard since the last version, as one JSON text."""
        return history_line(self.unkept)


def _line(said: seller.Said) -> str:
    """What happened, without the events and invoices that the sale itself holds."""
    return said.model_dump_json(exclude=_BULKY, exclude_none=True)


class Seen:
    """Ids of requests that were decided on, as many as memory allows, and which ones may have been forgotten.

    Args:
        known_until: Requests made up to then may be known from before.
    """

    def __init__(self, known_until: int) -> None:
        self._ids: OrderedDict[str, int] = OrderedDict()
        self._known_until = known_until

    def add(self, event: NostrEvent) -> bool:
        """Whether it is new here."""
        if event.id in self._ids:
            return False
        self._ids[event.id] = event.created_at
        if len(self._ids) > MOST_SEEN:
            _, created_at = self._ids.popitem(last=False)
            self._known_until = max(self._known_until, created_at)
        return True

    def may_be_known(self, event: NostrEvent) -> bool:
        """Whether only the job book can tell that it is new."""
        return event.created_at <= self._known_until


class Pulse:
    """How busy a provider is: what is open, and what was done in the last minute.

    Attributes:
        states: Open sales by state.
        problems: What went wrong, by kind, since the start.
    """

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.ignored = 0
        self.delivered = 0
        self._of_customer: Counter[str] = Counter()
        self._quotes: deque[float] = deque()
        self._refusals: deque[float] = deque()
        self._deliveries: deque[float] = deque()
        self._took_s: deque[float] = deque(maxlen=MOST_TIMED)

    def opened(self, sale: Sale) -> None:
        self.states[sale.state] += 1
        self._of_customer[sale.customer] += 1

    def moved(self, before: str, after: str) -> None:
        self.states[before] -= 1
        self.states[after] += 1

    def excused(self, sale: Sale) -> None:
        """It counts no more against its customer."""
        self._of_customer[sale.customer] -= 1
        if self._of_customer[sale.customer] <= 0:
            del self._of_customer[sale.customer]

    def closed(self, sale: Sale) -> None:
        self.states[sale.state] -= 1

    def quoted(self, at_s: float) -> None:
        self._quotes.append(at_s)

    def refused(self, at_s: float) -> None:
        self._refusals.append(at_s)

    def was_delivered(self, at_s: float, began_s: float | None) -> None:
        self.delivered += 1
        self._deliveries.append(at_s)
        if began_s is not None:
            self._took_s.append(at_s - began_s)

    def load(self, customer: str, now_s: float) -> Load:
        """What `admit` needs to know."""
        return Load.model_construct(
            open=sum(self.states.values()),
            open_of_customer=self._of_customer.get(customer, 0),
            unpaid=self.states["received"] + self.states["quoted"],
            quotes_last_minute=_within(self._quotes, now_s),
            refusals_last_minute=_within(self._refusals, now_s),
        )

    def per_minute(self, now_s: float) -> int:
        """Jobs delivered in the last minute."""
        return _within(self._deliveries, now_s)

    def took_ms(self, part: float) -> int | None:
        """The time from request to delivered result that this part of the last deliveries stayed below."""
        times = sorted(self._took_s)
        return round(1000 * times[min(int(part * len(times)), len(times) - 1)]) if times else None


def _within(times: deque[float], now_s: float) -> int:
    while times and times[0] < now_s - MINUTE_S:
        times.popleft()
    return len(times)
