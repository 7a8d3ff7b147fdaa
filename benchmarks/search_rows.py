"""What is measured: one row for every compile, and the file that keeps rows from one run to the next.

A row of ours is used again only while the compiler's code is the same; a row of DSPy's, only with the
same DSPy. That worlds answer as they did is kept by `tests/test_benchmarks.py`.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path

from benchmarks.search_ours import CONCURRENCY, Compile, run_ours
from benchmarks.search_peers import PEERS, run_peer
from benchmarks.search_server import Door, WorldServer

ROOT = Path(__file__).resolve().parent.parent
INSTRUCTIONS_ONLY = {"demo_sets": 1, "max_bootstrapped_demos": 0, "max_labeled_demos": 0}
OURS: dict[str, tuple[str, dict[str, int]]] = {
    "ours": ("MIPROv2", {}),
    "ours, instructions only": ("MIPROv2", INSTRUCTIONS_ONLY),
    "ours, COPRO": ("COPRO", {}),
    "ours, GEPA": ("GEPA", {}),
    "ours, Pareto": ("Pareto", {}),
    "cold": ("MIPROv2", {}),
    "warm": ("MIPROv2", {}),
    "planned": ("MIPROv2", {}),
}
LADDER = {
    "ours": (120, 300, 600, 900),
    "ours, instructions only": (40, 120, 300, 600),
    "ours, COPRO": (120, 360, 900),
    "ours, GEPA": (120, 360, 900),
    "ours, Pareto": (360,),
    "cold": (120, 300, 600, 900),
    "warm": (25, 50, 100, 200, 400),
}
CORRELATIONS = (900, 700)
CAPS = (60, 150, 400)
CAP_ENDLESS = 1_500
WALL_RUNS = 360
COLD = 600

Place = tuple[str, int]
"""A world: its family and number."""


@dataclass(frozen=True)
class Task:
    """One compile to measure.

    Attributes:
        who: A peer, or one of `OURS`.
        runs: Program runs of our search; 0 for a peer and for `planned`.
        family: The world's.
        number: The world's.
        seed: Of the compile, and of the proposer's draws.
        correlation: The world changed, its weights being correlated so (in thousandths); 0 for unchanged.
        latency_ms: Of a call; 0 for rows whose time does not count.
        cap: Most calls that the ledger lets through; 0 for no cap.
    """

    who: str
    runs: int
    family: str
    number: int
    seed: int
    correlation: int = 0
    latency_ms: int = 0
    cap: int = 0

    def run(self, server: WorldServer | None) -> dict:
        """Compile and measure."""
        door = Door(self.family, self.number, self.seed, self.correlation, self.latency_ms)
        if self.who in PEERS:
            return run_peer(self.who, door, server, CONCURRENCY if self.latency_ms else 1)
        optimizer, search = OURS[self.who]
        warm, planned = self.who == "warm", self.who == "planned"
        return run_ours(Compile(door, self.runs, optimizer, search, warm, self.cap, planned), server)

    @property
    def code(self) -> str:
        """What the row depends on besides."""
        return f"dspy {version('dspy')}" if self.who in PEERS else code_of_ours()

    @property
    def needs_http(self) -> bool:
        """Time is measured, or a ledger's cap."""
        return bool(self.latency_ms or self.cap)


@cache
def code_of_ours() -> str:
    """A hash of the compiler's code."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "swarmc/compiler").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


Rows = dict[Task, dict]


def ladder_tasks(places: Sequence[Place], seeds: int) -> Iterator[Task]:
    """The opponents, and ours at every size."""
    for seed in range(seeds):
        for family, number in places:
            for who in ("medium", "tuned", "gepa"):
                yield Task(who, 0, family, number, seed)
            for who in ("ours", "ours, instructions only"):
                for runs in LADDER[who]:
                    yield Task(who, runs, family, number, seed)


def other_tasks(places: Sequence[Place], seeds: int, *, copro_seeds: int) -> Iterator[Task]:
    """The other optimizers. DSPy's COPRO takes 9,000 calls a compile, so it has seeds of its own."""
    for seed in range(seeds):
        for family, number in places:
            if seed < copro_seeds:
                yield Task("copro", 0, family, number, seed)
            for who in ("ours, COPRO", "ours, GEPA", "ours, Pareto"):
                for runs in LADDER[who]:
                    yield Task(who, runs, family, number, seed)


def warm_tasks(places: Sequence[Place], seeds: int, *, ladder: bool) -> Iterator[Task]:
    """Recompiles after a change, with and without what the compile before it learned.

    Args:
        places: The worlds before the change.
        seeds: How many.
        ladder: Cold recompiles of all sizes, not only of the one that warm ones are compared with.
    """
    for seed in range(seeds):
        for family, number in places:
            for correlation in CORRELATIONS:
                for runs in LADDER["cold"] if ladder else (COLD,):
                    yield Task("cold", runs, family, number, seed, correlation)
                for runs in LADDER["warm"]:
                    yield Task("warm", runs, family, number, seed, correlation)


def cap_tasks(places: Sequence[Place]) -> Iterator[Task]:
    """Compiles under a cap: planned for it, and tried until the ledger refuses."""
    for family, number in places:
        for cap in CAPS:
            yield Task("planned", 0, family, number, 0, cap=cap)
            yield Task("ours", CAP_ENDLESS, family, number, 0, cap=cap)


def wall_tasks(places: Sequence[Place], runs: int, latency_ms: int, *, peer: bool) -> Iterator[Task]:
    """Compiles whose time counts."""
    for family, number in places:
        yield Task("ours", runs, family, number, 0, latency_ms=latency_ms)
        if peer:
            yield Task("medium", 0, family, number, 0, latency_ms=latency_ms)


class Measured:
    """All rows, known or measured when they are first asked for.

    Args:
        path: A file of rows, to which new ones are added; `None` keeps none.
        server: Where worlds are served.
        in_process: Measure in this process what needs no HTTP.
    """

    def __init__(self, path: Path | None, server: WorldServer, *, in_process: bool) -> None:
        self._path = path
        self._server = server
        self._in_process = in_process
        self._known: Rows = {}
        for line in path.read_text().splitlines() if path is not None and path.exists() else ():
            row = json.loads(line)
            task = Task(**{one.name: row[one.name] for one in fields(Task) if one.name in row})
            if row.get("code") == task.code:
                self._known[task] = row

    def rows(self, wanted: Sequence[Task], title: str) -> Rows:
        """The rows of these tasks; how far it is goes to stderr."""
        began_s, made, found = time.monotonic(), 0, {}
        missing = sum(task not in self._known for task in wanted)
        for task in wanted:
            if task not in self._known:
                self._measure(task)
                made += 1
                left_s = (time.monotonic() - began_s) / made * (missing - made)
                print(f"\r{title}: {made}/{missing}, {left_s:.0f} s left \x1b[K", end="", file=sys.stderr, flush=True)
            found[task] = self._known[task]
        if made:
            print(f"\r{title}: {made} rows in {time.monotonic() - began_s:.0f} s\x1b[K", file=sys.stderr)
        return found

    def _measure(self, task: Task) -> None:
        row = task.run(None if self._in_process and not task.needs_http else self._server)
        self._known[task] = {**asdict(task), "code": task.code, **row}
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(self._known[task]) + "\n")
