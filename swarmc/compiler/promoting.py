"""Whether a compile's winner may take the place of what runs now: only after a paired test that it won."""

from collections.abc import Mapping
from dataclasses import dataclass

from swarmc.contracts.candidates import Candidate, Comparison, PredictorChoice, PredictorInfo, Validation
from swarmc.contracts.manifest import CompiledProgram

FEWEST_EXAMPLES = 10
"""Search or test examples below which nothing is promoted: the interval is wider than most differences."""


@dataclass(frozen=True)
class Decision:
    """What to do, and why."""

    promote: bool
    reason: str


def decide(validation: Validation, search_examples: int, *, unchanged: bool) -> Decision:
    """Promote the winner, or keep what is there.

    Args:
        validation: The winner, measured against the uncompiled program and against the incumbent if there is one.
        search_examples: How many examples the search could choose by.
        unchanged: The winner is the very program that is promoted now.
    """
    compared = validation.comparison
    if compared is None:
        return Decision(False, "it could not be measured: the budget ran out before the test examples")
    if unchanged:
        return Decision(False, "the winner is what is promoted already")
    count = min(search_examples, compared.winner.score.count)
    if count < FEWEST_EXAMPLES:
        return Decision(
            False,
            f"{search_examples} search and {compared.winner.score.count} test examples are too few: "
            f"the interval is wide ({compared.improvement}); give {FEWEST_EXAMPLES} or more of each",
        )
    rivals = {"the uncompiled program": compared, "the promoted program": validation.incumbent}
    for name, comparison in rivals.items():
        if comparison is not None and comparison.verdict != "better":
            return Decision(False, f"it is not shown to be better than {name}: {_difference(comparison)}")
    against = "the promoted program" if validation.incumbent else "the uncompiled program"
    return Decision(True, f"better than {against}: {_difference(validation.incumbent or compared)}")


def few_examples_warning(search_examples: int, test_examples: int) -> str:
    """A sentence for a compile whose result cannot be promoted; empty when it can."""
    if min(search_examples, test_examples) >= FEWEST_EXAMPLES:
        return ""
    return (
        f"{search_examples} search and {test_examples} test examples: intervals will be wide, and nothing is "
        f"promoted with fewer than {FEWEST_EXAMPLES} of each"
    )


def candidate_of(compiled: CompiledProgram, predictors: Mapping[str, PredictorInfo]) -> Candidate | None:
    """A compiled program's text, to run it again; nothing when the program's predictors or fields are others now."""
    if compiled.predictors.keys() != predictors.keys():
        return None
    for name, predictor in compiled.predictors.items():
        fields = [field.name for field in (*predictor.inputs, *predictor.outputs)]
        if fields != [*predictors[name].inputs, *predictors[name].outputs]:
            return None
    return Candidate(
        predictors={
            name: PredictorChoice(instruction=predictor.instruction, demos=predictor.demos)
            for name, predictor in compiled.predictors.items()
        }
    )


def _difference(comparison: Comparison) -> str:
    return f"{comparison.baseline.score} -> {comparison.winner.score}, difference {comparison.improvement}"
