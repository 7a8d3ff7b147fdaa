"""Scores with intervals: how far a mean of few examples may be from the truth.

Sources: Wilson 1927 for a mean of scores in 0..1; Bonett and Price 2012 ("Adjusted Wald interval
for a difference of two proportions with paired data") for a paired difference. Both are closed
forms, so equal inputs give equal bytes, and neither has zero width when all examples agree.
"""

from collections.abc import Sequence
from math import sqrt

from swarmc.contracts.candidates import Score
from swarmc.contracts.canonical import PPM

Z_95 = 1.959963984540054


def mean_score(scores_ppm: Sequence[int]) -> Score:
    """Mean of scores in 0..1 with Wilson's 95 % interval.

    For scores between 0 and 1 that are not 0 or 1, the interval is conservative: no distribution
    on 0..1 with this mean varies more than the one of zeros and ones.

    >>> str(mean_score([1_000_000] * 9 + [0]))
    '0.900 [0.596, 0.982] (n=10)'

    Args:
        scores_ppm: Parts per million, one per example; at least one.
    """
    n = len(scores_ppm)
    mean = sum(scores_ppm) / n / PPM
    spread = Z_95 * sqrt(mean * (1 - mean) / n + Z_95**2 / (4 * n * n))
    centre = mean + Z_95**2 / (2 * n)
    scale = 1 + Z_95**2 / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return Score(
        mean_ppm=_ppm(mean), count=n, low_ppm=_ppm(max(low, 0)), high_ppm=_ppm(min(high, 1)), method="wilson-95"
    )


def paired_difference(first_ppm: Sequence[int], second_ppm: Sequence[int]) -> Score:
    """Mean of `first - second` over the same examples, with an adjusted Wald 95 % interval.

    One pair is added in favour of each side before the interval is taken (Laplace), so that a
    small or unanimous sample claims less. `mean_ppm` is the plain mean.

    >>> str(paired_difference([1_000_000] * 20, [0] * 20))
    '1.000 [0.735, 1.000] (n=20)'

    Raises:
        ValueError: different lengths, or none.
    """
    if len(first_ppm) != len(second_ppm) or not first_ppm:
        raise ValueError(f"paired scores need equal, non-zero counts, not {len(first_ppm)} and {len(second_ppm)}")
    differences = [(a - b) / PPM for a, b in zip(first_ppm, second_ppm, strict=True)]
    n = len(differences)
    adjusted = [*differences, 1.0, -1.0]
    centre = sum(adjusted) / (n + 2)
    variance = sum((d - centre) ** 2 for d in adjusted) / (n + 2)
    half = Z_95 * sqrt(variance / (n + 2))
    low, high = max(centre - half, -1), min(centre + half, 1)
    mean = sum(differences) / n
    return Score(mean_ppm=_ppm(mean), count=n, low_ppm=_ppm(low), high_ppm=_ppm(high), method="bonett-price-95")


def _ppm(value: float) -> int:
    return round(value * PPM)
