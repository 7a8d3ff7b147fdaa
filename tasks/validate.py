"""Validate: choose among the finalists on unseen examples, then measure the choice on examples no choice has seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from swarmc.compiler.agreement import Agreed, Panel, verification_of
from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.intervals import paired_difference
from swarmc.compiler.metering import now_ms
from swarmc.compiler.reports import validate_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Comparison, Evaluation, Score, Validation
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.events import Verified
from swarmc.contracts.verification import Group, Verification
from tasks.stage import stage, step

SHORT_ID_CHARS = 12
MOST_NAMED = 8


@dataclass
class Compared:
    """The winner's comparisons, as far as there are any, and the groups that their outcomes come from."""

    baseline: Comparison | None = None
    incumbent: Comparison | None = None
    groups: tuple[Group, ...] = ()


@dataclass
class Ranked:
    """The finalists, best first, and the groups that their scores come from."""

    scored: list[tuple[Candidate, Score]] = field(default_factory=list)
    groups: tuple[Group, ...] = ()


@step("validate")
async def validate(
    bench: Bench, finalists: Sequence[Candidate], incumbent: Candidate | None, calls_planned: int
) -> Validation:
    """The winner and its paired comparisons with the uncompiled program and with what is promoted.

    The plan says how many finalists meet, and on how many of the examples.

    Args:
        bench: The compile's workbench.
        finalists: Distinct candidates, best first by the search; empty when a budget left none.
        incumbent: What is promoted under the compile's name; it is a finalist too.
        calls_planned: Upper bound of completions.
    """
    meeting = list(finalists[: bench.spec.finalists])
    if incumbent is not None and incumbent not in meeting:
        meeting.append(incumbent)
    async with stage("validate", bench.run_id, bench.emit, calls_planned) as notes:
        ranked, compared = Ranked(), Compared()
        try:
            ranked = await _rank(bench, meeting)
            compared = await _compare(bench, ranked.scored[0][0] if ranked.scored else bench.own, incumbent)
        except BudgetExhausted as error:
            notes.ended, notes.sentence = "budget", str(error)
        winner = ranked.scored[0][0] if ranked.scored else (meeting[0] if meeting else bench.own)
        validation = Validation(
            finalists=tuple(ranked.scored),
            winner=winner,
            comparison=compared.baseline,
            incumbent=compared.incumbent,
            ended="completed" if compared.baseline else "budget",
            verification=_verification(bench, ranked, compared),
        )
        if (shown := validation.comparison) is not None:
            notes.sentence = f"{shown.baseline.score} -> {shown.winner.score}: {shown.verdict}"
        if validation.verification is not None:
            said = str(validation.verification.counts)
            notes.sentence = f"{notes.sentence}; {said}" if notes.sentence else said
        notes.report = validate_report(validation)
    return validation


def paired(winner: Evaluation, other: Evaluation) -> Comparison:
    """The winner against another program on the same examples."""
    improvement = paired_difference(
        [outcome.score_ppm for outcome in winner.outcomes], [outcome.score_ppm for outcome in other.outcomes]
    )
    return Comparison(winner=winner, baseline=other, improvement=improvement)


async def _rank(bench: Bench, finalists: Sequence[Candidate]) -> Ranked:
    """Finalists by their score on validation examples; of equals, the search's order stands."""
    examples = bench.splits.ids("validation")[: bench.spec.validation]
    found = await gather_or_cancel(_evaluate(bench, candidate, examples) for candidate in finalists)
    scored = [(candidate, one.evaluation.score) for candidate, one in zip(finalists, found, strict=True)]
    return Ranked(sorted(scored, key=lambda entry: -entry[1].mean_ppm), _groups(found))


async def _compare(bench: Bench, winner: Candidate, incumbent: Candidate | None) -> Compared:
    """The winner against the uncompiled program, and against the incumbent, all on the same test examples."""
    others = [bench.own] + ([incumbent] if incumbent is not None and incumbent not in (winner, bench.own) else [])
    examples = bench.splits.ids("test")[: bench.spec.test]
    found = await gather_or_cancel(_evaluate(bench, one, examples) for one in (winner, *others))
    mine, *theirs = (one.evaluation for one in found)
    return Compared(*(paired(mine, other) for other in theirs), groups=_groups(found))


async def _evaluate(bench: Bench, candidate: Candidate, examples: Sequence[str]) -> Agreed:
    if (asked := bench.job.redundancy) is None:
        return Agreed(await bench.evaluator.evaluate(candidate, examples, lane="validation"))
    return await Panel(bench.evaluator, asked, tell=lambda group: _tell(bench, group)).evaluate(candidate, examples)


def _groups(found: Sequence[Agreed]) -> tuple[Group, ...]:
    return tuple(group for one in found for group in one.groups)


def _verification(bench: Bench, ranked: Ranked, compared: Compared) -> Verification | None:
    asked = bench.job.redundancy
    return None if asked is None else verification_of(asked, compared.groups, ranked.groups)


def _tell(bench: Bench, group: Group) -> None:
    """Say what the runs of a group came to, and who said otherwise."""
    candidate, example = (
        key.removeprefix("sha256:")[:SHORT_ID_CHARS] for key in (group.candidate_id, group.example_id)
    )
    against = ", ".join(group.dissent[:MOST_NAMED])
    said = f"{group.agreeing} of {len(group.votes)} runs of {candidate} on {example} say the same"
    detail = f"{said}; otherwise said: {against}" if against else said
    what = f"runs agree, {bench.job.redundancy}"
    bench.emit(Verified(run_id=bench.run_id, at_ms=now_ms(), what=what, holds=group.decided, detail=detail))
