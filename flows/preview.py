"""Plan a compile without buying anything: what each stage would ask for and cost."""

from contextlib import AsyncExitStack

from blocks.stores import find_store
from flows.lanes import find_venues, sampling_of
from flows.steps import sizes_of
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.planning import Known, can_write, make_plan, sized
from swarmc.compiler.quoting import Quoted, quotes
from swarmc.contracts.completions import Lane
from swarmc.contracts.money import Account
from swarmc.contracts.plan import Plan
from swarmc.contracts.spec import CompileSpec
from tasks.load import read_inputs
from tasks.recall import promotion_label


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
        search = sized(spec.search, sizes, writes=can_write(spec))
        demos = search.max_bootstrapped_demos + search.max_labeled_demos
        train = [loaded.splits.examples[key] for key in loaded.splits.ids("train")]
        adapter = make_adapter(spec.adapter.kind, json_fallback=spec.adapter.json_fallback)
        prices = quotes(loaded.program, adapter, train, demos, quoted)
    async with find_store(spec.store) as store:
        is_promoted = await store.read(promotion_label(spec.name)) is not None
    known = Known(
        sizes=sizes,
        demand=lambda asked: optimizer.demand(asked, sizes.predictors, sizes.train),
        account=Account(run_id="preview"),
        quotes=prices,
        programs=2 + is_promoted,
    )
    return make_plan(spec, known).plan, {lane: one.sentence for lane, one in found.items()}
