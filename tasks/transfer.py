"""Transfer: find out on a few examples whether the cheap lane is fit to search in; if not, move the search up."""

from swarmc.compiler.metering import now_ms
from swarmc.compiler.reports import transfer_report
from swarmc.compiler.scope import scoped
from swarmc.compiler.transferring import texts_of, try_transfer
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Pools
from swarmc.contracts.events import Note, Verified
from swarmc.contracts.transfer import Transfer, TransferSpec
from tasks.stage import StageNotes, publish, step


@step("transfer")
async def transfer(bench: Bench, pools: Pools, asked: TransferSpec) -> Transfer:
    """Where the search runs, and why. Its calls are booked under the search, which meets these runs again for nothing.

    Args:
        bench: The compile's workbench.
        pools: What the search chooses from.
        asked: How many texts on how many examples, against which lane.
    """
    with scoped("search"):
        texts = texts_of(pools, asked.texts, bench.seed)
        examples = bench.ids("search")[: asked.examples]
        found = await try_transfer(bench.evaluator, texts, examples, asked, bench.seed)
    await tell_test(bench, found, f"the lane swarm may predict the lane {found.against}", "compile-transfer")
    return found


async def tell_test(bench: Bench, found: Transfer, what: str, key: str) -> None:
    """Tell what a test of the lanes showed: whether `what` holds, where the search runs, and why.

    Args:
        bench: Whose run.
        found: What it showed.
        what: What holds where the search stays in the cheap lane.
        key: Of the report on the run's page.
    """
    holds = not found.moves
    bench.emit(Verified(run_id=bench.run_id, at_ms=now_ms(), what=what, holds=holds, detail=found.reason))
    bench.emit(Note(run_id=bench.run_id, at_ms=now_ms(), level="info" if holds else "warning", text=found.reason))
    await publish(key, StageNotes(sentence=found.reason, report=transfer_report(found)))
