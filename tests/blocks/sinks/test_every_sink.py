"""All sinks at once: dead, slow or raising, they change nothing of the run, and every sink hears it in order."""

import asyncio
import io
import random
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import dspy
import pytest
from rich.console import Console

from blocks.ledger import SqlLedger
from blocks.sinks.hud import Hud
from blocks.sinks.telemetry import Telemetry
from blocks.sinks.terminal import TerminalSink
from blocks.sinks.watch import WatchSink
from swarmc.compiler.metering import Metered, Purse, Remembered
from swarmc.compiler.telling import Teller
from swarmc.contracts.candidates import Evaluation
from swarmc.contracts.events import CallEnded, Event, ModuleEnded, ModuleStarted, Note, ProgramEnded, ProgramStarted
from swarmc.contracts.money import BudgetPolicy, Tally
from swarmc.contracts.ports import Sink
from swarmc.tracing.stream import open_stream
from tests.fakes import AnsweringVenue, make_bench

EXAMPLES = [dspy.Example(question=f"q{n}", answer=str(n % 3)).with_inputs("question") for n in range(60)]


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
        self.let_go.wait(20)
        return len(text)


class Raising:
    """Raises whatever it is told, and when it is closed."""

    async def tell(self, event: Event) -> None:
        raise ConnectionError("the collector is away")

    async def aclose(self) -> None:
        raise ConnectionError("the collector is away")


class Hanging:
    """Takes one event and never comes back."""

    async def tell(self, event: Event) -> None:
        await asyncio.Event().wait()

    async def aclose(self) -> None: ...


class Listening:
    """Keeps what it is told, taking its time over some of it."""

    def __init__(self, seed: int | None = None) -> None:
        self.told: list[Event] = []
        self._pauses = random.Random(seed) if seed is not None else None

    async def tell(self, event: Event) -> None:
        if self._pauses and self._pauses.random() < 0.1:
            await asyncio.sleep(self._pauses.random() / 200)
        self.told.append(event)

    async def aclose(self) -> None: ...


async def run(path: Path, sinks: Sequence[Sink]) -> tuple[Evaluation, Tally, Counter[str]]:
    """A program on its examples in a metered lane: the scores, what was paid, what the sinks lost."""
    venue = AnsweringVenue(lambda asked: {"answer": str(len(asked.messages[-1].content) % 3)}, price_msats=7)
    opening = {"spec_id": "sha256:" + "0" * 64, "name": "test", "budget": BudgetPolicy()}
    async with (
        SqlLedger.open(f"sqlite:///{path}/{len(sinks)}.db") as ledger,
        ledger.open_run("run", **opening) as lease,
        open_stream(sinks) as stream,
    ):
        purse = Purse(ledger, "run", lease.epoch, "swarm", stream.emit)
        lane = Remembered(Metered(venue, purse), purse)
        bench = make_bench(lane, EXAMPLES)  # pyright: ignore[reportArgumentType] - a venue is all it needs
        bench.evaluator.tell(Teller(stream.emit, "run", "p"))
        evaluation = await bench.evaluate(bench.own, bench.ids("train"))
        bench.evaluator.close()
        total = (await ledger.account("run")).total
    return evaluation, total, stream.lost


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_run_with_every_sink_dead_gives_the_same_and_says_what_was_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, paid, _ = await run(tmp_path, ())
    stuck, hud = Stuck(), await Hud().open()
    dead: list[Sink] = [Raising(), Hanging(), hud]
    dead += [WatchSink(Console(file=Gone(), force_terminal=True)), TerminalSink(Console(file=Gone()))]
    dead += [WatchSink(Console(file=stuck, force_terminal=True))]
    dead += [Telemetry(endpoint=f"http://127.0.0.1:{closed_port()}").open()]
    async with aiohttp.ClientSession() as session, session.get(f"{hud.url}events"):
        evaluation, total, lost = await run(tmp_path, dead)  # The screen is open and reads nothing.
    stuck.let_go.set()
    assert (evaluation, total) == (plain, paid)
    assert total.calls > 0
    told = lost["Raising"]
    assert told > 2 * total.calls
    assert lost["Hanging"] == told
    assert "Raising cannot tell of the run: ConnectionError: the collector is away" in caplog.text
    assert "Hanging hangs; it missed the last" in caplog.text
    assert "spans of the run are being lost" in caplog.text
    assert "HudSink" not in lost


@pytest.mark.slow
async def test_every_sink_hears_the_parts_of_a_call_in_order_however_many_run_at_once(tmp_path: Path) -> None:
    quick, slow = Listening(), Listening(seed=1)
    await run(tmp_path, (quick, slow))
    assert quick.told == slow.told
    order: dict[str, list[type]] = {}
    parents: dict[str, str] = {}
    for event in quick.told:
        if isinstance(event, ModuleStarted):
            parents[event.call_id] = event.parent_id or ""
        part = event.parent_id if isinstance(event, CallEnded) else getattr(event, "call_id", None)
        order.setdefault(parents.get(part or "", part or ""), []).append(type(event))
    runs = [parts for parts in order.values() if ProgramStarted in parts]
    assert len(runs) > 10
    assert all(parts == [ProgramStarted, ModuleStarted, CallEnded, ModuleEnded, ProgramEnded] for parts in runs)
    begun = [type(event) for event in quick.told[:4]]
    assert begun.count(ProgramStarted) > 1, "the runs were not at once"


async def test_a_screen_hears_it_in_that_order_too() -> None:
    hud, heard = await Hud().open(), []
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{hud.url}events") as response,
        open_stream((hud,)) as stream,
    ):
        for number in range(500):
            stream.emit(Note(run_id="r", at_ms=0, text=str(number)))
            await asyncio.sleep(0)
        while len(heard) < 500:
            line = (await response.content.readline()).decode()
            heard += [line] if line.startswith("data:") and '"kind":"note"' in line else []
    assert [f'"text":"{number}"' in line for number, line in enumerate(heard)] == [True] * 500
