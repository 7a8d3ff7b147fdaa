"""Signed events for tests of relays, and how they look on the wire."""

import json
import time

from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.events import event_json, sign_note
from swarmc.nostr.keys import SecretKey

KEY = SecretKey((11).to_bytes(32, "big"))


def an_event(
    content: str = "", *, kind: int = 5050, ago_s: int = 0, key: SecretKey = KEY, tags: tuple = (("t", "run"),)
) -> NostrEvent:
    note = UnsignedNote(kind=kind, created_at=int(time.time()) - ago_s, tags=tags, content=content)
    return sign_note(note, key)


def wire(event: NostrEvent) -> dict:
    """As a relay has it."""
    return json.loads(event_json(event))
