"""Validate: choose among the finalists on unseen examples, then measure the choice on examples no choice has seen."""

from collections.abc import Sequence

from swarmc.compiler.datasets import SplitName
from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.compiler.intervals import paired_difference
from swarmc.compiler.reports import validate_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Comparison, Evaluation, Score, Validation
from swarmc.contracts.errors import BudgetExhausted
from tasks.stage import stage, step


@step("validate")
async def validate(bench: Bench, finalists: Sequence[Candidate], calls_planned: int) -> Validation:
    """The winner and its paired comparison with the uncompiled program.

    Args:
        bench: The compile's workbench.
        finalists: Distinct candidates, best first by the search; empty when a budget left none.
        calls_planned: Upper bound of completions.
    """
    async with stage("validate", bench.run_id, bench.emit, calls_planned) as notes:
        ranked: list[tuple[Candidate, Score]] = []
        comparison = None
        try:
            ranked = await _rank(bench, finalists)
            comparison = await _compare(bench, ranked[0][0] if ranked else bench.own)
        except BudgetExhausted as error:
            notes.ended, notes.sentence = "budget", str(error)
        winner = ranked[0][0] if ranked else (finalists[0] if finalists else bench.own)
        if comparison is not None:
            notes.sentence = f"{comparison.baseline.score} -> {comparison.winner.score}: {comparison.verdict}"
        notes.report = validate_report(comparison, ranked)
    ended = "completed" if comparison else "budget"
    return Validation(finalists=tuple(ranked), winner=winner, comparison=comparison, ended=ended)


async def _rank(bench: Bench, finalists: Sequence[Candidate]) -> list[tuple[Candidate, Score]]:
    """Finalists by their score on validation examples; of equals, the search's order stands."""
    evaluations = await gather_or_cancel(_evaluate(bench, candidate, "validation") for candidate in finalists)
    scored = [(candidate, evaluation.score) for candidate, evaluation in zip(finalists, evaluations, strict=True)]
    return sorted(scored, key=lambda entry: -entry[1].mean_ppm)


async def _compare(bench: Bench, winner: Candidate) -> Comparison:
    mine, theirs = await gather_or_cancel([_evaluate(bench, winner, "test"), _evaluate(bench, bench.own, "test")])
    improvement = paired_difference(
        [outcome.score_ppm for outcome in mine.outcomes], [outcome.score_ppm for outcome in theirs.outcomes]
    )
    return Comparison(winner=mine, baseline=theirs, improvement=improvement)


async def _evaluate(bench: Bench, candidate: Candidate, split: SplitName) -> Evaluation:
    return await bench.evaluator.evaluate(candidate, bench.splits.ids(split), lane="validation")
