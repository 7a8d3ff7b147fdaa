"""Pictures for reports, drawn without a display, small enough to live inside a page."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarmc.contracts.candidates import Trial
from swarmc.contracts.canonical import PPM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#334155"
ACCENT = "#2563eb"
FAINT = "#cbd5e1"


def score_over_trials(trials: Sequence[Trial]) -> bytes:
    """A PNG: every trial's score with its interval, and the best so far as a line."""
    figure, axes = _canvas()
    numbers = [trial.number for trial in trials]
    means = [trial.score.mean for trial in trials]
    lows = [trial.score.mean - trial.score.low_ppm / PPM for trial in trials]
    highs = [trial.score.high_ppm / PPM - trial.score.mean for trial in trials]
    axes.errorbar(numbers, means, yerr=[lows, highs], fmt="o", color=INK, ecolor=FAINT, markersize=4, label="trial")
    best = [max(means[: i + 1]) for i in range(len(means))]
    axes.step(numbers, best, where="post", color=ACCENT, linewidth=2, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("score, 95 % interval")
    axes.set_ylim(-0.03, 1.03)
    axes.locator_params(axis="x", integer=True)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return _png(figure)


def markdown_image(png: bytes, alt: str) -> str:
    """The picture inside a Markdown page, as a data URI."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _canvas() -> "tuple[Figure, Axes]":
    # The object interface needs no display and keeps no global state, unlike pyplot.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), dpi=96, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#f1f5f9")
    return figure, axes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
