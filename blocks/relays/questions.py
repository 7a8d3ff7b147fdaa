"""The questions that are open at one relay, each until it is answered or taken back."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

from pydantic import JsonValue

from blocks.relays.tally import Tally
from swarmc.contracts.relay import Filter, RelayAnswer
from swarmc.nostr.messages import RelayMessage, close_message, request_message

MOST_FETCHED_BYTES = 64 << 20

Took = Literal["kept", "known", "unfit", "full", "flood"]
Take = Callable[[JsonValue, int], Took]
"""From what a relay gives for an event, and the bytes of its message, to what became of it."""


class Question(Protocol):
    """A REQ under a name of its own."""

    subscription: str

    def message(self) -> str:
        """How it is asked now."""
        ...

    def asked(self) -> None:
        """It was said to a relay that is connected."""
        ...

    def broke(self) -> None:
        """The connection broke, or none came about. It is asked again with the next."""
        ...

    def event(self, value: JsonValue, size_bytes: int) -> Took:
        """Take what the relay gives for an event."""
        ...

    def sent_all(self) -> None:
        """The relay has no more that is stored."""
        ...

    def closed(self, reason: str) -> None:
        """The relay took its ear off the question."""
        ...

    def hang_up(self) -> None: ...


class Questions:
    """Of one relay.

    Args:
        tally: Where events are counted.
        say: Sends a message when the line is up, and tells whether it is; what is open is asked of `messages` when it
            comes up.
    """

    def __init__(self, tally: Tally, say: Callable[[str], bool]) -> None:
        self._tally = tally
        self._say = say
        self._open: dict[str, Question] = {}
        self._parked: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, question: Question) -> None:
        """Ask it, now or when the line is up, or ask again."""
        self._open[question.subscription] = question
        if self._say(question.message()):
            question.asked()

    def drop(self, question: Question) -> None:
        """Take it back."""
        if self._open.pop(question.subscription, None) is not None:
            self._parked.discard(question.subscription)
            self._say(close_message(question.subscription))

    def messages(self) -> Iterable[str]:
        """What a relay must be told that has just been connected."""
        self._parked.clear()
        for question in list(self._open.values()):
            yield question.message()
            question.asked()

    def broke(self) -> None:
        for question in list(self._open.values()):
            question.broke()

    def hear_event(self, message: RelayMessage, size_bytes: int) -> Took | None:
        """Give an event to whoever asked for it; nothing when nobody did."""
        question = self._open.get(message.subject)
        if question is None:
            return None
        took = question.event(message.event, size_bytes)
        if took in ("unfit", "flood"):
            self._tally.unfit += 1
        else:
            self._tally.received += 1
            self._tally.failures = 0
        return took

    def hear_end(self, message: RelayMessage, *, parks: bool) -> None:
        """Take an `EOSE` or a `CLOSED`; one who wants to know who we are is asked again when it does."""
        question = self._open.get(message.subject)
        if question is None:
            return
        if message.verb == "EOSE":
            self._tally.failures = 0
            question.sent_all()
        elif parks and message.text.startswith("auth-required:"):
            self._tally.last_reason = message.text
            self._parked.add(message.subject)
        else:
            self._tally.last_reason = message.text or "it closed a subscription without a reason"
            question.closed(message.text or "closed without a reason")

    def introduced(self, refusal: str) -> None:
        """The relay knows who we are now, or says why it does not want to."""
        parked, self._parked = self._parked, set()
        for question in [self._open[subscription] for subscription in parked if subscription in self._open]:
            if refusal:
                question.closed(refusal)
            else:
                self.ask(question)

    def hang_up(self) -> None:
        for question in list(self._open.values()):
            question.hang_up()


class Once:
    """A question that ends with what is stored. `ended` says how."""

    def __init__(self, url: str, filters: Sequence[Filter], take: Take) -> None:
        self.subscription = secrets.token_hex(8)
        self.ended: asyncio.Future[RelayAnswer] = asyncio.get_running_loop().create_future()
        self._url = url
        self._message = request_message(self.subscription, filters)
        self._take = take
        self._bytes = 0

    def message(self) -> str:
        return self._message

    def asked(self) -> None:
        """Its time runs from when it was made."""

    def broke(self) -> None:
        """Whoever asked waits for another connection as long as there is time."""

    def event(self, value: JsonValue, size_bytes: int) -> Took:
        if self.ended.done():
            return "known"
        took = self._take(value, size_bytes)
        self._bytes += size_bytes
        if took == "full":
            self._end("accepted", "as many as were asked for")
        elif took == "flood":
            self._end("refused", "too many events that were not true or not asked for")
        elif self._bytes > MOST_FETCHED_BYTES:
            self._end("refused", f"it sent more than {MOST_FETCHED_BYTES >> 20} MiB")
        return took

    def sent_all(self) -> None:
        self._end("accepted", "")

    def closed(self, reason: str) -> None:
        self._end("refused", reason)

    def hang_up(self) -> None:
        self._end("refused", "we hung up")

    def _end(self, outcome: Literal["accepted", "refused"], reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(RelayAnswer(url=self._url, outcome=outcome, reason=reason))
