"""Live spans: a run's stages and program runs hang together, in one trace, whichever process tells them."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.contracts.events import Event, Note, Paid, RunOpened, StageEnded, StageStarted, TrialScored, Verified
from swarmc.contracts.graphs import TraceSpan
from swarmc.tracing import live as living
from swarmc.tracing.live import LiveSpans, Place
from tests.tracing.program_runs import AT, AT_MS, RUN, TRACE, attempt, call_id, completion, ended, started, two_steps


def opened(epoch: int = 1) -> RunOpened:
    return RunOpened(**AT, epoch=epoch, recovered=epoch - 1)


def stage(name: Any = "search", at_ms: int = AT_MS) -> StageStarted:
    return StageStarted(run_id=RUN, at_ms=at_ms, stage=name, calls_planned=9)


def stage_ended(name: Any = "search", how: Any = "completed", note: str = "", after_ms: int = 7) -> StageEnded:
    return StageEnded(run_id=RUN, at_ms=AT_MS + after_ms, stage=name, ended=how, note=note)


def proposal(**more: Any) -> Event:
    return completion(0, 0, parent_id=None, stage="propose", **more)


def told(events: Iterable[Event], live: LiveSpans | None = None) -> list[TraceSpan]:
    """The spans of these events, as they end."""
    live = live or LiveSpans()
    makings = [making for event in events for making in live.add(event)]
    return [span for making in [*makings, *live.close()] for span in making()]


def tree(spans: list[TraceSpan]) -> dict[str, str | None]:
    """By a span's name, its parent's."""
    names = {span.span_id: span.name for span in spans}
    return {span.name: names.get(span.parent_span_id or "", span.parent_span_id) for span in spans}


def test_program_runs_hang_under_their_stage_and_stages_under_the_run() -> None:
    spans = told([opened(), stage(), *two_steps(), stage_ended()])
    assert {span.trace_id for span in spans} == {TRACE}
    assert tree(spans) == {
        "dsrs.root": "dsrs.stage.search",
        "dsrs.predict.Step1": "dsrs.root",
        "chat toy": "dsrs.predict.Step2",
        "dsrs.map": "dsrs.predict.Step1",
        "dsrs.predict.Step2": "dsrs.map",
        "dsrs.stage.search": "dsrs.run",
        "dsrs.run": None,
    }
    search = next(span for span in spans if span.name == "dsrs.stage.search")
    assert (search.start_time_unix_nano, search.end_time_unix_nano) == (AT_MS * 10**6, (AT_MS + 7) * 10**6)
    assert (search.status.code, search.attributes["dsrs.calls_planned"]) == ("OK", 9)


def test_a_run_that_another_process_goes_on_with_stays_in_its_trace() -> None:
    first = told([opened(), stage(), *two_steps(0)])
    second = told([opened(2), stage(), *two_steps(1), stage_ended()])
    assert {span.trace_id for span in first + second} == {TRACE}
    assert len({span.span_id for span in first + second}) == len(first + second)
    before, after = (next(span for span in spans if span.name == "dsrs.run") for spans in (first, second))
    assert [link.span_id for link in after.links] == [before.span_id]
    assert (after.attributes["dsrs.epoch"], after.attributes["dsrs.recovered"]) == (2, 1)


def test_a_stage_that_is_tried_again_is_a_span_of_its_own() -> None:
    spans = told([opened(), stage(), stage_ended(how="failed", note="secret"), stage(), *two_steps(), stage_ended()])
    first, second = (span for span in spans if span.name == "dsrs.stage.search")
    assert (first.status.code, first.status.message, second.status.code) == ("ERROR", "", "OK")
    assert next(span for span in spans if span.name == "dsrs.root").parent_span_id == second.span_id


def test_a_completion_that_no_predictor_asked_for_hangs_under_its_stage() -> None:
    failed = attempt(0, 0, parent_id=None, stage="propose")
    lost = attempt(0, 0, parent_id=None, stage="propose", request_id="sha256:" + "d" * 64)
    spans = told([opened(), stage("propose"), failed, lost, proposal(), stage_ended("propose")])
    calls = [span for span in spans if span.kind == "CLIENT"]
    assert [(call.name, call.status.code, len(call.events)) for call in calls] == [
        ("chat toy", "OK", 1),
        ("chat", "ERROR", 1),
    ]
    assert {tree(spans)["chat"], tree(spans)["chat toy"]} == {"dsrs.stage.propose"}
    assert len({call.span_id for call in calls}) == 2


def test_a_program_run_by_another_hangs_under_the_call_that_ran_it() -> None:
    inner = [started(1, parent_id=call_id(0)), ended(1)]
    spans = told([opened(), stage(), started(0), *inner, ended(0), started(2, parent_id=call_id(77)), ended(2)])
    parents = {span.span_id: span.parent_span_id for span in spans}
    assert parents[call_id(1)] == call_id(0)
    assert parents[call_id(2)] == parents[call_id(0)]


def test_everything_hangs_under_a_span_that_was_there_before() -> None:
    above, near = Place("a" * 32, "b" * 16), Place("a" * 32, "c" * 16)
    live = LiveSpans(above, above_stage={"search": near, "propose": Place("d" * 32, "e" * 16)}.get)
    spans = told([opened(), stage(), stage("propose"), *two_steps(), stage_ended(), stage_ended("propose")], live)
    assert {span.trace_id for span in spans} == {"a" * 32}
    found = tree(spans)
    assert (found["dsrs.run"], found["dsrs.stage.search"]) == (above.span_id, near.span_id)
    assert found["dsrs.stage.propose"] == "dsrs.run"


def test_what_happens_in_a_stage_is_an_event_of_its_span_and_words_are_left_out() -> None:
    trial = TrialScored(**AT, stage="search", trial=1, candidate_id="c", score_ppm=5, count=2, best_ppm=5)
    paid = Paid(**AT, lane="swarm", msats=3, to="npub", state="settled", simulated=True)
    checked = Verified(**AT, what="signature", holds=True, detail="secret")
    events = [opened(), stage(), trial, paid, checked, Note(**AT, text="secret"), stage_ended()]
    search = next(span for span in told(events) if span.name == "dsrs.stage.search")
    assert [event.name for event in search.events] == [
        "dsrs.trial_scored",
        "dsrs.paid",
        "dsrs.verified",
        "dsrs.note",
    ]
    assert search.events[1].attributes["dsrs.simulated"] is True
    assert b"secret" not in search.canonical()
    assert b"secret" in told(events, LiveSpans(include_content=True))[0].canonical()


def test_a_stage_keeps_a_bounded_number_of_events_and_says_how_many_it_left_out() -> None:
    notes = [Note(**AT, text="x")] * (living.MOST_SPAN_EVENTS + 5)
    search = told([opened(), stage(), *notes, stage_ended()])[0]
    assert (len(search.events), search.attributes["dsrs.events_dropped"]) == (living.MOST_SPAN_EVENTS, 5)


def test_program_runs_that_did_not_end_are_counted() -> None:
    live = LiveSpans()
    told([opened(), stage(), started(), stage_ended()], live)
    assert live.dropped == {"unfinished": 1}


@pytest.mark.parametrize("told_of", [[], [opened()], [stage()], [*two_steps()], [stage_ended()]])
def test_a_beginning_that_was_not_told_is_no_reason_to_tell_nothing(told_of: list[Event]) -> None:
    assert {span.name for span in told(told_of)} >= ({"dsrs.run"} if told_of else set())


everything = [opened(), opened(2), stage(), stage_ended(), stage("propose"), proposal(), *two_steps(), *two_steps(1)]


@given(st.lists(st.sampled_from(everything), max_size=40))
def test_no_order_of_events_breaks_the_fold_or_ends_before_it_begins(events: list[Event]) -> None:
    for span in told(events):
        assert span.end_time_unix_nano >= span.start_time_unix_nano
        assert span.trace_id == TRACE
