"""The stream: every sink hears everything in order, and no sink, slow or broken, holds the run up."""

import asyncio
from collections.abc import Sequence
from time import monotonic

import pytest

from swarmc.contracts.events import Event, Note
from swarmc.tracing.stream import CLOSE_GRACE_S, QUEUE_EVENTS, Stream, open_stream


class Listener:
    """Keeps what it is told; `heard` is set when it has heard as much as it `expects`."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.closed = 0
        self.expects = 0
        self.heard = asyncio.Event()

    async def tell(self, event: Event) -> None:
        assert isinstance(event, Note)
        self.told.append(event.text)
        if len(self.told) == self.expects:
            self.heard.set()

    async def aclose(self) -> None:
        self.closed += 1


class Broken(Listener):
    """Raises on the events named in `on`, and when it is closed."""

    def __init__(self, *on: str) -> None:
        super().__init__()
        self._on = on

    async def tell(self, event: Event) -> None:
        await super().tell(event)
        if self.told[-1] in self._on:
            raise ConnectionError("the collector is away")

    async def aclose(self) -> None:
        await super().aclose()
        raise ConnectionError("the collector is away")


class Gated(Listener):
    """Takes nothing until its gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def tell(self, event: Event) -> None:
        await self.gate.wait()
        await super().tell(event)


def note(text: object) -> Note:
    return Note(run_id="r", at_ms=0, text=str(text))


def tell(stream: Stream, texts: Sequence[object]) -> float:
    """Emit a note for each text; returns the seconds that took."""
    start_s = monotonic()
    for text in texts:
        stream.emit(note(text))
    return monotonic() - start_s


async def test_every_sink_hears_everything_in_order_and_is_closed_once() -> None:
    one, other = Listener(), Listener()
    async with open_stream((one, other)) as stream:
        tell(stream, range(100))
    assert one.told == other.told == [str(number) for number in range(100)]
    assert (one.closed, other.closed) == (1, 1)
    assert stream.lost == {}


async def test_a_stream_without_sinks_takes_events_all_the_same() -> None:
    async with open_stream(()) as stream:
        tell(stream, "abc")
    assert stream.lost == {}


async def test_a_sink_that_raises_loses_that_event_alone(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Broken("1", "3"), Listener()
    async with open_stream((broken, sound)) as stream:
        tell(stream, range(5))
    assert broken.told == sound.told == ["0", "1", "2", "3", "4"]
    assert stream.lost == {"Broken": 2}
    assert (broken.closed, sound.closed) == (1, 1)
    warned = [record.getMessage() for record in caplog.records]
    assert [
        text for text in warned if "Broken cannot tell of the run: ConnectionError: the collector" in text
    ] == warned[:1]


async def test_a_slow_sink_holds_up_neither_the_run_nor_the_others() -> None:
    slow, quick = Gated(), Listener()
    async with open_stream((slow, quick)) as stream:
        assert tell(stream, range(1000)) < 0.5
        await asyncio.sleep(0.05)
        assert (len(slow.told), len(quick.told)) == (0, 1000)
        slow.gate.set()
    assert slow.told == quick.told
    assert (slow.closed, stream.lost) == (1, {})


async def test_a_full_queue_is_counted_as_lost() -> None:
    slow, quick = Gated(), Listener()
    quick.expects = QUEUE_EVENTS
    async with open_stream((slow, quick)) as stream:
        tell(stream, range(QUEUE_EVENTS))
        await quick.heard.wait()
        tell(stream, range(25))
        lost = stream.lost["Gated"]
        assert lost in (24, 25)  # One event may be in the sink's hands rather than in its queue.
        slow.expects = QUEUE_EVENTS + 25 - lost
        slow.gate.set()
        await slow.heard.wait()
    assert stream.lost == {"Gated": lost}
    assert len(quick.told) == QUEUE_EVENTS + 25


async def test_a_sink_with_a_full_queue_is_closed_all_the_same() -> None:
    slow = Gated()
    start_s = monotonic()
    async with open_stream((slow,)) as stream:
        tell(stream, range(QUEUE_EVENTS + 1))
        asyncio.get_running_loop().call_later(0.05, slow.gate.set)
    assert slow.closed == 1
    assert monotonic() - start_s < CLOSE_GRACE_S


async def test_a_sink_that_hangs_is_left_behind_and_what_it_missed_is_counted() -> None:
    hanging, sound = Gated(), Listener()
    start_s = monotonic()
    async with open_stream((hanging, sound)) as stream:
        tell(stream, range(10))
    assert CLOSE_GRACE_S <= monotonic() - start_s < CLOSE_GRACE_S + 2
    assert (len(sound.told), sound.closed) == (10, 1)
    assert stream.lost == {"Gated": 10}


async def test_a_run_that_fails_is_told_to_its_end() -> None:
    sink = Listener()

    async def fail() -> None:
        async with open_stream((sink,)) as stream:
            tell(stream, ["the last words"])
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert (sink.told, sink.closed) == (["the last words"], 1)
