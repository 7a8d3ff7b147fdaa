"""Climb: go on in the better lane with the best of a search in the cheap one, or search there from the start."""

from swarmc.compiler.climbing import climb as climb_on
from swarmc.compiler.reports import search_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Pools, SearchResult
from swarmc.contracts.ports import Optimizer
from swarmc.contracts.transfer import Climb, Transfer
from tasks.search import how_it_went
from tasks.stage import stage, step


@step("climb")
async def climb(
    optimizer: Optimizer,
    bench: Bench,
    pools: Pools,
    found: tuple[SearchResult, Transfer | None],
    calls_planned: int,
) -> Climb:
    """How the better lane went on. A budget that runs out ends it with the best so far.

    Args:
        optimizer: Searches, where the better lane is searched from the start.
        bench: The compile's workbench.
        pools: What the search chose from.
        found: How the search in the cheap lane went, and what the better lane says of it.
        calls_planned: Upper bound of completions.
    """
    searched, test = found
    async with stage("climb", bench.run_id, bench.emit, calls_planned) as notes:
        climbed = await climb_on(optimizer, bench, pools, searched, test)
        notes.ended, notes.sentence = climbed.result.ended, how_it_went(climbed.result)
        notes.report = search_report(climbed.result, pools, "Climb in the better lane")
    return climbed
