"""The line to one relay: connects when there is something to say, tries again, and never raises at its users."""

import asyncio
import logging
import random
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from swarmc.contracts.relay import Filter, NostrEvent, RelayAnswer, RelayHealth
from swarmc.nostr.messages import (
    MAX_MESSAGE_BYTES,
    RelayMessage,
    close_message,
    parse_message,
    publish_message,
    request_message,
)

logger = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Events that may wait for one relay's answer at once."""

MOST_REMEMBERED = 10_000
MOST_FETCHED_BYTES = 64 << 20
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 60.0
RATE_LIMIT_PAUSE_S = 1.0
PING_EVERY_S = 20.0
CLOSE_S = 1.0
MUTE_AFTER = 3
"""Unanswered questions in a row after which a connection counts as dead."""

MOST_NOISE = 1000
"""Messages on one connection that nobody asked for, after which it is given up."""

Took = Literal["kept", "unfit", "full", "flood"]
Take = Callable[[JsonValue], Took]


@dataclass(slots=True)
class _Waiting:
    message: str
    answer: asyncio.Future[RelayMessage] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class _Asked:
    message: str
    take: Take
    bytes: int = 0
    ended: asyncio.Future[RelayAnswer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Line:
    """One relay. `start` it on a running loop, `aclose` it in the end."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._socket: ClientConnection | None = None
        self._wanted = asyncio.Event()
        self._waiting: dict[str, _Waiting] = {}
        self._publishing: dict[str, asyncio.Task[RelayAnswer]] = {}
        self._asked: dict[str, _Asked] = {}
        self._taken: OrderedDict[str, None] = OrderedDict()
        self._health = RelayHealth(url=url, connected=False)
        self._runner: asyncio.Task[None] | None = None
        self._broken = ""
        self._noise = 0

    @property
    def health(self) -> RelayHealth:
        return self._health.model_copy(update={"connected": self._socket is not None})

    def start(self) -> None:
        self._runner = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Let what is being published end within `CLOSE_S` seconds; leave the rest."""
        for subscription in list(self._asked):
            self._end(subscription, "refused", "we hung up")
        if self._publishing:
            await asyncio.wait(self._publishing.values(), timeout=CLOSE_S)
        tasks: list[asyncio.Task[RelayAnswer] | asyncio.Task[None]] = [*self._publishing.values()]
        tasks += [self._runner] if self._runner else []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def publish(self, event: NostrEvent) -> asyncio.Task[RelayAnswer]:
        """Hand over an event. The same event while it is under way is the same task."""
        task = self._publishing.get(event.id)
        if task is None:
            task = asyncio.create_task(self._publish(event))
            self._publishing[event.id] = task
            task.add_done_callback(lambda _: self._publishing.pop(event.id, None))
        return task

    async def fetch(self, filters: Sequence[Filter], take: Take) -> RelayAnswer:
        """Ask for events; each is given to `take` until the relay has no more, or `take` is full."""
        subscription = secrets.token_hex(8)
        asked = _Asked(request_message(subscription, filters), take)
        self._asked[subscription] = asked
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._say(asked.message)
                return await asked.ended
        except TimeoutError:
            return self._unanswered()
        finally:
            del self._asked[subscription]
            if self._socket is not None:
                await self._send(self._socket, close_message(subscription), within_s=CLOSE_S)

    async def _publish(self, event: NostrEvent) -> RelayAnswer:
        if event.id in self._taken:
            return RelayAnswer(url=self.url, outcome="accepted", reason="taken before")
        if len(self._waiting) >= MOST_WAITING:
            return self._count("unanswered", f"{MOST_WAITING} events wait for this relay already")
        waiting = self._waiting[event.id] = _Waiting(publish_message(event))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._answered(event.id, waiting)
        except TimeoutError:
            return self._unanswered()
        finally:
            del self._waiting[event.id]

    async def _answered(self, event_id: str, waiting: _Waiting) -> RelayAnswer:
        await self._say(waiting.message)
        while True:
            said = await waiting.answer
            if said.agreed or said.text.startswith("duplicate:"):
                self._taken[event_id] = None
                if len(self._taken) > MOST_REMEMBERED:
                    self._taken.popitem(last=False)
                return self._count("accepted", "")
            if not said.text.startswith("rate-limited:"):
                return self._count("refused", said.text or "refused without a reason")
            self._note(said.text)
            await asyncio.sleep(RATE_LIMIT_PAUSE_S * (1 + random.random()))
            waiting.answer = asyncio.get_running_loop().create_future()
            await self._say(waiting.message)

    def _unanswered(self) -> RelayAnswer:
        self._fail(f"nothing within {self._timeout_s:g} s: {self._broken or 'it did not answer'}")
        if self._socket is not None and self._health.failures >= MUTE_AFTER:
            self._socket.transport.abort()
        return self._count("unanswered", self._health.last_reason)

    async def _say(self, message: str) -> None:
        """Send it now, or when the line is up: `_run` then sends all that waits."""
        self._wanted.set()
        if self._socket is not None:
            await self._send(self._socket, message, within_s=self._timeout_s)

    async def _send(self, socket: ClientConnection, message: str, *, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await socket.send(message)
        except (WebSocketException, OSError, TimeoutError) as error:
            self._note(_reason(error))

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._wanted.wait()
            answered = self._answers
            try:
                await self._listen()
                self._broken = "the relay closed the connection"
            except Exception as error:  # noqa: BLE001 - whatever a relay does to its line, the others go on
                self._broken = _reason(error)
            self._fail(self._broken)
            logger.debug("the line to %s broke: %s", self.url, self._broken)
            if self._answers > answered:
                pause_s = FIRST_PAUSE_S
            if not self._waiting and not self._asked:
                self._wanted.clear()
            await asyncio.sleep(pause_s * (0.5 + random.random()))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _listen(self) -> None:
        """Connect, say all that waits, and hear until the line breaks."""
        async with connect(
            self.url,
            open_timeout=self._timeout_s,
            ping_interval=PING_EVERY_S,
            ping_timeout=PING_EVERY_S,
            close_timeout=CLOSE_S,
            max_size=MAX_MESSAGE_BYTES,
        ) as socket:
            self._socket, self._noise = socket, 0
            try:
                for message in [one.message for one in (*self._waiting.values(), *self._asked.values())]:
                    await self._send(socket, message, within_s=self._timeout_s)
                async for raw in socket:
                    self._hear(raw)
                    await asyncio.sleep(0)  # A flood of messages must not keep the loop to itself.
            finally:
                self._socket = None

    def _hear(self, raw: str | bytes) -> None:
        message = parse_message(raw)
        match message:
            case None | RelayMessage(verb="OTHER"):
                self._hear_noise("a message that is none of NIP-01's")
            case RelayMessage(verb="EVENT"):
                self._event(message, len(raw))
            case RelayMessage(verb="OK"):
                self._ok(message)
            case RelayMessage(verb="EOSE"):
                self._end(message.subject, "accepted", "")
            case RelayMessage(verb="CLOSED"):
                self._end(message.subject, "refused", message.text or "closed without a reason")
            case RelayMessage(verb="NOTICE"):
                self._hear_noise(f"notice: {message.text}", unfit=0)
            case RelayMessage(verb="AUTH"):
                self._hear_noise("it asks who we are (NIP-42), which is not answered yet", unfit=0)

    def _hear_noise(self, what: str, *, unfit: int = 1) -> None:
        self._note(what)
        self._add(unfit=unfit)
        self._noise += 1
        if self._noise > MOST_NOISE:
            raise ConnectionError(f"{MOST_NOISE} messages that nobody asked for; the last: {what}")

    def _ok(self, message: RelayMessage) -> None:
        waiting = self._waiting.get(message.subject)
        # Some relays name no event when they refuse; that is clear only while one waits.
        if waiting is None and not message.subject and not message.agreed and len(self._waiting) == 1:
            waiting = next(iter(self._waiting.values()))
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(message)

    def _event(self, message: RelayMessage, size_bytes: int) -> None:
        asked = self._asked.get(message.subject)
        if asked is None or asked.ended.done():
            self._hear_noise("an event that nobody asked for")
            return
        took = asked.take(message.event)
        asked.bytes += size_bytes
        self._add(unfit=1) if took in ("unfit", "flood") else self._add(received=1)
        if took == "full":
            self._end(message.subject, "accepted", "as many as were asked for")
        elif took == "flood":
            self._end(message.subject, "refused", "too many events that were not true or not asked for")
        elif asked.bytes > MOST_FETCHED_BYTES:
            self._end(message.subject, "refused", f"it sent more than {MOST_FETCHED_BYTES >> 20} MiB")

    def _end(self, subscription: str, outcome: Literal["accepted", "refused"], reason: str) -> None:
        asked = self._asked.get(subscription)
        if asked is not None and not asked.ended.done():
            self._answered_well()
            asked.ended.set_result(RelayAnswer(url=self.url, outcome=outcome, reason=reason))

    @property
    def _answers(self) -> int:
        return self._health.accepted + self._health.refused + self._health.received

    def _count(self, outcome: Literal["accepted", "refused", "unanswered"], reason: str) -> RelayAnswer:
        self._add(**{outcome: 1})
        if outcome != "unanswered":
            self._answered_well()
        if outcome != "accepted":
            self._note(reason)
        return RelayAnswer(url=self.url, outcome=outcome, reason=reason)

    def _answered_well(self) -> None:
        self._broken = ""
        self._health = self._health.model_copy(update={"failures": 0})

    def _add(self, **counts: int) -> None:
        added = {name: getattr(self._health, name) + count for name, count in counts.items()}
        self._health = self._health.model_copy(update=added)

    def _fail(self, reason: str) -> None:
        self._add(failures=1)
        self._note(reason)

    def _note(self, reason: str) -> None:
        self._health = self._health.model_copy(update={"last_reason": reason})


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
