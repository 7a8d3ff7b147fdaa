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
    """The end of what a process said, and the limit that it was ended for."""

    output: str
    over: Over | None


async def run_process(command: Sequence[str], descriptors: Sequence[int], bounds: Bounds) -> Ended:
    """Run a command with an empty environment until it ends or is over a bound. It is gone when this returns.

    It is started by the thread of the running loop, which must live as long: bubblewrap dies with it.

    Raises:
        OSError: it cannot be started.
    """
    # A start is never cancelled: asyncio would wait for all who hold the output, whom nobody has ended yet.
    starting = asyncio.ensure_future(_start(command, descriptors, bounds.output_bytes))
    try:
        over = await _first_over(await asyncio.shield(starting), bounds)
    finally:
        running = await asyncio.shield(starting)
        await _end(running, bounds)
    return Ended(running.last_words, over)


async def _start(command: Sequence[str], descriptors: Sequence[int], most_bytes: int) -> "_Running":
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, pass_fds=descriptors, env={}, cwd="/",
        start_new_session=True,
    )  # fmt: skip
    return _Running(process, most_bytes)


async def _first_over(running: "_Running", bounds: Bounds) -> Over | None:
    """The bound that was reached first; nothing when the process ended before."""

    async def ended() -> None:
        await running.process.wait()

    async def flooded() -> Over | None:
        if await running.says_too_much():
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


async def _end(running: "_Running", bounds: Bounds) -> None:
    """End it and all that it began.

    Its output is read meanwhile: a pipe that is full holds up those who wait for the process. Where nothing else
    holds a child that left, that child may hold the pipe; it is not waited for.
    """
    with suppress(ProcessLookupError):
        running.process.kill()
    bounds.kill()
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            await running.read_on()
            await running.process.wait()


class _Running:
    """A process, and what it writes: counted, its end kept."""

    def __init__(self, process: Process, most_bytes: int) -> None:
        assert process.stdout is not None
        self.process = process
        self._stream = process.stdout
        self._most_bytes = most_bytes
        self._count = 0
        self._kept = bytearray()

    async def says_too_much(self) -> bool:
        """Whether it was more than it may be, as soon as that is known; `False` at its end."""
        while chunk := await self._stream.read(CHUNK_BYTES):
            self._keep(chunk)
            if self._count > self._most_bytes:
                return True
        return False

    async def read_on(self) -> None:
        """Read to the end."""
        while chunk := await self._stream.read(CHUNK_BYTES):
            self._keep(chunk)

    @property
    def last_words(self) -> str:
        """The end of its output as text, without what a terminal would obey."""
        text = self._kept.decode(errors="replace")
        return "".join(one if one.isprintable() or one in "\n\t" else " " for one in text)

    def _keep(self, chunk: bytes) -> None:
        self._count += len(chunk)
        self._kept = (self._kept + chunk)[-KEPT_BYTES:]
