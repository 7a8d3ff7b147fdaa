"""What a Nostr relay takes and gives, as data, and the port of those who speak with relays."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal, Protocol

from pydantic import Field

from swarmc.contracts.canonical import Contract

Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""32 bytes in lower-case hex: an event's id, or an x-only public key."""

Hex128 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
"""64 bytes in lower-case hex: a Schnorr signature."""

Kind = Annotated[int, Field(strict=True, ge=0, le=65_535)]
"""What an event is, by the registry of NIPs."""

UnixSeconds = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
"""Unix time in seconds, small enough that every JSON reader reads the same number."""

Tags = tuple[tuple[str, ...], ...]


class NostrEvent(Contract):
    """A signed event (NIP-01). Who has one may rely on it: only `swarmc.nostr` makes them, signed or verified."""

    id: Hex64
    pubkey: Hex64
    created_at: UnixSeconds
    kind: Kind
    tags: Tags
    content: str
    sig: Hex128

    def values(self, name: str) -> tuple[str, ...]:
        """The first value of every tag of this name, in order."""
        return tuple(tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name)


class Reference(Contract):
    """An `e` tag whose event has no id yet: it is another note of the same tuple.

    Attributes:
        note: That note's place in the tuple, from 0; before the note that refers to it.
        marker: The fourth word of the tag: what the other one is to this.
    """

    note: int = Field(ge=0)
    marker: str


class UnsignedNote(Contract):
    """An event before it is signed. `references` become `e` tags after `tags`, in their order."""

    kind: Kind
    created_at: UnixSeconds
    tags: Tags = ()
    content: str = ""
    references: tuple[Reference, ...] = ()


class Filter(Contract):
    """Which events are wanted (NIP-01): an event must meet every condition that is given.

    Attributes:
        tags: By one letter, the values of which an event must have one: ``{"t": ("run",)}``.
        limit: How many of the newest a relay is to give.
    """

    ids: tuple[Hex64, ...] = ()
    authors: tuple[Hex64, ...] = ()
    kinds: tuple[Kind, ...] = ()
    tags: dict[Annotated[str, Field(pattern="^[a-zA-Z]$")], tuple[str, ...]] = Field(default={})
    since: UnixSeconds | None = None
    until: UnixSeconds | None = None
    limit: int | None = Field(default=None, ge=1)


class RelayAnswer(Contract):
    """What one relay did with what it was asked.

    `unanswered`: it was not reached, went away, or was silent until the time was over. `reason` says why not.
    """

    url: str
    outcome: Literal["accepted", "refused", "unanswered"]
    reason: str = ""


class Published(Contract):
    """An event that a quorum of relays took. Relays that had not answered by then are not among the answers."""

    event_id: Hex64
    answers: tuple[RelayAnswer, ...]

    @property
    def accepted(self) -> tuple[str, ...]:
        return tuple(answer.url for answer in self.answers if answer.outcome == "accepted")


class Fetched(Contract):
    """Verified events that match, each once, oldest first (then by id), and how far each relay went.

    A relay's `accepted` means that it sent all it has (or its limit); otherwise something may be missing.
    """

    events: tuple[NostrEvent, ...]
    answers: tuple[RelayAnswer, ...]


class RelayHealth(Contract):
    """What is known of one relay.

    Attributes:
        failures: Attempts to connect, or to be answered, that failed since the last that did not.
        last_reason: Of the last thing that went wrong.
        unfit: Messages that were no event, no true event, or not what was asked for.
        latency_ms: From an event's being offered to its being taken, smoothed; `None` before the first.
    """

    url: str
    connected: bool
    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    received: int = 0
    unfit: int = 0
    failures: int = 0
    last_reason: str = ""
    latency_ms: int | None = None


class Relay(Protocol):
    """One or several Nostr relays, behind one door."""

    async def publish(self, event: NostrEvent, *, also: Iterable[str] = ()) -> Published:
        """Hand an event to the relays. To publish it again does no harm.

        Args:
            event: What is published.
            also: Relays that a stranger wants it on: best effort, within bounds, and no part of the quorum.

        Raises:
            RelayError: fewer relays took it than the quorum; it names each and says why.
        """
        ...

    async def fetch(self, filters: Sequence[Filter], *, limit: int = 500) -> Fetched:
        """Read back what was published: at most `limit` events.

        Raises:
            RelayError: no relay answered in time.
        """
        ...

    def subscribe(self, filters: Sequence[Filter]) -> AbstractAsyncContextManager[AsyncIterator[NostrEvent]]:
        """Hear verified events that match as they come, each once however many relays give it.

        On entering, every relay that can be reached has been asked (a relay that cannot is asked when it is
        back), so what is published afterwards is heard. After a break a relay is asked again from the newest
        event it gave, less an overlap. A reader that is too slow loses nothing silently: the iterator raises.

        Args:
            filters: What is wanted; a `since` says from when on stored events are given too.

        Raises:
            RelayError: on entering, no relay could be reached; while reading, the reader was too slow.
        """
        ...

    @property
    def health(self) -> tuple[RelayHealth, ...]: ...
