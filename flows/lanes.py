"""Open the lanes of a run: each venue once, behind its limits, its retries and the meter."""

import gc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import dspy

from blocks.venues.block import VenueBlock
from blocks.venues.find import find_venue
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.lanes import Limited, Retried
from swarmc.compiler.metering import Metered, Purse, Remembered
from swarmc.compiler.portal import Portal
from swarmc.compiler.quoting import Quoted
from swarmc.contracts.canonical import ppm
from swarmc.contracts.completions import Lane, Sampling
from swarmc.contracts.errors import SpecError
from swarmc.contracts.events import Emit
from swarmc.contracts.ports import Ledger, RunLease, Venue
from swarmc.contracts.spec import LaneSpec

DRAIN_GRACE_S = 10.0
RESERVED_PER_PLACE = 2
USED_LANES: tuple[Lane, ...] = ("swarm", "teacher", "propose", "validation", "premium", "judge")


@dataclass(frozen=True)
class GivenVenue:
    """A venue that its user opened, and closes."""

    venue: Venue

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue as it is."""
        yield self.venue


@dataclass(frozen=True)
class FoundVenue:
    """A venue's configuration, and the sentence that says why it is this one."""

    block: VenueBlock | GivenVenue
    sentence: str


def calm_interpreter() -> None:
    """Set Python's collector for what a compile does: millions of small records, on top of large libraries.

    Measured with `benchmarks/overhead.py`: without it the collector walks the imported libraries
    again and again, for a fifth of all CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@contextmanager
def calmed_interpreter() -> Iterator[None]:
    """As `calm_interpreter`, for as long as a compile goes on: the process is its user's."""
    before = gc.get_threshold()
    calm_interpreter()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def find_venues(
    lanes: Mapping[Lane, LaneSpec], given: Mapping[Lane, Venue] | None = None
) -> dict[Lane, FoundVenue]:
    """Look up the venue of every lane; nothing is opened yet.

    Args:
        lanes: The lanes.
        given: Open venues, for lanes that look up none.

    Raises:
        SpecError: no `swarm` lane, or a lane that a compile does not use.
        VenueError: a venue that is not to be had.
    """
    if "swarm" not in lanes:
        raise SpecError("`lanes` names no `swarm` lane; it is the one that tries are made in")
    if unused := sorted(set(lanes) - set(USED_LANES)):
        raise SpecError(f"`lanes` names {', '.join(unused)}; a compile uses {', '.join(USED_LANES)}")
    found = {}
    for lane, spec in lanes.items():
        if given and lane in given:
            found[lane] = FoundVenue(GivenVenue(given[lane]), f"{given[lane].model} of {given[lane].name}")
            continue
        block, sentence = await find_venue(spec)
        found[lane] = FoundVenue(block, sentence)
    return found


@dataclass(frozen=True)
class OpenLane:
    """A lane that can be asked: as a `dspy.LM`, and for its prices."""

    lm: dspy.LM
    quoted: Quoted


@asynccontextmanager
async def open_lanes(
    lanes: Mapping[Lane, LaneSpec], found: Mapping[Lane, FoundVenue], ledger: Ledger, lease: RunLease, emit: Emit
) -> AsyncIterator[dict[Lane, OpenLane]]:
    """A metered lane by name. On leaving, purchases in flight get time to be settled.

    Lanes with equal configuration share one opened venue.
    """
    portal = Portal()
    async with AsyncExitStack() as stack:
        opened: list[tuple[VenueBlock | GivenVenue, Venue]] = []
        open_ones: dict[Lane, OpenLane] = {}
        for lane, spec in lanes.items():
            block = found[lane].block
            venue = next((venue for other, venue in opened if other == block), None)
            if venue is None:
                venue = await stack.enter_async_context(block.open())
                opened.append((block, venue))
            purse = Purse(ledger=ledger, run_id=lease.run_id, epoch=lease.epoch, lane=lane, emit=emit)
            remembered = metered_lane(venue, spec, purse)
            stack.push_async_callback(remembered.drain, DRAIN_GRACE_S)
            sampling = sampling_of(spec)
            open_ones[lane] = OpenLane(lane_lm(remembered, lane, portal, sampling), Quoted(venue, sampling))
        yield open_ones


def metered_lane(venue: Venue, spec: LaneSpec, purse: Purse) -> Remembered:
    """Read, or else: retry, reserve, wait for a free place, buy, settle.

    A call that is being reserved or settled leaves its place in flight to another; so more may be
    reserved than are in flight, but not many more, because a kill loses what is reserved.
    """
    in_flight = Limited(venue, concurrency=spec.concurrency, rate_per_s=spec.rate_per_s)
    reserved = Limited(Metered(in_flight, purse), concurrency=RESERVED_PER_PLACE * spec.concurrency)
    return Remembered(Retried(reserved, attempts=spec.attempts), purse)


def sampling_of(spec: LaneSpec) -> Sampling:
    """How a lane picks its words, where a call leaves it open."""
    return Sampling(
        temperature_ppm=None if spec.temperature is None else ppm(spec.temperature), max_tokens=spec.max_tokens
    )
