"""Promote: let the winner run under the compile's name, when a paired test says that it is better than what does."""

from swarmc.compiler.metering import now_ms
from swarmc.compiler.promoting import decide
from swarmc.compiler.reports import promotion_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Validation
from swarmc.contracts.events import Verified
from swarmc.contracts.ports import Store
from swarmc.contracts.promotion import Promotion
from tasks.recall import Recalled, promotion_label, promotion_of
from tasks.record import Recorded
from tasks.stage import stage, step


@step("promote")
async def promote(
    bench: Bench, validation: Validation, recalled: Recalled, recorded: Recorded, store: Store
) -> Recorded:
    """The record, with what became of the winner.

    Args:
        bench: The compile's workbench.
        validation: The winner's comparisons.
        recalled: What was promoted when the run began; the winner was compared with that.
        recorded: The winner's manifest.
        store: Where artifacts go.
    """
    async with stage("promote", bench.run_id, bench.emit) as notes:
        _tell_comparisons(bench, validation)
        promotion = await _decided(bench, validation, recalled, recorded, store)
        uri = await store.put(promotion.canonical(), name="promotion.json")
        await store.label(f"runs/{bench.run_id}/promotion.json", uri)
        if promotion.decision == "promoted":
            for name in ("program.json", "manifest.json"):
                await store.label(f"promoted/{bench.job.name}/{name}", recorded.uris[name])
            await store.label(promotion_label(bench.job.name), uri)
        notes.sentence = f"{promotion.decision}: {promotion.reason}"
        notes.report = promotion_report(promotion)
    return recorded.model_copy(update={"promotion": promotion})


def _tell_comparisons(bench: Bench, validation: Validation) -> None:
    """Say what the paired tests showed."""
    rivals = {"the uncompiled program": validation.comparison, "the promoted program": validation.incumbent}
    for name, compared in rivals.items():
        if compared is not None:
            what, better = f"the winner is better than {name}", compared.verdict == "better"
            detail = f"difference {compared.improvement}"
            bench.emit(Verified(run_id=bench.run_id, at_ms=now_ms(), what=what, holds=better, detail=detail))


async def _decided(
    bench: Bench, validation: Validation, recalled: Recalled, recorded: Recorded, store: Store
) -> Promotion:
    before = recalled.promotion
    winner = recorded.manifest.compiled_id
    assert winner is not None, "a recorded manifest names its program"
    search = bench.splits.refs["search"].count
    decision = decide(validation, search, unchanged=before is not None and before.compiled_id == winner)
    promoted = await promotion_of(store, bench.job.name)
    reason, stands = decision.reason, decision.promote
    if stands and promoted is not None and promoted != before and promoted.run_id != bench.run_id:
        stands, reason = (
            False,
            f"run {promoted.run_id[:8]} promoted another program meanwhile; compile again to compare",
        )
    kept = promoted or before
    return Promotion(
        name=bench.job.name,
        decision="promoted" if stands else "kept",
        reason=reason,
        run_id=bench.run_id,
        compiled_id=winner,
        manifest_uri=recorded.manifest_uri if stands else (kept.manifest_uri if kept else None),
        compiled_uri=recorded.uris["compiled.json"] if stands else (kept.compiled_uri if kept else None),
        incumbent_id=before.compiled_id if before else None,
    )
