"""The race: fixed order, full lanes, three outcomes, and nobody dropped who may still win."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.intervals import mean_score
from swarmc.compiler.race import WRITING_LAG, Entry, Heats, Race, Writing, cannot_win
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


class Writes(Heats):
    """Heats that have a candidate written after ten units, by a writer that takes its time."""

    def __init__(self, writer, at=10):
        super().__init__(heat=10, most=60)
        self.writer, self.at, self.told_at = writer, at, None

    def choose(self, race):
        if self.at is not None and race.asked >= self.at:
            self.at = None
            return Writing(self.writer, lambda texts: self.let_in(race, texts))
        return super().choose(race)

    def let_in(self, race, texts):
        self.told_at = race.told
        for quality in texts:
            race.enter(text(quality))


@pytest.mark.parametrize("wait_s", [0, 0.05])
async def test_what_is_written_is_told_at_the_same_point_however_long_it_takes(wait_s):
    async def writer():
        await asyncio.sleep(wait_s)
        return ["0.9"]

    race, policy = race_of(Judge(0.001), [0.2, 0.3, 0.25]), Writes(writer)
    assert await race.run(policy) == "completed"
    assert policy.told_at == 3 + WRITING_LAG * 8
    assert race.leader() == 3


async def test_units_go_on_while_a_text_is_written():
    during = []

    async def writer():
        began = len(judge.asked)
        await asyncio.sleep(0.05)
        during.append(len(judge.asked) - began)
        return []

    judge = Judge(0.001)
    await race_of(judge, [0.4, 0.5, 0.6]).run(Writes(writer))
    assert during[0] >= WRITING_LAG * 8


async def test_a_text_that_cannot_be_bought_ends_the_writing_alone():
    async def broke():
        raise BudgetExhausted("no more", scope="lane")

    race, policy = race_of(Judge(), [0.4, 0.5]), Writes(broke)
    assert await race.run(policy) == "completed"
    assert not race.may_write
    assert policy.told_at is not None
    assert race.told > 40


async def test_a_text_whose_writer_is_down_is_an_error():
    async def down():
        raise VenueError("down")

    with pytest.raises(VenueError, match="down"):
        await race_of(Judge(), [0.4, 0.5]).run(Writes(down))


async def test_a_text_that_is_awaited_by_nobody_else_is_awaited_by_the_end():
    async def writer():
        return ["0.7"]

    race, policy = race_of(Judge(), [0.5, 0.6], units=12), Writes(writer, at=11)
    await race.run(policy)
    assert policy.told_at == 12


async def test_a_race_of_few_units_still_tells_scores_before_it_has_asked_for_all():
    judge = Judge(0.001)
    await race_of(judge, [0.4, 0.5, 0.6], units=40).run(Heats(heat=10, most=60))
    assert judge.most == 6
