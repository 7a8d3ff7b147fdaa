"""Plan a compile without buying anything: what each stage would ask for and cost."""

from contextlib import AsyncExitStack

from blocks.stores import find_store
from flows.lanes import find_venues, sampling_of
from flows.steps import prices_of, sizes_of
from swarmc.compiler.costs import Known
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.planning import make_plan
from swarmc.compiler.quoting import Quoted
from swarmc.contracts.completions import Lane
from swarmc.contracts.money import Account
from swarmc.contracts.plan import Plan
from swarmc.contracts.spec import CompileSpec
from tasks.load import read_inputs
from tasks.recall import promotion_of


async def preview(spec: CompileSpec) -> tuple[Plan, dict[Lane, str]]:
    """The plan that a compile of `spec` would begin with, and by lane the sentence that says where its calls would run.

    Raises:
        SpecError, VenueError, StoreError: as the compile itself would.
    """
    found = await find_venues(spec.lanes)
    loaded = read_inputs(spec)
    sizes = sizes_of(loaded)
    optimizer = OPTIMIZERS[spec.optimizer]()
    async with AsyncExitStack() as stack:
        quoted: dict[Lane, Quoted] = {}
        for lane, lane_spec in spec.lanes.items():
            venue = await stack.enter_async_context(found[lane].block.open())
            quoted[lane] = Quoted(venue, sampling_of(lane_spec))
        prices = prices_of(spec, loaded, quoted)
    async with find_store(spec.store) as store:
        promoted = await promotion_of(store, spec.name)
    known = Known(
        sizes=sizes,
        demand=lambda asked: optimizer.demand(asked, sizes.predictors, sizes.train),
        account=Account(run_id="preview"),
        quotes=prices,
        programs=2 + (promoted is not None),
    )
    return make_plan(spec, known).plan, {lane: one.sentence for lane, one in found.items()}
