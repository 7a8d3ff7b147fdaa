"""The events that one relay is being offered: sent, sent again after a break, and each answered once."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from blocks.relays.tally import Tally
from swarmc.contracts.relay import RelayAnswer
from swarmc.nostr.messages import RelayMessage

MOST_WAITING = 1000
"""Events that may wait for one relay's answer at once."""

MOST_REMEMBERED = 10_000
RATE_LIMIT_PAUSE_S = 1.0
LONGEST_RATE_PAUSE_S = 30.0


@dataclass(slots=True)
class _Offer:
    message: str
    began_s: float
    timer: asyncio.TimerHandle
    answer: asyncio.Future[RelayAnswer]
    parked: bool = False
    pause_s: float = RATE_LIMIT_PAUSE_S
    again: asyncio.TimerHandle | None = field(default=None)


class Offers:
    """Of one relay.

    Args:
        url: Which.
        tally: Where answers are counted.
        say: Sends a message when the line is up; what waits is asked of `messages` when it comes up.
        timeout_s: Seconds that the relay has for each event, to connect included.
        most_bytes: Of all that waits.
    """

    def __init__(
        self, url: str, tally: Tally, say: Callable[[str], bool], *, timeout_s: float, most_bytes: int
    ) -> None:
        self._url = url
        self._tally = tally
        self._say = say
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._bytes = 0
        self._waiting: dict[str, _Offer] = {}
        self._taken: OrderedDict[str, None] = OrderedDict()
        self._accepted = RelayAnswer(url=url, outcome="accepted")
        self.why_silent: Callable[[], str] = lambda: ""
        self.on_silence: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, event_id: str, message: str) -> asyncio.Future[RelayAnswer]:
        """Hand over an event as it is sent. While it is under way, the same event is the same future."""
        waiting = self._waiting.get(event_id)
        if waiting is not None:
            return waiting.answer
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[RelayAnswer] = loop.create_future()
        if event_id in self._taken:
            answer.set_result(RelayAnswer(url=self._url, outcome="accepted", reason="taken before"))
        elif len(self._waiting) >= MOST_WAITING or self._bytes + len(message) > self._most_bytes:
            answer.set_result(self._count("unanswered", f"{len(self._waiting)} events wait for this relay already"))
        else:
            timer = loop.call_later(self._timeout_s, self._silent, event_id)
            self._waiting[event_id] = _Offer(message, loop.time(), timer, answer)
            self._bytes += len(message)
            self._say(message)
        return answer

    def forget(self, event_id: str) -> None:
        """It took this event, and lost it: offer it again when asked to."""
        self._taken.pop(event_id, None)

    def messages(self) -> Iterable[str]:
        """What a relay must be told that has just been connected."""
        for offer in self._waiting.values():
            offer.parked = False
            yield offer.message

    def hear(self, message: RelayMessage, *, parks: bool) -> None:
        """Take an `OK`.

        Args:
            message: What the relay said.
            parks: Whether an event that is refused because we have not introduced ourselves waits for that.
        """
        event_id = message.subject
        if not event_id and not message.agreed and len(self._waiting) == 1:
            # Some relays name no event when they refuse; that is clear only while one waits.
            event_id = next(iter(self._waiting))
        offer = self._waiting.get(event_id)
        if offer is None:
            return
        self._tally.failures = 0
        if message.agreed or message.text.startswith("duplicate:"):
            self._tally.answered_in(asyncio.get_running_loop().time() - offer.began_s)
            self._taken[event_id] = None
            if len(self._taken) > MOST_REMEMBERED:
                self._taken.popitem(last=False)
            self._tally.accepted += 1
            self._end(event_id, self._accepted)
        elif message.text.startswith("rate-limited:"):
            self._later(offer, message.text)
        elif parks and message.text.startswith("auth-required:"):
            offer.parked = True
            self._tally.last_reason = message.text
        else:
            self._end(event_id, self._count("refused", message.text or "refused without a reason"))

    def introduced(self, refusal: str) -> None:
        """The relay knows who we are now, or says why it does not want to."""
        for event_id, offer in [(event_id, offer) for event_id, offer in self._waiting.items() if offer.parked]:
            offer.parked = False
            if refusal:
                self._end(event_id, self._count("refused", refusal))
            else:
                self._say(offer.message)

    def pending(self) -> list[asyncio.Future[RelayAnswer]]:
        return [offer.answer for offer in self._waiting.values()]

    def hang_up(self) -> None:
        for event_id in list(self._waiting):
            self._end(event_id, RelayAnswer(url=self._url, outcome="unanswered", reason="we hung up"))

    def _later(self, offer: _Offer, reason: str) -> None:
        self._tally.last_reason = reason
        if offer.again is not None:
            offer.again.cancel()
        pause_s = offer.pause_s * (1 + random.random())
        offer.pause_s = min(2 * offer.pause_s, LONGEST_RATE_PAUSE_S)
        offer.again = asyncio.get_running_loop().call_later(pause_s, self._say, offer.message)

    def _silent(self, event_id: str) -> None:
        reason = f"nothing within {self._timeout_s:g} s: {self.why_silent() or 'it did not answer'}"
        self._tally.failures += 1
        self._end(event_id, self._count("unanswered", reason))
        self.on_silence()

    def _end(self, event_id: str, answer: RelayAnswer) -> None:
        offer = self._waiting.pop(event_id)
        self._bytes -= len(offer.message)
        offer.timer.cancel()
        if offer.again is not None:
            offer.again.cancel()
        if not offer.answer.done():
            offer.answer.set_result(answer)

    def _count(self, outcome: Literal["refused", "unanswered"], reason: str) -> RelayAnswer:
        if outcome == "refused":
            self._tally.refused += 1
        else:
            self._tally.unanswered += 1
        self._tally.last_reason = reason
        return RelayAnswer(url=self._url, outcome=outcome, reason=reason)
