"""Climb: the best of a search in the cheap lane go on in the better one, if that one bears out what was learned.

Before it is believed, what a search has learned is held to the better lane: the candidates that it holds for the
best and those that it holds for the worst run there on a few examples. Extremes tell more than any other texts, and
what a whole search has learned of them is nearly free of noise, so that few runs suffice; half of them are runs that
the climb needs anyway. It is borne out when Pearson's correlation over these texts, of the learned chance of success
and the better lane's mean score, is `LEAST_BORNE_OUT` or more. Hardness of examples cancels: all texts meet the same.

Then a short race starts in the better lane from what the cheap one knew: with the surrogate its effects are what is
expected, as in a warm recompile, and how far they hold is learned as well; without it the best few race in heats. Where
it is not borne out, the better lane is searched from the start, and only the finding out is lost. In what a lane that
merely resembles the better one gets wrong, this is multi-fidelity search (Jamieson and Talwalkar 2016; Kandasamy et
al. 2017) with two fidelities.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarmc.compiler.awaiting import gather_or_cancel
from swarmc.compiler.demands import ASKED_EXAMPLES, ASKED_PERCENT, ASKED_TEXTS
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.race import Choices, Heats, Race
from swarmc.compiler.steering import SteeredRace
from swarmc.compiler.studies import MILLI
from swarmc.compiler.transferring import RESAMPLES, correlation_of, percentiles, ppm_of, stays
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Effect, Pools, Score, SearchResult, Study
from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.ports import Optimizer
from swarmc.contracts.transfer import Climb, Transfer

FEWEST_TEXTS = 8
LEAST_BORNE_OUT = 0.5
CLIMBERS, HEATS = 12, 3
EXPECTED_RUNS = 8
"""Where the search had no model: a candidate's mean counts with so many runs that scored the mean of all."""
DECIMALS = 6
BETTER: Lane = "validation"


@dataclass(frozen=True)
class Known:
    """A candidate of the cheap lane's search, and the chance of success that the search had learned for it."""

    candidate: Candidate
    choice: Choices
    chance: float


def texts_for(climb: int) -> int:
    """How many texts the better lane is asked about before a climb of so many runs; 0 where it is too small to ask."""
    texts = min(ASKED_TEXTS, climb * ASKED_PERCENT // 100 // ASKED_EXAMPLES // 2 * 2)
    return texts if texts >= FEWEST_TEXTS else 0


def ranked(searched: SearchResult) -> list[Known]:
    """Every candidate that the search scored, best first by what it had learned; of equals the first that entered."""
    study = searched.study
    if study is None:
        return []
    chances = _learned(study, searched) if study.effects else _shrunk(searched)
    found = [
        Known(study.pools.candidate(one.choice), one.choice, round(chance, DECIMALS))
        for one, chance in zip(searched.measured, chances, strict=True)
    ]
    return sorted(found, key=lambda one: -one.chance)


def extremes(known: Sequence[Known], texts: int) -> list[Known]:
    """As many of the best as of the worst."""
    half = min(texts, len(known)) // 2
    return [*known[:half], *known[len(known) - half :]]


async def ask_better_lane(
    evaluator: Evaluator, known: Sequence[Known], example_ids: Sequence[str], seed: int
) -> Transfer:
    """Run the extremes of a search in the better lane, and say where the search belongs.

    A budget that does not allow it leaves it where it is.

    Args:
        evaluator: Runs them.
        known: What the search holds for the best and for the worst.
        example_ids: Search examples, the same for all.
        seed: Of the resampling.

    Raises:
        VenueError: the lane stayed down.
    """
    try:
        found = await gather_or_cancel(evaluator.evaluate(one.candidate, example_ids, lane=BETTER) for one in known)
    except BudgetExhausted as error:
        return stays(BETTER, 0, 0, f"lane {BETTER} was not asked: {error}")
    scores = np.array([[outcome.score_ppm / PPM for outcome in one.outcomes] for one in found])
    return judge_climb(np.array([one.chance for one in known]), scores, seed)


def judge_climb(chances: NDArray[np.float64], scores: NDArray[np.float64], seed: int) -> Transfer:
    """What the better lane says of what was learned.

    Args:
        chances: By text, the chance of success that the search had learned, 0 to 1.
        scores: Of the better lane, 0 to 1, one row a text, one column an example.
        seed: Of the resampling.
    """
    texts, examples = scores.shape
    if np.ptp(scores.mean(1)) == 0:
        return stays(BETTER, texts, examples, f"lane {BETTER} scores all texts alike, so it has nothing to say")
    borne_out = _correlation(chances, scores, seed)
    best, worst = (float(half.mean()) for half in np.array_split(scores, 2))
    held = f"what lane swarm holds for the best scores {best:.2f} in lane {BETTER}, and for the worst {worst:.2f}"
    if borne_out is not None and borne_out.mean_ppm >= LEAST_BORNE_OUT * PPM:
        lane, reason = "swarm", f"lane {BETTER} bears out what the search in lane swarm learned"
    else:
        lane, reason = BETTER, f"the search moves from lane swarm up to lane {BETTER}, which does not bear it out"
    return Transfer(
        against=BETTER,
        texts=texts,
        examples=examples,
        correlation=borne_out,
        lane=lane,
        reason=f"{reason}: correlation {borne_out}; {held}",
    )


async def climb(
    optimizer: Optimizer, bench: Bench, pools: Pools, searched: SearchResult, test: Transfer | None
) -> Climb:
    """Go on in the better lane, or begin there. A budget that runs out ends it with the best so far.

    Args:
        optimizer: Searches, where the better lane is searched from the start.
        bench: The compile's workbench, as it is planned after the test.
        pools: What the search chose from.
        searched: How it went.
        test: What the better lane said of it.

    Raises:
        VenueError: the lane stayed down.
    """
    above = bench.climbing(bench.spec.model_copy(update={"runs": bench.spec.climb}))
    if test is not None and test.moves:
        return Climb(test=test, result=await optimizer.search(above, pools))
    return Climb(test=test, result=await _race_on(above, searched, test))


async def _race_on(bench: Bench, searched: SearchResult, test: Transfer | None) -> SearchResult:
    """The short race of what the search held for the best."""
    study, known = searched.study, ranked(searched)
    if study is None or not known:
        return searched
    bench.spec = bench.spec.model_copy(update={"reflections": 0})
    if not study.effects:
        return await _heats(bench, study, known)
    asked = extremes(known, test.texts) if test is not None and test.texts else known[: CLIMBERS // 2]
    # The race meets the texts of the test first, on as many examples: these runs are read, and teach it how far the
    # cheap lane is right.
    visits = -(-ASKED_EXAMPLES // bench.spec.visit)
    bench.earlier = study.model_copy(update={"best": tuple(one.choice for one in asked for _ in range(visits))})
    return await SteeredRace(bench, study.pools).run()


async def _heats(bench: Bench, study: Study, known: Sequence[Known]) -> SearchResult:
    """The best few meet on the same examples; losers leave."""
    runs, climbers = bench.spec.runs, known[:CLIMBERS]
    race = Race(bench, bench.ids("search"), in_flight=bench.spec.in_flight, units=runs)
    for one in climbers:
        race.enter(one.candidate, one.choice)
    heat = max(1, runs // (HEATS * len(climbers)))
    ended = await race.run(Heats(heat, len(race.order), race.tell_trial))
    best = sorted(race.ranking(), key=lambda number: race.entries[number].dropped)
    return race.result(best, ended, study)


def _learned(study: Study, searched: SearchResult) -> list[float]:
    """The chance of success by the surrogate's effects, at an example of mean difficulty."""
    effects: dict[tuple[str, int | None, int | None], Effect] = {
        (one.predictor, one.instruction, one.demos): one for one in study.effects
    }

    def chance(choice: Mapping[str, tuple[int, int]]) -> float:
        logit = study.level
        for name, (i, d) in choice.items():
            logit += sum(
                effects[key].mean for key in ((name, i, None), (name, None, d), (name, i, d)) if key in effects
            )
        return float(1 / (1 + np.exp(-logit / MILLI)))

    return [chance(one.choice) for one in searched.measured]


def _shrunk(searched: SearchResult) -> list[float]:
    """Mean scores, drawn to the mean of all runs: few lucky runs are not the best."""
    runs = sum(one.score.count for one in searched.measured)
    mean = sum(one.score.mean * one.score.count for one in searched.measured) / max(1, runs)
    return [
        (one.score.mean * one.score.count + mean * EXPECTED_RUNS) / (one.score.count + EXPECTED_RUNS)
        for one in searched.measured
    ]


def _correlation(chances: NDArray[np.float64], scores: NDArray[np.float64], seed: int) -> Score | None:
    """Over texts, with an interval from texts and examples that are both drawn again."""
    value = correlation_of(chances, scores.mean(1))
    if value is None:
        return None
    rng, drawn = random.Random(f"climb:{seed}"), list[float]()
    texts, examples = scores.shape
    for _ in range(RESAMPLES):
        rows = [rng.randrange(texts) for _ in range(texts)]
        columns = [rng.randrange(examples) for _ in range(examples)]
        if (again := correlation_of(chances[rows], scores[np.ix_(rows, columns)].mean(1))) is not None:
            drawn.append(again)
    low, high = percentiles(drawn or [value])
    return Score(
        mean_ppm=ppm_of(value),
        count=texts,
        low_ppm=ppm_of(min(low, value)),
        high_ppm=ppm_of(max(high, value)),
        method="pearson-texts-bootstrap-95",
    )
