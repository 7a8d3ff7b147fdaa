"""The stream of events: told by one `emit`, carried to sinks that may be slow or broken, never waiting for them."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from swarmc.contracts.events import Event
from swarmc.contracts.ports import Sink

logger = logging.getLogger(__name__)

QUEUE_EVENTS = 10_000
CLOSE_GRACE_S = 5.0


class Stream:
    """Gives every event to every sink, in order. Made by `open_stream`."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._carriers = [_Carrier(sink) for sink in sinks]

    @property
    def lost(self) -> Counter[str]:
        """By sink (its type's name), how many events it missed: its queue was full, it raised, or it hung."""
        return Counter({carrier.name: carrier.lost for carrier in self._carriers if carrier.lost})

    def emit(self, event: Event) -> None:
        """Tell it. Returns at once; call it on the loop that opened the stream."""
        for carrier in self._carriers:
            carrier.put(event)

    async def close(self, grace_s: float) -> None:
        """Let each sink finish what it has within `grace_s` seconds; then leave it behind."""
        await asyncio.gather(*(carrier.close(grace_s) for carrier in self._carriers))


class _Carrier:
    """One sink, its queue, and the task that brings the events over."""

    def __init__(self, sink: Sink) -> None:
        self.name = type(sink).__name__
        self.lost = 0
        self._sink = sink
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._in_hand = 0
        self._task = asyncio.create_task(self._carry())

    def put(self, event: Event) -> None:
        # The bound is kept here rather than in the queue, so that the sign to end always fits in.
        if self._queue.qsize() >= QUEUE_EVENTS:
            self.lost += 1
        else:
            self._queue.put_nowait(event)

    async def close(self, grace_s: float) -> None:
        waiting = self._queue.qsize()
        self._queue.put_nowait(None)
        _, late = await asyncio.wait([self._task], timeout=grace_s)
        if late:
            missed = min(waiting, self._queue.qsize() - 1) + self._in_hand
            self.lost += max(0, missed)
            logger.warning("%s hangs; it missed the last %d events of the run", self.name, missed)
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _carry(self) -> None:
        while (event := await self._queue.get()) is not None:
            self._in_hand = 1
            try:
                await self._sink.tell(event)
            except Exception as error:  # noqa: BLE001 - a broken sink must not break the run
                if not self.lost:
                    logger.warning("%s cannot tell of the run: %s: %s", self.name, type(error).__name__, error)
                self.lost += 1
            self._in_hand = 0
        try:
            await self._sink.aclose()
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("%s did not close: %s: %s", self.name, type(error).__name__, error)


@contextlib.asynccontextmanager
async def open_stream(sinks: Sequence[Sink]) -> AsyncIterator[Stream]:
    """A running stream; on leaving, sinks get `CLOSE_GRACE_S` seconds to finish."""
    stream = Stream(sinks)
    try:
        yield stream
    finally:
        await stream.close(CLOSE_GRACE_S)
