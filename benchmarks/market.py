"""What the market costs beside the model: jobs a second, added latency, CPU a job of buyer, seller and relay.

    python benchmarks/market.py [--quick] [--parts]

Every job is a NIP-90 job over a real relay (nostr-sdk's), paid by an invoice of play money in one SQLite file, and done
by a counting model server over HTTP. Buyer, seller, relay and model are a process each. Ours is what a compile and
`swarmc provider start` run: the swarm venue behind limits, retries, meter and memory; the provider with its job book,
both with a ledger on disk; requests and answers encrypted by NIP-44 unless said otherwise. What is added is the
difference to asking that model server by our venue, at as many in flight, in the same round.

The peer is `market_bare.py`: a client and a provider of pynostr's objects as one writes them in an afternoon, which
verify, limit and keep nothing, in clear. nostrdvm's own loop is none, as its pinned packages install nowhere offline.

`--parts` says where the main threads' time goes, and what the threads of ledger and job book use beside them.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.counting_server import launch  # noqa: E402
from benchmarks.market_buyers import buy_all  # noqa: E402
from benchmarks.market_children import Child, started  # noqa: E402
from benchmarks.market_sellers import carry, sell  # noqa: E402
from swarmc.nostr.keys import SecretKey  # noqa: E402

LATENCIES_MS = (0, 100)
IN_FLIGHT = (1, 16, 128)
JOBS = {1: 60, 16: 800, 128: 1_600}
QUICK_JOBS = {1: 20, 16: 160, 128: 384}
SIDES: tuple[str, ...] = ("buyer", "seller", "relay")
LEAST_PER_S = 100
MOST_ADDED_MS = 30


@dataclass(frozen=True)
class Trader:
    """A buyer and a seller that are measured together.

    Attributes:
        buyer: Its name in `market_buyers`.
        seller: Its name in `market_sellers`.
        flags: For the buyer.
    """

    title: str
    buyer: str
    seller: str
    flags: tuple[str, ...] = ()


DIRECT = Trader("the model itself", "direct", "none")
OURS = Trader("ours, paid, encrypted", "ours", "ours")
CLEAR = Trader("ours, paid, in clear", "ours", "ours", ("--clear",))
PAID = Trader("bare pynostr, paid, in clear", "bare-paid", "bare-paid")
UNPAID = Trader("bare pynostr, unpaid, in clear", "bare", "bare")
TRADERS = (OURS, CLEAR, PAID, UNPAID)

Place = tuple[Trader, int, int]
"""Who, milliseconds of the model, in flight."""


@dataclass(frozen=True)
class Found:
    """One round at one place. Milliseconds; CPU by side, a job."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]


def main() -> None:
    """Measure and print tables; or be one of the processes."""
    options = _options()
    children = {"buyer": buy_all, "seller": sell, "relay": carry}
    if options.child:
        asyncio.run(children[options.child](options))
        return
    lines = _parts(options) if options.parts else _table(options)
    for line in lines:
        print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer jobs, one round")
    parser.add_argument("--parts", action="store_true", help="where the time goes, at 16 in flight")
    for name in ("child", "buyer", "seller", "relay", "model-url", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--in-flight", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clear", dest="encrypt", action="store_false", help=argparse.SUPPRESS)
    return parser.parse_args()


def _table(options: argparse.Namespace) -> Iterator[str]:
    rounds, jobs = (1, QUICK_JOBS) if options.quick else (3, JOBS)
    found: dict[Place, list[Found]] = {}
    for _ in range(rounds):
        for latency_ms in LATENCIES_MS:
            for trader in (DIRECT, *TRADERS):
                for in_flight, one in _measured(trader, latency_ms, jobs):
                    found.setdefault((trader, latency_ms, in_flight), []).append(one)
    yield f"Medians of {rounds} rounds. CPU in ms a job."
    yield ""
    yield "| who | model | in flight | jobs/s | added p50 | added p99 | CPU buyer | seller | relay |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for trader, latency_ms, in_flight in found:
        if trader is not DIRECT:
            yield _row(found, (trader, latency_ms, in_flight))
    yield ""
    yield "| floor | measured | demanded |"
    yield "|---|---|---|"
    yield from floors(found)


def _measured(trader: Trader, latency_ms: int, jobs: dict[int, int]) -> Iterator[tuple[int, Found]]:
    with market_of(trader, latency_ms) as (relay, seller, common):
        for in_flight in IN_FLIGHT:
            count = jobs[in_flight]
            with buyer_of(trader, in_flight, count, common) as buyer:
                before = seller.ask()["cpu_s"], relay.ask()["cpu_s"]
                bought = buyer.ask("buy")
                after = seller.ask()["cpu_s"], relay.ask()["cpu_s"]
            others = [1_000 * (end_s - start_s) / count for start_s, end_s in zip(before, after, strict=True)]
            cpu_ms = dict(zip(SIDES, (bought["cpu_ms"], *others), strict=True))
            yield in_flight, Found(bought["per_s"], bought["p50_ms"], bought["p99_ms"], cpu_ms)


@contextlib.contextmanager
def market_of(trader: Trader, latency_ms: int) -> Iterator[tuple[Child, Child, Sequence[str]]]:
    """Relay and seller, and the flags that a buyer needs."""
    with (
        tempfile.TemporaryDirectory() as folder,
        launch("--latency-ms", str(latency_ms)) as model,
        started("--child", "relay") as relay,
    ):
        common = ["--relay", relay.hello["url"], "--model-url", model.base_url, "--folder", folder]
        key = SecretKey.generate().nsec()
        with started("--child", "seller", "--seller", trader.seller, *common, SWARMC_NOSTR_KEY=key) as seller:
            yield relay, seller, common


def buyer_of(
    trader: Trader, in_flight: int, jobs: int, common: Sequence[str]
) -> contextlib.AbstractContextManager[Child]:
    """A buyer that has warmed up, and buys so many jobs whenever it is asked."""
    flags = ["--jobs", str(jobs), "--in-flight", str(in_flight), *trader.flags]
    key = SecretKey.generate().nsec()
    return started("--child", "buyer", "--buyer", trader.buyer, *common, *flags, SWARMC_NOSTR_KEY=key)


def _row(found: dict[Place, list[Found]], place: Place) -> str:
    trader, latency_ms, in_flight = place
    per_s = statistics.median(one.per_s for one in found[place])
    p50_ms, p99_ms = (added_ms(found, place, name) for name in ("p50_ms", "p99_ms"))
    cpu = " | ".join(f"{statistics.median(one.cpu_ms[side] for one in found[place]):.2f}" for side in SIDES)
    return (
        f"| {trader.title} | {latency_ms} ms | {in_flight} | {per_s:.0f} | {p50_ms:.1f} ms | {p99_ms:.1f} ms | {cpu} |"
    )


def added_ms(found: dict[Place, list[Found]], place: Place, name: str) -> float:
    """Beside the model itself, asked as often at once in the same round."""
    pairs = zip(found[place], found[(DIRECT, *place[1:])], strict=True)
    return statistics.median(getattr(ours, name) - getattr(direct, name) for ours, direct in pairs)


def floors(found: dict[Place, list[Found]]) -> Iterator[str]:
    """What was promised, and what it costs beside the peer."""
    ours = found[(OURS, 0, 16)]
    per_s = statistics.median(one.per_s for one in ours)
    yield f"| paid jobs a second, 16 in flight, model of 0 ms | {per_s:.0f} | at least {LEAST_PER_S} |"
    for in_flight in IN_FLIGHT[:2]:
        more_ms = added_ms(found, (OURS, 100, in_flight), "p50_ms")
        what = f"added at p50, {in_flight} in flight, model of 100 ms"
        yield f"| {what} | {more_ms:.1f} ms | below {MOST_ADDED_MS} ms |"
    for title, other in (("in clear", CLEAR), ("bare, paid", PAID), ("bare, unpaid", UNPAID)):
        ratios = [_cpu(one) / _cpu(two) for one, two in zip(ours, found[(other, 0, 16)], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        yield f"| CPU a job of buyer, seller and relay: ours encrypted to {title} | {spread} | - |"


def _cpu(found: Found) -> float:
    return sum(found.cpu_ms.values())


def _parts(options: argparse.Namespace) -> Iterator[str]:
    jobs, in_flight = (400 if options.quick else 2_000), 16
    with market_of(OURS, 0) as (_, seller, common), buyer_of(OURS, in_flight, jobs, common) as buyer:
        before = seller.ask("sample")
        bought = buyer.ask("sample")
        sold = seller.ask("parts")
    threads_ms = {
        name: 1_000 * (used_s - before["threads"].get(name, 0.0)) / jobs for name, used_s in sold["threads"].items()
    }
    for side, shares, threads in (("buyer", bought, bought["threads_ms"]), ("seller", sold, threads_ms)):
        main_ms = threads.get("MainThread", 0.0)
        beside = ", ".join(f"{name} {ms:.2f} ms" for name, ms in threads.items() if name != "MainThread" and ms > 0.01)
        yield f"{side}: main thread {main_ms:.2f} ms a job; beside it {beside or 'nothing'}"
        yield from (f"  {share * main_ms:6.3f} ms  {part}" for part, share in shares["parts"].items())
        yield "  of which, by function:"
        yield from (f"  {share * main_ms:6.3f} ms  {name}" for name, share in shares["functions"].items())


if __name__ == "__main__":
    main()
