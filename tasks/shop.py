"""What every step of a sale works with: relays to speak over, money, memory, a model, and who we are."""

from collections.abc import Callable
from dataclasses import dataclass
from time import time

from swarmc.contracts.completions import CompletionRequest, Lane
from swarmc.contracts.job_book import JobBook
from swarmc.contracts.market import Job
from swarmc.contracts.ports import Venue
from swarmc.contracts.relay import NostrEvent, Relay, UnsignedNote
from swarmc.contracts.wallet import Wallet
from swarmc.nostr.admission import Terms
from swarmc.nostr.events import sign_note
from swarmc.nostr.generation import DEFAULT_MAX_TOKENS, completion_request_of
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip90 import feedback_note

LANE: Lane = "swarm"
ROLLOUT_DIGITS = 15
"""Hex digits of a job's id that make its purchase its own: 60 bits, a number that every JSON reader can hold."""


@dataclass(frozen=True, slots=True)
class Shop:
    """A provider's hands.

    Attributes:
        venue: Where jobs run, metered: what it answered once it answers again for nothing.
        terms: On which jobs are taken.
        names: Of the venue's model, the first being that of jobs that name none.
        most_tokens: The longest answer that is sold.
        job_timeout_s: The longest time for one job.
        now_s: Unix time.
    """

    relay: Relay
    wallet: Wallet
    book: JobBook
    venue: Venue
    key: SecretKey
    terms: Terms
    names: tuple[str, ...]
    most_tokens: int = 4_096
    job_timeout_s: float = 120.0
    now_s: Callable[[], float] = time

    @property
    def owner(self) -> str:
        """Our public key."""
        return self.terms.provider

    def signed(self, note: UnsignedNote) -> NostrEvent:
        """Raises `ValueError` where the note is too large for an event."""
        return sign_note(note, self.key)

    def error_feedback(
        self, request: NostrEvent, code: str, reason: str, amount_msats: int | None = None
    ) -> NostrEvent:
        """A signed refusal or failure. What it says is public: no part of what was asked."""
        note = feedback_note(
            request, "error", int(self.now_s()), extra=f"{code}: {reason}", amount_msats=amount_msats or None
        )
        return self.signed(note)

    def asked_of(self, job: Job) -> CompletionRequest:
        """What the venue is asked for a job: a purchase of its own for every job, the same for the same job.

        Raises:
            ValueError: it is nothing that is done here. The message says why, without what was written.
        """
        asked = completion_request_of(job, lane=LANE, models=self.names, most_tokens=self.most_tokens)
        update: dict[str, object] = {
            "model": self.venue.model,
            "rollout_id": int(job.event_id[:ROLLOUT_DIGITS], 16),
        }
        if job.param("max_tokens", "max-tokens") is None:
            # So long an answer is what it was priced for.
            most = min(DEFAULT_MAX_TOKENS, self.most_tokens)
            update["sampling"] = asked.sampling.model_copy(update={"max_tokens": most})
        return asked.model_copy(update=update)
