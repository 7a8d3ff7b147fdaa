"""Search: try combinations of instruction and demonstrations, keep the best few."""

from swarmc.compiler.reports import search_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Pools, SearchResult
from swarmc.contracts.ports import Optimizer
from tasks.stage import stage, step


@step("search")
async def search(optimizer: Optimizer, bench: Bench, pools: Pools, calls_planned: int) -> SearchResult:
    """The optimizer's trials and finalists. A budget that runs out ends it with the best so far."""
    async with stage("search", bench.run_id, bench.emit, calls_planned) as notes:
        bench.best_ppm = 0
        result = await optimizer.search(bench, pools)
        notes.ended, notes.sentence = result.ended, how_it_went(result)
        notes.report = search_report(result, pools)
    return result


def how_it_went(result: SearchResult) -> str:
    """A search in a line."""
    best = f", best {result.finalists[0][1]}" if result.finalists else ""
    cut = "; the budget ran out" if result.ended == "budget" else ""
    return f"{len(result.trials)} trials{best}{cut}"
