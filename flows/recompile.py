"""Recompile a program: start from what its last search learned, promote only what is shown to be better."""

from prefect import flow
from prefect.runtime import flow_run

from flows.compile import compile_metered, run_name
from swarmc.contracts.spec import CompileSpec
from tasks.record import Recorded


@flow(name="recompile-program", flow_run_name=run_name, persist_result=True, validate_parameters=True)
async def recompile_program(spec: CompileSpec, continue_run: str | None = None) -> Recorded:
    """Compile again after a change of data, model or program, from what the last search of this name learned.

    The winner meets the uncompiled program and the one that is promoted under the name in paired
    tests on examples that no choice has seen, and takes its place only when it is better. Without an
    earlier search it is a compile like any other. Made for a schedule.

    Args:
        spec: What to compile. The name says which earlier search to start from.
        continue_run: Id of an earlier run whose account and budget this run goes on with. Leave it
            empty, except to continue a run that this Prefect server does not know.
    """
    warm = spec.model_copy(update={"start": "warm"})
    return await compile_metered(warm, continue_run or str(flow_run.get_id()))
