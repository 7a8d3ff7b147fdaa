"""Transfer: do the cheap lane's scores say what the better lane's do? A few texts on a few examples tell, early.

Two figures over the same runs in both lanes, each with an interval from resampled examples
(percentile bootstrap, Efron 1979; runs on one example are no independent draws). `correlation` is
Pearson's over all runs: it sees a lane that answers at random, echoes or lies. `order` is Goodman and
Kruskal's gamma over pairs of texts that both lanes tell apart on an example: it sees a lane that likes
what the better one dislikes. Six texts on sixteen examples tell little more, so the cheap lane is
left only when it is clearly of no use: the upper end of the correlation is below `LEAST_CORRELATION`,
the upper end of the order is below 0, or it scores all alike what the better lane does not. What passes is asked
again after the search, where few runs tell much more (`climbing.py`).
"""

import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from swarmc.compiler.awaiting import gather_or_cancel
from swarmc.compiler.evaluation import Evaluator
from swarmc.contracts.candidates import Candidate, Pools, Score
from swarmc.contracts.canonical import PPM, ppm
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.transfer import Transfer, TransferSpec

LEAST_CORRELATION = 0.3
"""A lane whose correlation is, with its whole interval, below this is not searched in."""
FEWEST_VARIED = 5
"""A lane tells something when so many of its scores are not the most frequent one."""
FEWEST_PAIRS = 20
FEWEST_IN_HALF = 6
RESAMPLES = 1_000
DECIMALS = 9

Table = NDArray[np.float64]
"""Scores, one row a text, one column an example."""


async def try_transfer(
    evaluator: Evaluator, texts: Sequence[Candidate], example_ids: Sequence[str], asked: TransferSpec, seed: int
) -> Transfer:
    """Run the texts on the examples in both lanes, and decide where the search runs.

    Half of the examples are enough where they look as if the cheap lane told something of the better one. A
    budget that does not allow the test leaves the search where it is.

    Raises:
        VenueError: a lane stayed down.
    """
    lanes: tuple[Lane, ...] = ("swarm", asked.against)

    async def on(some_ids: Sequence[str]) -> Transfer:
        cheap, better = await gather_or_cancel(_scores(evaluator, texts, some_ids, lane) for lane in lanes)
        return judge_transfer(np.array(cheap), np.array(better), asked, seed)

    try:
        half = example_ids[: len(example_ids) // 2]
        if len(half) >= FEWEST_IN_HALF and _looks_alike(found := await on(half)):
            return found
        return await on(example_ids)
    except BudgetExhausted as error:
        return stays(asked.against, 0, 0, f"it was not tried: {error}")


def judge_transfer(cheap: Table, better: Table, asked: TransferSpec, seed: int) -> Transfer:
    """What the two lanes' scores (0 to 1, one row a text, one column an example) say.

    Args:
        cheap: Of the lane `swarm`.
        better: Of the lane that is to be predicted.
        asked: Which that is.
        seed: Of the resampling.
    """
    texts, examples = better.shape
    if texts < 2 or not _varies(better):
        return stays(
            asked.against, texts, examples, f"lane {asked.against} scores all texts alike, so nothing is to predict"
        )
    found = _Figures(
        _figure(cheap, better, correlation_of, "pearson-bootstrap-95", seed),
        _figure(cheap, better, order_of, "gamma-bootstrap-95", seed),
    )
    reason = ""
    if not _varies(cheap):
        reason = f"lane swarm scores all answers alike, lane {asked.against} does not"
    elif found.correlation is not None and found.correlation.high_ppm < ppm(LEAST_CORRELATION):
        reason = f"its scores do not predict lane {asked.against}: correlation {found.correlation}"
    elif found.order is not None and found.order.high_ppm < 0:
        reason = f"it orders texts against lane {asked.against}: order {found.order}"
    lane: Lane = "validation" if reason else "swarm"
    return Transfer(
        against=asked.against,
        texts=texts,
        examples=examples,
        correlation=found.correlation,
        order=found.order,
        lane=lane,
        reason=f"the search moves from lane swarm up to lane validation: {reason}"
        if reason
        else f"the search runs in lane swarm: {_trust(found.correlation, asked.against)} "
        f"(correlation {found.correlation})",
    )


def _trust(correlation: Score | None, against: Lane) -> str:
    """Why a search stays; what follows here need not follow among its best texts, which are asked later."""
    if correlation is not None and correlation.low_ppm >= ppm(LEAST_CORRELATION):
        return f"so far its scores go with those of lane {against}"
    return f"nothing shows that it does not predict lane {against}"


def texts_of(pools: Pools, count: int, seed: int) -> list[Candidate]:
    """The program's own text and others from the pools, all distinct, at most `count`."""
    rng, found = random.Random(f"transfer:{seed}"), {pools.baseline.content_id: pools.baseline}
    for _ in range(8 * count):
        if len(found) >= count:
            break
        choice = {
            name: (rng.randrange(len(texts)), rng.randrange(len(pools.demo_sets[name])))
            for name, texts in pools.instructions.items()
        }
        candidate = pools.candidate(choice)
        found.setdefault(candidate.content_id, candidate)
    return list(found.values())


def correlation_of(cheap: Table, better: Table) -> float | None:
    """Pearson's correlation of two tables or lists of the same shape; nothing where one of them does not vary."""
    one, other = (table.ravel() - table.mean() for table in (cheap, better))
    spread = float(np.sqrt((one @ one) * (other @ other)))
    return round(float(one @ other) / spread, DECIMALS) if spread > 1e-12 else None


def order_of(cheap: Table, better: Table) -> float | None:
    """Pairs of texts in the same order on an example, less those in the other, over both; nothing of too few."""
    # Every pair is met from both its ends, so the counts are doubled.
    one, two = (np.round(table, DECIMALS) for table in (cheap, better))
    signs = np.sign(one[:, None] - one[None]) * np.sign(two[:, None] - two[None])
    same, other = int((signs > 0).sum()) // 2, int((signs < 0).sum()) // 2
    return (same - other) / (same + other) if same + other >= FEWEST_PAIRS else None


class _Figures:
    """The two figures."""

    def __init__(self, correlation: Score | None, order: Score | None) -> None:
        self.correlation = correlation
        self.order = order


def _figure(
    cheap: Table, better: Table, of: Callable[[Table, Table], float | None], method: str, seed: int
) -> Score | None:
    """A figure with its interval, from examples that are drawn again."""
    value = of(cheap, better)
    if value is None:
        return None
    rng, examples, drawn = random.Random(f"{method}:{seed}"), cheap.shape[1], list[float]()
    for _ in range(RESAMPLES):
        columns = [rng.randrange(examples) for _ in range(examples)]
        if (again := of(cheap[:, columns], better[:, columns])) is not None:
            drawn.append(again)
    low, high = percentiles(drawn or [value])
    return Score(mean_ppm=ppm_of(value), count=cheap.size, low_ppm=ppm_of(low), high_ppm=ppm_of(high), method=method)


def percentiles(drawn: Sequence[float]) -> tuple[float, float]:
    """Between which 95 % of the values lie; at least one is given."""
    ordered = sorted(drawn)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.025, 0.975))
    return low, high


def ppm_of(value: float) -> int:
    """A figure between -1 and 1 in parts per million."""
    return max(-PPM, min(PPM, round(value * PPM)))


def stays(against: Lane, texts: int, examples: int, why: str) -> Transfer:
    """The search runs in the cheap lane."""
    reason = f"the search runs in lane swarm: {why}"
    return Transfer(against=against, texts=texts, examples=examples, lane="swarm", reason=reason)


async def _scores(
    evaluator: Evaluator, texts: Sequence[Candidate], example_ids: Sequence[str], lane: Lane
) -> list[list[float]]:
    found = await gather_or_cancel(evaluator.evaluate(text, example_ids, lane=lane) for text in texts)
    return [[outcome.score_ppm / PPM for outcome in one.outcomes] for one in found]


def _looks_alike(found: Transfer) -> bool:
    least = ppm(LEAST_CORRELATION)
    return not found.moves and found.correlation is not None and found.correlation.mean_ppm >= least


def _varies(table: Table) -> bool:
    _, counts = np.unique(np.round(table, DECIMALS), return_counts=True)
    return int(table.size - counts.max()) >= FEWEST_VARIED
