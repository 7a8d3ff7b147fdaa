"""The line to one relay: connects when there is something to say, tries again, and never raises at its users."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from blocks.relays.backoff import BackOff
from blocks.relays.dialling import CLOSE_S, Dial, own_dial
from blocks.relays.introduction import Introduction
from blocks.relays.offers import Offers
from blocks.relays.questions import Once, Questions, Take
from blocks.relays.tally import Tally, reason_of
from swarmc.contracts.relay import Filter, RelayAnswer, RelayHealth
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.messages import RelayMessage, parse_message

logger = logging.getLogger(__name__)

MUTE_AFTER = 3
"""Unanswered questions in a row after which a connection counts as dead."""

MOST_NOISE = 1000
"""Messages on one connection that nobody asked for, beyond those that are forgiven, before it is given up."""

FORGIVEN_PER_S = 10.0
MOST_UNSENT_BYTES = 64 << 20
BREATH_MESSAGES = 32
BREATH_BYTES = 1 << 17
"""After so much that a relay said the loop belongs to others for a moment, flood or not."""

TOO_BIG = 1009


class Flood(ConnectionError):
    """A relay said too much that nobody wants to hear."""


class Line:
    """One relay. `start` it on a running loop, `aclose` it in the end.

    Args:
        url: Where, and what is signed when the relay asks who we are.
        timeout_s: Seconds that it has for each answer, to connect included.
        key: Who we are, for relays that ask.
        dial_with: Opens the socket; as one of our own choice unless said.
        most_bytes: Of all events that wait for its answer.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        key: SecretKey | None = None,
        dial_with: Dial | None = None,
        most_bytes: int = MOST_UNSENT_BYTES,
    ) -> None:
        self.url = url
        self.tally = Tally()
        self.used_s = asyncio.get_running_loop().time()
        self.failing = False
        self.backoff = BackOff()
        self.offers = Offers(url, self.tally, self._say, timeout_s=timeout_s, most_bytes=most_bytes)
        self.offers.why_silent = lambda: self._broken
        self.offers.on_silence = self._give_up_when_mute
        self.questions = Questions(self.tally, self._say)
        self._introduction = Introduction(url, key, self._say, self._introduced)
        self._timeout_s = timeout_s
        self._dial = dial_with or own_dial()
        self._socket: ClientConnection | None = None
        self._wanted = asyncio.Event()
        self._unsent: deque[str] = deque()
        self._unsent_bytes = 0
        self._to_send = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._broken = ""
        self._noise = 0.0
        self._noise_s = 0.0

    @property
    def health(self) -> RelayHealth:
        return self.tally.health(self.url, connected=self._socket is not None)

    @property
    def busy(self) -> bool:
        return bool(self.offers or self.questions)

    def start(self) -> None:
        self._runner = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Let what is being published end within `CLOSE_S` seconds; leave the rest."""
        self.questions.hang_up()
        pending = self.offers.pending()
        if pending:
            await asyncio.wait(pending, timeout=CLOSE_S)
        self.offers.hang_up()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])

    def offer(self, event_id: str, message: str) -> asyncio.Future[RelayAnswer]:
        """Hand over an event. See `Offers`."""
        self.used_s = asyncio.get_running_loop().time()
        self.backoff.hurry()
        return self.offers.offer(event_id, message)

    async def fetch(self, filters: Sequence[Filter], take: Take) -> RelayAnswer:
        """Ask for events; each is given to `take` until the relay has no more, or `take` is full."""
        question = Once(self.url, filters, take)
        self.backoff.hurry()
        self.questions.ask(question)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await question.ended
            self._broken, self.tally.failures = "", 0
            return answer
        except TimeoutError:
            return self._unanswered()
        finally:
            self.questions.drop(question)

    def _unanswered(self) -> RelayAnswer:
        reason = f"nothing within {self._timeout_s:g} s: {self._broken or 'it did not answer'}"
        self.tally.unanswered += 1
        self.tally.fail(reason)
        self._give_up_when_mute()
        return RelayAnswer(url=self.url, outcome="unanswered", reason=reason)

    def _give_up_when_mute(self) -> None:
        if self._socket is not None and self.tally.failures >= MUTE_AFTER:
            self._socket.transport.abort()

    def _say(self, message: str) -> bool:
        """Send it soon, or when the line is up: `_converse` then sends all that waits. Whether it is up."""
        self._wanted.set()
        if self._socket is None:
            return False
        self._unsent.append(message)
        self._unsent_bytes += len(message)
        self._to_send.set()
        if self._unsent_bytes > MOST_UNSENT_BYTES:
            self.tally.last_reason = f"it reads nothing while {MOST_UNSENT_BYTES >> 20} MiB wait for it"
            self._socket.transport.abort()
        return True

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            answers, began_s, flooded = self.tally.answers, loop.time(), False
            try:
                await self._converse()
                self._broken = "the relay closed the connection"
            except Exception as error:  # noqa: BLE001 - whatever a relay does to its line, the others go on
                self._broken = reason_of(error)
                flooded = isinstance(error, Flood) or _was_too_big(error)
            self.failing = True
            self.tally.fail(self._broken)
            logger.debug("the line to %s broke: %s", self.url, self._broken)
            if flooded:
                self.backoff.flooded()
            elif self.tally.answers > answers or loop.time() - began_s > self.backoff.longest_s:
                self.backoff.worked()
            self.questions.broke()
            if not self.busy:
                self._wanted.clear()
            await self.backoff.rest(waited_for=bool(self.offers))

    async def _converse(self) -> None:
        """Connect, say all that waits, and hear until the line breaks."""
        async with await self._dial(self.url, self._timeout_s) as socket:
            self._introduction.reset()
            self._noise, self._socket = 0.0, socket
            # Questions first: what answers an event that goes out with them is heard.
            self._unsent.extend((*self.questions.messages(), *self.offers.messages()))
            self._unsent_bytes = sum(map(len, self._unsent))
            writer = asyncio.create_task(self._write(socket))
            try:
                await self._listen(socket)
            finally:
                self._socket = None
                self._unsent.clear()
                self._unsent_bytes = 0
                self._introduction.reset()
                writer.cancel()

    async def _write(self, socket: ClientConnection) -> None:
        try:
            while True:
                while self._unsent:
                    message = self._unsent.popleft()
                    self._unsent_bytes -= len(message)
                    await socket.send(message)
                self._to_send.clear()
                await self._to_send.wait()
        except (ConnectionClosed, OSError):
            return  # `_listen` is told the same.

    async def _listen(self, socket: ClientConnection) -> None:
        messages, size_bytes = 0, 0
        while True:
            try:
                raw = await socket.recv(decode=False)
            except ConnectionClosedOK:
                return
            self._hear(raw)
            messages += 1
            size_bytes += len(raw)
            if messages >= BREATH_MESSAGES or size_bytes > BREATH_BYTES:
                messages, size_bytes = 0, 0
                await asyncio.sleep(0)

    def _hear(self, raw: bytes) -> None:
        message = parse_message(raw)
        if message is None:
            self._hear_noise("a message that is none of NIP-01's")
        elif message.verb == "EVENT":
            self._hear_event(message, len(raw))
        elif message.verb == "OK":
            self._hear_ok(message)
        elif message.verb in ("EOSE", "CLOSED"):
            self._end_failing()
            self.questions.hear_end(message, parks=self._introduction.ahead)
        else:
            self._hear_talk(message)

    def _hear_event(self, message: RelayMessage, size_bytes: int) -> None:
        took = self.questions.hear_event(message, size_bytes)
        if took is None:
            self._hear_noise("an event that nobody asked for")
        elif took == "unfit":
            self._add_noise("an event that is not true or not what was asked for")
        elif took != "flood":
            self._end_failing()

    def _hear_ok(self, message: RelayMessage) -> None:
        if not self._introduction.hear(message):
            self._end_failing()
            self.offers.hear(message, parks=self._introduction.ahead)

    def _hear_talk(self, message: RelayMessage) -> None:
        """What asks for no answer, or for a proof of who we are."""
        if message.verb == "AUTH":
            self._hear_noise("it asks who we are (NIP-42)", unfit=0)
            if not self._introduction.possible:
                self.tally.last_reason = "it asks who we are (NIP-42); give the relays a key to answer with"
            self._introduction.challenged(message.text)
        elif message.verb == "NOTICE":
            self._hear_noise(f"notice: {message.text}", unfit=0)
        else:
            self._hear_noise("a message that is none of NIP-01's")

    def _introduced(self, refusal: str) -> None:
        if refusal:
            self.tally.last_reason = refusal
        self.offers.introduced(refusal)
        self.questions.introduced(refusal)

    def _end_failing(self) -> None:
        self.failing = False
        self._broken = ""

    def _hear_noise(self, what: str, *, unfit: int = 1) -> None:
        self.tally.last_reason = what
        self.tally.unfit += unfit
        self._add_noise(what)

    def _add_noise(self, what: str) -> None:
        now_s = asyncio.get_running_loop().time()
        self._noise = max(0.0, self._noise - FORGIVEN_PER_S * (now_s - self._noise_s)) + 1
        self._noise_s = now_s
        if self._noise > MOST_NOISE:
            raise Flood(f"{MOST_NOISE} messages that nobody asked for; the last: {what}")


def _was_too_big(error: Exception) -> bool:
    return isinstance(error, ConnectionClosed) and error.sent is not None and error.sent.code == TOO_BIG
