"""A run as OpenTelemetry spans, sent on while it goes on, by a thread that the run never waits for."""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Protocol, final

from pydantic import JsonValue

from swarmc.contracts.events import Event
from swarmc.contracts.graphs import TraceSpan
from swarmc.tracing.live import LiveSpans, Making

logger = logging.getLogger(__name__)

BATCH_SPANS = 256
BATCH_CHARS = 4_000_000
"""Of attributes in one batch: receivers refuse requests of some twenty megabytes."""
MOST_WAITING = 2048
"""Program runs, stages and completions that may wait for the thread; more are lost, and counted."""
EVERY_S = 1.0
GRACE_S = 4.0
"""For what is left at the end: less than the stream gives a sink."""


class Outlet(Protocol):
    """Where spans go. Used by one thread."""

    def export(self, spans: Sequence[TraceSpan]) -> bool:
        """Whether they were taken, all of them. May be slow, may raise."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


@final
class OtelSink:
    """Folds events into spans at once (microseconds) and has threads make, encode and send them.

    Args:
        live: The fold.
        outlets: Where the spans go; a slow one does not hold up the others.
    """

    def __init__(self, live: LiveSpans, outlets: Sequence[Outlet]) -> None:
        self._live = live
        self._couriers = [_Courier(outlet) for outlet in outlets]

    @property
    def sent(self) -> int:
        """Spans that were taken, over all outlets."""
        return sum(courier.sent for courier in self._couriers)

    @property
    def lost(self) -> Counter[str]:
        """What was not told, by reason.

        `refused`: spans that an outlet did not take. `waiting`: program runs, stages and completions for
        which the outlet was too slow, while the run went on or at its end. `failed`: those of which no span
        could be made. The rest is `LiveSpans.dropped`.
        """
        return sum((courier.lost for courier in self._couriers), Counter(self._live.dropped))

    async def tell(self, event: Event) -> None:
        for making in self._live.add(event):
            self._put(making)

    async def aclose(self) -> None:
        for making in self._live.close():
            self._put(making)
        await asyncio.gather(*(asyncio.to_thread(courier.close, GRACE_S) for courier in self._couriers))
        if self.lost:
            told = ", ".join(f"{count} {why}" for why, count in sorted(self.lost.items()))
            logger.warning("the run's spans are not complete: %s (%d were sent)", told, self.sent)

    def _put(self, making: Making) -> None:
        for courier in self._couriers:
            courier.put(making)


class _Courier:
    """The thread of one outlet, and what waits for it."""

    def __init__(self, outlet: Outlet) -> None:
        self.sent = 0
        # All words from the start: another thread may add them up at any time.
        self.lost = Counter(waiting=0, refused=0, failed=0)
        self._outlet = outlet
        self._waiting: deque[Making] = deque()
        self._in_hand = 0
        self._wake = threading.Event()
        self._ending = False
        self._abandoned = False
        self._told = False
        self._thread = threading.Thread(target=self._work, name="swarmc-spans", daemon=True)
        self._thread.start()

    def put(self, making: Making) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.lost["waiting"] += 1
            return
        self._waiting.append(making)
        if len(self._waiting) * 2 >= MOST_WAITING:
            self._wake.set()

    def close(self, grace_s: float) -> None:
        """Send what is left within `grace_s` seconds; blocks as long."""
        self._ending = True
        self._wake.set()
        self._thread.join(grace_s)
        if self._thread.is_alive():
            self._abandoned = True
            self.lost["waiting"] += len(self._waiting)
            self.lost["refused"] += self._in_hand

    def _work(self) -> None:
        while not self._abandoned:
            self._wake.wait(EVERY_S)
            self._wake.clear()
            while self._waiting and not self._abandoned:
                self._send(self._batch())
            if self._ending and not self._waiting:
                break
        self._outlet.close()

    def _batch(self) -> list[TraceSpan]:
        batch: list[TraceSpan] = []
        chars = 0
        while self._waiting and len(batch) < BATCH_SPANS and chars < BATCH_CHARS:
            making = self._waiting.popleft()
            try:
                made = [whole(span) for span in making()]
            except Exception as error:  # noqa: BLE001 - one run that cannot be told must not end the telling
                self._complain(error)
                self.lost["failed"] += 1
                continue
            batch += made
            chars += sum(len(text) for span in made for text in span.attributes.values() if isinstance(text, str))
            # The run's loop may be waiting for the interpreter; without this it waits up to five milliseconds.
            time.sleep(0)
        return batch

    def _send(self, batch: list[TraceSpan]) -> None:
        if not batch:
            return
        self._in_hand = len(batch)
        try:
            taken = self._outlet.export(batch)
        except Exception as error:  # noqa: BLE001 - a broken outlet must not end the telling
            self._complain(error)
            taken = False
        self._in_hand = 0
        if self._abandoned:
            return
        if taken:
            self.sent += len(batch)
        else:
            self._complain(None)
            self.lost["refused"] += len(batch)

    def _complain(self, error: Exception | None) -> None:
        """Once: the count says the rest."""
        if not self._told:
            self._told = True
            reason = f"{type(error).__name__}: {error}" if error else "the receiver is down, slow or refuses them"
            logger.warning("spans of the run are being lost (%s); the run goes on", reason)


def whole(span: TraceSpan) -> TraceSpan:
    """The span itself; with question marks where a text holds half a character, which has no bytes."""
    tables = (span.attributes, *(event.attributes for event in span.events))
    texts = [span.name, span.status.message, *(text for table in tables for text in table.values())]
    if all(not isinstance(text, str) or text.isascii() or _has_bytes(text) for text in texts):
        return span
    return TraceSpan.model_validate(_mended(span.model_dump()))


def _has_bytes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mended(value: Any) -> JsonValue:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {name: _mended(item) for name, item in value.items()}
        case list() | tuple():
            return [_mended(item) for item in value]
        case _:
            return value
