"""Kill -9 buyer, provider, relays and wallet at random moments: is anything paid, published or lost twice?

    python benchmarks/market_durability.py [--kills 50] [--relays kept|forgetful] [--seed 0] [--folder FOLDER]

Real processes on loopback: two relays (`kept` ones are nostr-relay with SQLite; `forgetful` ones have their events in
memory, and of these only the first is killed), a wallet service that speaks NIP-47 in front of the buyer's play money,
our provider before a model of 50 ms latency, and a buyer that completes one distinct request after another, 16 at a
time, on a metered lane. Each is killed with its whole process group at moments drawn by the seed, seldom before it is
in business, and started again with the same arguments, until each had its kills. Then the buyer finishes, asks
everything once more, and all books are audited; for what does not hold, both sides' history of the job is printed.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import market_audit, market_victims  # noqa: E402
from benchmarks.counting_server import launch  # noqa: E402
from benchmarks.market_victims import World  # noqa: E402
from swarmc.nostr.keys import SecretKey  # noqa: E402

LATENCY_MS = 50
UNREADY_SHARE = 0.15
"""So many kills come before a process is in business."""

AIMED_SHARE = 0.5
"""So many of the others come in the moment a result is published, when most is half done."""

IDLE_S = 10.0
"""So long a kill waits for a result to come by, so that most kills hit a market at work."""

TOGETHER_SHARE = 0.1
"""So often the second relay may be killed while the first is down."""

FINISH_S = 240.0
STEP_S = 0.003
MOST_TOLD = 5
MOST_ENDS = 40


@dataclass
class Victim:
    """A process, and what happens to it.

    Attributes:
        kills: So many are still to come.
        at_s: When the next thing happens: a start while it is down, a kill while it is up; `None`: nothing.
        ended: How often it ended by itself, by exit code.
    """

    name: str
    role: Callable[[], Awaitable[None] | None]
    ready: Callable[[], bool]
    log: Path
    kills: int = 0
    killed: int = 0
    pid: int | None = None
    at_s: float | None = 0.0
    unready_s: float | None = None
    ready_s: float | None = None
    results_bytes: int = 0
    aimed: bool = False
    aim_bytes: int = 0
    ended: Counter[int] = field(default_factory=Counter)

    def start(self) -> None:
        """Fork: the imports are made, so a start costs milliseconds. Nothing here has threads or a loop."""
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        with suppress(BaseException):
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            told = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(told, 1)
            os.dup2(told, 2)
            code = _lived(self.role)
        os._exit(code)

    def kill(self) -> None:
        """The whole group, at once."""
        assert self.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = None

    def end(self) -> None:
        """Ask it to end, then make it."""
        if self.pid is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        until_s = time.monotonic() + 20
        while self.pid is not None and time.monotonic() < until_s:
            self.look()
            time.sleep(STEP_S)
        if self.pid is not None:
            self.kill()

    def look(self) -> int | None:
        """Its exit code, if it ended by itself since the last look."""
        if self.pid is None:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = None
        code = os.waitstatus_to_exitcode(status)
        self.ended[code] += 1
        return code


def _lived(role: Callable[[], Awaitable[None] | None]) -> int:
    import traceback

    try:
        work = role()
        if work is not None:
            asyncio.run(_awaited(work))
    except Exception:  # noqa: BLE001 - the last frame of a process: it says why it ends
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


async def _awaited(work: Awaitable[None]) -> None:
    await work


class Supervisor:
    """Starts, kills and starts again."""

    def __init__(self, world: World, options: argparse.Namespace) -> None:
        self._rng = random.Random(options.seed)
        self._both = world.kept
        self._longest_life_s = options.life
        self._results = world.results
        self.victims = {one.name: one for one in _victims(world)}
        for name in ("buyer", "seller", "wallet"):
            self.victims[name].kills = options.kills
        first = (options.kills + 1) // 2 if self._both else options.kills
        self.victims["relay-0"].kills = first
        self.victims["relay-1"].kills = options.kills - first

    def run(self, until: Callable[[], bool], limit_s: float | None = None) -> bool:
        """Let things happen. Whether `until` came true in time."""
        ends_s = None if limit_s is None else time.monotonic() + limit_s
        while not until():
            now_s = time.monotonic()
            if ends_s is not None and now_s > ends_s:
                return False
            for victim in self.victims.values():
                self._step(victim, now_s)
            time.sleep(STEP_S)
        return True

    @property
    def left(self) -> int:
        return sum(victim.kills for victim in self.victims.values())

    def close(self) -> None:
        for name in ("buyer", "seller", "wallet", "witness", "relay-0", "relay-1"):
            self.victims[name].end()

    def _step(self, victim: Victim, now_s: float) -> None:
        code = victim.look()
        if code is not None:
            # Who ended in peace is done; who did not is started again, as its supervisor would.
            victim.at_s = None if code == 0 else now_s + 0.3
            if victim.ended[1] > MOST_ENDS + 5 * victim.killed:
                raise SystemExit(f"{victim.name} ends by itself again and again:\n{victim.log.read_text()[-3000:]}")
        if victim.pid is None:
            if victim.at_s is not None and now_s >= victim.at_s:
                self._start(victim, now_s)
            return
        if not victim.kills:
            return
        if victim.at_s is None and self._is_at_work(victim, now_s):
            victim.at_s = now_s + self._rng.uniform(0.0, self._longest_life_s)
        due_s = victim.at_s if victim.unready_s is None else victim.unready_s
        if (
            due_s is not None
            and now_s >= due_s
            and self._is_in_the_act(victim, now_s - due_s)
            and self._may_die(victim)
        ):
            victim.kill()
            victim.kills -= 1
            victim.killed += 1
            victim.at_s = now_s + self._rng.uniform(0.0, 0.6)

    def _is_at_work(self, victim: Victim, now_s: float) -> bool:
        """Whether a result was published since it was in business, or it is no use to wait for one any longer."""
        if victim.ready_s is None:
            if not victim.ready():
                return False
            victim.ready_s, victim.results_bytes = now_s, self._results_bytes()
        return self._results_bytes() > victim.results_bytes or now_s > victim.ready_s + IDLE_S

    def _is_in_the_act(self, victim: Victim, overdue_s: float) -> bool:
        """Of kills that are aimed: whether a result was published this very moment."""
        if not victim.aimed or overdue_s > IDLE_S:
            return True
        before, victim.aim_bytes = victim.aim_bytes, self._results_bytes()
        return 0 < before < victim.aim_bytes

    def _results_bytes(self) -> int:
        return self._results.stat().st_size if self._results.exists() else 0

    def _start(self, victim: Victim, now_s: float) -> None:
        with suppress(FileNotFoundError):
            (victim.log.with_suffix(".ready")).unlink()
        victim.start()
        victim.at_s = victim.ready_s = None
        early = self._rng.random() < UNREADY_SHARE
        victim.aimed, victim.aim_bytes = not early and self._rng.random() < AIMED_SHARE, 0
        victim.unready_s = now_s + self._rng.uniform(0.0, 0.5) if early else None

    def _may_die(self, victim: Victim) -> bool:
        others = [one for one in self.victims.values() if one.name.startswith("relay") and one is not victim]
        if not victim.name.startswith("relay") or all(one.ready() for one in others):
            return True
        if self._rng.random() < TOGETHER_SHARE:
            return True
        victim.at_s = time.monotonic() + self._rng.uniform(0.1, 0.5)
        victim.unready_s = None
        return False


def _victims(world: World) -> list[Victim]:
    def relay(number: int) -> Callable[[], Awaitable[None] | None]:
        if world.kept:
            return lambda: market_victims.keep_events(world, number)
        return lambda: market_victims.carry_events(world, number)

    roles = {"wallet": market_victims.keep_wallet, "seller": market_victims.sell, "buyer": market_victims.buy}
    roles["witness"] = market_victims.witness
    found = [
        Victim(f"relay-{number}", relay(number), lambda url=url: _listens(url), world.folder / f"relay-{number}.log")
        for number, url in enumerate(world.relays)
    ]
    return found + [
        Victim(name, lambda role=role: role(world), world.ready(name).exists, world.folder / f"{name}.log")
        for name, role in roles.items()
    ]


def _listens(url: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


def main() -> None:
    """Kill, audit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each")
    parser.add_argument("--relays", choices=("kept", "forgetful"), default="kept")
    parser.add_argument("--rate", type=float, default=25.0, help="purchases begun in a second at most")
    parser.add_argument("--life", type=float, default=1.5, help="longest time at work before a kill, in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="keep everything there instead of in a temporary folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["SWARMC_HOME"] = str(folder / "home")
        model = stack.enter_context(launch("--latency-ms", str(LATENCY_MS), "--log", str(folder / "model.txt")))
        world = _world(folder, model.base_url, options)
        supervisor = Supervisor(world, options)
        stack.callback(supervisor.close)
        sys.exit(_killed_and_audited(world, supervisor))


def _world(folder: Path, model_url: str, options: argparse.Namespace) -> World:
    ports = []
    with ExitStack() as stack:
        for _ in range(2):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    return World(
        folder=folder,
        relays=tuple(f"ws://127.0.0.1:{port}" for port in ports),
        kept=options.relays == "kept",
        model_url=model_url,
        keys={name: SecretKey.generate() for name in ("buyer", "seller", "wallet", "client")},
        rate_per_s=options.rate,
        # What is in flight at a kill is lost, and counts.
        budget_msats=(options.kills + 20) * 32 * 1_000 + 10**7,
    )


def _killed_and_audited(world: World, supervisor: Supervisor) -> bool:
    started_s = time.monotonic()
    supervisor.run(lambda: not supervisor.left)
    killing_s = time.monotonic() - started_s
    market_victims.write_whole(world.last, str(world.begun()[1] + 2 * world.in_flight))
    buyer = supervisor.victims["buyer"]
    finished = supervisor.run(lambda: buyer.ended[0] >= 1, FINISH_S)
    buyer.at_s = time.monotonic()
    finished = finished and supervisor.run(lambda: buyer.ended[0] >= 2, FINISH_S)
    wall_s = time.monotonic() - started_s
    for name in ("buyer", "seller", "wallet"):
        supervisor.victims[name].end()
    if not finished:
        print(f"the buyer did not finish in {FINISH_S:g} s:\n{buyer.log.read_text()[-3000:]}")
        said = {"answered": 0, "msats": 0, "bought": 0, "whole": False}
        (world.folder / "said.json").write_text(json.dumps(said))
    books = asyncio.run(market_audit.read_books(world))
    print(f"{books.last + 1:,} requests, {killing_s:.0f} s of kills, {wall_s - killing_s:.0f} s to finish\n")
    _print_processes(supervisor)
    _print_jobs(world, books)
    return asyncio.run(_print_checks(world, books))


def _print_processes(supervisor: Supervisor) -> None:
    print("| process | kills | ended by itself |\n|---|---|---|")
    for victim in supervisor.victims.values():
        print(f"| {victim.name} | {victim.killed} | {sum(n for code, n in victim.ended.items() if code > 0) or '-'} |")


def _print_jobs(world: World, books: market_audit.Books) -> None:
    bought = Counter(one.failure or one.state for one in books.purchases.values())
    sold = Counter(one.code or one.state for one in books.sales.values())
    performed = len((world.folder / "model.txt").read_text().splitlines())
    delivered = sum(one.state == "delivered" for one in books.sales.values())
    due = [record.msats for record in books.purchased.values() if record.refund_due]
    print(f"\nbought: {dict(bought)}\nsold: {dict(sold)}")
    print(f"payments: {len(books.payments):,}; due back: {len(due)} jobs, {sum(due):,} msats")
    print(f"settled: {books.total.msats:,} msats; lost: {books.total.lost} calls, {books.total.lost_msats:,} msats")
    print(f"the model answered {performed:,} times for {delivered:,} results\n")


async def _print_checks(world: World, books: market_audit.Books) -> bool:
    broken = False
    print("| what must hold | broken |\n|---|---|")
    told: list[market_audit.Fault] = []
    for check in market_audit.CHECKS:
        faults = list(check(books))
        broken |= bool(faults)
        told += faults[:MOST_TOLD]
        print(f"| {check.__doc__} | {len(faults)} |")
    for fault in told:
        print(f"\n{fault.job_id} {fault.sentence}")
        if fault.job_id:
            print("\n".join(f"    {line}" for line in await market_audit.history_of(world, fault.job_id)))
    return broken


if __name__ == "__main__":
    main()
