"""The search against DSPy's optimizers: calls, cost and wall time to an equal mean true score.

    python benchmarks/search.py [--quick] [--worlds 6] [--seeds 4] [--rows FILE] [--figure FILE]

Every optimizer compiles the same hidden worlds (`benchmarks/worlds.py`, odd numbers; the even ones
were used for tuning) with the same model in this process. DSPy's are DSPy's own code. Ours runs at a
ladder of sizes; "ours at equal score" is read off the line through the ladder's means, and the 90 %
interval comes from drawing worlds with replacement. Calls are all calls of a compile, bootstrap and
proposals included; equal requests below temperature .5 count once for everybody. Cost is prompt
tokens. What `--rows` holds is not run again.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import numpy as np

from benchmarks.search_ours import CONCURRENCY, run_ours
from benchmarks.search_peers import run_peer
from benchmarks.worlds import FAMILIES, World

FULL: dict = {}
LARGE = 300
INSTRUCTIONS_ONLY = {"demo_sets": 1, "max_bootstrapped_demos": 0, "max_labeled_demos": 0}
LADDER = {"ours": (120, 300, 600, 900), "ours, instructions only": (40, 120)}
SETTINGS = {"ours": FULL, "ours, instructions only": INSTRUCTIONS_ONLY}
OPPONENTS = {
    "medium": ('MIPROv2 auto="medium"', "ours", 3, 5),
    "tuned": ("MIPROv2 tuned by hand", "ours", 1.2, 2),
    "gepa": ("GEPA light, instructions only", "ours, instructions only", 2, 4),
}
DRAWS = 2_000
FEWEST_WORLDS = 3


@dataclass(frozen=True)
class Task:
    """One compile to measure: who, at what size (program runs; 0 for a peer), on which world and seed."""

    who: str
    runs: int
    family: str
    number: int
    seed: int

    def run(self) -> dict:
        """Compile and measure."""
        world = World(self.family, self.number)
        if self.runs:
            return run_ours(world, self.seed, self.runs, **SETTINGS[self.who], **pool_of(self.who, self.runs))
        return run_peer(self.who, world, self.seed)


def pool_of(who: str, runs: int) -> dict:
    """The pools grow with the runs that there are to tell their members apart."""
    instructions = 12 if runs < LARGE else 16
    return (
        {"instructions": instructions}
        if who != "ours"
        else {"instructions": instructions, "demo_sets": 12 if runs < LARGE else 16}
    )


def tasks(worlds: Sequence[tuple[str, int]], seeds: int) -> Iterator[Task]:
    """Everything that the table needs."""
    for seed in range(seeds):
        for family, number in worlds:
            for who in OPPONENTS:
                yield Task(who, 0, family, number, seed)
            for who, ladder in LADDER.items():
                for runs in ladder:
                    yield Task(who, runs, family, number, seed)


def measured(wanted: Sequence[Task], path: Path | None) -> dict[Task, dict]:
    """The rows of all tasks, read from the file or run now and added to it."""
    known = {}
    if path is not None and path.exists():
        for line in path.read_text().splitlines():
            row = json.loads(line)
            known[Task(row["who"], row["runs"], row["family"], row["number"], row["seed"])] = row
    found = {}
    for number, task in enumerate(wanted, start=1):
        if task not in known:
            known[task] = {**vars(task), **task.run()}
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(known[task]) + "\n")
        found[task] = known[task]
        print(f"\r{number}/{len(wanted)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def means(rows: dict[Task, dict], who: str, runs: int, worlds: Sequence[tuple[str, int]], what: str) -> np.ndarray:
    """The mean over seeds, by world."""
    by_world: dict[tuple[str, int], list[float]] = {world: [] for world in worlds}
    for task, row in rows.items():
        if task.who == who and task.runs == runs and (task.family, task.number) in by_world:
            by_world[task.family, task.number].append(row[what])
    return np.array([np.mean(values) for values in by_world.values()])


def equal(scores: Sequence[float], amounts: Sequence[float], wanted: float) -> float:
    """The amount at which the ladder's line reaches a score; its ends where the score lies outside."""
    rising = np.maximum.accumulate(scores)
    return float(np.exp(np.interp(wanted, rising, np.log(amounts))))


def compared(
    rows: dict[Task, dict], peer: str, ours: str, worlds: Sequence[tuple[str, int]], what: str
) -> tuple[float, float, float, float]:
    """Ratio of the peer's amount to ours at equal mean score with its 90 % interval, and ours."""
    ladder = LADDER[ours]
    peer_score, peer_amount = (means(rows, peer, 0, worlds, key) for key in ("true", what))
    scores = np.array([means(rows, ours, runs, worlds, "true") for runs in ladder])
    amounts = np.array([means(rows, ours, runs, worlds, what) for runs in ladder])

    def ratio(of: np.ndarray) -> tuple[float, float]:
        at = equal(scores[:, of].mean(1), amounts[:, of].mean(1), peer_score[of].mean())
        return peer_amount[of].mean() / at, at

    rng = np.random.default_rng(0)
    drawn = [ratio(rng.integers(0, len(worlds), len(worlds)))[0] for _ in range(DRAWS)]
    whole, at = ratio(np.arange(len(worlds)))
    return whole, float(np.quantile(drawn, 0.05)), float(np.quantile(drawn, 0.95)), at


def table(rows: dict[Task, dict], worlds: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Ratios of calls and cost, all families together and by family."""
    yield "| at equal mean true score | theirs | ours | ratio [90 % interval] | floor | target |"
    yield "|---|---|---|---|---|---|"
    for peer, (title, ours, floor, target) in OPPONENTS.items():
        score = means(rows, peer, 0, worlds, "true").mean()
        best = max(means(rows, ours, runs, worlds, "true").mean() for runs in LADDER[ours])
        beyond = "" if score <= best else f"; ours ends at {best:.3f}, so the ratio is an upper bound"
        for what, unit in (("calls", "calls"), ("tokens", "prompt tokens")):
            ratio, low, high, at = compared(rows, peer, ours, worlds, what)
            theirs = means(rows, peer, 0, worlds, what).mean()
            goals = (f"{floor}x", f"{target}x") if what == "calls" else ("", "")
            yield (
                f"| {unit} against {title} (score {score:.3f}{beyond}) | {theirs:,.0f} | {at:,.0f} | "
                f"{ratio:.1f}x [{low:.1f}, {high:.1f}] | {goals[0]} | {goals[1]} |"
            )
    yield ""
    yield "| calls, by family | " + " | ".join(FAMILIES) + " |"
    yield "|---|" + "---|" * len(FAMILIES)
    for peer, (title, ours, _, _) in OPPONENTS.items():
        cells = []
        for family in FAMILIES:
            own = [world for world in worlds if world[0] == family]
            ratio = compared(rows, peer, ours, own, "calls") if own else None
            interval = " [{1:.1f}, {2:.1f}]" if len(own) >= FEWEST_WORLDS else ""
            cells.append(("{0:.1f}x" + interval).format(*ratio) if ratio else "-")
        yield f"| {title} | " + " | ".join(cells) + " |"
    yield ""
    yield "| ours: program runs in the search | " + " | ".join(map(str, LADDER["ours"])) + " |"
    yield "|---|" + "---|" * len(LADDER["ours"])
    for what, form in (("calls", "{:,.0f}"), ("true", "{:.3f}")):
        cells = [form.format(means(rows, "ours", runs, worlds, what).mean()) for runs in LADDER["ours"]]
        yield f"| mean {'true score' if what == 'true' else 'calls'} | " + " | ".join(cells) + " |"


def wall(worlds: Sequence[tuple[str, int]], runs: int, latency_s: float, *, peer: bool) -> Iterator[str]:
    """Wall clock with a model that takes `latency_s`, `CONCURRENCY` in flight, and how far it is above the limit."""
    took: dict[str, list[dict]] = {"ours": [], "medium": []}
    for family, number in worlds:
        took["ours"].append(run_ours(World(family, number), 0, runs, latency_s, **pool_of("ours", runs)))
        if peer:
            took["medium"].append(run_peer("medium", World(family, number), 0, latency_s, CONCURRENCY))
    for who, rows in took.items():
        if rows:
            wall_s, calls = (float(np.mean([row[key] for row in rows])) for key in ("wall_s", "calls"))
            limit_s = calls * latency_s / CONCURRENCY
            above = wall_s / limit_s - 1
            yield f"| {who} | {latency_s:g} | {calls:,.0f} | {wall_s:.1f} | {limit_s:.1f} | {above:.0%} |"


def figure(rows: dict[Task, dict], worlds: Sequence[tuple[str, int]], path: str) -> None:
    """Mean true score over calls: our ladder with its interval over worlds, the peers as points."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    half: Callable[[np.ndarray], float] = lambda values: 1.64 * values.std() / np.sqrt(len(values))  # noqa: E731
    _, axes = plt.subplots(figsize=(7, 4.5))
    for who, ladder in LADDER.items():
        scores = [means(rows, who, runs, worlds, "true") for runs in ladder]
        calls = [means(rows, who, runs, worlds, "calls").mean() for runs in ladder]
        axes.errorbar(calls, [s.mean() for s in scores], [half(s) for s in scores], marker="o", capsize=3, label=who)
    for peer, (title, *_) in OPPONENTS.items():
        scores = means(rows, peer, 0, worlds, "true")
        axes.errorbar(
            means(rows, peer, 0, worlds, "calls").mean(),
            scores.mean(),
            half(scores),
            marker="s",
            capsize=3,
            label=title,
        )
    axes.set(xscale="log", xlabel="model calls of a compile", ylabel=f"mean true score, {len(worlds)} worlds")
    axes.legend(fontsize=8)
    plt.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two worlds, two seeds, under three minutes")
    parser.add_argument("--worlds", type=int, default=6, help="worlds of each family")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rows", type=Path, help="file of rows that are known, and to which new ones are added")
    parser.add_argument("--figure", help="file for the picture")
    parser.add_argument("--no-wall", action="store_true", help="leave the wall clock out (it takes minutes)")
    asked = parser.parse_args()
    worlds = [(family, 2 * i + 1) for i in range(asked.worlds) for family in FAMILIES]
    if asked.quick:
        worlds, asked.seeds = [("additive", 1), ("interaction", 1)], 2
    rows = measured(list(tasks(worlds, asked.seeds)), asked.rows)
    for line in table(rows, worlds):
        print(line)
    if asked.figure:
        figure(rows, worlds, asked.figure)
    if not asked.no_wall:
        print("\n| wall clock | latency s | calls | wall s | limit s | above the limit |\n|---|---|---|---|---|---|")
        own = worlds[: 1 if asked.quick else 3]
        for latency_s in (0.05,) if asked.quick else (1.0, 0.05):
            for line in wall(own, 350, latency_s, peer=latency_s >= 1 or asked.quick):
                print(line, flush=True)


if __name__ == "__main__":
    main()
