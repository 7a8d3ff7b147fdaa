"""Candidates, scores and comparisons: what is searched over keeps its identity and claims no more than it may."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swarmc.contracts import candidates
from swarmc.contracts.candidates import Candidate, Comparison, Demo, Evaluation, Pools, PredictorChoice, Score

ID = "sha256:" + "a" * 64
demos = st.lists(st.builds(Demo, fields=st.dictionaries(st.text(max_size=5), st.text(max_size=5))), max_size=3)
choices = st.builds(PredictorChoice, instruction=st.text(max_size=20), demos=demos.map(tuple))
some_candidates = st.dictionaries(st.text(max_size=8), choices, max_size=3).map(lambda by: Candidate(predictors=by))


def score(mean: int, low: int = 0, high: int = 1_000_000) -> Score:
    return Score(mean_ppm=mean, count=10, low_ppm=low, high_ppm=high, method="wilson-95")


def test_the_canonical_form_is_what_it_always_was(vector: dict) -> None:
    record = getattr(candidates, vector["contract"]).model_validate(vector["input"])
    assert record.canonical().decode() == vector["canonical"]
    assert record.content_id == vector["id"]
    assert type(record).model_validate_json(vector["canonical"]).content_id == vector["id"]


@given(some_candidates)
def test_reading_and_writing_a_candidate_does_not_change_its_bytes(candidate: Candidate) -> None:
    again = Candidate.model_validate_json(candidate.canonical())
    assert again == candidate
    assert again.canonical() == candidate.canonical()


@given(some_candidates, some_candidates)
def test_candidates_have_one_id_exactly_when_they_are_equal(one: Candidate, other: Candidate) -> None:
    assert (one == other) == (one.content_id == other.content_id)


def test_a_candidate_is_another_one_when_its_demonstrations_change_places() -> None:
    first, second = Demo(fields={"q": "1"}), Demo(fields={"q": "2"})
    there, back = (
        Candidate(predictors={"p": PredictorChoice(instruction="", demos=order)})
        for order in ((first, second), (second, first))
    )
    assert there.content_id != back.content_id


@pytest.mark.parametrize(
    "changes",
    [{"mean_ppm": 1_000_001}, {"mean_ppm": 0.5}, {"count": 0}, {"low_ppm": -1_000_001}, {"method": None}, {"se": 1}],
)
def test_a_score_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Score.model_validate({**score(500_000).model_dump(), **changes})


def test_a_score_is_shown_with_its_interval_and_count() -> None:
    assert str(score(900_000, 595_850, 982_124)) == "0.900 [0.596, 0.982] (n=10)"


@pytest.mark.parametrize("example_id", ["", "a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, ID + "\n"])
def test_what_is_no_hash_is_no_id(example_id: str) -> None:
    with pytest.raises(ValidationError, match="example_id"):
        candidates.Outcome(example_id=example_id, score_ppm=0)


def test_choosing_all_firsts_is_the_program_as_it_was() -> None:
    own, made = Demo(fields={"q": "own"}), Demo(fields={"q": "made"}, augmented=True)
    pools = Pools(instructions={"p": ("Own.", "New.")}, demo_sets={"p": ((own,), (made,))})
    assert pools.baseline.predictors["p"] == PredictorChoice(instruction="Own.", demos=(own,))
    assert pools.candidate({"p": (1, 1)}).predictors["p"] == PredictorChoice(instruction="New.", demos=(made,))
    with pytest.raises(IndexError):
        pools.candidate({"p": (2, 0)})


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1, 9, "better"), (-9, -1, "worse"), (0, 9, "no difference shown"), (-9, 0, "no difference shown"),
     (-9, 9, "no difference shown")],
)  # fmt: skip
def test_a_verdict_claims_no_more_than_its_interval(low: int, high: int, verdict: str) -> None:
    same = Evaluation(candidate_id=ID, outcomes=(), score=score(0))
    difference = score((low + high) // 2, low, high)
    assert Comparison(winner=same, baseline=same, improvement=difference).verdict == verdict
