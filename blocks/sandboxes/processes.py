"""One command as a process: its output bounded, its time measured, its end certain."""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from swarmc.contracts.sandbox import Over

KEPT_BYTES = 16 * 1024
CHUNK_BYTES = 64 * 1024
LAST_WORDS_S = 2.0


@dataclass(frozen=True)
class Bounds:
    """What a process is held to from outside.

    Attributes:
        seconds: Its time.
        output_bytes: Most that it writes to its output.
        watch: Returns when something else went over a limit, and says what.
        kill: Ends whatever the process began besides itself.
    """

    seconds: float
    output_bytes: int
    watch: Callable[[], Awaitable[Over]]
    kill: Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a process ended, the end of what it said, and the limit that it was ended for."""

    exit_code: int
    output: str
    over: Over | None


async def run_process(command: Sequence[str], descriptors: Sequence[int], bounds: Bounds) -> Ended:
    """Run a command with an empty environment until it ends or is over a bound. It is gone when this returns.

    It is started by the thread of the running loop, which must live as long: bubblewrap dies with it.

    Raises:
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, pass_fds=descriptors, env={}, cwd="/",
        start_new_session=True,
    )  # fmt: skip
    said = _Said(process, bounds.output_bytes)
    try:
        over = await _first_over(process, said, bounds)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        bounds.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(said.rest(), LAST_WORDS_S)
        exit_code = await process.wait()
    return Ended(exit_code, said.end, over)


async def _first_over(process: Process, said: "_Said", bounds: Bounds) -> Over | None:
    """The bound that was reached first; nothing when the process ended before."""

    async def ended() -> None:
        await process.wait()

    async def flooded() -> Over | None:
        if await said.too_much():
            return "output"
        return await ended()

    async def late() -> Over:
        await asyncio.sleep(bounds.seconds)
        return "time"

    tasks: list[asyncio.Task[Over | None]] = [
        asyncio.ensure_future(one) for one in (ended(), flooded(), late(), bounds.watch())
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return next((over for task in done if (over := task.result())), None)


class _Said:
    """What a process writes: counted, its end kept."""

    def __init__(self, process: Process, most_bytes: int) -> None:
        assert process.stdout is not None
        self._stream = process.stdout
        self._most_bytes = most_bytes
        self._count = 0
        self._kept = bytearray()

    async def too_much(self) -> bool:
        """Whether it was more than it may be, as soon as that is known; `False` at its end."""
        while chunk := await self._stream.read(CHUNK_BYTES):
            self._keep(chunk)
            if self._count > self._most_bytes:
                return True
        return False

    async def rest(self) -> None:
        """Read to the end: a pipe that is full holds up those who wait for the process."""
        while chunk := await self._stream.read(CHUNK_BYTES):
            self._keep(chunk)

    @property
    def end(self) -> str:
        """As text, without what a terminal would obey."""
        text = self._kept.decode(errors="replace")
        return "".join(one if one.isprintable() or one in "\n\t" else " " for one in text)

    def _keep(self, chunk: bytes) -> None:
        self._count += len(chunk)
        self._kept = (self._kept + chunk)[-KEPT_BYTES:]
