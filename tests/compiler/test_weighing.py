"""Weighing: bounded, monotone, the same in any order, and exact in whole numbers."""

from fractions import Fraction
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.weighing import aggregate, weighted
from swarmc.contracts.metrics import Aggregation, TrimmedMean

SCORE = st.integers(0, 1_000_000)
SCORES = st.lists(SCORE, min_size=1, max_size=12)
HOW = st.sampled_from(["median", "mean", "min", "max"]) | st.integers(0, 50).map(lambda p: TrimmedMean(trimmed_mean=p))
WEIGHED = st.lists(st.tuples(SCORE, st.integers(0, 1_000_000)), min_size=1, max_size=12)


@given(SCORES, HOW)
def test_an_aggregate_lies_between_the_lowest_and_the_highest(scores: list[int], how: Aggregation) -> None:
    assert min(scores) <= aggregate(scores, how) <= max(scores)


@given(SCORES.flatmap(lambda scores: st.tuples(st.just(scores), st.permutations(scores))), HOW)
def test_an_aggregate_is_the_same_in_any_order(pair: tuple[list[int], list[int]], how: Aggregation) -> None:
    assert aggregate(pair[0], how) == aggregate(pair[1], how)


@given(SCORES, HOW, st.data())
def test_a_higher_score_never_lowers_the_aggregate(scores: list[int], how: Aggregation, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(scores) - 1))
    higher = [*scores[:at], data.draw(st.integers(scores[at], 1_000_000)), *scores[at + 1 :]]
    assert aggregate(higher, how) >= aggregate(scores, how)


@given(SCORES)
def test_mean_and_median_are_the_exact_ones_rounded(scores: list[int]) -> None:
    assert abs(aggregate(scores, "mean") - Fraction(sum(scores), len(scores))) <= Fraction(1, 2)
    assert abs(aggregate(scores, "median") - median(map(Fraction, scores))) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("percent", "wanted"), [(0, 40), (10, 40), (20, 30), (34, 30), (40, 30), (50, 30)], ids=lambda v: str(v)
)
def test_a_trimmed_mean_drops_whole_scores_at_each_end(percent: int, wanted: int) -> None:
    assert aggregate([100, 10, 20, 30, 40], TrimmedMean(trimmed_mean=percent)) == wanted


def test_a_trimmed_mean_that_leaves_nothing_is_the_median_and_nothing_is_zero() -> None:
    assert aggregate([10, 20, 30, 100], TrimmedMean(trimmed_mean=50)) == 25
    assert aggregate([], "mean") == aggregate([], "min") == 0


@given(WEIGHED)
def test_a_weighted_mean_is_bounded_and_the_same_in_any_order(pairs: list[tuple[int, int]]) -> None:
    counted = [score for score, weight in pairs if weight]
    assert weighted(pairs) == weighted(reversed(pairs))
    assert (min(counted) <= weighted(pairs) <= max(counted)) if counted else weighted(pairs) == 0


@given(WEIGHED, st.data())
def test_a_better_part_never_lowers_the_score(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(pairs) - 1))
    higher = (data.draw(st.integers(pairs[at][0], 1_000_000)), pairs[at][1])
    assert weighted([*pairs[:at], higher, *pairs[at + 1 :]]) >= weighted(pairs)
