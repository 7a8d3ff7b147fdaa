"""Propose: collect the instructions that the search may choose."""

from swarmc.compiler.demonstrations import DemoSets
from swarmc.compiler.reports import propose_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.ports import Optimizer
from tasks.stage import stage, step


@step("propose")
async def propose(
    optimizer: Optimizer, bench: Bench, demo_sets: DemoSets, calls_planned: int
) -> dict[str, tuple[str, ...]]:
    """Instructions by predictor, the program's own first."""
    async with stage("propose", bench.run_id, bench.emit, calls_planned) as notes:
        found = await optimizer.propose(bench, demo_sets)
        notes.sentence = "; ".join(f"{name}: {len(texts)} instructions" for name, texts in found.items())
        notes.report = propose_report(found)
    return found
