"""A process with a traced Prefect flow: it makes a flow run and is killed in it, or goes on with one."""

import asyncio
import os
import signal
import sys
from uuid import UUID

from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled

from blocks.sinks.telemetry import Telemetry
from swarmc.contracts.events import Emit, RunOpened, StageEnded, StageStarted
from swarmc.tracing.stream import open_stream
from tests.tracing.program_runs import AT, two_steps

endpoint, known = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
telemetry = Telemetry(endpoint=endpoint)


@task(name="search", cache_policy=NO_CACHE)
async def search(emit: Emit) -> None:
    emit(StageStarted(**AT, stage="search"))
    for event in two_steps(1 if known else 0):
        emit(event)
    if known is None:
        await asyncio.sleep(3)
        os.kill(os.getpid(), signal.SIGKILL)
    emit(StageEnded(**AT, stage="search", ended="completed"))


@flow(name="traced")
async def traced() -> None:
    async with open_stream([telemetry.open()]) as stream:
        stream.emit(RunOpened(**AT, epoch=2 if known else 1, recovered=0))
        await search(stream.emit)


async def main() -> None:
    assert telemetry.show_prefect()
    async with get_client() as client:
        if known is None:
            flow_run = await client.create_flow_run(traced, name="traced-run")
            print(flow_run.id, flush=True)
        else:
            await client.set_flow_run_state(UUID(known), Scheduled(), force=True)
            flow_run = await client.read_flow_run(UUID(known))
    await run_flow_async(traced, flow_run=flow_run)


if __name__ == "__main__":
    asyncio.run(main())
