"""Buyers of the market benchmark, each in a process of its own: ours, the bare peer's, and who asks the model."""

import asyncio
import contextlib
import gc
import statistics
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.market_children import obey, usage
from benchmarks.market_parts import Sampler

Buy = Callable[[int], Awaitable[str]]
START_MSATS = 10**12
BID_MSATS = 1_000
WORDS = "A customer writes that the parcel has not come and wants to know whom to call. " * 8


async def buy_all(options: Namespace) -> None:
    """Warm up, then buy `options.jobs` completions with so many in flight whenever a line asks for it."""
    async with _BUYERS[options.buyer](options) as buy:
        number = await _run(buy, 0, max(20, 2 * options.in_flight), options.in_flight, [])
        gc.collect()
        gc.freeze()

        async def answering(question: str) -> dict[str, Any]:
            nonlocal number
            sampler = Sampler()
            before, latencies_s, started_s = usage(), [], time.perf_counter()
            if question == "sample":
                sampler.start()
            number = await _run(buy, number, options.jobs, options.in_flight, latencies_s)
            sampler.stop()
            wall_s, after = time.perf_counter() - started_s, usage()
            return {**_measured(latencies_s, wall_s, before, after), **sampler.shares()}

        await obey({}, answering)


async def _run(buy: Buy, first: int, jobs: int, in_flight: int, latencies_s: list[float]) -> int:
    numbers = iter(range(first, first + jobs))

    async def one_after_another() -> None:
        for number in numbers:
            started_s = time.perf_counter()
            text = await buy(number)
            latencies_s.append(time.perf_counter() - started_s)
            assert text, "an answer has text"

    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    return first + jobs


def _measured(latencies_s: list[float], wall_s: float, before: dict, after: dict) -> dict[str, Any]:
    jobs = len(latencies_s)
    cuts = statistics.quantiles(latencies_s, n=100, method="inclusive")
    return {
        "per_s": jobs / wall_s,
        "p50_ms": 1_000 * cuts[49],
        "p99_ms": 1_000 * cuts[98],
        "cpu_ms": 1_000 * (after["cpu_s"] - before["cpu_s"]) / jobs,
        "threads_ms": {
            name: 1_000 * (used_s - before["threads"].get(name, 0.0)) / jobs
            for name, used_s in after["threads"].items()
        },
    }


def _asked(number: int) -> list[dict[str, str]]:
    system = "Sort the ticket. Answer with one word."
    return [{"role": "system", "content": system}, {"role": "user", "content": f"{WORDS} ticket {number} label=red"}]


@contextlib.asynccontextmanager
async def _direct(options: Namespace) -> AsyncIterator[Buy]:
    """The model itself: nothing between but our venue."""
    from blocks.venues.openai_compatible import OpenAIVenue

    async with OpenAIVenue(base_url=options.model_url, model="counting") as venue:

        async def buy(number: int) -> str:
            return (await venue.complete(_request(number))).text

        yield buy


@contextlib.asynccontextmanager
async def _ours(options: Namespace) -> AsyncIterator[Buy]:
    """The swarm venue as a compile has it: behind limits, retries, meter and memory, over a ledger on disk."""
    from blocks.ledger import SqlLedger
    from blocks.venues.swarm import Swarm
    from flows.lanes import calm_interpreter, metered_lane
    from swarmc.compiler.metering import Purse
    from swarmc.contracts.money import BudgetPolicy
    from swarmc.contracts.spec import LaneSpec

    calm_interpreter()
    wallet = f"{options.folder}/wallet.db:buyer"
    await _fund(Path(options.folder))
    url = f"sqlite:///{options.folder}/ledger.db"
    swarm = Swarm(
        relays=[options.relay],
        model="counting",
        bid_msats=BID_MSATS,
        wallet=wallet,
        ledger=url,
        encrypt=options.encrypt,
        timeout_s=60,
    )
    async with (
        SqlLedger.open(url) as ledger,
        ledger.open_run("run", spec_id="sha256:" + "0" * 64, name="benchmark", budget=BudgetPolicy()) as lease,
        swarm.open() as venue,
    ):
        told: list[object] = []
        purse = Purse(ledger, "run", lease.epoch, "swarm", told.append)
        lane = metered_lane(venue, LaneSpec(concurrency=options.in_flight, attempts=1), purse)

        async def buy(number: int) -> str:
            completion = await lane.complete(_request(number))
            assert completion.usage.cost_msats > 0, "it was paid for"
            return completion.text

        yield buy


@contextlib.asynccontextmanager
async def _bare(options: Namespace) -> AsyncIterator[Buy]:
    async with _bare_client(options, paid=False) as buy:
        yield buy


@contextlib.asynccontextmanager
async def _bare_paid(options: Namespace) -> AsyncIterator[Buy]:
    async with _bare_client(options, paid=True) as buy:
        yield buy


@contextlib.asynccontextmanager
async def _bare_client(options: Namespace, *, paid: bool) -> AsyncIterator[Buy]:
    from benchmarks.market_bare import bare_client
    from blocks.wallets.ledger_wallet import LedgerWallet

    block = LedgerWallet(path=Path(options.folder) / "wallet.db", account="buyer", start_msats=START_MSATS)
    async with block.open() as wallet, bare_client(options.relay, wallet if paid else None) as ask:

        async def buy(number: int) -> str:
            return await ask(_asked(number))

        yield buy


async def _fund(folder: Path) -> None:
    """Play money for the buyer, unless it has some."""
    from blocks.wallets.ledger_wallet import LedgerWallet

    async with LedgerWallet(path=folder / "wallet.db", account="buyer", start_msats=START_MSATS).open():
        pass


def _request(number: int) -> Any:
    from swarmc.contracts.completions import CompletionRequest, Message, Sampling

    return CompletionRequest(
        lane="swarm",
        model="counting",
        messages=tuple(Message.model_validate(one) for one in _asked(number)),
        sampling=Sampling(temperature_ppm=0, max_tokens=64),
    )


_BUYERS = {"direct": _direct, "ours": _ours, "bare": _bare, "bare-paid": _bare_paid}
