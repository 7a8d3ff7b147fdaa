"""Intervals: the published closed forms, never outside the scale, honest about small samples."""

import random
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.intervals import mean_score, paired_difference

ONE = 1_000_000
Z = 1.959963984540054
scores = st.lists(st.integers(0, ONE), min_size=1, max_size=60)
pairs = st.lists(st.tuples(st.integers(0, ONE), st.integers(0, ONE)), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        # Wilson's intervals as R's `prop.test(x, n, correct = FALSE)` prints them.
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
        (9, 10, 0.5958500, 0.9821238),
        (10, 10, 0.7224672, 1.0),
        (81, 263, 0.2552885, 0.3662096),
    ],
)
def test_a_mean_has_wilsons_interval(right: int, of: int, low: float, high: float) -> None:
    score = mean_score([ONE] * right + [0] * (of - right))
    assert (score.low_ppm / ONE, score.high_ppm / ONE) == pytest.approx((low, high), abs=2e-6)
    assert (score.mean_ppm, score.count) == (round(ONE * right / of), of)


@pytest.mark.parametrize(("wins", "losses", "ties"), [(7, 2, 11), (20, 0, 0), (0, 0, 5), (0, 3, 97), (1, 0, 0)])
def test_a_paired_difference_has_bonett_and_prices_interval(wins: int, losses: int, ties: int) -> None:
    n = wins + losses + ties
    won, lost = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = Z * sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    expected = (max(won - lost - half, -1), min(won - lost + half, 1))
    first = [ONE] * wins + [0] * losses + [ONE] * ties
    second = [0] * wins + [ONE] * losses + [ONE] * ties
    score = paired_difference(first, second)
    assert (score.low_ppm / ONE, score.high_ppm / ONE) == pytest.approx(expected, abs=2e-6)
    assert (score.mean_ppm, score.count) == (round(ONE * (wins - losses) / n), n)


@given(scores)
def test_a_mean_lies_in_its_interval_and_that_on_the_scale(values: list[int]) -> None:
    score = mean_score(values)
    assert 0 <= score.low_ppm <= score.mean_ppm <= score.high_ppm <= ONE
    assert score.low_ppm < score.high_ppm


@given(pairs)
def test_a_difference_lies_in_its_interval_and_that_on_the_scale(values: list[tuple[int, int]]) -> None:
    score = paired_difference(*zip(*values, strict=True))
    assert -ONE <= score.low_ppm <= score.mean_ppm <= score.high_ppm <= ONE
    assert score.low_ppm < score.high_ppm


@given(pairs)
def test_a_difference_turned_round_is_its_mirror_image(values: list[tuple[int, int]]) -> None:
    first, second = zip(*values, strict=True)
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert (there.mean_ppm, there.low_ppm, there.high_ppm) == (-back.mean_ppm, -back.high_ppm, -back.low_ppm)


@given(scores, st.randoms())
def test_the_order_of_examples_does_not_change_a_byte(values: list[int], rng: random.Random) -> None:
    shuffled = values[:]
    rng.shuffle(shuffled)
    assert mean_score(shuffled).canonical() == mean_score(values).canonical()


@given(scores)
def test_more_examples_of_the_same_kind_narrow_the_interval(values: list[int]) -> None:
    few, many = mean_score(values), mean_score(values * 4)
    assert many.high_ppm - many.low_ppm < few.high_ppm - few.low_ppm


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says(truth: float) -> None:
    rng = random.Random(f"coverage:{truth}")
    held = 0
    for _ in range(1000):
        score = mean_score([ONE * (rng.random() < truth) for _ in range(40)])
        held += score.low_ppm <= truth * ONE <= score.high_ppm
    assert 930 <= held <= 985


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random("paired coverage")
    held = 0
    for _ in range(1000):
        draws = [rng.random() for _ in range(40)]
        # Better on 30 % of the examples, worse on 10 %.
        score = paired_difference([ONE * (draw > 0.1) for draw in draws], [ONE * (draw < 0.7) for draw in draws])
        held += score.low_ppm <= 200_000 <= score.high_ppm
    assert 930 <= held <= 985


@pytest.mark.parametrize(("first", "second"), [([], []), ([ONE], []), ([ONE, 0], [ONE])])
def test_a_pair_that_is_none_is_refused(first: list[int], second: list[int]) -> None:
    with pytest.raises(ValueError, match="equal, non-zero counts"):
        paired_difference(first, second)
