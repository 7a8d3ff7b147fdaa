"""The arithmetic: at which amount ours reaches a score of theirs, and how sure that is.

Means go over seeds first, then over worlds. "Ours at their score" is read off the line through the
ladder's means, over the logarithm of the amount. Where their score lies below the ladder, ours needs
at most its lowest rung, and the ratio is a lower bound; where it lies above, ours never reaches it,
and the ratio is an upper bound. Intervals (90 %) come from drawing worlds with replacement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.search_rows import LADDER, Place, Rows

DRAWS = 2_000
Bound = Literal["", "≥", "≤"]


@dataclass(frozen=True)
class Peer:
    """Whom ours is compared with: who, at what size, in which change of the world."""

    who: str
    runs: int = 0
    correlation: int = 0


@dataclass(frozen=True)
class Ratio:
    """How much more they need for the same score.

    Attributes:
        value: Their amount over ours.
        low: Its interval's lower end.
        high: Its upper end.
        theirs: Their mean amount.
        ours: Our amount at their score.
        score: That score.
        bound: `≥`: ours is better than that at its lowest rung; `≤`: ours never reaches it.
        low_bound: The same for `low`.
        high_bound: The same for `high`.
    """

    value: float
    low: float
    high: float
    theirs: float
    ours: float
    score: float
    bound: Bound = ""
    low_bound: Bound = ""
    high_bound: Bound = ""

    def __str__(self) -> str:
        ends = f"[{self.low_bound}{self.low:.1f}, {self.high_bound}{self.high:.1f}]"
        return f"{self.bound}{self.value:.1f}x {ends}"


def means(rows: Rows, peer: Peer, places: Sequence[Place], what: str) -> np.ndarray:
    """The mean over seeds, by world; rows whose time counts or that have a cap are left out."""
    by_place: dict[Place, list[float]] = {place: [] for place in places}
    for task, row in rows.items():
        if (task.who, task.runs, task.correlation) != (peer.who, peer.runs, peer.correlation):
            continue
        if (task.family, task.number) in by_place and not task.latency_ms and not task.cap:
            by_place[task.family, task.number].append(row[what])
    return np.array([np.mean(values) if values else np.nan for values in by_place.values()])


def at_score(scores: Sequence[float], amounts: Sequence[float], wanted: float) -> tuple[float, Bound]:
    """The amount at which the ladder's line reaches a score, and what bound a ratio to it is.

    Args:
        scores: By rung; a rung that is worse than one below it counts as that one.
        amounts: By rung, rising.
        wanted: The score.
    """
    rising = np.maximum.accumulate(scores)
    if wanted <= rising[0]:
        return float(amounts[0]), "≥"
    if wanted > rising[-1]:
        return float(amounts[-1]), "≤"
    return float(np.exp(np.interp(wanted, rising, np.log(amounts)))), ""


def compared(rows: Rows, peer: Peer, ours: Peer, places: Sequence[Place], what: str) -> Ratio | None:
    """Their amount of `what` over ours at equal mean true score; nothing where rows are missing.

    Args:
        rows: All.
        peer: They.
        ours: We; its `runs` go through the ladder.
        places: The worlds.
        what: `calls`, `msats`, `tokens` or `runs_planned`.
    """
    rungs = [Peer(ours.who, runs, ours.correlation) for runs in LADDER[ours.who]]
    their_scores, their_amounts = (means(rows, peer, places, key) for key in ("true", what))
    scores, amounts = (np.array([means(rows, rung, places, key) for rung in rungs]) for key in ("true", what))
    have = ~np.isnan(np.vstack([scores, their_scores[None]])).any(axis=0)
    if not have.any():
        return None

    def ratio(of: np.ndarray) -> tuple[float, Bound, float]:
        wanted = float(their_scores[of].mean())
        at, bound = at_score(scores[:, of].mean(1).tolist(), amounts[:, of].mean(1).tolist(), wanted)
        return float(their_amounts[of].mean()) / at, bound, at

    every, rng = np.flatnonzero(have), np.random.default_rng(0)
    drawn = sorted((ratio(rng.choice(every, len(every)))[:2] for _ in range(DRAWS)), key=lambda one: one[0])
    (low, low_bound), (high, high_bound) = drawn[int(0.05 * DRAWS)], drawn[int(0.95 * DRAWS)]
    value, bound, at = ratio(every)
    theirs, score = float(their_amounts[every].mean()), float(their_scores[every].mean())
    return Ratio(value, low, high, theirs, at, score, bound, low_bound, high_bound)


def runs_at(rows: Rows, peer: Peer, places: Sequence[Place]) -> tuple[int, Bound]:
    """Program runs at which our mean true score is theirs, rounded up to tens; see `at_score` for the bound."""
    runs = LADDER["ours"]
    scores = [float(np.nanmean(means(rows, Peer("ours", one), places, "true"))) for one in runs]
    at, bound = at_score(scores, runs, float(np.nanmean(means(rows, peer, places, "true"))))
    return -(-round(at) // 10) * 10, bound


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 90 % interval of a mean over worlds, by drawing them with replacement."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(values, (DRAWS, len(values))).mean(1)
    return float(np.quantile(drawn, 0.05)), float(np.quantile(drawn, 0.95))
