"""Relays for tests: a real one, and one that lies."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nostr_sdk import LocalRelay, LocalRelayBuilder, RateLimit
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Handle = Callable[["LyingRelay", ServerConnection, list], Awaitable[None]]


@asynccontextmanager
async def real_relay() -> AsyncIterator[str]:
    """The address of a strict relay with nothing in it."""
    relay: LocalRelay = LocalRelayBuilder().rate_limit(RateLimit(max_reqs=10_000, notes_per_minute=10**6)).build()
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
    """

    handle: Handle
    url: str = ""
    events: dict[str, dict] = field(default_factory=dict)
    heard: list[list] = field(default_factory=list)
    connections: int = 0
    silent: bool = False

    async def speak(self, socket: ServerConnection) -> None:
        self.connections += 1
        if self.silent:
            return
        try:
            async for raw in socket:
                message = json.loads(raw)
                self.heard.append(message)
                if message[0] == "EVENT":
                    self.events[message[1]["id"]] = message[1]
                await self.handle(self, socket, message)
        except ConnectionClosed:
            return


@asynccontextmanager
async def lying_relay(handle: Handle) -> AsyncIterator[LyingRelay]:
    """A relay on loopback that answers with `handle`."""
    relay = LyingRelay(handle)
    async with serve(relay.speak, "127.0.0.1", 0, max_size=1 << 24, close_timeout=0.5) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        relay.url = f"ws://{host}:{port}"
        yield relay


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
