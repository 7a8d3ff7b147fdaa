"""Run a spec here and now: continue the unfinished run of the same spec if there is one, else begin a new one."""

from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow_async
from prefect.states import AwaitingRetry

from blocks.ledger.find import find_ledger
from flows.compile import compile_program
from flows.recompile import recompile_program
from swarmc.contracts.money import Account
from swarmc.contracts.spec import CompileSpec
from tasks.record import Recorded

Compiling = Flow[..., Any]
"""A flow that takes a spec and gives what was recorded."""


async def run_or_continue(spec: CompileSpec, *, fresh: bool, run: str | None = None) -> tuple[Recorded, Account]:
    """Compile `spec` in this process.

    The same Prefect flow run is continued where the server still knows it. Where it does not (its
    database is gone), a new flow run goes on with the old run's account, so its budget holds.

    Args:
        spec: What to compile.
        fresh: Begin a new run in any case.
        run: Continue this run, by its id or the first letters of it.

    Returns:
        What was recorded, and what the run bought.
    """
    async with find_ledger(spec.ledger) as ledger:
        if run is not None:
            earlier = await ledger.find_run(run)
        else:
            earlier = None if fresh else await ledger.unfinished_run(spec.spec_id)
        flow = recompile_program if spec.start == "warm" else compile_program
        recorded = await (_continue(flow, spec, earlier.run_id) if earlier else flow(spec))
        return recorded, await ledger.account(recorded.manifest.run_id)


async def _continue(flow: Compiling, spec: CompileSpec, run_id: str) -> Recorded:
    async with get_client() as client:
        known = await _known_run(client, run_id)
        if known is None:
            return await flow(spec, continue_run=run_id)
        if known.state is not None and known.state.is_final():
            await client.set_flow_run_state(known.id, AwaitingRetry(), force=True)
            known = await client.read_flow_run(known.id)
    parameters = {"spec": spec, "continue_run": run_id}
    recorded = await run_flow_async(flow, flow_run=known, parameters=parameters)
    assert isinstance(recorded, Recorded)
    return recorded


async def _known_run(client: PrefectClient, run_id: str) -> FlowRun | None:
    try:
        return await client.read_flow_run(UUID(run_id))
    except (ObjectNotFound, ValueError):
        return None
