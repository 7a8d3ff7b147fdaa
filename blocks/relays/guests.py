"""Relays that strangers name: dialled when there is something for them, few at once, closed when idle."""

import asyncio
from collections.abc import Iterable

from blocks.relays.addresses import safe_urls
from blocks.relays.dialling import guest_dial
from blocks.relays.line import Line
from swarmc.contracts.relay import RelayHealth
from swarmc.nostr.keys import SecretKey

MOST_GUESTS = 16
IDLE_S = 60.0
MOST_BYTES = 4 << 20
"""Of all events that wait for one of them."""


class Guests:
    """The lines to them.

    Args:
        timeout_s: As of every `Line`.
        key: Who we are, for relays that ask.
        private: See `allowed_relay`.
        idle_s: Seconds after which a line that nobody uses is closed.
    """

    def __init__(self, *, timeout_s: float, key: SecretKey | None, private: bool, idle_s: float = IDLE_S) -> None:
        self._timeout_s = timeout_s
        self._key = key
        self._private = private
        self._idle_s = idle_s
        self._lines: dict[str, Line] = {}
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def health(self) -> tuple[RelayHealth, ...]:
        return tuple(line.health for line in self._lines.values())

    def lines(self, urls: Iterable[str]) -> list[Line]:
        """The lines to those of these relays that we may dial, as far as there is room."""
        return [line for url in safe_urls(urls, private=self._private) if (line := self._line(url)) is not None]

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.gather(*(line.aclose() for line in self._lines.values()))

    def _line(self, url: str) -> Line | None:
        if url not in self._lines:
            if len(self._lines) >= MOST_GUESTS:
                return None
            line = self._lines[url] = Line(
                url,
                timeout_s=self._timeout_s,
                key=self._key,
                dial_with=guest_dial(private=self._private),
                most_bytes=MOST_BYTES,
            )
            line.start()
            if self._sweeper is None or self._sweeper.done():
                self._sweeper = asyncio.create_task(self._sweep())
        return self._lines[url]

    async def _sweep(self) -> None:
        while self._lines:
            await asyncio.sleep(self._idle_s / 2)
            latest_s = asyncio.get_running_loop().time() - self._idle_s
            idle = [url for url, line in self._lines.items() if not line.busy and line.used_s <= latest_s]
            await asyncio.gather(*(self._lines.pop(url).aclose() for url in idle))
