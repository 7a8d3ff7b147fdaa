"""The live view of a run: stages, lanes, money, candidates, at most four times a second, in a terminal."""

import asyncio
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from blocks.sinks.terminal import TerminalSink
from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Stage
from swarmc.contracts.events import Event
from swarmc.contracts.ports import Sink
from swarmc.tracing.progress import CandidateProgress, Progress

EVERY_S = 0.25
BAR_COLUMNS = 20
WIDE_COLUMNS = 90
LEAST_CANDIDATES = 3
MOST_CANDIDATES = 10
MOST_NOTES = 3
ID_LETTERS = 8
SPARE_LINES = 1
"""Below the view: a terminal scrolls when its last line is written."""

_ENDS = {"completed": ("✓", "green"), "budget": ("✂", "yellow"), "failed": ("✗", "red")}


def watch(console: Console, name: str = "") -> Sink:
    """The live view of a run that is called `name`, or plain lines where the console is no terminal."""
    return WatchSink(console, name) if console.is_terminal else TerminalSink(console)


@final
class WatchSink:
    """Shows a run to the person who started it, whole and always in its place.

    Telling it is a fold, which takes microseconds; drawing is done by a thread, for which nobody waits.

    Args:
        console: A terminal.
        name: What the run is called.
    """

    def __init__(self, console: Console, name: str = "") -> None:
        self._console = console
        self._name = name
        self._progress = Progress()
        self._began_s = monotonic()
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._drawing: asyncio.Task[None] | None = None

    async def tell(self, event: Event) -> None:
        self._progress.add(event)
        if self._drawing is None:
            self._drawing = asyncio.create_task(self._draw())
        elif self._drawing.done():
            self._drawing.result()  # The terminal is gone: raised here, it is counted.

    async def aclose(self) -> None:
        """Draw the end, and give the terminal back with its cursor."""
        if self._drawing is None:
            return
        self._drawing.cancel()
        await asyncio.wait([self._drawing])
        await asyncio.to_thread(self._end)

    def screen(self) -> RenderableType:
        """The view as it is now, no taller than the console if that has 24 lines."""
        view = _View(self._progress, self._name, int(monotonic() - self._began_s))
        size = self._console.size
        return view.whole(size.width, size.height - SPARE_LINES)

    async def _draw(self) -> None:
        # A terminal that takes nothing more holds up this thread and nothing else.
        await asyncio.to_thread(self._live.start)
        while True:
            await asyncio.to_thread(self._live.update, self.screen(), refresh=True)
            await asyncio.sleep(EVERY_S)

    def _end(self) -> None:
        try:
            self._live.update(self.screen(), refresh=True)
        finally:
            self._live.stop()


class _View:
    """One picture of a fold. Everything is read from it at once, so the picture may be drawn later."""

    def __init__(self, progress: Progress, name: str, elapsed_s: int) -> None:
        self._progress = progress
        self._name = name
        self._elapsed_s = elapsed_s

    def whole(self, width: int, height: int) -> RenderableType:
        """The view in that many columns and lines: what a small terminal has no room for is left out from below."""
        wide = width >= WIDE_COLUMNS
        progress = self._progress
        lanes = 1 + len(progress.lanes)
        stages: list[Stage] = list(progress.shares)
        if height < len(stages) + lanes + 2:
            stages = [progress.current or stages[0]]
        fixed = [self._head(wide), self._stages(stages), self._money(), self._lanes(wide)]
        left = height - (1 + len(stages) + 1 + lanes)
        notes = self._notes(MOST_NOTES if left > LEAST_CANDIDATES + MOST_NOTES else min(1, max(0, left)))
        room = min(MOST_CANDIDATES, left - len(notes) - 1)
        board = [self._candidates(room)] if room > 0 and progress.leader else []
        return Group(*fixed, *board, *notes)

    def _head(self, wide: bool) -> RenderableType:
        progress = self._progress
        told = Text(no_wrap=True, overflow="ellipsis")
        told.append(self._name or "run", "bold")
        told.append(f"  {progress.run_id[: None if wide else ID_LETTERS]}", "dim")
        if progress.epoch > 1:
            told.append(f"  continued ({progress.epoch - 1})", "yellow")
        line = Table.grid(expand=True, padding=(0, 1))
        line.add_column(ratio=1)
        line.add_column(justify="right", no_wrap=True)
        line.add_row(told, Text(f"{progress.percent:.0f} %  {_clock(self._elapsed_s)}", "bold"))
        return line

    def _stages(self, names: Sequence[Stage]) -> RenderableType:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=1)
        table.add_column(width=9, no_wrap=True)
        table.add_column(width=BAR_COLUMNS)
        table.add_column(width=5, justify="right", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for name in names:
            table.add_row(*self._stage(name))
        return table

    def _stage(self, name: Stage) -> Iterator[RenderableType]:
        progress = self._progress
        stage = progress.stages.get(name)
        if stage is None:
            planned = progress.planned_calls(name)
            told = f"up to {planned:,} calls" if planned else ""
            yield from (Text("·", "dim"), Text(name, "dim"), Text(""), Text(""), Text(told, "dim"))
            return
        mark, colour = _ENDS.get(stage.ended, ("▸", "cyan"))
        fraction = progress.fraction(name)
        yield Text(mark, colour)
        yield Text(name, "" if stage.ended else "bold")
        yield ProgressBar(total=1.0, completed=fraction, width=BAR_COLUMNS)
        yield Text(f"{100 * fraction:.0f} %")
        calls = [f"{stage.calls:,} calls"] if stage.calls else []
        if stage.trials:
            calls.append(f"{stage.trials:,} trials")
        if not stage.ended and progress.runs_open:
            calls.append(f"{progress.runs_open:,} runs at once")
        yield Text(stage.note or ", ".join(calls), "yellow" if stage.ended == "budget" else "")

    def _lanes(self, wide: bool) -> RenderableType:
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
        table.add_column("lane", width=11, no_wrap=True)
        for title in ("in flight", "bought", "replayed", "failed", "msats"):
            table.add_column(title, justify="right", no_wrap=True, min_width=10 if wide else None)
        for name, lane in self._progress.lanes.items():
            in_flight = self._progress.in_flight(name)
            table.add_row(
                name,
                f"≈{in_flight:.1f}" if in_flight else "-",
                f"{lane.bought:,}",
                f"{lane.replayed:,}",
                Text(f"{lane.failed:,}", "red" if lane.failed else ""),
                f"{lane.msats:,}",
            )
        return table

    def _money(self) -> RenderableType:
        progress = self._progress
        run = progress.budget.run if progress.budget else None
        told = Text(no_wrap=True, overflow="ellipsis")
        told.append("spent ", "dim")
        told.append(_against(progress.spent_msats, run.max_msats if run else None, "msats"))
        told.append("   bought ", "dim")
        told.append(_against(progress.bought, run.max_calls if run else None, "calls"))
        if progress.plan:
            told.append(f"   planned up to {progress.plan.calls[1]:,} calls", "dim")
        return told

    def _candidates(self, room: int) -> RenderableType:
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
        table.add_column("best", width=ID_LETTERS, no_wrap=True)
        table.add_column("score", justify="right")
        table.add_column("95 % interval", no_wrap=True)
        table.add_column("runs", justify="right", min_width=5)
        table.add_column(f"0{'1':>{BAR_COLUMNS - 1}}", no_wrap=True)
        for place, one in enumerate(self._progress.leaderboard[:room]):
            table.add_row(
                short(one.candidate_id),
                Text(f"{one.score_ppm / PPM:.3f}", "bold green" if place == 0 else ""),
                f"{one.low_ppm / PPM:.3f} - {one.high_ppm / PPM:.3f}",
                f"{one.count:,}",
                _whisker(one),
            )
        return table

    def _notes(self, most: int) -> list[RenderableType]:
        progress = self._progress
        told = [(note, "dim") for note in progress.notes]
        if progress.recovered:
            told.insert(0, (f"{progress.recovered} calls were in flight at the kill; they count as spent", "yellow"))
        if progress.trouble:
            told.append((f"a call failed and may be tried again: {progress.trouble}", "red"))
        last = told[-most:] if most else []
        return [Text(f"  {_one_line(note)}", style, no_wrap=True, overflow="ellipsis") for note, style in last]


def short(candidate_id: str) -> str:
    """The first letters of a candidate's hash."""
    return candidate_id.removeprefix("sha256:")[:ID_LETTERS]


def _whisker(one: CandidateProgress) -> Text:
    """The interval on a line from 0 to 1."""
    columns = BAR_COLUMNS
    low, high, mean = (min(columns - 1, value * columns // PPM) for value in (one.low_ppm, one.high_ppm, one.score_ppm))
    line = ["─" if low <= at <= high else " " for at in range(columns)]
    line[mean] = "●"
    return Text("".join(line), "cyan")


def _against(used: int, most: int | None, unit: str) -> str:
    return f"{used:,} {unit}" if most is None else f"{used:,} of {most:,} {unit}"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
