"""What an event costs in the relays' client: events a second out and in, CPU an event, round trips one at a time.

    python benchmarks/relays.py [--events 3000] [--without-quick-ack]

Against nostr-sdk's LocalRelay, which lives in this process on threads of its own; CPU is of our thread alone.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nostr_sdk import LocalRelayBuilder, RateLimit

from blocks.relays import RelayPool, dialling
from swarmc.contracts.relay import Filter, NostrEvent, UnsignedNote
from swarmc.nostr.events import sign_note
from swarmc.nostr.keys import SecretKey

KEY = SecretKey.generate()
TAGS = (("i", "hello world " * 20, "text"), ("param", "model", "x"), ("p", "a" * 64))
AT_ONCE = 32
ROUNDS = 50


@asynccontextmanager
async def _relay() -> AsyncIterator[str]:
    relay = LocalRelayBuilder().rate_limit(RateLimit(max_reqs=10_000, notes_per_minute=10**7)).build()
    await relay.run()
    try:
        yield str(await relay.url()).rstrip("/")
    finally:
        relay.shutdown()


def _event(kind: int, content: str, *, ago_s: int = 0) -> NostrEvent:
    return sign_note(UnsignedNote(kind=kind, created_at=int(time.time()) - ago_s, tags=TAGS, content=content), KEY)


async def _timed(what: str, count: int, work: Callable[[], Awaitable[object]]) -> None:
    cpu_s, wall_s = time.thread_time(), time.perf_counter()
    await work()
    wall_s = time.perf_counter() - wall_s
    cpu_us = 1e6 * (time.thread_time() - cpu_s) / count
    print(f"{what:34} {count / wall_s:8.0f} a second {cpu_us:6.0f} us CPU each")


async def _publish_all(pool: RelayPool, events: list[NostrEvent]) -> None:
    left = iter(events)

    async def work() -> None:
        for event in left:
            await pool.publish(event)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def _throughput(url: str, count: int) -> None:
    async with RelayPool([url]) as buyer, RelayPool([url]) as seller:
        # A relay gives a few hundred at once, and older ones by their second.
        events = [_event(5050, str(number), ago_s=number // 100) for number in range(count)]
        await _timed(f"published, {AT_ONCE} in flight", count, lambda: _publish_all(buyer, events))

        async def stored() -> None:
            async with seller.subscribe([Filter(kinds=(5050,), since=1)]) as heard:
                for _ in range(count):
                    await anext(heard)

        await _timed("heard, from what is stored", count, stored)
        events = [_event(5051, str(number)) for number in range(count)]
        async with seller.subscribe([Filter(kinds=(5051,))]) as heard:

            async def both() -> None:
                publishing = asyncio.create_task(_publish_all(buyer, events))
                for _ in range(count):
                    await anext(heard)
                await publishing

            await _timed("published and heard, both here", count, both)


async def _round_trips(url: str) -> None:
    async with (
        RelayPool([url]) as buyer,
        RelayPool([url]) as seller,
        seller.subscribe([Filter(kinds=(5052,))]) as asks,
        buyer.subscribe([Filter(kinds=(6052,))]) as told,
    ):

        async def sell() -> None:
            async for ask in asks:
                await seller.publish(_event(6052, ask.id))

        selling = asyncio.create_task(sell())
        taken_ms = []
        for number in range(ROUNDS):
            began_s = time.perf_counter()
            await buyer.publish(_event(5052, str(number)))
            await anext(told)
            taken_ms.append(1e3 * (time.perf_counter() - began_s))
        selling.cancel()
    taken_ms.sort()
    print(f"ask and answer, 1 in flight: p50 {taken_ms[ROUNDS // 2]:.2f} ms, p95 {taken_ms[ROUNDS * 19 // 20]:.2f} ms")


async def _main(count: int) -> None:
    async with _relay() as url:
        await _throughput(url, count)
        await _round_trips(url)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--without-quick-ack", action="store_true", help="as the kernel acknowledges by itself")
    arguments = parser.parse_args()
    if arguments.without_quick_ack:
        dialling.QUICK_ACK = None
    asyncio.run(_main(arguments.events))
