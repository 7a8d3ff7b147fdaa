"""NIP-42: proving to a relay who we are.

Whoever holds such a proof for another relay could use it there in our name. So a note is made from the address that
we dialled, never from one that a relay names, and `answers` checks what is about to be sent against both.
"""

from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.events import event_json

AUTH_KIND = 22_242
MAX_CHALLENGE = 256


def auth_note(relay_url: str, challenge: str, now_s: int) -> UnsignedNote:
    """The note whose signature proves to one relay, on one connection, who we are. It is never published.

    Args:
        relay_url: The address that we dialled.
        challenge: What the relay sent last on this connection.
        now_s: Unix time; relays take it within ten minutes.

    Raises:
        ValueError: the challenge is empty or has over `MAX_CHALLENGE` letters.
    """
    if not 0 < len(challenge) <= MAX_CHALLENGE:
        raise ValueError(
            f"the relay at {relay_url} asks to sign a challenge of {len(challenge)} letters; "
            f"1 to {MAX_CHALLENGE} are signed"
        )
    return UnsignedNote(
        kind=AUTH_KIND, created_at=now_s, tags=(("relay", relay_url), ("challenge", challenge)), content=""
    )


def answers(event: NostrEvent, relay_url: str, challenge: str) -> bool:
    """Whether this proves who we are to the relay at `relay_url` for `challenge`, and says nothing else to anybody."""
    tags = (("relay", relay_url), ("challenge", challenge))
    return event.kind == AUTH_KIND and event.tags == tags and event.content == ""


def auth_message(event: NostrEvent) -> str:
    """``["AUTH", event]``.

    Raises:
        ValueError: the event is none that `auth_note` makes: it would be given away to a relay as something else.
    """
    if event.kind != AUTH_KIND:
        raise ValueError(f"an AUTH message carries kind {AUTH_KIND}; this event has kind {event.kind}")
    return f'["AUTH",{event_json(event)}]'
