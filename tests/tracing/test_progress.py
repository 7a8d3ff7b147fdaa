"""Progress: what a person sees is what the events said, the money to the last msat."""

from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.intervals import mean_score
from swarmc.contracts.completions import Stage, Usage
from swarmc.contracts.events import (
    CallEnded,
    CallFailed,
    Event,
    ModuleEnded,
    ModuleStarted,
    Note,
    PlanMade,
    ProgramEnded,
    ProgramStarted,
    RunOpened,
    StageEnded,
    StageStarted,
    TrialScored,
)
from swarmc.contracts.plan import Plan, StagePlan
from swarmc.tracing.progress import MOST_CANDIDATES, MOST_NOTES, SHARES, WINDOW_S, Progress, wilson

AT: dict[str, Any] = {"run_id": "r", "at_ms": 0}
ID = "sha256:" + "a" * 64


def started(stage: Stage, planned: int | None = None) -> StageStarted:
    return StageStarted(**AT, stage=stage, calls_planned=planned)


def ended(stage: Stage, how: Literal["completed", "budget", "failed"] = "completed", note: str = "") -> StageEnded:
    return StageEnded(**AT, stage=stage, ended=how, note=note)


def call(stage: Stage, source: Literal["bought", "replayed"] = "bought", msats: int = 0) -> CallEnded:
    usage = Usage(cost_msats=msats)
    return CallEnded(**AT, stage=stage, lane="swarm", request_id=ID, source=source, usage=usage, latency_ms=1)


def failure(stage: Stage) -> CallFailed:
    return CallFailed(**AT, stage=stage, lane="swarm", request_id=ID, code="venue", message="down")


def trial(number: int, best: int) -> TrialScored:
    fields = {"trial": number, "candidate_id": ID, "score_ppm": best, "count": 5, "best_ppm": best}
    return TrialScored(**AT, stage="search", **fields)


def scored(candidate_id: str, score_ppm: int, count: int) -> TrialScored:
    fields = {"candidate_id": candidate_id, "score_ppm": score_ppm, "count": count, "best_ppm": score_ppm}
    return TrialScored(**AT, stage="search", trial=0, **fields)


def plan(**calls: int) -> PlanMade:
    """A plan of at most so many calls by stage, half of them in either of two lanes."""
    fields = {"calls_low": 0, "msats_low": 0, "msats_high": 0}
    stages = [
        StagePlan.model_validate({**fields, "stage": stage, "lane": lane, "calls_high": most // 2})
        for stage, most in calls.items()
        for lane in ("swarm", "premium")
    ]
    return PlanMade(**AT, plan=Plan(stages=tuple(stages), runs=360, combinations=144))


def fold(*events: Event) -> Progress:
    progress = Progress()
    for event in events:
        progress.add(event)
    return progress


def test_a_run_that_has_not_begun_says_so() -> None:
    progress = fold(RunOpened(**AT, epoch=1, recovered=0))
    assert (progress.sentence, progress.percent, progress.spent_msats) == ("starting", 0, 0)


def test_a_plan_alone_is_no_progress() -> None:
    planned = fold(plan(search=10))
    assert (planned.percent, planned.sentence, planned.stages) == (0, "starting", {})


def test_a_stage_that_does_not_say_what_it_plans_is_measured_by_the_runs_plan() -> None:
    assert fold(plan(search=20), started("search"), call("search")).fraction("search") == 0.05
    assert fold(started("search"), call("search"), plan(search=20)).fraction("search") == 0.05
    assert fold(plan(search=20), started("search", 4), call("search")).fraction("search") == 0.25
    assert fold(plan(search=20), started("search", 0), call("search")).fraction("search") == 0


def test_calls_are_counted_by_stage_and_source() -> None:
    progress = fold(
        started("search", 10), call("search", msats=7), call("search", "replayed", msats=9), failure("search")
    )
    stage = progress.stages["search"]
    assert (stage.bought, stage.replayed, stage.failed, stage.calls, stage.msats) == (1, 1, 1, 2, 7)
    assert stage.fraction == 0.2
    assert progress.sentence == "search: 2 calls, 1 of them already paid for, 1 attempts failed"


def test_what_was_replayed_is_not_spent_again() -> None:
    assert (
        fold(call("search", msats=5), call("validate", msats=6), call("search", "replayed", msats=5)).spent_msats == 11
    )


def test_the_best_trial_is_told_while_searching() -> None:
    searching = [started("search"), trial(0, 500_000), trial(1, 750_000)]
    assert fold(*searching).sentence == "search: 0 calls, trial 2, best 0.750"
    assert "best" not in fold(*searching, ended("search"), started("validate")).sentence


def test_a_stage_is_done_when_it_ends_and_not_before() -> None:
    calls = [call("bootstrap")] * 50
    assert fold(started("bootstrap", 10), *calls).stages["bootstrap"].fraction == 0.99
    over = fold(started("bootstrap", 10), ended("bootstrap", "budget", "ran out")).stages["bootstrap"]
    assert (over.fraction, over.ended, over.note) == (1.0, "budget", "ran out")
    assert fold(started("bootstrap", 0)).percent == fold(started("bootstrap")).percent == 0


def test_all_stages_together_are_a_hundred_percent_with_a_climb_and_without():
    plain = [stage for stage in SHARES if stage != "climb"]
    assert sum(SHARES[stage] for stage in plain) == 100
    assert set(SHARES) <= set(get_args(Stage))
    for stages in (plain, list(SHARES)):
        progress = fold(*(event for stage in stages for event in (started(stage), ended(stage))))
        assert progress.percent == pytest.approx(100)
        assert list(progress.shares) == stages
    assert "climb" in fold(plan(climb=100)).shares


def test_notes_are_kept_in_order() -> None:
    assert fold(Note(**AT, text="a"), Note(**AT, text="b")).notes == ["a", "b"]


def test_a_stage_that_is_tried_again_keeps_what_it_spent() -> None:
    retried = [started("search", 10), call("search", msats=7), ended("search", "failed"), started("search", 10)]
    assert fold(*retried, call("search", "replayed"), call("search", msats=5)).spent_msats == 12


def test_lanes_are_counted_by_themselves() -> None:
    other = call("validate", msats=9).model_copy(update={"lane": "premium"})
    told = fold(call("search", msats=7), call("search", "replayed", msats=7), failure("search"), other)
    swarm, premium = told.lanes["swarm"], told.lanes["premium"]
    assert (swarm.bought, swarm.replayed, swarm.failed, swarm.msats) == (1, 1, 1, 7)
    assert (premium.bought, premium.msats, told.bought, told.spent_msats) == (1, 9, 2, 16)


def test_a_steady_stream_of_calls_tells_how_many_are_in_flight() -> None:
    # Eight at once, each of two seconds: four end every second, for a minute.
    ends_ms = [second * 1000 + part * 250 for second in range(60) for part in range(4)]
    told = [call("search").model_copy(update={"at_ms": at_ms, "latency_ms": 2_000}) for at_ms in ends_ms]
    progress = fold(*told)
    lane = progress.lanes["swarm"]
    assert lane.in_flight(progress.last_ms) == pytest.approx(8, rel=0.15)
    assert lane.in_flight(progress.last_ms + 1000 * (WINDOW_S + 1)) == 0
    assert fold(started("search"), *told).in_flight("swarm") == pytest.approx(8, rel=0.15)
    assert fold(started("search"), *told, ended("search")).in_flight("swarm") == 0
    replayed = [event.model_copy(update={"source": "replayed"}) for event in told]
    assert fold(*replayed).lanes["swarm"].in_flight(progress.last_ms) == 0


def test_what_is_open_is_what_began_and_did_not_end() -> None:
    step: dict[str, Any] = {**AT, "call_id": "a" * 16, "at_ns": 0}
    run = ProgramStarted(**step, stage="search", program="p", inputs={})
    asked = ModuleStarted(**step, name="n", module="m", inputs={})
    answered, over = ModuleEnded(**step), ProgramEnded(**step)
    assert (fold(run, run, asked).runs_open, fold(run, run, asked).calls_open) == (2, 1)
    assert (fold(run, asked, answered, over).runs_open, fold(over, answered, run).calls_open) == (0, 0)


def test_a_leader_is_who_may_be_said_to_be_best() -> None:
    lucky, sound = "sha256:" + "b" * 64, "sha256:" + "c" * 64
    events = [scored(lucky, 1_000_000, 1), scored(sound, 400_000, 5), scored(sound, 900_000, 100)]
    progress = fold(*events)
    assert [one.candidate_id for one in progress.leaderboard] == [sound, lucky]
    assert progress.leader is not None
    assert str(progress.leader) == str(mean_score([1_000_000] * 90 + [0] * 10))
    assert fold().leader is None


@given(st.lists(st.sampled_from([0, 1_000_000]), min_size=1, max_size=60))
def test_the_interval_is_the_one_that_reports_give(scores: list[int]) -> None:
    score = mean_score(scores)
    low, high = wilson(score.mean_ppm, score.count)
    assert abs(low - score.low_ppm) <= 1
    assert abs(high - score.high_ppm) <= 1


def test_a_candidate_that_fell_off_comes_back_as_it_is() -> None:
    many = [scored(f"sha256:{number:064x}", number, 10) for number in range(1, 5 * MOST_CANDIDATES)]
    progress = fold(*many)
    assert MOST_CANDIDATES <= len(progress.leaderboard) < 2 * MOST_CANDIDATES
    assert progress.leaderboard[0].score_ppm == 5 * MOST_CANDIDATES - 1
    progress.add(scored(many[0].candidate_id, 999_999, 50))
    assert progress.leader is not None
    assert (progress.leader.candidate_id, progress.leader.count) == (many[0].candidate_id, 50)


def test_only_the_last_notes_are_kept() -> None:
    assert fold(*(Note(**AT, text=str(number)) for number in range(1000))).notes[-1] == "999"
    assert len(fold(*(Note(**AT, text=str(number)) for number in range(1000))).notes) == MOST_NOTES


def test_a_run_that_goes_on_after_a_kill_has_nothing_open_and_its_time_anew() -> None:
    step: dict[str, Any] = {"run_id": "r", "at_ms": 9_000, "call_id": "a" * 16, "at_ns": 0}
    begun = ProgramStarted(**step, stage="search", program="p", inputs={})
    again = RunOpened(run_id="r", at_ms=60_000, epoch=2, recovered=1)
    progress = fold(RunOpened(**AT, epoch=1, recovered=0), begun, again)
    assert (progress.epoch, progress.runs_open, progress.elapsed_ms) == (2, 0, 0)


stages = st.sampled_from(get_args(Stage))
moments = st.integers(-10, 10**14)
sources = st.sampled_from(["bought", "replayed"])
candidates = st.integers(0, 300).map(lambda number: f"sha256:{number:064x}")
steps: dict[str, Any] = {"run_id": st.just("r"), "call_id": st.just("a" * 16), "at_ns": st.just(0), "at_ms": moments}
events = st.one_of(
    st.builds(started, stages, st.none() | st.integers(0, 9)),
    st.builds(ended, stages, st.sampled_from(["completed", "budget", "failed"])),
    st.builds(call, stages, sources, st.integers(0, 99)),
    st.builds(
        lambda event, at_ms, ms: event.model_copy(update={"at_ms": at_ms, "latency_ms": ms}),
        st.builds(call, stages, sources, st.integers(0, 99)),
        moments,
        st.integers(0, 10**9),
    ),
    st.builds(failure, stages),
    st.builds(trial, st.integers(0, 9), st.integers(0, 1_000_000)),
    st.builds(scored, candidates, st.integers(0, 1_000_000), st.integers(-1, 10**6)),
    st.builds(plan, search=st.integers(0, 9), validate=st.integers(0, 9)),
    st.builds(ProgramStarted, **steps, stage=stages, program=st.just("p"), inputs=st.just({})),
    st.builds(ProgramEnded, **steps),
    st.builds(ModuleStarted, **steps, name=st.just("n"), module=st.just("m"), inputs=st.just({})),
    st.builds(ModuleEnded, **steps),
    st.builds(Note, run_id=st.just("r"), at_ms=moments, text=st.text(max_size=5)),
    st.builds(RunOpened, run_id=st.just("r"), at_ms=moments, epoch=st.integers(0, 9), recovered=st.just(0)),
)


@given(st.lists(events, max_size=40))
def test_any_order_of_events_gives_a_percentage_a_sentence_and_the_whole_spending(told: list[Event]) -> None:
    progress = fold(*told)
    assert 0 <= progress.percent <= 100
    assert all(0 <= progress.fraction(stage) <= 1 for stage in progress.stages)
    assert progress.sentence
    paid = [event.usage.cost_msats for event in told if isinstance(event, CallEnded) and event.source == "bought"]
    assert progress.spent_msats == sum(paid) == sum(lane.msats for lane in progress.lanes.values())
    assert progress.bought == len(paid)
    assert min(progress.runs_open, progress.calls_open, progress.elapsed_ms) >= 0
    assert all(progress.in_flight(lane) >= 0 for lane in progress.lanes)
    ranks = [one.rank for one in progress.leaderboard]
    assert ranks == sorted(ranks, reverse=True)


@given(st.lists(events, min_size=1, max_size=5), st.integers(1, 200))
def test_what_a_fold_keeps_does_not_grow_with_the_run(told: list[Event], times: int) -> None:
    progress = fold(*(told * times))
    assert len(progress.notes) <= MOST_NOTES
    assert len(progress.leaderboard) < 2 * MOST_CANDIDATES
    assert all(len(lane._busy_ms) <= WINDOW_S for lane in progress.lanes.values())
