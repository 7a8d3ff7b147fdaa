"""The event log: every event of a run in a file of its own, a line each, for the bundle and for whoever asks later."""

import asyncio
from pathlib import Path
from time import monotonic
from typing import final

from blocks.home import swarmc_home
from blocks.sinks.line_file import LineFile
from swarmc.contracts.events import Event

BATCH_EVENTS = 500
BATCH_S = 1.0


@final
class EventLog:
    """Appends events to a file, in a thread and many at once. A killed process loses the last second's.

    Args:
        path: The file. A run that is resumed goes on in it.

    Raises:
        StoreError: it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)
        self._waiting: list[Event] = []
        self._written_s = monotonic()

    async def tell(self, event: Event) -> None:
        self._waiting.append(event)
        if len(self._waiting) >= BATCH_EVENTS or monotonic() - self._written_s > BATCH_S:
            await self._write()

    async def aclose(self) -> None:
        try:
            await self._write()
        finally:
            self._file.close()

    async def _write(self) -> None:
        batch, self._waiting = self._waiting, []
        self._written_s = monotonic()
        await asyncio.to_thread(self._append, batch)

    def _append(self, batch: list[Event]) -> None:
        self._file.append("".join(f"{event.model_dump_json()}\n" for event in batch).encode())


def event_log_path(run_id: str) -> Path:
    """`$SWARMC_HOME/events/<run>.jsonl`; SWARMC_HOME is `~/.swarmc` unless set."""
    return swarmc_home() / "events" / f"{run_id}.jsonl"
