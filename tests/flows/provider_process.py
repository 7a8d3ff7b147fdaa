"""A seller in a process of its own that ends itself, as by `kill -9`, at the step it is told.

    python -m tests.flows.provider_process URL FOLDER SECRET [STEP]

STEP is `heard:quoted` (a word of what was said, before it is kept) or `kept:quoted` (a state, right after it is).
Every completion is noted as a line of FOLDER/asked.
"""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from blocks.ledger import SqlJobBook
from flows.market import Market
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.job_book import JobRecord, JobTotal, Moved, Side, Standing
from swarmc.contracts.market import Sale
from swarmc.nostr.keys import SecretKey
from tests.sellers import EchoVenue, open_seller


class NotingVenue(EchoVenue):
    """Notes what it answers where a later process can read it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    async def complete(self, request: CompletionRequest) -> Completion:
        with self._path.open("a") as notes:
            notes.write(f"{request.request_id}\n")
        return await super().complete(request)


class DeadlyBook:
    """A job book after which the process is dead once a sale was kept in a state."""

    def __init__(self, book: SqlJobBook, step: str) -> None:
        self._book = book
        self._step = step

    async def put(self, record: JobRecord, what: str) -> bool:
        kept = await self._book.put(record, what)
        die_at(self._step, f"kept:{record.state}")
        return kept

    async def get(self, side: Side, owner: str, job_id: str) -> JobRecord | None:
        return await self._book.get(side, owner, job_id)

    async def of_key(self, side: Side, owner: str, key: str) -> tuple[JobRecord, ...]:
        return await self._book.of_key(side, owner, key)

    async def unfinished(self, side: Side, owner: str) -> tuple[JobRecord, ...]:
        return await self._book.unfinished(side, owner)

    async def recent(self, side: Side, owner: str | None = None, *, limit: int = 50) -> tuple[JobRecord, ...]:
        return await self._book.recent(side, owner, limit=limit)

    async def history(self, side: Side, owner: str, job_id: str) -> tuple[Moved, ...]:
        return await self._book.history(side, owner, job_id)

    async def totals(self, side: Side, owner: str | None = None) -> tuple[JobTotal, ...]:
        return await self._book.totals(side, owner)

    async def standings(self, owner: str, *, now_us: int, half_life_s: float) -> tuple[Standing, ...]:
        return await self._book.standings(owner, now_us=now_us, half_life_s=half_life_s)


def die_at(step: str, here: str) -> None:
    if step == here:
        os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, folder: Path, secret: str, step: str) -> None:
    def tell(_: Sale, said: str) -> None:
        die_at(step, f"heard:{said}")

    venue = NotingVenue(folder / "asked")
    async with open_seller(url, folder, SecretKey.parse(secret), venue) as seller:
        shop = replace(seller.shop, book=DeadlyBook(seller.book, step))
        async with Market(shop, tell=tell) as market:
            await market.listening()
            print("serving", flush=True)
            await market.fatal


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], "".join(sys.argv[4:])))
