"""Progress: what a person sees is what the events said, the money to the last msat."""

from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.contracts.completions import Stage, Usage
from swarmc.contracts.events import CallEnded, CallFailed, Event, Note, RunOpened, StageEnded, StageStarted, TrialScored
from swarmc.tracing.progress import SHARES, Progress

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


def fold(*events: Event) -> Progress:
    progress = Progress()
    for event in events:
        progress.add(event)
    return progress


def test_a_run_that_has_not_begun_says_so() -> None:
    progress = fold(RunOpened(**AT, epoch=1, recovered=0))
    assert (progress.sentence, progress.percent, progress.spent_msats) == ("starting", 0, 0)


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


def test_all_stages_together_are_a_hundred_percent() -> None:
    assert fold(*(ended(stage) for stage in SHARES)).percent == pytest.approx(100)
    assert sum(SHARES.values()) == 100
    assert set(SHARES) <= set(get_args(Stage))


def test_notes_are_kept_in_order() -> None:
    assert fold(Note(**AT, text="a"), Note(**AT, text="b")).notes == ["a", "b"]


def test_a_stage_that_is_tried_again_keeps_what_it_spent() -> None:
    retried = [started("search", 10), call("search", msats=7), ended("search", "failed"), started("search", 10)]
    assert fold(*retried, call("search", "replayed"), call("search", msats=5)).spent_msats == 12


stages = st.sampled_from(list(SHARES))
events = st.one_of(
    st.builds(started, stages, st.none() | st.integers(0, 9)),
    st.builds(ended, stages),
    st.builds(call, stages, st.sampled_from(["bought", "replayed"]), st.integers(0, 99)),
    st.builds(failure, stages),
    st.builds(trial, st.integers(0, 9), st.integers(0, 1_000_000)),
)


@given(st.lists(events, max_size=40))
def test_any_order_of_events_gives_a_percentage_a_sentence_and_the_whole_spending(told: list[Event]) -> None:
    progress = fold(*told)
    assert 0 <= progress.percent <= 100
    assert progress.sentence
    paid = [event.usage.cost_msats for event in told if isinstance(event, CallEnded) and event.source == "bought"]
    assert progress.spent_msats == sum(paid)
