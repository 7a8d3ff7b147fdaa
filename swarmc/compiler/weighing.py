"""Weighing: one score of several, in whole numbers, the same in whatever order they came."""

from collections.abc import Iterable, Sequence

from swarmc.contracts.metrics import Aggregation, TrimmedMean


def aggregate(scores_ppm: Sequence[int], how: Aggregation) -> int:
    """One score of several of the same thing; 0 of none.

    A trimmed mean that leaves nothing over is the median.

    >>> aggregate([0, 400_000, 1_000_000], "median"), aggregate([0, 400_000], "median")
    (400000, 200000)
    """
    ordered = sorted(scores_ppm)
    if not ordered:
        return 0
    match how:
        case "min":
            return ordered[0]
        case "max":
            return ordered[-1]
        case "mean":
            return mean(ordered)
        case TrimmedMean():
            drop = len(ordered) * how.trimmed_mean // 100
            kept = ordered[drop : len(ordered) - drop]
            return mean(kept) if kept else _median(ordered)
        case _:
            return _median(ordered)


def mean(scores_ppm: Sequence[int]) -> int:
    """The mean, rounded half up."""
    return weighted((score, 1) for score in scores_ppm)


def weighted(scores: Iterable[tuple[int, int]]) -> int:
    """The weighted mean of (score, weight), rounded half up; 0 when nothing weighs anything."""
    pairs = list(scores)
    total = sum(weight for _, weight in pairs)
    return (2 * sum(score * weight for score, weight in pairs) + total) // (2 * total) if total else 0


def _median(ordered: Sequence[int]) -> int:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else mean(ordered[middle - 1 : middle + 1])
