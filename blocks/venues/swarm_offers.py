"""Who offers what on the market, how they did, and whom to ask next."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import final

from swarmc.contracts.errors import RelayError
from swarmc.contracts.job_book import Standing
from swarmc.contracts.market import DELETION, HANDLER, Failure, Offer
from swarmc.contracts.relay import Filter, Kind, NostrEvent, Relay
from swarmc.nostr.choosing import Choice, Track, Wanted, choose
from swarmc.nostr.nip09 import deletes
from swarmc.nostr.nip89 import newest_offers

logger = logging.getLogger(__name__)

FRESH_S = 60.0
"""How long offers are taken as they were read."""

LEAST_BETWEEN_S = 1.0
MOST_OFFERS = 500
PAUSES_S: dict[Failure, float] = {"unpublished": 1.0, "refused": 2.0, "too_dear": 60.0, "unpaid": 60.0}
"""How long a provider is left alone after a job failed so; see `Track.failed`."""

PAUSE_S = 15.0
BLAMELESS: frozenset[Failure] = frozenset({"unpublished", "unpaid", "unsent", "stopped"})
"""Failures that are not the provider's."""


@final
class Offers:
    """The providers of one kind of job.

    Args:
        relay: Where they announce themselves.
        kind: Of the jobs.
        standings: How they did before.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        relay: Relay,
        kind: Kind,
        standings: tuple[Standing, ...] = (),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._relay = relay
        self._kind = kind
        self._clock = clock
        self._tracks = {one.provider: Track(standing=one) for one in standings}
        self._offers: tuple[Offer, ...] = ()
        self._read_at_s = float("-inf")
        self._reading = asyncio.Lock()

    async def choose(self, wanted: Wanted, *, patience_s: float) -> Choice:
        """Who may be asked, best first. While nobody fits, the market is read anew for up to `patience_s` seconds.

        Raises:
            RelayError: the relays gave no answer, now or before.
        """
        deadline_s = self._clock() + patience_s
        await self._read(FRESH_S)
        while not (choice := choose(self._offers, wanted, self._tracks, self._clock())).offers:
            left_s = deadline_s - self._clock()
            if left_s <= 0:
                break
            await asyncio.sleep(min(LEAST_BETWEEN_S, left_s))
            await self._read(LEAST_BETWEEN_S)
        return choice

    def began(self, provider: str) -> None:
        """A job went to it."""
        track = self._tracks.get(provider, Track())
        self._tracks[provider] = replace(track, in_flight=track.in_flight + 1)

    def ended(self, provider: str, latency_s: float, failure: Failure | None) -> None:
        """The job is over."""
        track = self._tracks[provider]
        track = replace(track, in_flight=track.in_flight - 1)
        if failure is None:
            track = track.answered(latency_s)
        elif failure not in BLAMELESS:
            track = track.failed(self._clock(), PAUSES_S.get(failure, PAUSE_S))
        self._tracks[provider] = track

    async def _read(self, fresh_s: float) -> None:
        """Read the offers, unless they were read within `fresh_s` seconds."""
        async with self._reading:
            if self._clock() - self._read_at_s < fresh_s:
                return
            try:
                found = await self._relay.fetch(
                    [
                        Filter(kinds=(HANDLER,), tags={"k": (str(self._kind),)}, limit=MOST_OFFERS),
                        Filter(kinds=(DELETION,), tags={"k": (str(HANDLER),)}, limit=MOST_OFFERS),
                    ],
                    limit=2 * MOST_OFFERS,
                )
            except RelayError as error:
                if not self._offers:
                    raise
                logger.warning("reading the market's offers: %s; those read before are used", error)
            else:
                self._offers = newest_offers(_standing(found.events))
            self._read_at_s = self._clock()


def _standing(events: tuple[NostrEvent, ...]) -> list[NostrEvent]:
    """The announcements that their authors did not take back."""
    deletions: dict[str, list[NostrEvent]] = {}
    for event in events:
        if event.kind == DELETION:
            deletions.setdefault(event.pubkey, []).append(event)
    return [
        event
        for event in events
        if event.kind == HANDLER and not any(deletes(deletion, event) for deletion in deletions.get(event.pubkey, ()))
    ]
