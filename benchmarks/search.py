"""The search against DSPy's optimizers: calls, cost and wall time to an equal mean true score.

    python benchmarks/search.py --quick
    python benchmarks/search.py --rows rows.jsonl --figure search.png

DSPy's optimizers (DSPy's own code) and ours compile the same hidden worlds (`benchmarks/worlds.py`;
odd numbers report, even ones tune) against one counting server, an OpenAI-compatible process on
loopback (`search_server.py`). DSPy uses its native client; ours goes through engine, meter, a SQLite
ledger and the OpenAI-compatible venue. Calls are all calls of a compile, bootstrap and proposals
included; equal requests below temperature .5 count once for everybody. A compile ends with its
search: nobody's winner is validated again, and its true score is known.

Ours runs at a ladder of sizes. "Ours at their score" is read off the line through the ladder's means
over worlds; the 90 % interval comes from drawing worlds with replacement. `≥` means that ours beats
their score at its smallest size, `≤` that it never reaches it. A warm recompile is one after the
hidden weights changed and with fresh examples, started from what the compile before (600 runs) had
learned. The physical limit of a time is calls x latency / 32, the most in flight.

The whole takes about 70 minutes on two quiet cores, half of it DSPy's; `--in-process` halves what is
not timed. With `--rows` it can be interrupted and continued, and what is known is not measured again.
Times are worth something only on a machine that does nothing else; `CPU ms/call` is ours alone.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.search_figure import figure
from benchmarks.search_practice import RUNS, practice_rows
from benchmarks.search_ratios import Peer, runs_at
from benchmarks.search_rows import (
    WALL_RUNS,
    Measured,
    Place,
    cap_tasks,
    ladder_tasks,
    other_tasks,
    wall_tasks,
    warm_tasks,
)
from benchmarks.search_server import launch
from benchmarks.search_table import Findings, table
from benchmarks.worlds import FAMILIES

PARTS = ("others", "warm", "caps", "wall", "practice")


@dataclass(frozen=True)
class Extent:
    """How much is measured: worlds and seeds by part.

    Attributes:
        places: The worlds of the ladders.
        seeds: Of the ladders.
        others: How many of the worlds the other optimizers run on (those of two predictors are left out).
        other_seeds: Their seeds.
        copro_seeds: Those of DSPy's COPRO, which takes 9,000 calls a compile.
        warm: How many of the worlds change.
        warm_seeds: Their seeds.
        cold_ladder: Recompile cold at every size, for the figure.
        caps: How many of the worlds have a cap.
        walls: How many of the worlds are timed.
        against_ms: Latency of the time rows against DSPy.
        practice: Sizes of ours on the practice model.
    """

    places: Sequence[Place]
    seeds: int
    others: int = 6
    other_seeds: int = 2
    copro_seeds: int = 1
    warm: int = 12
    warm_seeds: int = 2
    cold_ladder: bool = True
    caps: int = 4
    walls: int = 3
    against_ms: int = 1_000
    practice: Sequence[int] = RUNS


def places_of(count: int, *, even: bool) -> list[Place]:
    """The first `count` worlds of each family, families taking turns."""
    return [(family, 2 * i + (2 if even else 1)) for i in range(count) for family in FAMILIES]


def measure(extent: Extent, measured: Measured, skip: Sequence[str]) -> Findings:
    """Everything that the table needs."""
    places = extent.places
    rows = measured.rows(list(ladder_tasks(places, extent.seeds)), "ladders")
    found = Findings(places, rows, against_ms=extent.against_ms)
    if "others" not in skip:
        found.other_places = [place for place in places if place[0] != "two"][: extent.others]
        wanted = list(other_tasks(found.other_places, extent.other_seeds, copro_seeds=extent.copro_seeds))
        found.rows = rows | measured.rows(wanted, "other optimizers")
    if "warm" not in skip:
        found.warm_places = places[: extent.warm]
        wanted = list(warm_tasks(found.warm_places, extent.warm_seeds, ladder=extent.cold_ladder))
        found.warm_rows = measured.rows(wanted, "warm recompiles")
    if "caps" not in skip:
        found.caps = measured.rows(list(cap_tasks(places[: extent.caps])), "caps")
    if "wall" not in skip:
        found.against_runs, found.against_bound = runs_at(rows, Peer("medium"), places)
        timed = places[: extent.walls]
        wanted = list(wall_tasks(timed, found.against_runs, extent.against_ms, peer=True))
        for latency_ms in (1_000, 50):
            wanted += wall_tasks(timed, WALL_RUNS, latency_ms, peer=False)
        found.walls = measured.rows(wanted, "wall clock")
    if "practice" not in skip:
        found.practice = practice_rows(extent.practice)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two worlds, one seed, under three minutes; same table")
    parser.add_argument("--worlds", type=int, default=6, help="worlds of each of the four families (default 6)")
    parser.add_argument("--seeds", type=int, default=4, help="compiles of each world (default 4)")
    parser.add_argument("--even", action="store_true", help="the worlds for tuning instead of those for reporting")
    parser.add_argument("--rows", type=Path, help="file of rows: known ones are read, new ones appended")
    parser.add_argument("--figure", help="file for the picture, e.g. search.png")
    parser.add_argument("--skip", nargs="*", default=[], choices=PARTS, help="parts to leave out")
    parser.add_argument(
        "--in-process", action="store_true", help="no HTTP where time does not count; calls and scores are the same"
    )
    asked = parser.parse_args()
    extent = Extent(places_of(asked.worlds, even=asked.even), asked.seeds)
    if asked.quick:
        few = [place for place in places_of(1, even=asked.even) if place[0] in ("additive", "interaction")]
        extent = Extent(few, 1, 1, 1, 0, 12, 1, cold_ladder=False, caps=1, walls=1, against_ms=100, practice=RUNS[:1])
    with launch() as server:
        found = measure(extent, Measured(asked.rows, server, in_process=asked.in_process), asked.skip)
    for line in table(found):
        print(line)
    if asked.figure:
        figure(found, asked.figure)


if __name__ == "__main__":
    main()
