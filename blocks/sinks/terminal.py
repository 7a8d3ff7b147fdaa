"""The terminal: a line a stage, alive while it runs; plain lines where the output is no terminal."""

from collections.abc import Iterator
from time import monotonic
from typing import final

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from swarmc.contracts.completions import Stage
from swarmc.contracts.events import CallFailed, Event, Note, PlanMade, RunOpened, StageEnded, StageStarted
from swarmc.contracts.plan import Plan
from swarmc.tracing.progress import Progress, StageProgress

PLAIN_LINE_EVERY_S = 5.0


@final
class TerminalSink:
    """Shows a run to the person who started it.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress()
        self._rows: dict[Stage, TaskID] = {}
        self._told_s = monotonic()
        self._failure_told = ""
        self._plan: Plan | None = None
        self._bars = Bars(
            TextColumn("  {task.description:<10}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
        )

    async def tell(self, event: Event) -> None:
        self._progress.add(event)
        match event:
            case RunOpened():
                self._open(event)
            case PlanMade():
                self._show_plan(event.plan)
            case StageStarted():
                self._start(event.stage)
            case StageEnded():
                self._end(event.stage)
            case Note():
                self._line(f"  {event.text}")
            case CallFailed() if event.code != self._failure_told:
                self._failure_told = event.code
                self._console.print(
                    f"  a call failed and may be tried again: {event.message}", markup=False, soft_wrap=True
                )
            case _:
                self._refresh()

    async def aclose(self) -> None:
        self._bars.stop()

    def _open(self, event: RunOpened) -> None:
        how = "continues" if event.epoch > 1 else "begins"
        self._console.print(f"run [bold]{event.run_id}[/bold] {how}", highlight=False)
        if event.recovered:
            self._console.print(
                f"  {event.recovered} calls were in flight when it was killed; they count as spent: they may be billed"
            )

    def _show_plan(self, plan: Plan) -> None:
        """The first plan as a table; a later one in a sentence, if it plans for other numbers."""
        if self._plan is None:
            for line in plan_lines(plan):
                self._line(f"  {line}")
        elif _numbers(plan) != _numbers(self._plan):
            self._line(
                f"  the plan is now {plan.runs:,} program runs of the search, {_range(*plan.calls)} calls and "
                f"{_range(*plan.msats)} msats in all"
            )
        self._plan = plan

    def _start(self, stage: Stage) -> None:
        if self._console.is_terminal:
            self._bars.start()
            self._rows[stage] = self._bars.add_task(stage, total=1.0, told="")

    def _end(self, stage: Stage) -> None:
        progress = self._progress.stages[stage]
        told = progress.note or progress.ended
        if self._console.is_terminal:
            if stage in self._rows:
                self._bars.update(self._rows[stage], completed=1.0, told=told)
                self._bars.stop_task(self._rows[stage])
        else:
            self._console.print(
                f"  {stage:<10} {told}  ({_calls(progress)})", markup=False, highlight=False, soft_wrap=True
            )

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _refresh(self) -> None:
        current = self._progress.current
        if current is None:
            return
        if self._console.is_terminal and current in self._rows:
            told = self._progress.sentence.partition(": ")[2]
            self._bars.update(self._rows[current], completed=self._progress.fraction(current), told=told)
        elif monotonic() - self._told_s > PLAIN_LINE_EVERY_S:
            self._told_s = monotonic()
            self._line(f"  ... {self._progress.sentence}")


def _calls(stage: StageProgress) -> str:
    replayed = f", {stage.replayed:,} already paid for" if stage.replayed else ""
    return f"{stage.bought:,} calls bought{replayed}"


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan as a table of aligned columns, then what was cut."""
    rows = [("planned", "lane", "calls", "msats")]
    for one in plan.stages:
        calls, msats = _range(one.calls_low, one.calls_high), _range(one.msats_low, one.msats_high)
        rows.append((one.stage, one.lane, calls, msats))
    rows.append(("all", "", _range(*plan.calls), _range(*plan.msats)))
    stage, lane, calls, msats = (max(len(row[column]) for row in rows) for column in range(4))
    for row in rows:
        yield f"{row[0]:<{stage}}  {row[1]:<{lane}}  {row[2]:>{calls}}  {row[3]:>{msats}}"
    yield from plan.cut


def _numbers(plan: Plan) -> tuple[int, int, int]:
    """What a person goes by; that the lower bounds rise as stages end is no other plan."""
    return plan.runs, plan.calls[1], plan.msats[1]


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} - {high:,}"
