"""Hints that an invoice may have been paid: what a wallet tells of, and what polling finds."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import final

from swarmc.contracts.errors import WalletError
from swarmc.contracts.wallet import Invoice, Settlement

logger = logging.getLogger(__name__)

MOST_WATCHED = 10_000
MOST_UNREAD = 10_000
AT_ONCE = 8
LATE_S = 60.0
"""How long after its end an invoice is still asked about: a payment may have been under way."""


@final
class Hints:
    """Unpaid invoices of ours, and those who want to hear when one may be paid.

    Args:
        find: The wallet's `find_settlement`.
        every_s: Seconds between two rounds of asking; may be changed.
    """

    def __init__(self, find: Callable[[str], Awaitable[Settlement | None]], *, every_s: float) -> None:
        self._find = find
        self.every_s = every_s
        self._unpaid: dict[str, float] = {}
        self._listeners: set[asyncio.Queue[str]] = set()

    def watch(self, invoice: Invoice) -> None:
        """Ask about this invoice until it is paid or over. Of too many the oldest is no longer asked about."""
        self._unpaid[invoice.payment_hash] = invoice.expires_at + LATE_S
        if len(self._unpaid) > MOST_WATCHED:
            del self._unpaid[next(iter(self._unpaid))]

    def tell(self, payment_hash: str) -> None:
        """Pass on that an invoice may be paid. A listener with too much unread misses it."""
        for listener in self._listeners:
            if not listener.full():
                listener.put_nowait(payment_hash)

    async def listen(self) -> AsyncIterator[str]:
        """Payment hashes, without end."""
        unread: asyncio.Queue[str] = asyncio.Queue(MOST_UNREAD)
        self._listeners.add(unread)
        next_round_s = time.monotonic()
        try:
            while True:
                try:
                    async with asyncio.timeout(max(0.0, next_round_s - time.monotonic())):
                        yielded = await unread.get()
                except TimeoutError:
                    await self._round()
                    next_round_s = time.monotonic() + self.every_s
                    continue
                yield yielded
        finally:
            self._listeners.discard(unread)

    async def _round(self) -> None:
        """Ask about every unpaid invoice, a few at once. A wallet that is down is asked again in the next round."""
        now_s = time.time()
        for payment_hash in [one for one, until_s in self._unpaid.items() if until_s < now_s]:
            del self._unpaid[payment_hash]
        waiting = list(self._unpaid)
        for start in range(0, len(waiting), AT_ONCE):
            await asyncio.gather(*map(self._look, waiting[start : start + AT_ONCE]))

    async def _look(self, payment_hash: str) -> None:
        try:
            found = await self._find(payment_hash)
        except WalletError as error:
            logger.debug("asking whether %s is paid: %s", payment_hash[:16], error)
            return
        if found is not None:
            self._unpaid.pop(payment_hash, None)
            self.tell(payment_hash)
