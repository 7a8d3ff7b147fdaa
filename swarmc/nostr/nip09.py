"""NIP-09: asking for events to be deleted, and whether such a request counts against an event."""

from collections.abc import Sequence

from swarmc.contracts.market import DELETION
from swarmc.contracts.relay import NostrEvent, UnsignedNote

_LETTERS_OF_ID = frozenset("0123456789abcdef")


def deletion_note(events: Sequence[NostrEvent], now_s: int, reason: str = "") -> UnsignedNote:
    """The request that events be deleted, to be signed by the author of them all.

    Those that newer ones replace are named by their address too: their older versions go with them.

    Args:
        events: At least one; all of one author; none a request for deletion.
        now_s: Unix time.
        reason: For people.

    Raises:
        ValueError: `events` are not as said.
    """
    if len({event.pubkey for event in events}) != 1:
        raise ValueError("a request for deletion names events of one author, and at least one")
    if any(event.kind == DELETION for event in events):
        raise ValueError("a request for deletion cannot be deleted: NIP-09 gives that no effect")
    addresses = dict.fromkeys(address for event in events if (address := _address(event)) is not None)
    kinds = dict.fromkeys(event.kind for event in events)
    tags = (
        *(("e", event.id) for event in events),
        *(("a", address) for address in addresses),
        *(("k", str(kind)) for kind in kinds),
    )
    return UnsignedNote(kind=DELETION, created_at=now_s, tags=tags, content=reason)


def deleted_by(event: NostrEvent) -> tuple[str, ...]:
    """The ids that a request for deletion names; none of another event, nor what is no id.

    They say what its author wants. It counts only for events of that same author: see `deletes`.
    """
    if event.kind != DELETION:
        return ()
    return tuple(word for word in event.values("e") if len(word) == 64 and _LETTERS_OF_ID.issuperset(word))


def deletes(deletion: NostrEvent, event: NostrEvent) -> bool:
    """Whether `deletion` is a request that counts against `event`: of the same author, naming its id or its address.

    By address it counts for versions up to its own time alone. Against another request for deletion none counts.
    """
    if deletion.kind != DELETION or event.kind == DELETION or deletion.pubkey != event.pubkey:
        return False
    if event.id in deletion.values("e"):
        return True
    address = _address(event)
    return address is not None and event.created_at <= deletion.created_at and address in deletion.values("a")


def _address(event: NostrEvent) -> str | None:
    """``kind:author:d``, of events that are replaced by newer ones."""
    if 30_000 <= event.kind < 40_000:
        return f"{event.kind}:{event.pubkey}:{next(iter(event.values('d')), '')}"
    if 10_000 <= event.kind < 20_000 or event.kind in (0, 3):
        return f"{event.kind}:{event.pubkey}:"
    return None
