"""Validate: choose among the finalists on unseen examples, then measure the choice on examples no choice has seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.intervals import paired_difference
from swarmc.compiler.reports import validate_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Comparison, Evaluation, Score, Validation
from swarmc.contracts.errors import BudgetExhausted
from tasks.stage import stage, step


@dataclass(frozen=True)
class Compared:
    """The winner's comparisons, as far as there are any."""

    baseline: Comparison | None = None
    incumbent: Comparison | None = None


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
        ranked: list[tuple[Candidate, Score]] = []
        compared = Compared()
        try:
            ranked = await _rank(bench, meeting)
            compared = await _compare(bench, ranked[0][0] if ranked else bench.own, incumbent)
        except BudgetExhausted as error:
            notes.ended, notes.sentence = "budget", str(error)
        winner = ranked[0][0] if ranked else (meeting[0] if meeting else bench.own)
        validation = Validation(
            finalists=tuple(ranked),
            winner=winner,
            comparison=compared.baseline,
            incumbent=compared.incumbent,
            ended="completed" if compared.baseline else "budget",
        )
        if (shown := validation.comparison) is not None:
            notes.sentence = f"{shown.baseline.score} -> {shown.winner.score}: {shown.verdict}"
        notes.report = validate_report(validation)
    return validation


async def _rank(bench: Bench, finalists: Sequence[Candidate]) -> list[tuple[Candidate, Score]]:
    """Finalists by their score on validation examples; of equals, the search's order stands."""
    examples = bench.splits.ids("validation")[: bench.spec.validation]
    evaluations = await gather_or_cancel(_evaluate(bench, candidate, examples) for candidate in finalists)
    scored = [(candidate, evaluation.score) for candidate, evaluation in zip(finalists, evaluations, strict=True)]
    return sorted(scored, key=lambda entry: -entry[1].mean_ppm)


async def _compare(bench: Bench, winner: Candidate, incumbent: Candidate | None) -> Compared:
    """The winner against the uncompiled program, and against the incumbent, all on the same test examples."""
    others = [bench.own] + ([incumbent] if incumbent is not None and incumbent not in (winner, bench.own) else [])
    examples = bench.splits.ids("test")[: bench.spec.test]
    mine, *theirs = await gather_or_cancel(_evaluate(bench, one, examples) for one in (winner, *others))
    return Compared(*(_paired(mine, other) for other in theirs))


def _paired(winner: Evaluation, other: Evaluation) -> Comparison:
    improvement = paired_difference(
        [outcome.score_ppm for outcome in winner.outcomes], [outcome.score_ppm for outcome in other.outcomes]
    )
    return Comparison(winner=winner, baseline=other, improvement=improvement)


async def _evaluate(bench: Bench, candidate: Candidate, examples: Sequence[str]) -> Evaluation:
    return await bench.evaluator.evaluate(candidate, examples, lane="validation")
