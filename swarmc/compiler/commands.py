"""Sandboxes around a sandbox: one that remembers what a run saw, and one that stands where nothing is run."""

import asyncio
from collections.abc import Sequence
from typing import final

from pydantic import TypeAdapter, ValidationError

from swarmc.contracts.canonical import canonical_bytes
from swarmc.contracts.errors import SandboxError, StoreError
from swarmc.contracts.ports import Sandbox, Store
from swarmc.contracts.sandbox import CommandJob, CommandResult, Limit

_RESULTS = TypeAdapter(tuple[CommandResult, ...])


@final
class Remembered:
    """A sandbox that runs each job of a run once: how it ended is kept before anybody sees it.

    A test may end otherwise the next time: it looks at the clock, or is just too slow. So a run that was killed reads
    how its jobs ended, as it reads its completions, and ends as if nothing had happened. Another run looks anew.

    Args:
        sandbox: Where jobs run.
        store: Where it is kept.
        run_id: Whose memory it is.
    """

    def __init__(self, sandbox: Sandbox, store: Store, run_id: str) -> None:
        self._sandbox = sandbox
        self._store = store
        self._run_id = run_id
        self._asked: dict[str, asyncio.Lock] = {}
        self._known: dict[str, tuple[CommandResult, ...]] = {}

    @property
    def sentence(self) -> str:
        return self._sandbox.sentence

    @property
    def unenforced(self) -> Sequence[Limit]:
        return self._sandbox.unenforced

    async def run(self, job: CommandJob) -> Sequence[CommandResult]:
        """As the sandbox's. Raises StoreError too."""
        key = job.content_id.partition(":")[2]
        async with self._asked.setdefault(key, asyncio.Lock()):
            if key not in self._known:
                self._known[key] = await self._read_or_run(job, f"runs/{self._run_id}/commands/{key}.json")
            return self._known[key]

    async def _read_or_run(self, job: CommandJob, label: str) -> tuple[CommandResult, ...]:
        data = await self._store.read(label)
        if data is not None:
            try:
                return _RESULTS.validate_json(data)
            except ValidationError as error:
                raise StoreError(f"{label} does not say how commands ended; remove it and run again") from error
        results = tuple(await self._sandbox.run(job))
        uri = await self._store.put(
            canonical_bytes([one.model_dump(mode="json") for one in results]), name="ended.json"
        )
        await self._store.label(label, uri)
        return results


@final
class NotHere:
    """A sandbox for where a metric is only looked at: to plan with, or to split its examples. It runs nothing."""

    sentence = "no sandbox"
    unenforced: Sequence[Limit] = ()

    async def run(self, job: CommandJob) -> Sequence[CommandResult]:
        raise SandboxError(f"commands are run by a compile, and not here: {job.commands[0][0]!r}")
