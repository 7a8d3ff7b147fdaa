"""One standing subscription over several relays: each event once, in a queue that does not grow without bound."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from pydantic import JsonValue

from blocks.relays.questions import Took
from swarmc.contracts.errors import RelayError
from swarmc.contracts.relay import Filter, NostrEvent
from swarmc.nostr.events import check_event
from swarmc.nostr.messages import matches

MOST_QUEUED = 10_000
MOST_QUEUED_BYTES = 64 << 20
MOST_SEEN = 50_000
"""Ids that are remembered: hours of a busy market, about 15 MB."""


class Hearing:
    """An iterator of events. What relays give goes through `take`, which verifies each once.

    Args:
        filters: What is wanted.
        most_queued: How many events wait for the reader at most.
    """

    def __init__(self, filters: Sequence[Filter], *, most_queued: int = MOST_QUEUED) -> None:
        self.filters = tuple(filters)
        self._most_queued = most_queued
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._queue: deque[tuple[NostrEvent, int]] = deque()
        self._bytes = 0
        self._error: RelayError | None = None
        self._filled = asyncio.Event()
        self._moved = asyncio.Event()
        self.on_stir: Callable[[], None] = lambda: None

    @property
    def seen(self) -> int:
        return len(self._seen)

    def take(self, value: JsonValue, size_bytes: int, giver: int) -> tuple[Took, bool]:
        """Take what a relay gives for an event.

        An id that is known is dropped before anything is computed. Only true events make an id known, so that
        nobody can keep one away by giving a false one first.

        Args:
            value: As it was given.
            size_bytes: Of its message.
            giver: A bit of the relay's own.

        Returns:
            What became of it, and whether this very relay gave it before.
        """
        claimed = value.get("id") if isinstance(value, dict) else None
        givers = self._seen.get(claimed) if isinstance(claimed, str) else None
        if givers is not None and isinstance(claimed, str):
            self._seen[claimed] = givers | giver
            self._seen.move_to_end(claimed)
            return "known", bool(givers & giver)
        event = check_event(value, wanted=self._wanted)
        if not isinstance(event, NostrEvent):
            return "unfit", False
        self._seen[event.id] = giver
        if len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        self._put(event, size_bytes)
        return "kept", False

    def fail(self, error: RelayError) -> None:
        """Nothing comes any more: the reader is told after what has come."""
        if self._error is None:
            self._error = error
            self._filled.set()
            self._moved.set()

    def stir(self) -> None:
        """A relay was asked, or cannot be."""
        self._moved.set()
        self.on_stir()

    async def moved(self) -> None:
        """Wait until there was a `stir`."""
        await self._moved.wait()
        self._moved.clear()

    def __aiter__(self) -> "Hearing":
        return self

    async def __anext__(self) -> NostrEvent:
        while not self._queue:
            if self._error is not None:
                raise self._error
            self._filled.clear()
            await self._filled.wait()
        event, size_bytes = self._queue.popleft()
        self._bytes -= size_bytes
        return event

    def _wanted(self, event: NostrEvent) -> bool:
        return any(matches(event, one) for one in self.filters)

    def _put(self, event: NostrEvent, size_bytes: int) -> None:
        if self._error is not None:
            return
        if len(self._queue) >= self._most_queued or self._bytes + size_bytes > MOST_QUEUED_BYTES:
            self.fail(
                RelayError(
                    f"hearing events from relays: the reader is too slow, {len(self._queue)} events "
                    f"({self._bytes >> 10} KiB) wait for it; subscribe again since the last one that was read",
                    (),
                    retryable=True,
                )
            )
            return
        self._queue.append((event, size_bytes))
        self._bytes += size_bytes
        self._filled.set()
