"""Any GGUF model, in an embedded llama.cpp: no server to install, no account, no price. Unless told otherwise, exact.

llama.cpp computes slightly different floats when it works on several prompts at once, or finds the
beginning of a prompt in its cache. The same request would then have different answers, and a
resumed run another result. So by default each engine works on one request at a time, from its
first token, and what may run in parallel runs in several engines, one thread each: a request's
answer depends on the request alone. Its `seed`, where it sets none, is drawn from its own hash.
"""

import asyncio
import json
import os
import secrets
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, final

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from blocks.venues.block import VenueBlock
from blocks.venues.openai_compatible import OpenAIVenue
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.errors import VenueError, boundary
from swarmc.contracts.ports import Venue

NAME = "llamacpp"
PRACTICE_MODEL = Path(__file__).parent / "models" / "ticket-toy.f16.gguf"
PRACTICE_NAME = "ticket-toy"
SERVER = Path(__file__).with_name("llamacpp_server.py")

CALLS_PER_SLOT = 2
"""One that is computed, and one that waits at the server, so that no slot idles between two."""

START_LIMIT_S = 300.0
END_LIMIT_S = 5.0
LARGE_BYTES = 1_000_000_000
MAX_LOG_BYTES = 65_536


class Plan(BaseModel):
    """What the server process is told.

    Attributes:
        engines: Independent copies of the model.
        slots: Requests that one engine works on at once.
        threads: CPU threads of one engine.
        context_tokens: Context of one slot.
    """

    model_config = ConfigDict(frozen=True)

    model_path: Path
    model: str
    engines: int
    slots: int
    threads: int
    context_tokens: int
    cache_prompt: bool


@final
class LlamaCppVenue:
    """One GGUF model, served by a process that ends with this context, or with this process. Free.

    Args:
        plan: What to serve, and in how many engines.
        timeout_s: Longest wait for one answer once its computation has a place, in seconds.
    """

    name = NAME

    def __init__(self, plan: Plan, *, timeout_s: float) -> None:
        self.model = plan.model
        self._plan = plan
        self._timeout_s = timeout_s
        self._log: IO[bytes] | None = None
        self._process: Process | None = None
        self._stack = AsyncExitStack()
        self._places: asyncio.Queue[OpenAIVenue] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the server process. Harmless when it has ended."""
        await self._stack.aclose()
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()  # It holds nothing that needs saving, and its own way to end may take for ever.
            await _wait_for_end(process)

    def quote(self, request: CompletionRequest) -> int:  # noqa: ARG002 - the port's; nothing here has a price
        """Nothing: the model is the asker's own."""
        return 0

    def price_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:  # noqa: ARG002 - as above
        """Nothing."""
        return 0

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask once, when an engine has a place.

        Raises:
            VenueError: the prompt does not fit, the answer is late, or the process has ended.
        """
        if self._process is None:
            raise VenueError(f"the model {self.model!r} was asked outside its `async with`; keep it open")
        request = request.seeded()
        place = await self._places.get()
        try:
            return await place.complete(request)
        except VenueError as error:
            if error.retryable:
                await self._raise_if_ended()
            raise
        finally:
            self._places.put_nowait(place)

    async def _start(self) -> None:
        """Start the process, wait until its engines serve, and open a client to each."""
        key = secrets.token_urlsafe(24)
        self._log = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        with boundary(VenueError, f"starting llama.cpp with {self._plan.model_path}", OSError):
            # -P: the script's folder, whose files carry the names of products, stays out of its import path.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(SERVER), stdin=PIPE, stdout=PIPE, stderr=self._log
            )
        for address in await self._told(self._process, key):
            venue = OpenAIVenue(
                f"{address}/v1", self.model, api_key=SecretStr(key), timeout_s=self._timeout_s, name=NAME
            )
            await self._stack.enter_async_context(venue)
            for _ in range(CALLS_PER_SLOT * self._plan.slots):
                self._places.put_nowait(venue)

    async def _told(self, process: Process, key: str) -> list[str]:
        """The addresses of the engines, once they serve.

        Raises:
            VenueError: llama.cpp cannot serve the file, or takes too long.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        plan = self._plan.model_dump(mode="json") | {"api_key": key}
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_LIMIT_S)
        except TimeoutError:
            raise VenueError(f"{self._plan.model_path} was not loaded within {START_LIMIT_S:g} s") from None
        told: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "addresses" not in told:
            await _wait_for_end(process)  # The reason is in its log when it has ended, and may come there no sooner.
            raise VenueError(
                f"llama.cpp cannot serve {self._plan.model_path}: {self._last_words() or told['error']}; "
                "give a whole GGUF file that this llama.cpp knows, and enough memory"
            )
        return told["addresses"]

    async def _raise_if_ended(self) -> None:
        process = self._process
        if process is None:
            return
        with suppress(TimeoutError):
            code = await asyncio.wait_for(process.wait(), 0.2)
            raise VenueError(
                f"the llama.cpp process of {self._plan.model_path} has ended with code {code}: {self._last_words()}; "
                "run again, with less context or fewer in parallel if memory ran out"
            )

    def _last_words(self) -> str:
        """What llama.cpp said last, without the time that it puts in front."""
        if self._log is None:
            return ""
        # Read in place: the process writes where this file's position is.
        text = os.pread(self._log.fileno(), MAX_LOG_BYTES, 0).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return " / ".join(line.partition(" E ")[2].strip() or line.strip() for line in lines[-2:])[:300]


async def _wait_for_end(process: Process) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), END_LIMIT_S)


def _check_file(path: Path) -> int:
    """The size of a model file, in bytes.

    Raises:
        VenueError: it cannot be read, or is no GGUF.
    """
    try:
        with path.open("rb") as file:
            magic, size_bytes = file.read(4), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise VenueError(f"the model file {path} cannot be read: {error.strerror}; correct `model_path`") from error
    if magic != b"GGUF":
        raise VenueError(f"{path} is no GGUF model (it begins with {magic!r}); correct `model_path`")
    return size_bytes


@final
class LlamaCpp(VenueBlock):
    """A GGUF model on this machine's processor, with nothing else to install. Empty: the practice model, a toy."""

    _block_type_name = "swarmc llama.cpp venue"
    _block_type_slug = "swarmc-llamacpp"
    _description = "Runs completions on a GGUF model in an embedded llama.cpp."

    model_path: Path | None = Field(default=None, description="A .gguf file; empty: the practice model")
    model: str | None = Field(default=None, description="Name to report; empty: the file's name without `.gguf`")
    parallel: int | None = Field(
        default=None, ge=1, le=256, description="Requests worked on at once; empty: 4, but 1 for a file above 1 GB"
    )
    threads: int | None = Field(
        default=None, ge=1, le=256, description="CPU threads of an engine; empty: 1, or its share for a file above 1 GB"
    )
    context_tokens: int = Field(default=4096, ge=256, description="Longest prompt and answer together, in tokens")
    exact: bool = Field(
        default=True,
        description="Compute every request alone, so that equal requests have equal answers; off is about three "
        "times as fast where prompts share their beginning, but answers may depend on what runs beside them",
    )
    timeout_s: float = Field(default=300, gt=0, description="Longest wait for one answer, in seconds")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue, once the model is loaded.

        Raises:
            VenueError: no such file, no model that llama.cpp knows, or not enough memory.
        """
        async with LlamaCppVenue(self._plan(), timeout_s=self.timeout_s) as venue:
            yield venue

    def _plan(self) -> Plan:
        """Small models do best in several engines of one thread; a large one may not fit into memory twice."""
        path = (self.model_path or PRACTICE_MODEL).expanduser().absolute()
        large = _check_file(path) > LARGE_BYTES
        parallel = self.parallel or (1 if large else 4)
        engines = parallel if self.exact else 1
        share = max(1, (os.cpu_count() or 1) // engines) if large else 1
        return Plan(
            model_path=path,
            model=self.model or (path.name.removesuffix(".gguf") if self.model_path else PRACTICE_NAME),
            engines=engines,
            slots=parallel // engines,
            threads=self.threads or share,
            context_tokens=self.context_tokens,
            cache_prompt=not self.exact,
        )
