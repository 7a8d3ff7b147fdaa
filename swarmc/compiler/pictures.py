"""Pictures for reports, drawn without a display, small enough to live inside a page.

Equal contracts give equal bytes: nothing of a date or a version is in them.
"""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from swarmc.contracts.candidates import Effect, Measured, Score, Study, Trial
from swarmc.contracts.canonical import PPM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#334155"
ACCENT = "#2563eb"
SECOND = "#c2570c"
FAINT = "#94a3b8"
LINES = "#eef2f6"
WIDTH_IN, DPI = 7.5, 100
COLOURS = 64
SMALL, TINY = 9, 7

MOST_PANELS = 4
MOST_SHOWN = 18
"""Effects of a kind in a panel, the best ones."""

KINDS = {"i": "instruction", "d": "demonstration set"}
OWN = "the program's own"
FULL_LABELS = 24
MAX_TITLE_CHARS = 60
MANY_POINTS = 60
MOST_TRIALS = 1_000
FAIR_SHARE = 4
"""What met less than this part of the most examples is left out of the front: it may be lucky."""


class Point(NamedTuple):
    """A candidate in the picture of the front: its cost per program run, its score."""

    cost: float
    score: Score
    own: bool


def score_over_runs(trials: Sequence[Trial]) -> bytes:
    """A PNG: the leader's score with its 95 % interval over the program runs that were made, each trial as a point.

    The leader is whose interval's lower end is highest, so that a lucky start of few examples leads nothing.
    """
    if not trials:
        return _nothing("no trial was scored")
    figure, (axes,) = _canvas(3.2)
    ordered = sorted(trials, key=lambda trial: trial.runs)
    counted = ordered[-1].runs > 0
    at = [trial.runs if counted else number + 1 for number, trial in enumerate(ordered)]
    best = _leaders(ordered)
    every = -(-len(ordered) // MOST_TRIALS)
    means = [trial.score.mean for trial in ordered]
    axes.plot(at[::every], means[::every], "o", color=FAINT, alpha=0.6, markersize=_size(at), label="trial")
    # A step is drawn up to the next point; the last one needs somewhere to go.
    at, best = [*at, at[-1] + max(1, at[-1] // 50)], [*best, best[-1]]
    lows, highs = [score.low_ppm / PPM for score in best], [score.high_ppm / PPM for score in best]
    axes.fill_between(at, lows, highs, step="post", color=ACCENT, alpha=0.15, linewidth=0, label="95 % interval")
    axes.step(at, [score.mean for score in best], where="post", color=ACCENT, linewidth=2, label="best so far")
    axes.set_xlabel("program runs" if counted else "trials", fontsize=SMALL)
    axes.set_ylabel("score on search examples", fontsize=SMALL)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _legend(figure, *axes.get_legend_handles_labels())
    return _png(figure)


def effects(study: Study) -> bytes:
    """A PNG: one panel per predictor, what each instruction and each demonstration set adds, best first.

    The bars reach 1.96 posterior standard deviations to either side. Where there are many, the best
    are shown, and always the program's own. Predictors whose choices matter most come first.
    """
    panels = _panels(study)
    if not panels:
        return _nothing("the search learned no effects")
    figure, grid = _canvas(0.5 + 1.8 * len(panels), rows=len(panels))
    for axes, (name, found) in zip(grid, panels, strict=True):
        _draw_effects(axes, found)
        title = name if len(name) <= MAX_TITLE_CHARS else name[: MAX_TITLE_CHARS - 1] + "…"
        axes.set_title(title, loc="left", fontsize=SMALL, color=INK, parse_math=False)
    left_out = len({effect.predictor for effect in study.effects}) - len(panels)
    figure.supylabel("effect in logits", fontsize=SMALL)
    if left_out:
        figure.supxlabel(f"{left_out} more predictors, whose choices matter less, are left out", fontsize=SMALL)
    keys = {label: key for axes in grid for key, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    named = [label for label in (*KINDS.values(), OWN) if label in keys]
    _legend(figure, [keys[label] for label in named], named)
    return _png(figure)


def front(measured: Sequence[Measured]) -> bytes:
    """A PNG: score against cost per program run; who is neither dearer nor worse than another is on the line.

    Costs are msats; tokens where everything was free; calls where no tokens were counted either.
    """
    points, unit = _points(measured)
    if not points:
        return _nothing("no candidate was measured")
    figure, (axes,) = _canvas(3.4)
    line = _undominated(points)
    shown = points if len(points) <= MANY_POINTS else [*line, *(point for point in points if point.own)]
    for point in shown:
        ends = [point.score.low_ppm / PPM, point.score.high_ppm / PPM]
        colour, above = (ACCENT, 3) if point in line else (FAINT, 1)
        axes.plot([point.cost] * 2, ends, color=colour, alpha=0.35, linewidth=1, zorder=above)
    axes.plot(*_places(points), "o", color=FAINT, alpha=0.7, markersize=_size(points), label="candidate")
    axes.plot(*_places(line), "o-", color=ACCENT, markersize=5, linewidth=2, label="Pareto front", zorder=4)
    if own := [point for point in points if point.own]:
        axes.plot(*_places(own), "D", color=SECOND, markersize=7, label="uncompiled program", zorder=5)
    axes.set_xlabel(f"{unit} per program run", fontsize=SMALL)
    axes.set_ylabel("score on search examples", fontsize=SMALL)
    axes.set_ylim(-0.03, 1.03)
    if max(point.cost for point in points) >= 1_000:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.06)
    _legend(figure, *axes.get_legend_handles_labels())
    return _png(figure)


def markdown_image(png: bytes, alt: str) -> str:
    """The picture inside a Markdown page, as a data URI."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _leaders(trials: Sequence[Trial]) -> list[Score]:
    """After every trial, the score of the candidate that then led, by its latest score."""
    latest: dict[str, Score] = {}
    found: list[Score] = []
    leader = ""
    for trial in trials:
        latest[trial.candidate_id] = trial.score
        if trial.candidate_id == leader:  # It may have fallen behind.
            leader = max(latest, key=lambda key: latest[key].low_ppm)
        elif not leader or trial.score.low_ppm > latest[leader].low_ppm:
            leader = trial.candidate_id
        found.append(latest[leader])
    return found


def _panels(study: Study) -> list[tuple[str, list[Effect]]]:
    """By predictor its own effects (not those of two choices together), the predictor of the widest range first."""
    by_name: dict[str, list[Effect]] = {}
    for effect in study.effects:
        if (effect.instruction is None) != (effect.demos is None):
            by_name.setdefault(effect.predictor, []).append(effect)

    def reach(name: str) -> int:
        means = [effect.mean for effect in by_name[name]]
        return max(means) - min(means)

    kept = sorted(by_name, key=lambda name: (-reach(name), name))[:MOST_PANELS]
    return [(name, by_name[name]) for name in kept]


def _draw_effects(axes: "Axes", found: Sequence[Effect]) -> None:
    """Instructions on the left, demonstration sets on the right, each best first."""
    ticks: list[tuple[int, str]] = []
    at = 0
    for letter, what in KINDS.items():
        colour = ACCENT if letter == "i" else SECOND
        kind = [effect for effect in found if (effect.instruction is None) == (letter == "d")]
        for own in (False, True):
            chosen = [(at + i, e) for i, e in enumerate(_best(kind)) if (_index(e) == 0) == own]
            if chosen:
                axes.errorbar(
                    [place for place, _ in chosen],
                    [effect.mean / 1_000 for _, effect in chosen],
                    yerr=[1.96 * effect.sd / 1_000 for _, effect in chosen],
                    fmt="D" if own else "o",
                    color=colour,
                    ecolor=(colour, 0.35),
                    markerfacecolor="white" if own else colour,
                    markersize=6 if own else 4,
                    label=OWN if own else what,
                )
            ticks += [(place, f"{letter}{_index(effect)}") for place, effect in chosen]
        at += min(len(kind), MOST_SHOWN) + 1
    axes.axhline(0, color=INK, alpha=0.6, linewidth=0.8, zorder=1)
    axes.set_xticks([place for place, _ in ticks], [label for _, label in ticks], fontsize=TINY)
    if len(ticks) > FULL_LABELS and max(len(label) for _, label in ticks) > 2:
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlim(-0.7, at - 1.3)


def _best(kind: Sequence[Effect]) -> list[Effect]:
    """The best effects, the program's own (index 0) among them in any case."""
    ordered = sorted(kind, key=lambda effect: (-effect.mean, _index(effect)))
    kept = ordered[:MOST_SHOWN]
    own = [effect for effect in ordered[MOST_SHOWN:] if _index(effect) == 0]
    return [*kept[: MOST_SHOWN - len(own)], *own]


def _index(effect: Effect) -> int:
    return effect.demos or 0 if effect.instruction is None else effect.instruction


def _points(measured: Sequence[Measured]) -> tuple[list[Point], str]:
    """Cost per run and score, and the unit of the costs."""
    unit = "calls"
    if any(one.cost.msats for one in measured):
        unit = "msats"
    elif any(one.cost.prompt_tokens + one.cost.completion_tokens for one in measured):
        unit = "tokens"
    points = []
    for one in measured:
        tokens = one.cost.prompt_tokens + one.cost.completion_tokens
        total = {"msats": one.cost.msats, "tokens": tokens, "calls": one.cost.calls}[unit]
        own = all(pair == (0, 0) for pair in one.choice.values())
        points.append(Point(total / one.score.count, one.score, own))
    return points, unit


def _undominated(points: Sequence[Point]) -> list[Point]:
    """Cheapest first, each better than all cheaper ones; of those that met enough examples."""
    most = max(point.score.count for point in points)
    fair = [point for point in points if point.score.count * FAIR_SHARE >= most]
    line: list[Point] = []
    for point in sorted(fair, key=lambda point: (point.cost, -point.score.mean_ppm)):
        if not line or point.score.mean_ppm > line[-1].score.mean_ppm:
            line.append(point)
    return line


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.cost for point in points], [point.score.mean for point in points]


def _size(points: Sequence[object]) -> float:
    return 3.5 if len(points) <= 10 * MANY_POINTS else 2.0


def _nothing(why: str) -> bytes:
    """A picture that says why it shows nothing."""
    figure, (axes,) = _canvas(1.2)
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=INK, fontsize=SMALL, transform=axes.transAxes)
    return _png(figure)


def _legend(figure: "Figure", keys: Sequence[object], labels: Sequence[str]) -> None:
    figure.legend(keys, labels, loc="outside upper right", ncols=3, frameon=False, fontsize=SMALL)  # type: ignore[arg-type]


def _canvas(height_in: float, rows: int = 1) -> "tuple[Figure, list[Axes]]":
    # The object interface needs no display and keeps no global state, unlike pyplot.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained", facecolor="white")
    grid = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=LINES)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=SMALL - 1, colors=INK)
    return figure, grid


def _png(figure: "Figure") -> bytes:
    """The figure in few colours: a page holds three of them, and a picture of all colours is three times as large."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1)
    buffer = io.BytesIO()
    drawn.convert("RGB").quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
