"""Sellers of the market benchmark and the relay between, each in a process of its own."""

import asyncio
import contextlib
import gc
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from benchmarks.market_children import obey, usage
from benchmarks.market_parts import Sampler

PRICE_MSATS = 100
MOST_JOBS = 1_024


async def carry(_: Namespace) -> None:
    """A relay of nostr-sdk on loopback, with nothing in it."""
    from nostr_sdk import LocalRelayBuilder, RateLimit

    relay = LocalRelayBuilder().rate_limit(RateLimit(max_reqs=10_000, notes_per_minute=10**9)).build()
    await relay.run()
    await obey({"url": str(await relay.url()).rstrip("/")}, _usage)
    relay.shutdown()


async def sell(options: Namespace) -> None:
    """Serve until the input ends; between `sample` and `parts` the main thread is sampled."""
    sampler = Sampler()
    async with _SELLERS[options.seller](options):
        gc.collect()
        gc.freeze()

        async def answering(question: str) -> dict[str, Any]:
            if question == "sample":
                sampler.start()
            if question != "parts":
                return usage()
            sampler.stop()
            return {**usage(), **sampler.shares()}

        await obey({}, answering)


async def _usage(_: str) -> dict[str, Any]:
    return usage()


@contextlib.asynccontextmanager
async def _ours(options: Namespace) -> AsyncIterator[None]:
    """Our provider as `swarmc provider start` runs it: the meter, a ledger and a job book on disk."""
    from flows.serve import Voice, serve_here
    from swarmc.contracts.provider import Limits, ProviderSpec
    from swarmc.contracts.spec import LaneSpec

    spec = ProviderSpec(
        venue=LaneSpec(venue=options.model_url, model="counting"),
        relays=(options.relay,),
        wallet=f"{options.folder}/wallet.db:seller",
        ledger=f"sqlite:///{options.folder}/seller.db",
        require_payment=True,
        min_price_msats=PRICE_MSATS,
        capacity=MOST_JOBS,
        limits=Limits(open_per_customer=MOST_JOBS, unpaid=MOST_JOBS, quotes_per_minute=10**6),
        grace_s=1,
    )
    opened = asyncio.Event()
    serving = asyncio.create_task(serve_here(spec, voice=Voice(opened=lambda front: opened.set())))  # noqa: ARG005
    opening = asyncio.create_task(opened.wait())
    await asyncio.wait((serving, opening), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    yield
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def _bare(options: Namespace) -> AsyncIterator[None]:
    from benchmarks.market_bare import bare_provider

    async with bare_provider(options.relay, options.model_url, None):
        yield


@contextlib.asynccontextmanager
async def _bare_paid(options: Namespace) -> AsyncIterator[None]:
    from benchmarks.market_bare import bare_provider
    from blocks.wallets.ledger_wallet import LedgerWallet

    block = LedgerWallet(path=Path(options.folder) / "wallet.db", account="seller")
    async with block.open() as wallet, bare_provider(options.relay, options.model_url, wallet):
        yield


@contextlib.asynccontextmanager
async def _none(_: Namespace) -> AsyncIterator[None]:
    yield


_SELLERS: dict[str, Callable[[Namespace], AbstractAsyncContextManager[None]]] = {
    "ours": _ours,
    "bare": _bare,
    "bare-paid": _bare_paid,
    "none": _none,
}
