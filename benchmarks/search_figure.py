"""The figure: calls against true score, ours as ladders with intervals, DSPy's optimizers as points."""

from collections.abc import Sequence

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from benchmarks.search_ratios import Peer, interval, means
from benchmarks.search_rows import CORRELATIONS, LADDER, Place, Rows
from benchmarks.search_table import Findings

POINTS = {
    "medium": ("MIPROv2 medium", "s", "tab:red"),
    "tuned": ("MIPROv2 tuned by hand", "D", "tab:orange"),
    "gepa": ("GEPA light", "^", "tab:purple"),
}
LINES = {"ours": "tab:blue", "ours, instructions only": "tab:green"}


def figure(found: Findings, path: str) -> None:
    """Write the picture."""
    panels = 2 if found.warm_rows else 1
    _, axes = plt.subplots(1, panels, figsize=(6.4 * panels, 4.6), squeeze=False)
    for who, color in LINES.items():
        _line(axes[0][0], found.rows, [Peer(who, runs) for runs in LADDER[who]], found.places, (who, color, "-"))
    for who, (label, marker, color) in POINTS.items():
        style = {"label": label, "marker": marker, "color": color, "linestyle": "none", "capsize": 3}
        axes[0][0].errorbar(*_bars(found.rows, [Peer(who)], found.places), **style)
    _dress(axes[0][0], f"calls to a true score, {len(found.places)} worlds", "model calls of a compile")
    if found.warm_rows:
        for correlation, shade in zip(CORRELATIONS, ("-", "--"), strict=True):
            for who, color in (("cold", "dimgray"), ("warm", "tab:blue")):
                wanted = [Peer(who, runs, correlation) for runs in LADDER[who]]
                rungs = [
                    one for one in wanted if not np.isnan(means(found.warm_rows, one, found.warm_places, "true")).any()
                ]
                label = f"{who}, correlation {correlation / 1_000:g}"
                _line(axes[0][1], found.warm_rows, rungs, found.warm_places, (label, color, shade))
        _dress(axes[0][1], f"recompile after a change, {len(found.warm_places)} worlds", "model calls of the recompile")
    plt.savefig(path, dpi=150, bbox_inches="tight")
    plt.close()


def _line(axes: Axes, rows: Rows, rungs: Sequence[Peer], places: Sequence[Place], style: tuple[str, str, str]) -> None:
    label, color, shade = style
    bars = _bars(rows, rungs, places)
    axes.errorbar(*bars, label=label, color=color, linestyle=shade, marker="o", markersize=4, capsize=3)


def _bars(rows: Rows, rungs: Sequence[Peer], places: Sequence[Place]) -> tuple[list[float], list[float], np.ndarray]:
    """Mean calls, mean scores, and how far the 90 % interval reaches below and above (2 x rungs)."""
    calls = [float(means(rows, rung, places, "calls").mean()) for rung in rungs]
    scores = [means(rows, rung, places, "true") for rung in rungs]
    ends = [interval(one) for one in scores]
    middle = [float(one.mean()) for one in scores]
    return calls, middle, np.array([[m - e[0], e[1] - m] for m, e in zip(middle, ends, strict=True)]).T


def _dress(axes: Axes, title: str, amount: str) -> None:
    axes.set(xscale="log", title=title, xlabel=amount, ylabel="mean true score, 90 % over worlds")
    low, high = axes.get_xlim()
    ticks = [tick for tick in (25, 50, 100, 200, 400, 800, 1_600, 3_200, 6_400) if low <= tick <= high]
    axes.set_xticks(ticks)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
