"""Which provider gets a job: those who can do it for the bid, best first by price, reputation and health."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from swarmc.contracts.canonical import Contract
from swarmc.contracts.job_book import Standing
from swarmc.contracts.market import Ask, Encryption, Offer
from swarmc.contracts.relay import Hex64
from swarmc.contracts.wallet import Msats, Network
from swarmc.nostr.generation import price_of

GUESSED_LATENCY_S = 1.0
"""Of a provider that was never asked."""

PRIOR_ANSWERED, PRIOR_FAILED = 4.0, 1.0
"""What a stranger counts as: so many jobs well done, so many not."""

UNDELIVERED_WEIGHS = 4.0
"""A paid job without a result, against one that merely failed."""

LATENCY_MEMORY = 0.2
"""Weight of the newest answer in the mean of latencies."""


class Wanted(Contract):
    """What a provider must offer.

    Attributes:
        ask: The job, which prices are reckoned from.
        model: `None` for whatever it runs by default.
        wait_msats_per_s: What a second of waiting is worth: a dearer provider is taken when it saves more.
        encryption: It must be able to decrypt this.
        only: Nobody but these, where any are named.
        heard: Who answered the same prompt before: they are asked again only where nobody else fits.
        lot: What decides between equals, so that they share the work.
    """

    ask: Ask
    model: str | None = None
    bid_msats: Msats
    network: Network
    wait_msats_per_s: Msats = 0
    encryption: Encryption | None = None
    only: tuple[Hex64, ...] = ()
    heard: tuple[Hex64, ...] = ()
    lot: str = ""


@dataclass(frozen=True, slots=True)
class Track:
    """How a provider did for us: over days by its standing, in this process by what is under way.

    Attributes:
        latency_s: Of its answers of late.
        avoided_until_s: It failed just now and is left alone until then, by the caller's clock.
        failures: In a row.
    """

    standing: Standing | None = None
    latency_s: float = GUESSED_LATENCY_S
    in_flight: int = 0
    failures: int = 0
    avoided_until_s: float = 0.0

    @property
    def reliability(self) -> float:
        """The share of jobs that it does, 0 to 1, a stranger's 0.8."""
        answered, failed = PRIOR_ANSWERED, PRIOR_FAILED
        if self.standing is not None:
            answered += self.standing.answered
            failed += self.standing.failed + (UNDELIVERED_WEIGHS - 1) * self.standing.undelivered
        return answered / (answered + failed)

    def answered(self, latency_s: float) -> "Track":
        """After an answer."""
        first = self.standing is None and self.latency_s == GUESSED_LATENCY_S
        mean = latency_s if first else self.latency_s + LATENCY_MEMORY * (latency_s - self.latency_s)
        return replace(self, latency_s=mean, failures=0, avoided_until_s=0.0)

    def failed(self, now_s: float, pause_s: float) -> "Track":
        """After a failure: left alone for `pause_s`, twice as long for each one more in a row, an hour at most.

        Jobs that fail together are one failure.
        """
        if now_s < self.avoided_until_s:
            return self
        failures = self.failures + 1
        return replace(self, failures=failures, avoided_until_s=now_s + min(3600.0, pause_s * 2 ** (failures - 1)))


@dataclass(frozen=True, slots=True)
class Choice:
    """Who may be asked, best first, and why the others may not, by sentence."""

    offers: tuple[Offer, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)


def choose(offers: Sequence[Offer], wanted: Wanted, tracks: Mapping[str, Track], now_s: float) -> Choice:
    """Rank the offers that fit.

    An offer's rank is what it is expected to cost: its price, or the bid where it names none, over the share of
    jobs that it does, and the worth of the time it will take with what it has in flight for us already. Another
    voice goes before a better rank.

    Args:
        offers: The newest of each provider.
        wanted: What is asked for.
        tracks: By provider; a stranger needs none.
        now_s: By the clock of `Track.avoided_until_s`.
    """
    fitting, others = [], {}
    for offer in offers:
        track = tracks.get(offer.provider, Track())
        reason = _misfit(offer, wanted) or _pause(track, now_s)
        if reason:
            others[offer.provider] = reason
        else:
            heard = offer.provider in wanted.heard
            rank = (heard, _expected_msats(offer, wanted, track), _lot(wanted.lot, offer.provider))
            fitting.append((rank, offer))
    return Choice(tuple(offer for _, offer in sorted(fitting, key=lambda one: one[0])), others)


def _expected_msats(offer: Offer, wanted: Wanted, track: Track) -> float:
    price = _price_of(offer, wanted)
    waiting_s = track.latency_s * (1 + track.in_flight)
    return (wanted.bid_msats if price is None else price) / track.reliability + wanted.wait_msats_per_s * waiting_s


def _price_of(offer: Offer, wanted: Wanted) -> int | None:
    """What the offer asks for such a job; `None` when it names no price."""
    return None if offer.prices is None else price_of(offer.prices, wanted.ask)


def _lot(lot: str, provider: str) -> bytes:
    return hashlib.sha256(f"{lot} {provider}".encode()).digest()


def _misfit(offer: Offer, wanted: Wanted) -> str:
    price = _price_of(offer, wanted)
    reasons = (
        (bool(wanted.only) and offer.provider not in wanted.only, "is not among the providers that were named"),
        (wanted.ask.kind not in offer.kinds, f"does not do jobs of kind {wanted.ask.kind}"),
        (
            wanted.model is not None and bool(offer.models) and wanted.model not in offer.models,
            f"runs {', '.join(offer.models[:3])}, not {wanted.model}",
        ),
        (price is not None and price > wanted.bid_msats, f"asks {price} msats, above the bid of {wanted.bid_msats}"),
        (
            bool(price) and offer.network not in (None, wanted.network),
            f"takes money of {offer.network}, our wallet holds {wanted.network}",
        ),
        (
            wanted.encryption is not None and wanted.encryption not in offer.encryption,
            f"cannot read jobs encrypted by {wanted.encryption}",
        ),
    )
    return next((sentence for misfits, sentence in reasons if misfits), "")


def _pause(track: Track, now_s: float) -> str:
    left_s = track.avoided_until_s - now_s
    return f"failed {track.failures} times in a row and is left alone for {left_s:.0f} s" if left_s > 0 else ""
