"""Relays for tests: a real one, and one that lies."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from nostr_sdk import LocalRelay, LocalRelayBuilder, LocalRelayBuilderNip42, LocalRelayBuilderNip42Mode, RateLimit
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Handle = Callable[["LyingRelay", ServerConnection, list], Awaitable[None]]


@asynccontextmanager
async def real_relay(*, introduced: bool = False) -> AsyncIterator[str]:
    """The address of a strict relay with nothing in it; `introduced` ones must tell it who they are (NIP-42)."""
    builder = LocalRelayBuilder().rate_limit(RateLimit(max_reqs=10_000, notes_per_minute=10**6))
    if introduced:
        builder = builder.nip42(LocalRelayBuilderNip42(mode=LocalRelayBuilderNip42Mode.BOTH))
    relay: LocalRelay = builder.build()
    await relay.run()
    try:
        yield str(await relay.url()).rstrip("/")
    finally:
        relay.shutdown()


@dataclass
class LyingRelay:
    """Keeps what it is sent and answers as its handler likes.

    Attributes:
        events: What it was sent, as it came, by id.
        heard: Every message.
        connections: How often somebody connected.
        silent: Refuse to be connected to, by closing at once.
        open: Who asked what: the socket of every subscription.
        sockets: Who is connected.
    """

    handle: Handle
    url: str = ""
    events: dict[str, dict] = field(default_factory=dict)
    heard: list[list] = field(default_factory=list)
    connections: int = 0
    silent: bool = False
    open: dict[str, ServerConnection] = field(default_factory=dict)
    sockets: set[ServerConnection] = field(default_factory=set)

    def requests(self) -> list[list]:
        """Every REQ that came."""
        return [message for message in self.heard if message[0] == "REQ"]

    async def tell(self, *events: object) -> None:
        """Give events to every open subscription, whatever was asked."""
        for subscription, socket in list(self.open.items()):
            for event in events:
                await send(socket, "EVENT", subscription, event)

    def drop(self) -> None:
        """Break every connection without a word."""
        self.open.clear()
        for socket in self.sockets:
            socket.transport.abort()

    async def speak(self, socket: ServerConnection) -> None:
        self.connections += 1
        if self.silent:
            return
        self.sockets.add(socket)
        try:
            async for raw in socket:
                message = json.loads(raw)
                self.heard.append(message)
                self.note(socket, message)
                await self.handle(self, socket, message)
        except ConnectionClosed:
            return
        finally:
            self.sockets.discard(socket)

    def note(self, socket: ServerConnection, message: list) -> None:
        if message[0] == "EVENT":
            self.events[message[1]["id"]] = message[1]
        elif message[0] == "REQ":
            self.open[message[1]] = socket
        elif message[0] == "CLOSE":
            self.open.pop(message[1], None)


@asynccontextmanager
async def lying_relay(handle: Handle) -> AsyncIterator[LyingRelay]:
    """A relay on loopback that answers with `handle`."""
    relay = LyingRelay(handle)
    async with serve(relay.speak, "127.0.0.1", 0, max_size=1 << 24, close_timeout=0.5) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        relay.url = f"ws://{host}:{port}"
        yield relay


async def until(what: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Wait until `what()` holds."""
    ends_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < ends_s, "it did not come about"
        await asyncio.sleep(0.02)


@dataclass
class SlowWire:
    """What a relay says passes through here. The first connection falls to `drip_bytes` a tenth of a second.

    Attributes:
        url: The relay's address behind it.
        drip_bytes: No limit while it is nothing.
    """

    url: str = ""
    drip_bytes: int | None = None
    connections: int = 0

    async def carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, slow: bool) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                while slow and self.drip_bytes is not None and data:
                    target.write(data[: self.drip_bytes])
                    data = data[self.drip_bytes :]
                    await asyncio.sleep(0.1)
                target.write(data)
        target.close()


@asynccontextmanager
async def slow_wire(relay: LyingRelay) -> AsyncIterator[SlowWire]:
    """A way to a relay that can fall silent without breaking."""
    wire = SlowWire()
    host, port = relay.url.removeprefix("ws://").split(":")

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.connections += 1
        first = wire.connections == 1
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(wire.carry(reader, back, slow=False), wire.carry(there, writer, slow=first))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    wire.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()


async def send(socket: ServerConnection, *parts: object) -> None:
    await socket.send(json.dumps(parts))


async def honest(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
    """Takes everything, gives everything it has whatever was asked."""
    if message[0] == "EVENT":
        await send(socket, "OK", message[1]["id"], True, "")
    elif message[0] == "REQ":
        for event in relay.events.values():
            await send(socket, "EVENT", message[1], event)
        await send(socket, "EOSE", message[1])


async def fitting(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
    """As `honest`, but of what it has it gives the newest forty that are in the time asked for, newest first."""
    if message[0] != "REQ":
        return await honest(relay, socket, message)
    since, until = message[2].get("since", 0), message[2].get("until", 2**53)
    fits = [event for event in relay.events.values() if since <= event["created_at"] <= until]
    for event in sorted(fits, key=lambda event: -event["created_at"])[:40]:
        await send(socket, "EVENT", message[1], event)
    return await send(socket, "EOSE", message[1])


async def mute(_: LyingRelay, __: ServerConnection, ___: list) -> None:
    """Never answers."""
    await asyncio.sleep(0)


def refusing(reason: str, *, event_id: str | None = None) -> Handle:
    """Answers OK false with a reason, under the event's id or another."""

    async def handle(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if message[0] == "EVENT":
            await send(socket, "OK", message[1]["id"] if event_id is None else event_id, False, reason)
        else:
            await honest(relay, socket, message)

    return handle
