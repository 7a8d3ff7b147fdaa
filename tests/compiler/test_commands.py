"""How commands ended is remembered by a run, and by no other."""

import asyncio
from pathlib import Path

import pytest

from blocks.stores import open_store
from swarmc.compiler.commands import NotHere, Remembered
from swarmc.contracts.errors import SandboxError, StoreError
from swarmc.contracts.sandbox import CommandJob
from tests.fakes import PretendedSandbox

JOB = CommandJob(files={"a": "x"}, commands=(("cat", "a"), ("false",)), timeout_s=5)
OTHER = JOB.model_copy(update={"files": {"a": "y"}})


async def test_a_job_is_run_once_however_often_and_at_once_it_is_asked_for(tmp_path: Path) -> None:
    inner = PretendedSandbox()
    async with open_store(str(tmp_path)) as store:
        sandbox = Remembered(inner, store, "run-1")
        said = await asyncio.gather(*(sandbox.run(job) for job in (JOB, JOB, OTHER, JOB)))
    assert inner.asked == [JOB, OTHER]
    assert [one[0].output for one in said] == ["x", "x", "y", "x"]


async def test_a_run_that_continues_reads_what_it_saw_and_another_one_looks_anew(tmp_path: Path) -> None:
    first, second = PretendedSandbox(), PretendedSandbox()
    async with open_store(str(tmp_path)) as store:
        seen = await Remembered(first, store, "run-1").run(JOB)
        assert await Remembered(second, store, "run-1").run(JOB) == seen
        assert second.asked == []
        await Remembered(second, store, "run-2").run(JOB)
        assert second.asked == [JOB]


async def test_what_could_not_be_run_is_not_remembered(tmp_path: Path) -> None:
    job = JOB.model_copy(update={"commands": (("absent",),)})
    async with open_store(str(tmp_path)) as store:
        sandbox = Remembered(PretendedSandbox(), store, "run-1")
        for _ in range(2):
            with pytest.raises(SandboxError, match="absent"):
                await sandbox.run(job)


async def test_a_memory_that_was_written_by_somebody_else_is_an_error(tmp_path: Path) -> None:
    async with open_store(str(tmp_path)) as store:
        uri = await store.put(b"{}", name="ended.json")
        await store.label(f"runs/run-1/commands/{JOB.content_id.partition(':')[2]}.json", uri)
        with pytest.raises(StoreError, match="does not say how commands ended"):
            await Remembered(PretendedSandbox(), store, "run-1").run(JOB)


async def test_where_a_metric_is_only_looked_at_nothing_is_run() -> None:
    with pytest.raises(SandboxError, match="not here"):
        await NotHere().run(JOB)
