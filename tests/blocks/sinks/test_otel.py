"""The OpenTelemetry sink: a real receiver gets the whole tree; one that is down or slow costs spans, never the run."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from blocks.sinks import otel
from blocks.sinks.otel import OtelSink
from blocks.sinks.span_file import read_spans
from blocks.sinks.telemetry import Telemetry
from swarmc.contracts.events import Event, RunOpened, StageEnded, StageStarted
from swarmc.contracts.graphs import TraceSpan
from swarmc.tracing.live import LiveSpans
from swarmc.tracing.spans import TraceContract
from swarmc.tracing.stream import open_stream
from tests.tracing.program_runs import AT, AT_NS, TRACE, attempt, completion, ended, module, started, two_steps

from .conftest import Received

Start = Callable[..., Received]


def a_run(programs: int = 1, epoch: int = 1) -> list[Event]:
    inner = [event for program in range(programs) for event in two_steps(program + 1000 * epoch)]
    begun = [RunOpened(**AT, epoch=epoch, recovered=0), StageStarted(**AT, stage="search")]
    return [*begun, *inner, StageEnded(**AT, stage="search", ended="completed")]


async def tell(sink: OtelSink, events: Iterable[Event]) -> None:
    for event in events:
        await sink.tell(event)
    await sink.aclose()


async def test_a_receiver_gets_the_tree_of_a_run(receiver: Start) -> None:
    seen = receiver()
    sink = Telemetry(endpoint=seen.url, service_name="shop").open()
    await tell(sink, a_run())
    spans = seen.spans()
    names = {span["span_id"]: span["name"] for span in spans}
    parents = [(span["name"], names.get(span["parent_span_id"])) for span in spans]
    assert sorted(parents, key=str) == [
        ("chat toy", "dsrs.predict.Step1"),
        ("chat toy", "dsrs.predict.Step2"),
        ("dsrs.map", "dsrs.predict.Step1"),
        ("dsrs.predict.Step1", "dsrs.root"),
        ("dsrs.predict.Step2", "dsrs.map"),
        ("dsrs.root", "dsrs.stage.search"),
        ("dsrs.run", None),
        ("dsrs.stage.search", "dsrs.run"),
    ]
    assert {(span["trace_id"], span["service"], span["scope"]) for span in spans} == {(TRACE, "shop", "swarmc")}
    assert (sink.sent, sink.lost) == (8, {})


async def test_a_span_arrives_as_it_was_made(receiver: Start) -> None:
    seen = receiver()
    await tell(Telemetry(endpoint=seen.url, include_content=True).open(), a_run())
    call, predict = (
        next(span for span in seen.spans() if span["name"] == name) for name in ("chat toy", "dsrs.predict.Step2")
    )
    assert (call["kind"], call["status"], call["start_ns"], call["end_ns"]) == ("CLIENT", "OK", AT_NS + 3, AT_NS + 9)
    ((name, at_ns, about),) = call["events"]
    assert (name, at_ns, about["error.type"], about["dsrs.message"]) == (
        "dsrs.retry",
        AT_NS + 2,
        "venue",
        "secret: busy",
    )
    assert (call["attributes"]["gen_ai.usage.input_tokens"], call["attributes"]["lm.cost_msats"]) == (10, 5)
    assert predict["attributes"]["dsrs.inputs"] == '{"q":"secret question"}'
    root = next(span for span in seen.spans() if span["name"] == "dsrs.root")
    assert predict["links"] == [root["span_id"]]


async def test_nothing_that_users_typed_leaves_unless_it_is_asked_for(receiver: Start, tmp_path: Path) -> None:
    seen = receiver()
    await tell(Telemetry(endpoint=seen.url, file=tmp_path / "spans.jsonl").open(), a_run())
    assert "secret" not in str(seen.spans())
    assert b"secret" not in (tmp_path / "spans.jsonl").read_bytes()
    assert len(seen.spans()) == len(list(read_spans(tmp_path / "spans.jsonl"))) == 8


async def test_headers_are_sent_and_are_hidden_from_everybody_else(receiver: Start) -> None:
    seen = receiver()
    block = Telemetry(endpoint=f"{seen.url}/", headers=SecretStr("Authorization=Bearer hidden=, x-a=b%2Cc"))
    await tell(block.open(), a_run())
    sent = seen.seen()["headers"][0]
    assert (sent["authorization"], sent["x-a"]) == ("Bearer hidden=", "b,c")
    assert "hidden" not in repr(block) + str(block) + block.model_dump_json()


async def test_a_run_that_goes_on_in_another_process_is_one_trace(receiver: Start) -> None:
    seen = receiver()
    for epoch in (1, 2):
        await tell(Telemetry(endpoint=seen.url).open(), a_run(epoch=epoch))
    spans = seen.spans()
    assert {span["trace_id"] for span in spans} == {TRACE}
    assert len({span["span_id"] for span in spans}) == len(spans) == 16
    first, second = (span for span in spans if span["name"] == "dsrs.run")
    assert second["links"] == [first["span_id"]]


@pytest.mark.parametrize(("status", "delay_s"), [(500, 0.0), (503, 0.0), (400, 0.0), (200, 30.0)])
async def test_a_receiver_that_refuses_or_hangs_costs_spans_and_not_the_run(
    receiver: Start, caplog: pytest.LogCaptureFixture, status: int, delay_s: float
) -> None:
    seen = receiver(status, delay_s)
    sink = Telemetry(endpoint=seen.url).open()
    begun_s = time.monotonic()
    with caplog.at_level(logging.WARNING):
        async with open_stream([sink]) as stream:
            for event in a_run(20):
                stream.emit(event)
            assert time.monotonic() - begun_s < 1
    assert time.monotonic() - begun_s < otel.GRACE_S + 5
    assert sink.sent == 0
    assert sink.lost["refused"] + sink.lost["waiting"] == 20 * 6 + 2
    assert caplog.text.count("the run's spans are not complete") == 1
    assert "secret" not in caplog.text
    assert not stream.lost


async def test_a_receiver_that_is_not_there_costs_spans_and_not_the_run() -> None:
    sink = Telemetry(endpoint="http://127.0.0.1:9").open()
    await tell(sink, a_run(2))
    assert (sink.sent, sink.lost["refused"] + sink.lost["waiting"]) == (0, 14)


async def test_what_waits_for_a_slow_outlet_is_bounded_and_counted() -> None:
    class Slow:
        def __init__(self) -> None:
            self.got = 0

        def export(self, spans: Sequence[TraceSpan]) -> bool:
            time.sleep(0.5)
            self.got += len(spans)
            return True

        def close(self) -> None: ...

    slow = Slow()
    sink = OtelSink(LiveSpans(), [slow])
    programs = otel.MOST_WAITING * 2
    events = [event for program in range(programs) for event in (started(program), ended(program))]
    begun_s = time.monotonic()
    for event in events:
        await sink.tell(event)
    assert time.monotonic() - begun_s < 2
    await sink.aclose()
    assert sink.lost["waiting"] >= programs - otel.MOST_WAITING - 2 * otel.BATCH_SPANS
    assert sink.sent == slow.got
    assert sink.sent + sink.lost["waiting"] + sink.lost["refused"] == programs + 1


async def test_an_outlet_that_raises_loses_its_spans_and_no_others(tmp_path: Path) -> None:
    class Broken:
        def export(self, spans: Sequence[TraceSpan]) -> bool:
            raise OSError("no disk")

        def close(self) -> None: ...

    written = Telemetry(file=tmp_path / "spans.jsonl").open()
    await tell(written, a_run())
    broken = OtelSink(LiveSpans(), [Broken()])
    await tell(broken, a_run())
    assert (written.sent, broken.sent, broken.lost) == (8, 0, {"refused": 8})


async def test_texts_and_numbers_that_the_wire_cannot_hold_cost_no_span(receiver: Start) -> None:
    seen = receiver()
    usage = {"prompt_tokens": 2**70, "completion_tokens": 0, "cost_msats": 0}
    strange = [
        started(0, inputs={"half \udfff": "\ud800"}),
        module(0, 1, name="\udfff", signature="half \ud800"),
        completion(0, 1, usage=usage, ended_ns=2**70),
        attempt(0, 1, message="\ud800"),
        ended(0, failure="\ud800", outputs=None),
    ]
    sink = Telemetry(endpoint=seen.url, include_content=True).open()
    await tell(sink, [*strange, *two_steps(1)])
    call = next(span for span in seen.spans() if span["name"] == "chat toy" and span["end_ns"] == 2**64 - 1)
    assert call["attributes"]["lm.prompt_tokens"] == str(2**70)
    assert sink.lost == {}


async def test_the_loop_does_not_wait_while_spans_are_made_and_sent(receiver: Start) -> None:
    sink = Telemetry(endpoint=receiver().url).open()
    waits_s = []

    async def watch() -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(0.001)
            waits_s.append(time.monotonic() - before_s)

    watching = asyncio.create_task(watch())
    for event in a_run(300):
        await sink.tell(event)
        await asyncio.sleep(0)
    await sink.aclose()
    watching.cancel()
    assert sink.lost == {}
    assert sorted(waits_s)[len(waits_s) // 2] < 0.05


async def test_a_program_run_is_read_back_from_the_file_as_the_graph_it_was(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    await tell(Telemetry(file=path, include_content=True).open(), a_run())
    graph = TraceContract.spans_to_graph(list(read_spans(path)))
    assert [node.kind for node in graph.nodes] == ["root", "predict", "map", "predict"]
    assert graph.root.inputs == {"question": "secret question"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "the spans go nowhere; give an endpoint, a file, or both"),
        ({"endpoint": "localhost:4317"}, "no OTLP/HTTP address"),
        ({"endpoint": "http://x", "service_name": ""}, "service_name"),
        ({"endpoint": "http://x", "headers": "a=b,Bearer hidden"}, "header 2 has no name"),
    ],
)
def test_a_block_that_cannot_work_is_refused_when_it_is_made(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        Telemetry(**fields)
    assert "hidden" not in str(refused.value)
