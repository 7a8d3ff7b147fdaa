"""Several relays behind one door: a quorum to publish, the union of what they have to read."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, final

from pydantic import JsonValue

from blocks.relays.guests import Guests
from blocks.relays.hearing import MOST_QUEUED
from blocks.relays.line import Line
from blocks.relays.questions import Take, Took
from blocks.relays.subscription import Subscription
from swarmc.contracts.errors import RelayError
from swarmc.contracts.relay import Fetched, Filter, NostrEvent, Published, RelayAnswer, RelayHealth
from swarmc.nostr.events import check_event
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.messages import matches, publish_message

MOST_UNFIT = 100
"""Messages in one fetch that are no events that were asked for, after which a relay is not listened to."""

MOST_READ_BACK = 2
AWAY_AFTER_S = 0.25
"""So long a relay that cannot be reached is waited for once another has answered: what it has may be missing."""

READ_BACK_PAUSE_S = 0.5
"""Some relays say that they took an event a moment before it can be read."""


@final
class RelayPool:
    """A `Relay` port over WebSockets, to be entered with `async with`.

    Args:
        urls: Where they are, each once.
        quorum: How many must take an event.
        timeout_s: Seconds that each has to answer a question, to connect included.
        key: Who we are, for relays that ask (NIP-42). Without it their questions stay unanswered.
        private: Dial relays that strangers name also without TLS and on private networks.
        most_queued: How many events of a subscription wait for its reader at most.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        quorum: int = 1,
        timeout_s: float = 10.0,
        key: SecretKey | None = None,
        private: bool = False,
        most_queued: int = MOST_QUEUED,
    ) -> None:
        self._urls = tuple(urls)
        self._quorum = quorum
        self._timeout_s = timeout_s
        self._key = key
        self._most_queued = most_queued
        self._lines: tuple[Line, ...] = ()
        self._guests = Guests(timeout_s=timeout_s, key=key, private=private)

    async def __aenter__(self) -> Self:
        self._lines = tuple(Line(url, timeout_s=self._timeout_s, key=self._key) for url in self._urls)
        for line in self._lines:
            line.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(self._guests.aclose(), *(line.aclose() for line in self._lines))

    @property
    def health(self) -> tuple[RelayHealth, ...]:
        """Of our relays in their order, then of those that strangers named and that are in use."""
        return (*(line.health for line in self._lines), *self._guests.health)

    async def publish(self, event: NostrEvent, *, also: Iterable[str] = ()) -> Published:
        """Return as soon as a quorum took it; the other relays go on being offered it. See `Relay`.

        Args:
            event: What is published.
            also: Relays that a stranger wants it on. They are offered it where `allowed_relay` lets us, are not
                waited for and count for no quorum.
        """
        message = publish_message(event)
        count = _Count(self._quorum, len(self._lines))
        for line in self._quickest_first():
            count.add(line.offer(event.id, message))
        if also:
            for line in self._guests.lines(url for url in also if url.strip().rstrip("/") not in self._urls):
                line.offer(event.id, message)
        await count.done
        if count.taken < self._quorum:
            raise self._too_few(f"publishing event {event.id[:16]} (kind {event.kind})", "took it", count.answers)
        return Published(event_id=event.id, answers=tuple(count.answers))

    async def confirm(self, event: NostrEvent) -> Published:
        """Make sure that a quorum of relays has it: each is asked for it back; one that lost it is offered it again.

        Returns:
            As `accepted` the relays that gave it back.

        Raises:
            RelayError: fewer than the quorum have it, whatever they said when it was published.
        """
        message = publish_message(event)
        answers: list[RelayAnswer] = []
        for _ in range(MOST_READ_BACK):
            answers = await asyncio.gather(*(_read_back(line, event) for line in self._lines))
            if _taken(answers) >= self._quorum:
                return Published(event_id=event.id, answers=tuple(answers))
            lost = [line for line, answer in zip(self._lines, answers, strict=True) if answer.outcome != "accepted"]
            for line in lost:
                line.offers.forget(event.id)
            await asyncio.wait([line.offer(event.id, message) for line in lost])
            await asyncio.sleep(READ_BACK_PAUSE_S)
        answers = await asyncio.gather(*(_read_back(line, event) for line in self._lines))
        if _taken(answers) >= self._quorum:
            return Published(event_id=event.id, answers=tuple(answers))
        raise self._too_few(f"confirming event {event.id[:16]} (kind {event.kind})", "have it", answers)

    async def fetch(self, filters: Sequence[Filter], *, limit: int = 500) -> Fetched:
        """Ask every relay and wait for all that can be reached, each for `timeout_s` at most. See `Relay`."""
        asked = [one if one.limit else one.model_copy(update={"limit": limit}) for one in filters]
        found: dict[str, NostrEvent] = {}
        answers = await _gathered({line: line.fetch(asked, _taker(found, asked, limit)) for line in self._lines})
        if not any(answer.outcome == "accepted" for answer in answers) and not found:
            raise RelayError(
                f"reading events back from {len(self._lines)} relays: none answered; {_told(answers)}",
                answers,
                retryable=True,
            )
        newest = sorted(found.values(), key=lambda event: (event.created_at, event.id))[-limit:]
        return Fetched(events=tuple(newest), answers=tuple(answers))

    def subscribe(self, filters: Sequence[Filter]) -> AbstractAsyncContextManager[AsyncIterator[NostrEvent]]:
        """Hear events as they come; without a `since` those of the last two minutes too. See `Relay`."""
        return Subscription(self._lines, filters, timeout_s=self._timeout_s, most_queued=self._most_queued)

    def _quickest_first(self) -> Sequence[Line]:
        return self._lines if len(self._lines) < 2 else sorted(self._lines, key=_slowness)

    def _too_few(self, doing: str, what: str, answers: Sequence[RelayAnswer]) -> RelayError:
        return RelayError(
            f"{doing}: {_taken(answers)} of {len(self._lines)} relays {what}, {self._quorum} must; {_told(answers)}",
            answers,
            retryable=any(answer.outcome == "unanswered" for answer in answers),
        )


class _Count:
    """Counts answers until there are enough, or can be no more. `done` says when; it belongs to one caller."""

    def __init__(self, quorum: int, asked: int) -> None:
        self.answers: list[RelayAnswer] = []
        self.taken = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._quorum = quorum
        self._open = asked

    def add(self, answer: asyncio.Future[RelayAnswer]) -> None:
        answer.add_done_callback(self._heard)

    def _heard(self, answered: asyncio.Future[RelayAnswer]) -> None:
        if self.done.done():
            return
        answer = answered.result()
        self.answers.append(answer)
        self.taken += answer.outcome == "accepted"
        self._open -= 1
        if not self.taken < self._quorum <= self.taken + self._open:
            self.done.set_result(None)


async def _gathered(asking: dict[Line, Coroutine[Any, Any, RelayAnswer]]) -> list[RelayAnswer]:
    """The answer of every relay; one that is away is left as soon as another has answered."""
    tasks = {line: asyncio.create_task(work) for line, work in asking.items()}
    try:
        while pending := {task for task in tasks.values() if not task.done()}:
            done, _ = await asyncio.wait(pending, timeout=AWAY_AFTER_S)
            answered = any(task.done() and task.result().outcome == "accepted" for task in tasks.values())
            if not done and answered and all(line.failing for line, task in tasks.items() if not task.done()):
                break
        return [task.result() if task.done() else _away(line) for line, task in tasks.items()]
    finally:
        for task in tasks.values():
            task.cancel()


def _away(line: Line) -> RelayAnswer:
    return RelayAnswer(url=line.url, outcome="unanswered", reason=line.tally.last_reason or "it cannot be reached")


def _slowness(line: Line) -> tuple[bool, float]:
    return line.failing, line.tally.latency_s or 0.0


async def _read_back(line: Line, event: NostrEvent) -> RelayAnswer:
    """Whether a relay gives an event, as an answer."""
    given = False

    def take(value: JsonValue, _: int) -> Took:
        nonlocal given
        known = isinstance(value, dict) and value.get("id") == event.id and isinstance(check_event(value), NostrEvent)
        given = given or known
        return "full" if known else "flood"

    answer = await line.fetch([Filter(ids=(event.id,), limit=1)], take)
    if given:
        return RelayAnswer(url=line.url, outcome="accepted")
    if answer.outcome != "accepted":
        return answer
    line.tally.last_reason = f"it does not give back event {event.id[:16]}"
    return RelayAnswer(url=line.url, outcome="refused", reason=line.tally.last_reason)


def _taker(found: dict[str, NostrEvent], filters: Sequence[Filter], limit: int) -> Take:
    """Takes one relay's events into `found`, verified once however many relays have them."""
    mine: set[str] = set()
    unfit = 0

    def wanted(event: NostrEvent) -> bool:
        return any(matches(event, one) for one in filters)

    def take(value: JsonValue, _: int) -> Took:
        nonlocal unfit
        claimed = value.get("id") if isinstance(value, dict) else None
        known = found.get(claimed) if isinstance(claimed, str) else None
        event = known or check_event(value, wanted=wanted)
        if not isinstance(event, NostrEvent) or event.id in mine:
            unfit += 1
            return "unfit" if unfit < MOST_UNFIT else "flood"
        mine.add(event.id)
        found.setdefault(event.id, event)
        return "kept" if len(mine) < limit else "full"

    return take


def _taken(answers: Sequence[RelayAnswer]) -> int:
    return sum(answer.outcome == "accepted" for answer in answers)


def _told(answers: Sequence[RelayAnswer]) -> str:
    return "; ".join(f"{answer.url}: {answer.outcome} {answer.reason}".rstrip() for answer in answers)
