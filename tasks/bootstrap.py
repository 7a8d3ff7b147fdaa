"""Bootstrap: make demonstration sets from program runs that went well, and from labels."""

from swarmc.compiler.demonstrations import DemoSets
from swarmc.compiler.reports import bootstrap_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.ports import Optimizer
from tasks.stage import stage, step


@step("bootstrap")
async def bootstrap(optimizer: Optimizer, bench: Bench, calls_planned: int) -> DemoSets:
    """Demonstration sets by predictor, the program's own first."""
    async with stage("bootstrap", bench.run_id, bench.emit, calls_planned) as notes:
        sets = await optimizer.bootstrap(bench)
        notes.sentence = "; ".join(f"{name}: {len(found)} demonstration sets" for name, found in sets.items())
        notes.report = bootstrap_report(sets)
    return sets
