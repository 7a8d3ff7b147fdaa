"""The stream of events: told by one `emit`, carried to sinks that may be slow or broken, never waiting for them."""

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence

from swarmc.contracts.events import Event
from swarmc.contracts.ports import Sink

logger = logging.getLogger(__name__)

QUEUE_EVENTS = 10_000
CLOSE_GRACE_S = 5.0
BATCH_S = 0.02
MOST_AT_ONCE = 200


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
    """One sink, what it has not heard yet, and the task that brings it over.

    Events are brought in batches: to wake a task for every single one would cost more than to tell it.
    """

    def __init__(self, sink: Sink) -> None:
        self.name = type(sink).__name__
        self.lost = 0
        self._sink = sink
        self._waiting: deque[Event] = deque()
        self._in_hand = 0
        self._closing = False
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._carry())

    def put(self, event: Event) -> None:
        if len(self._waiting) >= QUEUE_EVENTS:
            self.lost += 1
            return
        self._waiting.append(event)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(BATCH_S, self._wake.set)

    async def close(self, grace_s: float) -> None:
        before = len(self._waiting)
        self._closing = True
        self._wake.set()
        _, late = await asyncio.wait([self._task], timeout=grace_s)
        if late:
            missed = min(before, len(self._waiting)) + self._in_hand
            self.lost += missed
            logger.warning("%s hangs; it missed the last %d events of the run", self.name, missed)
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _carry(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._tell_batch()
            await asyncio.sleep(0)  # A sink that never waits must not keep the loop.
        try:
            await self._sink.aclose()
        except Exception as error:  # noqa: BLE001 - as below
            logger.warning("%s did not close: %s: %s", self.name, type(error).__name__, error)

    async def _tell_batch(self) -> None:
        for _ in range(min(len(self._waiting), MOST_AT_ONCE)):
            event = self._waiting.popleft()
            self._in_hand = 1
            try:
                await self._sink.tell(event)
            except Exception as error:  # noqa: BLE001 - a broken sink must not break the run
                if not self.lost:
                    logger.warning("%s cannot tell of the run: %s: %s", self.name, type(error).__name__, error)
                self.lost += 1
            self._in_hand = 0


@contextlib.asynccontextmanager
async def open_stream(sinks: Sequence[Sink]) -> AsyncIterator[Stream]:
    """A running stream; on leaving, sinks get `CLOSE_GRACE_S` seconds to finish."""
    stream = Stream(sinks)
    try:
        yield stream
    finally:
        await stream.close(CLOSE_GRACE_S)
