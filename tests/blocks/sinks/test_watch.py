"""The live view: whole in a small terminal, seldom drawn, and gone without a trace of damage."""

import asyncio
import io
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from blocks.sinks.terminal import TerminalSink
from blocks.sinks.watch import EVERY_S, WatchSink, watch
from swarmc.contracts.completions import Lane, Stage, Usage
from swarmc.contracts.events import CallEnded, CallFailed, Event, Note, RunOpened, StageEnded, StageStarted, TrialScored
from swarmc.tracing.stream import open_stream

AT: dict[str, Any] = {"run_id": "0f6f3c1e-2b6f-4a51-9b3c-8f1d2a7b9c11", "at_ms": 1_000_000}
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
ROOT = Path(__file__).parents[3]


def trial(number: int, score_ppm: int = 820_000, count: int = 50) -> TrialScored:
    fields = {"trial": number, "candidate_id": f"sha256:{number:064x}", "score_ppm": score_ppm, "count": count}
    return TrialScored(**AT, stage="search", best_ppm=score_ppm, **fields)


def call(lane: Lane, stage: Stage = "search", source: Literal["bought", "replayed"] = "bought") -> CallEnded:
    usage = Usage(cost_msats=1_234_567)
    return CallEnded(**AT, stage=stage, lane=lane, request_id="x", source=source, usage=usage, latency_ms=2_000)


def failed(lane: Lane) -> CallFailed:
    return CallFailed(**AT, stage="search", lane=lane, request_id="x", code="venue", message="down")


def long_run() -> list[Event]:
    """As much as a view may have to show."""
    lanes: list[Lane] = ["swarm", "teacher", "propose", "validation"]
    stages: list[Stage] = ["load", "bootstrap", "propose"]
    over = [event for stage in stages for event in (StageStarted(**AT, stage=stage), _over(stage))]
    notes = [Note(**AT, text=f"note {number}\nof two [bold]lines[/bold] " + "that go on " * 20) for number in range(9)]
    calls = [call(lane) for lane in lanes] + [call("swarm", source="replayed"), failed("swarm")]
    trials = [trial(number, 10_000 * number) for number in range(1, 40)]
    return [RunOpened(**AT, epoch=2, recovered=0), *over, StageStarted(**AT, stage="search"), *calls, *trials, *notes]


def _over(stage: Stage) -> StageEnded:
    return StageEnded(**AT, stage=stage, ended="budget", note="stopped: " + "the budget ran out " * 9)


async def shown(events: list[Event], width: int = 80, height: int = 24) -> list[str]:
    """The lines of the view after these events."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    sink = WatchSink(console, "ticket-routing")
    for event in events:
        sink._progress.add(event)
    console.print(sink.screen())
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (100, 30), (60, 20), (80, 12), (40, 10)])
async def test_the_view_fits_into_its_terminal(width: int, height: int) -> None:
    lines = await shown(long_run(), width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width


async def test_a_small_terminal_shows_all_that_matters() -> None:
    text = "\n".join(await shown(long_run()))
    for told in ("ticket-routing", "0f6f3c1e", "continued", "search", "39 trials", "swarm", "≈", "1,234,567"):
        assert told in text
    assert "0.390" in text
    assert "note 8 of two [bold]lines" in text
    assert "a call failed and may be tried again: down" in text
    assert "6,172,835" not in text.replace("spent 4,938,268 msats", "")
    assert "spent 4,938,268 msats" in text
    assert "bought 4 calls" in text


async def test_a_run_that_was_killed_says_what_was_in_flight() -> None:
    text = "\n".join(await shown([RunOpened(**AT, epoch=3, recovered=8)]))
    assert "continued (2)" in text
    assert "8 calls were in flight at the kill" in text


async def test_a_narrow_terminal_cuts_no_number_in_two() -> None:
    lines = await shown(long_run(), width=62)
    (swarm,) = [line for line in lines if line.startswith("swarm")]
    assert swarm.split()[2:] == ["1", "1", "1", "1,234,567"]


async def test_what_happened_is_drawn_in_place_and_at_most_four_times_a_second() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True)
    start_s = monotonic()
    async with open_stream((WatchSink(console),)) as stream:
        for number in range(3_000):
            stream.emit(trial(number % 30))
            await asyncio.sleep(0)
        await asyncio.sleep(3 * EVERY_S)
    drawn = out.getvalue().count("95 % interval")
    assert (
        2 <= drawn <= (monotonic() - start_s) / EVERY_S + 3
    )  # Its first, its last, and the one that is left standing.
    assert stream.lost == {}
    assert out.getvalue().count(HIDE_CURSOR) == out.getvalue().count(SHOW_CURSOR) == 1


async def test_a_view_that_was_told_nothing_draws_nothing() -> None:
    out = io.StringIO()
    await WatchSink(Console(file=out, force_terminal=True)).aclose()
    assert out.getvalue() == ""


def test_where_there_is_no_terminal_there_are_plain_lines() -> None:
    assert isinstance(watch(Console(file=io.StringIO(), force_terminal=True)), WatchSink)
    assert isinstance(watch(Console(file=io.StringIO())), TerminalSink)


class Gone(io.StringIO):
    """A terminal that is no longer there."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


class Stuck(io.StringIO):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.let_go.wait()
        return super().write(text)


async def test_a_terminal_that_is_gone_is_counted_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with open_stream((WatchSink(Console(file=Gone(), force_terminal=True)),)) as stream:
        for number in range(20):
            stream.emit(trial(number))
            await asyncio.sleep(0.02)
    assert stream.lost["WatchSink"] >= 10
    assert "WatchSink cannot tell of the run: OSError" in caplog.text


@pytest.mark.timeout(30)
async def test_a_terminal_that_hangs_holds_nothing_up() -> None:
    terminal = Stuck()
    asyncio.get_running_loop().call_later(1.0, terminal.let_go.set)
    slowest_s = 0.0
    async with open_stream((WatchSink(Console(file=terminal, force_terminal=True)),)) as stream:
        for number in range(50):
            start_s = monotonic()
            stream.emit(trial(number))
            await asyncio.sleep(0.01)
            slowest_s = max(slowest_s, monotonic() - start_s)
    assert slowest_s < 0.5
    assert stream.lost == {}
    assert terminal.getvalue().endswith(SHOW_CURSOR)


PROGRAM = """
import asyncio
from rich.console import Console
from blocks.sinks.watch import watch
from swarmc.contracts.events import Note, StageStarted
from swarmc.tracing.stream import open_stream

async def run():
    async with open_stream((watch(Console(), "ticket-routing"),)) as stream:
        stream.emit(StageStarted(run_id="r", at_ms=0, stage="search", calls_planned=9))
        stream.emit(Note(run_id="r", at_ms=0, text="ready"))
        await asyncio.sleep(60)

try:
    asyncio.run(run())
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_ctrl_c_leaves_the_terminal_whole() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "PYTHONPATH": str(ROOT)}
    started = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": environment}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **started) as process:
        os.close(theirs)
        text = ""
        while "ready" not in text:
            text += os.read(ours, 65536).decode()
        process.send_signal(signal.SIGINT)
        while part := _read(ours):
            text += part
        assert process.wait(20) == 0
    os.close(ours)
    last = text.rpartition(SHOW_CURSOR)
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    assert last[2].split() == ["stopped"]
    assert "ticket-routing" in last[0].rpartition("\x1b[2K")[0]


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode("utf-8", "replace")
    except OSError:
        return ""  # Its other side is closed.


names = st.sampled_from(["load", "search", "validate", "verify", "serve"])
events = st.one_of(
    st.builds(StageStarted, run_id=st.text(max_size=50), at_ms=st.just(0), stage=names),
    st.builds(_over, names),
    st.builds(call, st.sampled_from(["swarm", "judge", "premium"]), names),
    st.builds(trial, st.integers(0, 99), st.integers(0, 1_000_000), st.integers(0, 10**9)),
    st.builds(Note, run_id=st.just("r"), at_ms=st.just(0), text=st.text(max_size=200)),
)


@given(st.lists(events, max_size=30), st.integers(20, 200), st.integers(5, 60))
async def test_no_run_breaks_the_view_in_a_terminal_of_any_size(told: list[Event], width: int, height: int) -> None:
    lines = await shown(told, width, height)
    assert 0 < len(lines) < max(height, 8)  # Beginning, stage, money and lanes are always there; `Live` crops them.
