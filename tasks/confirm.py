"""Confirm: ask the better lane about the best and the worst of a search, before the search is believed."""

from swarmc.compiler.climbing import ask_better_lane, extremes, ranked, texts_for
from swarmc.compiler.demands import ASKED_EXAMPLES
from swarmc.compiler.scope import scoped
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import SearchResult
from swarmc.contracts.transfer import Transfer
from tasks.stage import step
from tasks.transfer import tell_test


@step("confirm")
async def confirm(bench: Bench, searched: SearchResult) -> Transfer | None:
    """What the better lane says of a search, and where the search belongs; nothing where it is too small to ask.

    Its calls are booked under the climb, which meets most of these runs again for nothing.

    Args:
        bench: The compile's workbench.
        searched: How the search in the cheap lane went.
    """
    asked = extremes(ranked(searched), texts_for(bench.spec.climb))
    if len(asked) < 2:
        return None
    with scoped("climb"):
        found = await ask_better_lane(bench.evaluator, asked, bench.ids("search")[:ASKED_EXAMPLES], bench.seed)
    await tell_test(bench, found, f"the lane {found.against} bears out what the search learned", "compile-confirm")
    return found
