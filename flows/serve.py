"""Sell inference on the market: announce it, take jobs, be paid, deliver, and say how it goes."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import FlowRunContext

from flows.driving import Told
from flows.health import Health, health_of, money
from flows.lanes import calm_interpreter
from flows.market import Market
from flows.storefront import Storefront, open_storefront
from swarmc.contracts.canonical import Contract
from swarmc.contracts.errors import RelayError, SwarmcError
from swarmc.contracts.provider import ProviderSpec
from swarmc.contracts.relay import NostrEvent
from tasks.announce import announce, withdraw

KEY = "provider-health"
ANNOUNCE_PAUSE_S = 15.0
ANNOUNCE_EVERY_S = 600.0
WITHDRAW_LIMIT_S = 5.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Served(Contract):
    """What became of a time of serving. Money is that of all times of this provider.

    Attributes:
        delivered: Jobs delivered this time.
        unfinished: Jobs that the next start takes up.
    """

    npub: str
    delivered: int
    unfinished: int
    earned_msats: int
    simulated_msats: int
    refunds_due: int


@dataclass(frozen=True)
class Voice:
    """Who is told of a provider.

    Attributes:
        opened: Once, when it takes jobs.
        job: Of every move of a job.
        health: Every `health_every_s` seconds.
        trouble: A sentence, when something that may pass went wrong.
    """

    opened: Callable[[Storefront], None] = lambda front: None  # noqa: ARG005
    job: Told = lambda sale, said: None  # noqa: ARG005
    health: Callable[[Health], None] = lambda health: None  # noqa: ARG005
    trouble: Callable[[str], None] = lambda sentence: None  # noqa: ARG005


@flow(name="serve-market", validate_parameters=True)
async def serve_market(spec: ProviderSpec, for_s: float | None = None) -> Served:
    """Sell a model's answers on Nostr as NIP-90 jobs, for Lightning payments.

    The offer is announced, every job is kept in the job book at every step, and a provider that is killed
    continues where it was: what is paid for is done, nothing is done or charged twice. Ends on SIGTERM or
    Ctrl-C, or after `for_s` seconds: it then takes nothing new and finishes what is paid for.

    Args:
        spec: What is sold, where it runs, for how much, on which relays, to whose wallet.
        for_s: Seconds to serve; without it, until it is stopped.
    """
    logger = get_run_logger()
    page = _Page()

    def tell_health(health: Health) -> None:
        logger.info(health.sentence)
        page.put(health)

    def tell_opened(front: Storefront) -> None:
        logger.info("serving as %s: %s by %s", front.shop.key.npub, ", ".join(front.shop.names), front.sentence)

    voice = Voice(opened=tell_opened, health=tell_health, trouble=logger.warning)
    async with page:
        return await serve_here(spec, for_s, voice)


async def serve_here(spec: ProviderSpec, for_s: float | None = None, voice: Voice | None = None) -> Served:
    """The same in this process alone, without a Prefect server.

    Raises:
        SwarmcError: something that the spec names is not to be had, or another process serves with this identity.
    """
    voice = voice or Voice()
    async with _stop_signals() as stopped, open_storefront(spec) as front:
        calm_interpreter()
        shop = front.shop
        async with Market(shop, capacity=spec.capacity, tell=voice.job) as market:
            voice.opened(front)
            announcing = asyncio.create_task(_keep_announced(front, voice))
            reporting = asyncio.create_task(_report(market, front, spec.health_every_s, voice))
            try:
                await _until(stopped, market, for_s)
            finally:
                announcing.cancel()
                offers = await asyncio.gather(announcing, return_exceptions=True)
                reporting.cancel()
            await _take_back(front, offers[0] if isinstance(offers[0], NostrEvent) else None, voice)
            await market.close(spec.grace_s)
            health = await health_of(shop, market.pulse, asyncio.get_running_loop().time())
            voice.health(health)
            return _served(market, health)


async def _until(stopped: asyncio.Event, market: Market, for_s: float | None) -> None:
    """Wait for the end that was asked for; raise what makes going on impossible."""
    asked = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({asked, market.fatal}, timeout=for_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
    if market.fatal.done():
        market.fatal.result()


async def _keep_announced(front: Storefront, voice: Voice) -> NostrEvent:
    """Keep the offer announced, also on relays that forgot it, until cancelled; then give the event."""
    event = None
    try:
        while True:
            try:
                event = await announce(front.shop, front.announcement, event)
                await asyncio.sleep(ANNOUNCE_EVERY_S)
            except RelayError as error:
                voice.trouble(f"{error}; the offer is announced again soon")
                await asyncio.sleep(ANNOUNCE_PAUSE_S)
    except asyncio.CancelledError:
        if event is None:
            raise
    return event


async def _take_back(front: Storefront, offer: NostrEvent | None, voice: Voice) -> None:
    if offer is None:
        return
    try:
        async with asyncio.timeout(WITHDRAW_LIMIT_S):
            await withdraw(front.shop, offer)
    except (RelayError, TimeoutError):
        voice.trouble("the offer could not be taken back: customers may ask in vain until it is replaced")


async def _report(market: Market, front: Storefront, every_s: float, voice: Voice) -> None:
    while True:
        try:
            voice.health(await health_of(front.shop, market.pulse, asyncio.get_running_loop().time()))
        except SwarmcError as error:
            voice.trouble(str(error))
        await asyncio.sleep(every_s)


def _served(market: Market, health: Health) -> Served:
    earned = money(health.totals)
    return Served(
        npub=health.npub,
        delivered=market.pulse.delivered,
        unfinished=market.open_sales,
        earned_msats=sum(one.earned_msats for one in earned if not one.simulated),
        simulated_msats=sum(one.earned_msats for one in earned if one.simulated),
        refunds_due=sum(one.refunds_due for one in earned),
    )


@asynccontextmanager
async def _stop_signals() -> AsyncIterator[asyncio.Event]:
    """Set when the process is asked to end. In a thread other than the main one nobody can ask."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = {}
    with suppress(ValueError, RuntimeError, NotImplementedError):
        for number in STOP_SIGNALS:
            before[number] = signal.getsignal(number)
            loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            with suppress(ValueError, RuntimeError, NotImplementedError):
                loop.remove_signal_handler(number)
                signal.signal(number, handler)


class _Page:
    """The run's page in the Prefect UI: one report, kept up to date. Outside of a Prefect run it does nothing."""

    def __init__(self) -> None:
        self._newest: Health | None = None
        self._changed = asyncio.Event()
        self._artifact: UUID | None = None
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        if FlowRunContext.get() is not None:
            self._writer = asyncio.create_task(self._write_on())

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            await self._write()

    def put(self, health: Health) -> None:
        self._newest = health
        self._changed.set()

    async def _write_on(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._write()

    async def _write(self) -> None:
        health = self._newest
        if health is None:
            return
        if self._artifact is None:
            made = acreate_markdown_artifact(health.markdown(), key=KEY, description=health.sentence)
            self._artifact = await made
            return
        # The same artifact again: a new one every few seconds would be a version each.
        async with get_client() as client:
            update = ArtifactUpdate(data=health.markdown(), description=health.sentence)
            await client.update_artifact(artifact_id=self._artifact, artifact=update)
