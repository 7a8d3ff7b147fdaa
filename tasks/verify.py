"""Verify: let the premium lane answer the test examples that no agreement decided, and no others."""

from collections.abc import Mapping

from swarmc.compiler.agreement import with_answers
from swarmc.compiler.metering import now_ms
from swarmc.compiler.reports import validate_report
from swarmc.compiler.verifying import Answered, ask_premium
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Comparison, Outcome, Validation
from swarmc.contracts.events import Verified
from tasks.stage import stage, step
from tasks.validate import paired


@step("verify")
async def verify(
    bench: Bench, validation: Validation, incumbent: Candidate | None, sure: int | None, calls_planned: int
) -> Validation:
    """The validation with the premium lane's answers where the runs did not agree, for all compared programs alike.

    Its budget running out is no error: the largest camp's answers stand, and are counted as unverified.

    Args:
        bench: The compile's workbench.
        validation: With its groups.
        incumbent: What the winner was compared with besides the uncompiled program.
        sure: Examples that the budget allows whatever they cost; nothing for all.
        calls_planned: Upper bound of completions.
    """
    before = validation.verification
    assert before is not None, "a validation with redundancy is what is verified"
    undecided = before.undecided
    async with stage("verify", bench.run_id, bench.emit, calls_planned) as notes:
        programs = compared_programs(validation, bench.own, incumbent)
        most = len(undecided) if sure is None else sure
        answered = await ask_premium(bench.evaluator, programs, undecided, most)
        verified = _verified(validation, answered)
        assert verified.verification is not None
        counts = verified.verification.counts
        notes.sentence = f"{counts}; {answered.stopped}" if answered.stopped else str(counts)
        notes.ended = "budget" if answered.stopped else "completed"
        notes.report = validate_report(verified)
        what, holds = "every undecided example is verified by the premium lane", not counts.unverified
        bench.emit(Verified(run_id=bench.run_id, at_ms=now_ms(), what=what, holds=holds, detail=notes.sentence))
    return verified


def compared_programs(validation: Validation, own: Candidate, incumbent: Candidate | None) -> list[Candidate]:
    """The distinct programs of a validation's comparisons, the winner first."""
    pairs = [one for one in (validation.comparison, validation.incumbent) if one is not None]
    ids = {side.candidate_id for one in pairs for side in (one.winner, one.baseline)}
    known = [validation.winner, own, *([incumbent] if incumbent is not None else [])]
    return [one for one in {one.content_id: one for one in known}.values() if one.content_id in ids]


def _verified(validation: Validation, answered: Answered) -> Validation:
    assert validation.verification is not None
    return validation.model_copy(
        update={
            "comparison": _again(validation.comparison, answered.outcomes),
            "incumbent": _again(validation.incumbent, answered.outcomes),
            "verification": validation.verification.model_copy(update={"verified": tuple(answered.examples)}),
        }
    )


def _again(comparison: Comparison | None, answers: Mapping[str, Mapping[str, Outcome]]) -> Comparison | None:
    if comparison is None:
        return None
    sides = (comparison.winner, comparison.baseline)
    return paired(*(with_answers(side, answers.get(side.candidate_id, {})) for side in sides))
