"""Transfer: a lane that answers at random, alike or against the better one is left; one that may be of use is not."""

from types import SimpleNamespace

import numpy as np
import pytest

from swarmc.compiler.transferring import correlation_of, judge_transfer, order_of, texts_of, try_transfer
from swarmc.contracts.candidates import Demo, Pools
from swarmc.contracts.transfer import TransferSpec

TEXTS, EXAMPLES = 6, 16
ASKED = TransferSpec()


def lanes(seed: int, cheap_noise: float, own_noise: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong in both lanes: texts and examples count in both, with a noise of its own in each."""
    rng = np.random.default_rng(seed)
    worth, hardness = rng.normal(0, 0.7, (TEXTS, 1)), rng.normal(0, 1.2, (1, EXAMPLES))
    noises = (rng.normal(0, noise, (TEXTS, EXAMPLES)) for noise in (cheap_noise, own_noise))
    cheap, better = ((worth - hardness + noise > 0).astype(float) for noise in noises)
    return cheap, better


def moved(cheap: np.ndarray, better: np.ndarray) -> bool:
    return judge_transfer(cheap, better, ASKED, seed=0).lane == "validation"


def test_a_lane_with_noise_of_its_own_is_almost_never_left():
    assert sum(moved(*lanes(seed, cheap_noise=0.8)) for seed in range(40)) <= 1


def test_a_lane_that_answers_at_random_is_mostly_left():
    rng = np.random.default_rng(5)
    found = [moved(rng.integers(0, 2, (TEXTS, EXAMPLES)).astype(float), lanes(seed, 0.8)[1]) for seed in range(40)]
    assert sum(found) >= 28


def test_a_lane_that_likes_what_the_better_one_dislikes_is_left():
    _, better = lanes(1, 0.8)
    found = judge_transfer(1 - better, better, ASKED, seed=0)
    assert found.lane == "validation"
    assert "correlation -1.000" in found.reason


def test_a_lane_that_agrees_on_examples_and_orders_texts_the_other_way_is_left():
    hard = np.linspace(-2, 2, EXAMPLES)
    worth = np.linspace(-0.8, 0.8, TEXTS)[:, None]
    better, cheap = ((sign * worth - hard > 0).astype(float) for sign in (1, -1))
    cheap, better = np.where(hard > 1.2, better, cheap), better
    found = judge_transfer(cheap + 0.01 * -worth, better + 0.01 * worth, ASKED, seed=0)
    assert found.order is not None
    assert found.order.high_ppm < 0
    assert found.lane == "validation"


def test_a_lane_that_echoes_scores_all_alike_and_is_left():
    found = judge_transfer(np.zeros((TEXTS, EXAMPLES)), lanes(2, 0.8)[1], ASKED, seed=0)
    assert (found.lane, found.correlation) == ("validation", None)
    assert "scores all answers alike" in found.reason


@pytest.mark.parametrize("better", [np.ones((TEXTS, EXAMPLES)), np.eye(TEXTS, EXAMPLES) * (np.arange(EXAMPLES) < 3)])
def test_where_the_better_lane_tells_nothing_apart_the_search_stays(better):
    assert judge_transfer(np.zeros((TEXTS, EXAMPLES)), better, ASKED, seed=0).lane == "swarm"


async def test_half_of_the_examples_are_enough_where_the_lanes_look_alike():
    asked: list[tuple[str, int]] = []

    class Tables:
        async def evaluate(self, text, example_ids, *, lane):
            asked.append((lane, len(example_ids)))
            cheap, better = table[lane][int(text)], table["validation"][int(text)]
            scores = (cheap if lane == "swarm" else better)[: len(example_ids)]
            outcomes = [SimpleNamespace(score_ppm=int(score * 1_000_000)) for score in scores]
            return SimpleNamespace(outcomes=outcomes)

    cheap, better = lanes(3, 0.8)
    rng = np.random.default_rng(5)
    for alike, wanted in ((cheap, {8}), (rng.integers(0, 2, (TEXTS, EXAMPLES)).astype(float), {8, 16})):
        asked.clear()
        table = {"swarm": alike, "validation": better}
        found = await try_transfer(Tables(), "012345", [str(i) for i in range(EXAMPLES)], ASKED, seed=0)
        assert {examples for _, examples in asked} == wanted
        assert found.examples == max(wanted)


def test_the_same_scores_give_the_same_bytes():
    cheap, better = lanes(3, 0.8)
    one, other = (judge_transfer(cheap, better, ASKED, seed=4).canonical() for _ in range(2))
    assert one == other


def test_the_figures_are_those_of_the_books():
    one, other = np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    assert correlation_of(one, other) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    up, down = np.tile([[0.0], [1.0]], 30), np.tile([[1.0], [0.0]], 30)
    assert (order_of(up, up), order_of(up, down), order_of(up[:, :9], up[:, :9])) == (1, -1, None)


def test_texts_are_distinct_and_begin_with_the_programs_own():
    demos = ((), (Demo(fields={"a": "b"}),))
    pools = Pools(instructions={"self": ("a", "b", "c")}, demo_sets={"self": demos})
    found = texts_of(pools, 5, seed=1)
    assert found[0] == pools.baseline
    assert len({one.content_id for one in found}) == 5
    assert len(texts_of(pools, 32, seed=1)) <= 6
    assert texts_of(pools, 5, seed=1) == found
