"""Promotion: only after a paired test that it won, and never on a handful of examples."""

import pytest

from swarmc.compiler.intervals import mean_score, paired_difference
from swarmc.compiler.promoting import candidate_of, decide, few_examples_warning
from swarmc.contracts.candidates import (
    Candidate,
    Comparison,
    Evaluation,
    Outcome,
    PredictorChoice,
    PredictorInfo,
    Validation,
)
from swarmc.contracts.canonical import PPM
from swarmc.contracts.manifest import CompiledPredictor, CompiledProgram, FieldSpec

CANDIDATE = Candidate(predictors={"self": PredictorChoice(instruction="Do it.")})


def evaluation(right: int, count: int) -> Evaluation:
    scores = [PPM] * right + [0] * (count - right)
    outcomes = tuple(Outcome(example_id=f"sha256:{i:064x}", score_ppm=s) for i, s in enumerate(scores))
    return Evaluation(candidate_id=CANDIDATE.content_id, outcomes=outcomes, score=mean_score(scores))


def compared(winner: int, other: int, count: int = 100) -> Comparison:
    mine, theirs = evaluation(winner, count), evaluation(other, count)
    scores = ([o.score_ppm for o in one.outcomes] for one in (mine, theirs))
    return Comparison(winner=mine, baseline=theirs, improvement=paired_difference(*scores))


def validated(comparison: Comparison | None, incumbent: Comparison | None = None) -> Validation:
    ended = "completed" if comparison else "budget"
    return Validation(finalists=(), winner=CANDIDATE, comparison=comparison, ended=ended, incumbent=incumbent)


@pytest.mark.parametrize(
    ("validation", "search", "unchanged", "promoted", "reason"),
    [
        (validated(compared(90, 50)), 100, False, True, "better than the uncompiled program"),
        (validated(compared(90, 50), compared(90, 60)), 100, False, True, "better than the promoted program"),
        (validated(compared(90, 50), compared(90, 89)), 100, False, False, "not shown to be better than the promoted"),
        (validated(compared(51, 50)), 100, False, False, "not shown to be better than the uncompiled"),
        (validated(compared(50, 90)), 100, False, False, "not shown to be better than the uncompiled"),
        (validated(None), 100, False, False, "budget ran out"),
        (validated(compared(90, 50)), 100, True, False, "promoted already"),
        (validated(compared(90, 10)), 5, False, False, "too few"),
        (validated(compared(5, 0, 5)), 100, False, False, "too few"),
    ],
)
def test_the_winner_is_promoted_only_when_it_is_shown_to_be_better(
    validation: Validation, search: int, unchanged: bool, promoted: bool, reason: str
) -> None:
    decision = decide(validation, search, unchanged=unchanged)
    assert decision.promote == promoted
    assert reason in decision.reason


def test_few_examples_are_warned_of_before_anything_is_bought() -> None:
    assert few_examples_warning(100, 100) == ""
    assert "5 search" in few_examples_warning(5, 100)
    assert "nothing is promoted" in few_examples_warning(100, 3)


def compiled(*outputs: str) -> CompiledProgram:
    inputs = (FieldSpec(name="question", annotation="str", description=""),)
    named = tuple(FieldSpec(name=name, annotation="str", description="") for name in outputs)
    predictor = CompiledPredictor(signature_name="s", inputs=inputs, outputs=named, instruction="Do it.")
    return CompiledProgram(program="question -> answer", predictors={"self": predictor})


def test_a_promoted_program_runs_again_only_where_its_fields_still_fit() -> None:
    now = {"self": PredictorInfo(instruction="Other.", inputs=("question",), outputs=("answer",))}
    assert candidate_of(compiled("answer"), now) == CANDIDATE
    assert candidate_of(compiled("reasoning", "answer"), now) is None
    assert candidate_of(compiled("answer"), {"other": now["self"]}) is None
