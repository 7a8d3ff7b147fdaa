"""Climb: what a cheap lane's search learned is held to the better lane, which then goes on with it or begins anew."""

import random
import re

import dspy
import numpy as np
import pytest

from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.climbing import ask_better_lane, climb, extremes, judge_climb, ranked, texts_for
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.portal import Portal
from swarmc.compiler.scope import current_scope
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Pools, SearchResult
from swarmc.contracts.completions import CompletionRequest, Lane, Sampling
from swarmc.contracts.errors import BudgetExhausted
from tests.fakes import AnsweringVenue, make_bench

ALL = sorted(OPTIMIZERS)
GOOD, LIKED = "Answer with the parity of the number.", "Answer with a colour."
SEARCH = {"trials": 20, "minibatch": 12, "instructions": 3, "demo_sets": 3, "in_flight": 8, "max_bootstrapped_demos": 2}
CLIMB = 60


def lane_that_likes(text: str, price_msats: int) -> AnsweringVenue:
    """A model that is mostly right when it is told this, else now and then; it writes either."""

    def answer(request: CompletionRequest) -> dict[str, str]:
        found = re.search(r"\]\]\nq(\d+)", request.messages[-1].content)
        if found is None:
            written = GOOD if random.Random(request.request_id).random() < 0.5 else LIKED
            return {"text": f"```\n{written}\n```"}
        right = random.Random(request.request_id).random() < (0.9 if text in request.messages[0].content else 0.3)
        return {"answer": str(int(found[1]) % 2 if right else 9)}

    return AnsweringVenue(answer, price_msats=price_msats)


class Lanes:
    """A workbench over a cheap lane and a better one, and a search in the cheap one."""

    def __init__(self, cheap: AnsweringVenue, better: AnsweringVenue, **job: object) -> None:
        self.better = better
        examples = [dspy.Example(question=f"q{i}", answer=str(i % 2)).with_inputs("question") for i in range(300)]
        made = make_bench(cheap, examples, instructions=[LIKED, "Say nothing.", GOOD], **{"search": SEARCH, **job})
        venues: dict[Lane, AnsweringVenue] = {"swarm": cheap, "validation": better}
        lms = {lane: lane_lm(one, lane, Portal(), Sampling(temperature_ppm=0)) for lane, one in venues.items()}
        old = made.evaluator
        evaluator = Evaluator(
            old.program, old._metric, made.splits.examples, lms, make_adapter("chat", json_fallback=False), 16
        )
        spec = made.spec.model_copy(update={"climb": CLIMB})
        self.bench = Bench(made.job, made.splits, evaluator, lambda event: None, "run", spec)

    async def search(self, name: str) -> tuple[Pools, SearchResult]:
        optimizer = OPTIMIZERS[name]()
        demo_sets = await optimizer.bootstrap(self.bench)
        pools = Pools(instructions=await optimizer.propose(self.bench, demo_sets), demo_sets=demo_sets)
        return pools, await optimizer.search(self.bench, pools)


def tables(seed: int, transfer: float, texts: int = 16, examples: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """What was learned of the texts, and whether they are right in a lane that is so like the cheap one."""
    rng = np.random.default_rng(seed)
    learned = np.concatenate([rng.normal(1, 0.3, texts // 2), rng.normal(-1, 0.3, texts // 2)])
    worth = transfer * learned + np.sqrt(1 - transfer**2) * rng.normal(0, 1, texts)
    scores = rng.random((texts, examples)) < 1 / (1 + np.exp(-worth[:, None] + rng.normal(0, 1.5, (1, examples))))
    return 1 / (1 + np.exp(-learned)), scores.astype(float)


def moved(chances: np.ndarray, scores: np.ndarray) -> bool:
    return judge_climb(chances, scores, seed=0).lane == "validation"


def test_what_transfers_is_mostly_borne_out_and_what_does_not_is_mostly_not():
    assert sum(moved(*tables(seed, 0.9)) for seed in range(100)) <= 10
    assert sum(moved(*tables(seed, 0.0)) for seed in range(100)) >= 85


def test_a_lane_that_likes_what_the_better_one_dislikes_is_left():
    chances, scores = tables(1, 0.9)
    found = judge_climb(1 - chances, scores, seed=0)
    assert found.lane == "validation"
    assert found.correlation is not None
    assert found.correlation.high_ppm < 0
    assert "which does not bear it out" in found.reason


def test_examples_that_are_hard_for_everybody_say_nothing_of_texts():
    hard = np.tile(np.arange(8) % 2, (16, 1)).astype(float)
    found = judge_climb(np.linspace(0.9, 0.1, 16), hard, seed=0)
    assert (found.lane, found.correlation) == ("swarm", None)
    assert "scores all texts alike" in found.reason


def test_a_search_that_learned_nothing_is_not_believed_where_texts_differ():
    found = judge_climb(np.full(16, 0.5), tables(2, 0.9)[1], seed=0)
    assert (found.lane, found.correlation) == ("validation", None)


def test_the_same_scores_give_the_same_bytes_and_an_interval_around_the_value():
    one, other = (judge_climb(*tables(3, 0.8), seed=4) for _ in range(2))
    assert one.canonical() == other.canonical()
    assert one.correlation is not None
    assert one.correlation.low_ppm <= one.correlation.mean_ppm <= one.correlation.high_ppm
    assert one.correlation.mean_ppm == pytest.approx(
        1e6 * np.corrcoef(tables(3, 0.8)[0], tables(3, 0.8)[1].mean(1))[0, 1], abs=2
    )


@pytest.mark.parametrize(("climb", "texts"), [(0, 0), (79, 0), (80, 8), (100, 10), (160, 16), (9_999, 16)])
def test_a_small_climb_is_not_eaten_by_its_test(climb: int, texts: int):
    assert texts_for(climb) == texts


@pytest.mark.parametrize("name", ALL)
async def test_every_search_says_what_it_holds_for_the_best_and_the_worst(name: str):
    lanes = Lanes(lane_that_likes(GOOD, 10), lane_that_likes(GOOD, 50))
    _, searched = await lanes.search(name)
    known = ranked(searched)
    assert len(known) == len(searched.measured)
    assert known[0].candidate.predictors["self"].instruction == GOOD
    asked = extremes(known, 2)
    assert [one.candidate for one in asked] == [known[0].candidate, known[-1].candidate]
    assert len(extremes(known, 999)) == len(known) // 2 * 2


@pytest.mark.parametrize("name", ALL)
async def test_what_is_borne_out_races_on_in_the_better_lane_within_the_plan(name: str):
    lanes = Lanes(lane_that_likes(GOOD, 10), lane_that_likes(GOOD, 50))
    pools, searched = await lanes.search(name)
    climbed = await climb(OPTIMIZERS[name](), lanes.bench, pools, searched, None)
    assert not climbed.whole
    assert 0 < len(lanes.better.asked) <= CLIMB
    assert {one.lane for one in lanes.better.asked} == {"validation"}
    assert len({one.request_id for one in lanes.better.asked}) == len(lanes.better.asked)
    assert climbed.result.finalists[0][0].predictors["self"].instruction == GOOD
    assert lanes.bench.lane == "swarm"


@pytest.mark.parametrize("name", ALL)
async def test_what_is_not_borne_out_is_searched_from_the_start_in_the_better_lane(name: str):
    lanes = Lanes(lane_that_likes(LIKED, 10), lane_that_likes(GOOD, 50))
    pools, searched = await lanes.search(name)
    assert ranked(searched)[0].candidate.predictors["self"].instruction == LIKED
    test = await ask_better_lane(
        lanes.bench.evaluator, extremes(ranked(searched), 16), lanes.bench.ids("search")[:8], 0
    )
    assert test.lane == "validation"
    lanes.bench.spec = lanes.bench.spec.model_copy(update={"climb": 240})
    climbed = await climb(OPTIMIZERS[name](), lanes.bench, pools, searched, test)
    assert climbed.whole
    assert climbed.test == test
    winner, score = climbed.result.finalists[0]
    assert winner.predictors["self"].instruction == GOOD
    assert score.mean > 0.7


async def test_a_climb_overrules_a_cheap_lane_that_is_only_nearly_right():
    lanes = Lanes(lane_that_likes(LIKED, 10), lane_that_likes(GOOD, 50))
    pools, searched = await lanes.search("MIPROv2")
    climbed = await climb(OPTIMIZERS["MIPROv2"](), lanes.bench, pools, searched, None)
    assert climbed.result.finalists[0][0].predictors["self"].instruction == GOOD


@pytest.mark.parametrize("calls", [0, 20, 40])
async def test_a_budget_that_runs_out_ends_a_climb_with_the_best_so_far(calls: int):
    def until_broke(request: CompletionRequest) -> dict[str, str]:
        if len(better.asked) > calls:
            current_scope().failures.append(BudgetExhausted("no more", scope="lane"))
            raise current_scope().failures[-1]
        return lane_that_likes(GOOD, 50)._answer(request)

    better = AnsweringVenue(until_broke, price_msats=50)
    lanes = Lanes(lane_that_likes(GOOD, 10), better)
    pools, searched = await lanes.search("MIPROv2")
    climbed = await climb(OPTIMIZERS["MIPROv2"](), lanes.bench, pools, searched, None)
    assert climbed.result.ended == "budget"
    assert bool(climbed.result.finalists) == (calls > 0)


async def test_where_the_budget_does_not_let_the_better_lane_be_asked_the_search_stays():
    def broke(request: CompletionRequest) -> dict[str, str]:
        current_scope().failures.append(BudgetExhausted("no more msats", scope="lane"))
        raise current_scope().failures[-1]

    lanes = Lanes(lane_that_likes(GOOD, 10), AnsweringVenue(broke))
    _, searched = await lanes.search("MIPROv2")
    test = await ask_better_lane(lanes.bench.evaluator, extremes(ranked(searched), 8), lanes.bench.ids("search")[:8], 0)
    assert (test.lane, test.texts) == ("swarm", 0)
    assert "was not asked: no more msats" in test.reason
