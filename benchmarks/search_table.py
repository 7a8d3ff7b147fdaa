"""The table: what is measured beside its floor and its target, then the same by family, then the ladders."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks.search_ours import CONCURRENCY
from benchmarks.search_ratios import Bound, Peer, compared, interval, means
from benchmarks.search_rows import COLD, CORRELATIONS, LADDER, WALL_RUNS, Place, Rows, Task
from benchmarks.worlds import FAMILIES

SMALL_COLD = 300
FEWEST_WORLDS = 3
TITLES = {
    "medium": 'MIPROv2 `auto="medium"`',
    "tuned": "MIPROv2 tuned by hand (12 candidates, 18 trials, 100 validation examples)",
    "gepa": "GEPA light, instructions only",
    "copro": "COPRO, breadth 10, depth 3",
}
CALLS = (
    (Peer("medium"), Peer("ours"), "3x", "5x"),
    (Peer("tuned"), Peer("ours"), "1.2x", "2x"),
    (Peer("gepa"), Peer("ours, instructions only"), "2x", "4x"),
)
BESIDE = ((Peer("gepa"), Peer("ours, GEPA")), (Peer("copro"), Peer("ours, COPRO")))
NOTES: dict[Bound, str] = {
    "": "",
    "≥": "; ours is above their score at its smallest size",
    "≤": "; ours never reaches their score",
}
LIMITS = {1_000: ("20 %", "10 %"), 50: ("40 %", "25 %")}


@dataclass
class Findings:
    """Everything that was measured.

    Attributes:
        places: The worlds of the ladders.
        rows: The ladders, and the other optimizers.
        other_places: The worlds that the other optimizers ran on.
        warm_rows: Recompiles.
        warm_places: Their worlds.
        caps: Rows under a cap.
        walls: Rows whose time counts.
        against_runs: Runs of ours in the time rows against `medium`.
        against_bound: Whether that is a bound, as in `Ratio`.
        against_ms: The latency of those rows.
        practice: Rows of the practice model.
    """

    places: Sequence[Place]
    rows: Rows
    other_places: Sequence[Place] = ()
    warm_rows: Rows = field(default_factory=dict)
    warm_places: Sequence[Place] = ()
    caps: Rows = field(default_factory=dict)
    walls: Rows = field(default_factory=dict)
    against_runs: int = 0
    against_bound: Bound = ""
    against_ms: int = 1_000
    practice: Sequence[dict] = ()


def table(found: Findings) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| at equal mean true score, with 90 % interval over worlds | measured | floor | target |"
    yield "|---|---|---|---|"
    for peer, ours, floor, target in CALLS:
        cell = _ratio(found.rows, peer, ours, found.places)
        yield f"| LM calls against {TITLES[peer.who]} | {cell} | {floor} | {target} |"
    title = f"wall clock against {TITLES['medium']}, {found.against_ms / 1_000:g} s a call, {CONCURRENCY} in flight"
    yield f"| {title} | {_wall_ratio(found)} | 8x | 10x |"
    for latency_ms, (floor, target) in LIMITS.items():
        title = f"wall clock above the physical limit, {latency_ms / 1_000:g} s a call, {WALL_RUNS} runs"
        yield f"| {title} | {_above_limit(found, latency_ms)} | {floor} | {target} |"
    for correlation in CORRELATIONS:
        cold, warm = Peer("cold", COLD, correlation), Peer("warm", 0, correlation)
        title = (
            f"calls of a warm recompile against a cold one ({COLD} runs), weights correlated {correlation / 1_000:g}"
        )
        yield f"| {title} | {_ratio(found.warm_rows, cold, warm, found.warm_places)} | 2x | 4x |"
    yield f"| calls over budget, worst of {len(found.caps)} compiles | {_over(found.caps)} | 0 | 0 |"
    yield from _information(found)
    yield ""
    yield from _families(found)
    yield ""
    yield from _ladders(found)
    yield ""
    yield from _walls(found)


def _information(found: Findings) -> Iterator[str]:
    for correlation in CORRELATIONS:
        cold, warm = Peer("cold", SMALL_COLD, correlation), Peer("warm", 0, correlation)
        if found.warm_places and compared(found.warm_rows, cold, warm, found.warm_places, "calls"):
            title = (
                f"a warm recompile against a cold one of {SMALL_COLD} runs, weights correlated {correlation / 1_000:g}"
            )
            yield f"| for information: {title} | {_ratio(found.warm_rows, cold, warm, found.warm_places)} | | |"
    for peer, ours in BESIDE:
        cell = _ratio(found.rows, peer, ours, found.other_places)
        yield f"| for information: calls of {ours.who}, against {TITLES[peer.who]} | {cell} | | |"
    pareto = Peer("ours, Pareto", LADDER["ours, Pareto"][0])
    if found.other_places:
        calls, score = (means(found.rows, pareto, found.other_places, what).mean() for what in ("calls", "true"))
        yield f"| for information: ours, Pareto, {pareto.runs} runs | {calls:,.0f} calls, score {score:.3f} | | |"
    if found.practice:
        shown = [f"{row['who']}: {row['score']:.2f} after {row['calls']:,} calls" for row in found.practice]
        yield f"| for information: ticket routing on the practice model in llama.cpp | {'; '.join(shown)} | | |"


def _ratio(rows: Rows, peer: Peer, ours: Peer, places: Sequence[Place]) -> str:
    """A ratio of calls with what it is made of, and the ratio of cost."""
    ratio = compared(rows, peer, ours, places, "calls") if places else None
    if ratio is None:
        return "not measured"
    cost = compared(rows, peer, ours, places, "msats")
    return (
        f"**{ratio}** ({ratio.theirs:,.0f} to {ratio.ours:,.0f} calls at {ratio.score:.3f}"
        f"{NOTES[ratio.bound]}; cost {cost})"
    )


def _wall_ratio(found: Findings) -> str:
    """Medians over worlds, and the range of the worlds' own ratios."""
    rows = found.walls
    theirs = {t.family: r for t, r in rows.items() if t.who == "medium" and t.latency_ms == found.against_ms}
    picked = [(t, r) for t, r in rows.items() if t.who == "ours" and t.latency_ms == found.against_ms]
    ours = {t.family: r for t, r in picked if t.runs == found.against_runs and t.family in theirs}
    if not ours:
        return "not measured"
    their_s, our_s = (median(one[key]["wall_s"] for key in ours) for one in (theirs, ours))
    ratios = [theirs[key]["wall_s"] / ours[key]["wall_s"] for key in ours]
    return (
        f"**{found.against_bound}{their_s / our_s:.1f}x** [{min(ratios):.1f} to {max(ratios):.1f}, {len(ours)} worlds] "
        f"({their_s:.1f} to {our_s:.1f} s; ours with {found.against_runs} runs, where the ladder's mean score is "
        f"theirs{NOTES[found.against_bound]})"
    )


def _above_limit(found: Findings, latency_ms: int) -> str:
    rows = [row for task, row in found.walls.items() if _is_limit_row(task, latency_ms)]
    if not rows:
        return "not measured"
    search = [_above(row["search_calls"], row["search_wall_s"], latency_ms) for row in rows]
    whole = [_above(row["calls"], row["wall_s"], latency_ms) for row in rows]
    return (
        f"**{median(search):.0%}** [{min(search):.0%} to {max(search):.0%} in {len(rows)} worlds] "
        f"(the search; {median(whole):.0%} with bootstrap and proposals)"
    )


def _is_limit_row(task: Task, latency_ms: int) -> bool:
    return (task.who, task.runs, task.latency_ms) == ("ours", WALL_RUNS, latency_ms)


def _above(calls: int, wall_s: float, latency_ms: int) -> float:
    """How far a time lies above that of so many calls, `CONCURRENCY` of them in flight at any moment."""
    return wall_s / (calls * latency_ms / 1_000 / CONCURRENCY) - 1


def _over(caps: Rows) -> str:
    if not caps:
        return "not measured"
    worst = max(row["calls"] - task.cap for task, row in caps.items())
    ended = sum(row["ended"] == "budget" for row in caps.values())
    return f"**{max(0, worst)}** (calls that the server gave, less the cap: {worst} at most; {ended} were cut short)"


def _families(found: Findings) -> Iterator[str]:
    yield "| calls, by family | " + " | ".join(FAMILIES) + " |"
    yield "|---|" + "---|" * len(FAMILIES)
    compare = [(found.rows, peer, ours, found.places, TITLES[peer.who]) for peer, ours, _, _ in CALLS]
    for correlation in CORRELATIONS:
        cold, warm = Peer("cold", COLD, correlation), Peer("warm", 0, correlation)
        compare.append((found.warm_rows, cold, warm, found.warm_places, f"warm recompile, {correlation / 1_000:g}"))
    for rows, peer, ours, places, title in compare:
        cells = []
        for family in FAMILIES:
            own = [place for place in places if place[0] == family]
            ratio = compared(rows, peer, ours, own, "calls") if own else None
            shown = str(ratio) if len(own) >= FEWEST_WORLDS else str(ratio).partition(" ")[0]
            cells.append(shown if ratio else "-")
        yield f"| {title} | " + " | ".join(cells) + " |"


def _ladders(found: Findings) -> Iterator[str]:
    yield "| mean over worlds | program runs | calls | cost, msats | true score [90 %] |"
    yield "|---|---|---|---|---|"
    lines = [(Peer(who), found.rows, found.places) for who in ("medium", "tuned", "gepa")]
    lines.append((Peer("copro"), found.rows, found.other_places))
    for who in LADDER:
        for runs in LADDER[who]:
            if who in ("cold", "warm"):
                lines += [(Peer(who, runs, one), found.warm_rows, found.warm_places) for one in CORRELATIONS]
            else:
                places = found.places if who in ("ours", "ours, instructions only") else found.other_places
                lines.append((Peer(who, runs), found.rows, places))
    for peer, rows, places in sorted(lines, key=lambda line: line[0].correlation):
        if not places or np.isnan(scores := means(rows, peer, places, "true")).all():
            continue
        known = scores[~np.isnan(scores)]
        low, high = interval(known)
        calls, msats = (np.nanmean(means(rows, peer, places, what)) for what in ("calls", "msats"))
        title = TITLES.get(peer.who, peer.who) + (f", {peer.correlation / 1_000:g}" if peer.correlation else "")
        score = f"{known.mean():.3f} [{low:.3f}, {high:.3f}]"
        yield f"| {title} | {peer.runs or ''} | {calls:,.0f} | {msats:,.0f} | {score} |"


def _walls(found: Findings) -> Iterator[str]:
    if not found.walls:
        return
    yield "| wall clock | world | s a call | calls | wall s | limit s | above | in flight | CPU ms/call | true score |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for task, row in found.walls.items():
        latency_s = task.latency_ms / 1_000
        title = f"ours, {task.runs} runs" if task.runs else TITLES[task.who]
        limit_s = row["calls"] * latency_s / CONCURRENCY
        yield (
            f"| {title} | {task.family}-{task.number} | {latency_s:g} | {row['calls']:,} | {row['wall_s']:.1f} | "
            f"{limit_s:.1f} | {_above(row['calls'], row['wall_s'], task.latency_ms):.0%} | "
            f"{row['in_flight_s'] / row['wall_s']:.1f} | {1_000 * row['cpu_s'] / row['calls']:.2f} | "
            f"{row['true']:.3f} |"
        )
