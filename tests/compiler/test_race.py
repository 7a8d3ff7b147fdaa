"""The race: fixed order, full lanes, three outcomes, and nobody dropped who may still win."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.intervals import mean_score
from swarmc.compiler.race import Entry, Heats, Race, cannot_win
from swarmc.contracts.candidates import Candidate, Evaluation, Outcome, PredictorChoice
from swarmc.contracts.canonical import PPM, content_id
from swarmc.contracts.errors import BudgetExhausted, VenueError

IDS = [content_id(f"example {i}".encode()) for i in range(60)]


def text(quality):
    return Candidate(predictors={"self": PredictorChoice(instruction=f"quality {quality}")})


class Judge:
    """Scores candidates by the quality they claim, late and out of order."""

    def __init__(self, latency_s=0.0, fails_at=None, error=None):
        self.asked, self.now, self.most = [], 0, 0
        self._latency_s, self._fails_at, self._error = latency_s, fails_at, error

    async def evaluate(self, candidate, example_ids, *, rollout_id=0):
        (key,) = example_ids
        self.asked.append((candidate.predictors["self"].instruction, key, rollout_id))
        number = len(self.asked)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(random.random() * self._latency_s)
        self.now -= 1
        if self._fails_at is not None and number >= self._fails_at:
            raise self._error
        quality = float(candidate.predictors["self"].instruction.split()[1])
        right = random.Random(f"{candidate.content_id}{key}{rollout_id}").random() < quality
        outcome = Outcome(example_id=key, score_ppm=PPM * right)
        return Evaluation(candidate_id=candidate.content_id, outcomes=(outcome,), score=mean_score([outcome.score_ppm]))


def race_of(judge, qualities, **options):
    race = Race(judge, IDS, **{"in_flight": 8, "units": 10_000, **options})
    for quality in qualities:
        race.enter(text(quality))
    return race


async def test_answers_in_another_order_change_nothing():
    asked = []
    for latency_s in (0, 0.004, 0.004):
        judge = Judge(latency_s)
        race = race_of(judge, [0.2, 0.8, 0.5, 0.7])
        await race.run(Heats(heat=10, most=60))
        asked.append((judge.asked, [entry.scores_ppm for entry in race.entries]))
    assert asked[0] == asked[1] == asked[2]


async def test_the_lanes_are_full_while_there_is_work():
    judge = Judge(0.002)
    await race_of(judge, [0.4, 0.5, 0.6]).run(Heats(heat=10, most=60))
    assert judge.most == 8


async def test_losers_leave_early_and_the_best_meets_everything_its_rivals_meet():
    judge = Judge()
    race = race_of(judge, [0.05, 0.95, 0.1, 0.11, 0.12])
    await race.run(Heats(heat=10, most=60))
    assert [entry.dropped for entry in race.entries] == [True, False, True, True, True]
    assert race.leader() == 1
    assert len(judge.asked) < 150


async def test_units_are_a_hard_cap():
    judge = Judge(0.001)
    assert await race_of(judge, [0.5, 0.6], units=33).run(Heats(heat=10, most=60)) == "completed"
    assert len(judge.asked) == 33


async def test_further_samples_come_after_every_example_was_met_once():
    judge = Judge()
    race = race_of(judge, [0.5], samples=2)
    await race.run(Heats(heat=200, most=120))
    assert [sample for _, _, sample in judge.asked] == [0] * 60 + [1] * 60


async def test_a_budget_that_runs_out_keeps_every_score_that_was_bought():
    judge = Judge(0.002, fails_at=31, error=BudgetExhausted("no more", scope="run"))
    race = race_of(judge, [0.5, 0.6])
    assert await race.run(Heats(heat=10, most=60)) == "budget"
    assert sum(len(entry.scores_ppm) for entry in race.entries) == 30


async def test_a_venue_that_is_down_raises_and_scores_nothing():
    judge = Judge(fails_at=20, error=VenueError("down"))
    race = race_of(judge, [0.5, 0.6])
    with pytest.raises(VenueError, match="down"):
        await race.run(Heats(heat=10, most=60))
    assert sum(len(entry.scores_ppm) for entry in race.entries) < 20
    assert judge.now == 0


async def test_the_same_text_enters_once():
    race = race_of(Judge(), [0.5])
    assert race.enter(text(0.5)) == 0
    assert race.enter(text(0.6)) == 1


@given(st.lists(st.sampled_from([0, PPM]), min_size=1, max_size=40))
def test_nobody_is_dropped_for_scores_equal_to_the_leaders(scores):
    entry, leader = (Entry(text(q), scores_ppm=dict(enumerate(scores))) for q in (0.1, 0.2))
    assert not cannot_win(entry, leader)


def test_nobody_is_dropped_on_a_handful_of_examples():
    loser = Entry(text(0.1), scores_ppm=dict.fromkeys(range(7), 0))
    assert not cannot_win(loser, Entry(text(0.9), scores_ppm=dict.fromkeys(range(60), PPM)))
