"""Three lanes against premium alone: the winner's true score and the cost, where models agree and where they do not.

    python benchmarks/lanes.py --quick
    python benchmarks/lanes.py --worlds 6 --seeds 2

On every hidden world (`benchmarks/worlds.py`; odd numbers report, even ones tune) the same compile is
made: with the premium model alone; in three lanes, cheap tries, finalists that three of five runs of a
better model must agree on, and premium for what they leave undecided; and, where the cheap model is of
no use, in lanes by one who knew that and searched in the better model from the start. How alike the
models are is known here (`benchmarks/lanes_compile.py`): `effects` is the correlation of what prompts
change, `hardness` that of which tickets are hard whatever the prompt. The winner is scored by the
world's own truth under the premium model, which takes no calls.

Costs are the accounts', at 10, 50 and 200 msats a call; at the second price ratio, a premium call for
8,333 msats (15 dollars for 1,800), the same calls are priced again, because no budget binds. A score
difference is met when its 90 % interval over worlds reaches 0; the interval says what is not excluded.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.lanes_compile import PRICES_MSATS, Kind, Quality, Row, Task, agreement, models_of, run_task
from benchmarks.lanes_transfer import EXAMPLES, moves
from benchmarks.search_ratios import interval
from benchmarks.worlds import FAMILIES

Place = tuple[str, int]
Case = tuple[int, int]
"""Correlations of effects and of hardness, in thousandths."""
Rows = Mapping[Task, Row]
Moves = Mapping[Case, Sequence[tuple[bool, ...]]]
"""By case, whether each of many worlds' searches would move up; see `lanes_transfer`."""
KINDS: tuple[Kind, Kind] = ("lanes", "knew")

ALIKE: Sequence[Case] = ((900, 900), (750, 750))
UNLIKE: Sequence[Case] = ((0, 0), (0, 900))
SEED_PRICES: Mapping[Quality, int] = {**PRICES_MSATS, "premium": 8_333}
CASES = (*ALIKE, *UNLIKE)
RATIOS = (("10 : 50 : 200", PRICES_MSATS, "25 %", "14.3 %"), ("10 : 50 : 8,333", SEED_PRICES, "3.3 %", ""))
TESTED_WORLDS = 40
QUICK_PLACES: Sequence[Place] = (("additive", 1), ("interaction", 1), ("nonadditive", 1), ("additive", 3))


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    places: Sequence[Place]
    seeds: int
    cases: Sequence[Case] = CASES


def tasks_of(extent: Extent) -> Iterator[Task]:
    """Every compile that the table needs, each once."""
    for family, number in extent.places:
        for seed in range(extent.seeds):
            yield Task("premium", family, number, seed)
            for case in extent.cases:
                yield Task("lanes", family, number, seed, *case)
                if case in UNLIKE:
                    yield Task("knew", family, number, seed, *case)


def measure(extent: Extent, processes: int) -> tuple[Rows, Moves]:
    """All rows, by as many processes; each compile is a world of its own. And the transfer test, on more worlds."""
    tasks, numbers = list(tasks_of(extent)), range(1, 2 * TESTED_WORLDS, 2)
    found = {}
    with ProcessPoolExecutor(processes) as pool:
        moved = {case: [pool.submit(moves, number, *case) for number in numbers] for case in CASES}
        for task, row in zip(tasks, pool.map(run_task, tasks), strict=True):
            found[task] = row
            print(f"{len(found)} of {len(tasks)}: {task} {row}", file=sys.stderr, flush=True)
        return found, {case: [one.result() for one in own] for case, own in moved.items()}


def by_world(rows: Rows, extent: Extent, kind: Kind, case: Case, of: Callable[[Row], float]) -> np.ndarray:
    """The mean over seeds of a figure, one a world."""
    shape = case if kind != "premium" else (0, 0)
    return np.array(
        [
            fmean(of(rows[Task(kind, family, number, seed, *shape)]) for seed in range(extent.seeds))
            for family, number in extent.places
        ]
    )


def table(rows: Rows, moved: Moves, extent: Extent) -> Iterator[str]:
    """Lines of Markdown."""
    worlds = f"{len(extent.places)} worlds x {extent.seeds} seeds, with 90 % intervals over worlds"
    yield f"| {worlds} | measured | floor | target | met |"
    yield "|---|---|---|---|---|"
    for case in CASES:
        yield f"| **{_title(case)}** | {_agreement(extent, case)} | | | |"
        if case in extent.cases:
            yield from (_alike if case in ALIKE else _unlike)(rows, extent, case)
        shares = " / ".join(f"{share:.0%}" for share in np.mean(moved[case], axis=0))
        at = " / ".join(map(str, EXAMPLES))
        yield f"| the test alone, {TESTED_WORLDS} worlds, at {at} examples | moves up in {shares} | | | |"
    yield ""
    yield from _means(rows, extent)


def _alike(rows: Rows, extent: Extent, case: Case) -> Iterator[str]:
    yield _difference(rows, extent, case, "premium", "premium alone")
    for prices, msats, floor, target in RATIOS:
        yield _cost(rows, extent, case, "premium", (f"cost at {prices}", msats, floor, target))
    yield _moved(rows, case, wanted=False)
    out = by_world(rows, extent, "lanes", case, lambda row: row.out_msats / row.msats)
    yield f"| finding out, of the cost in lanes | {_percent(out)} | | | |"


def _unlike(rows: Rows, extent: Extent, case: Case) -> Iterator[str]:
    yield _moved(rows, case, wanted=True)
    yield _difference(rows, extent, case, "knew", "one who knew")
    spent, knew = (by_world(rows, extent, kind, case, lambda row: row.msats) for kind in KINDS)
    bought = by_world(rows, extent, "lanes", case, lambda row: row.out_msats)
    yield f"| msats more than one who knew | {_mean(spent - knew, ',.0f')} of {knew.mean():,.0f} | | | |"
    yield f"| of them, for finding out | {_mean(bought, ',.0f')} | | | |"
    yield _difference(rows, extent, case, "premium", "premium alone", floor="for information")
    yield _cost(rows, extent, case, "premium", ("cost at 10 : 50 : 200", PRICES_MSATS, "100 %", ""))


def _difference(rows: Rows, extent: Extent, case: Case, than: Kind, whom: str, floor: str = "reaches 0") -> str:
    mine, theirs = (by_world(rows, extent, kind, case, lambda row: row.true) for kind in ("lanes", than))
    low, high = interval(mine - theirs)
    met = "" if floor != "reaches 0" else "yes" if high >= 0 else "**no**"
    shown = f"{(mine - theirs).mean():+.3f} [{low:+.3f}, {high:+.3f}] ({mine.mean():.3f} to {theirs.mean():.3f})"
    return f"| true score, less that of {whom} | {shown} | {floor} | | {met} |"


def _cost(
    rows: Rows, extent: Extent, case: Case, than: Kind, ratio: tuple[str, Mapping[Quality, int], str, str]
) -> str:
    title, msats, floor, target = ratio
    mine, theirs = (by_world(rows, extent, kind, case, lambda row: row.at(msats)) for kind in ("lanes", than))
    met = "yes" if (mine / theirs).mean() <= float(floor.split()[0]) / 100 else "**no**"
    return f"| {title}, of premium alone | {_percent(mine / theirs)} | {floor} | {target} | {met} |"


def _moved(rows: Rows, case: Case, *, wanted: bool) -> str:
    own = [row for task, row in rows.items() if task.kind == "lanes" and (task.effects, task.hardness) == case]
    early, late = (sum(row.moved == when for row in own) for when in ("early", "late"))
    known = [row.borne_out for row in own if row.borne_out is not None]
    told = f"; correlation after the search {fmean(known):.2f} on average" if known else ""
    met = "yes" if early + late == len(own) * wanted else "**no**"
    floor = "all" if wanted else "none"
    return f"| the search moved up | {early} early and {late} late of {len(own)}{told} | {floor} | | {met} |"


def _means(rows: Rows, extent: Extent) -> Iterator[str]:
    yield "| means | true score | calls, cheap | better | premium | msats | decided | verified |"
    yield "|---|---|---|---|---|---|---|---|"
    for kind, case in _kinds(extent):
        own = [row for task, row in rows.items() if (task.kind, (task.effects, task.hardness)) == (kind, case)]
        calls = " | ".join(f"{fmean(row.calls.get(who, 0) for row in own):,.0f}" for who in PRICES_MSATS)
        title = kind if kind == "premium" else f"{kind}, {_title(case)}"
        true, msats = fmean(row.true for row in own), fmean(row.msats for row in own)
        decided, verified = fmean(row.decided for row in own), fmean(row.verified for row in own)
        yield f"| {title} | {true:.3f} | {calls} | {msats:,.0f} | {decided:.1f} | {verified:.1f} |"


def _kinds(extent: Extent) -> Iterator[tuple[Kind, Case]]:
    yield "premium", (0, 0)
    for case in extent.cases:
        yield "lanes", case
        if case in UNLIKE:
            yield "knew", case


def _title(case: Case) -> str:
    return f"effects {case[0] / 1_000:g}, hardness {case[1] / 1_000:g}"


def _agreement(extent: Extent, case: Case) -> str:
    """Of true scores of the same prompts, cheap and premium; the mean over worlds."""
    models = [models_of(*place, *case) for place in extent.places]
    found = fmean(agreement(one["premium"], one["cheap"]) for one in models)
    return f"true scores of random prompts, cheap and premium: correlated {found:.2f}"


def _percent(shares: np.ndarray) -> str:
    low, high = interval(shares)
    return f"{shares.mean():.1%} [{low:.1%}, {high:.1%}]"


def _mean(values: np.ndarray, how: str) -> str:
    low, high = interval(values)
    return f"{values.mean():{how}} [{low:{how}}, {high:{how}}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four worlds, one seed, three cases, under three minutes")
    parser.add_argument("--worlds", type=int, default=4, help="worlds of each of the four families (default 4)")
    parser.add_argument("--seeds", type=int, default=1, help="compiles of each world (default 1)")
    parser.add_argument("--even", action="store_true", help="the worlds for tuning instead of those for reporting")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="compiles at once (default: cores)")
    asked = parser.parse_args()
    numbers = [2 * i + (2 if asked.even else 1) for i in range(asked.worlds)]
    extent = Extent([(family, number) for number in numbers for family in FAMILIES], asked.seeds)
    if asked.quick:
        places = [(family, number + asked.even) for family, number in QUICK_PLACES]
        extent = Extent(places, 1, (*ALIKE, UNLIKE[0]))
    for line in table(*measure(extent, asked.processes), extent):
        print(line)


if __name__ == "__main__":
    main()
