"""NIP-01's messages between a client and a relay, and which events a filter lets through."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import orjson
from pydantic import JsonValue

from swarmc.contracts.relay import Filter, NostrEvent
from swarmc.nostr.events import MAX_EVENT_BYTES, event_json

MAX_MESSAGE_BYTES = MAX_EVENT_BYTES + 4096
MAX_REASON = 300
MAX_SUBSCRIPTION = 64

Verb = Literal["EVENT", "OK", "EOSE", "CLOSED", "NOTICE", "AUTH", "OTHER"]
_PARTS: dict[str, tuple[Verb, int]] = {
    "EVENT": ("EVENT", 3),
    "OK": ("OK", 3),
    "EOSE": ("EOSE", 2),
    "CLOSED": ("CLOSED", 2),
    "NOTICE": ("NOTICE", 2),
    "AUTH": ("AUTH", 2),
}


class RelayMessage(NamedTuple):
    """What a relay said. Nothing in it is verified; an event in it goes through `check_event`.

    Attributes:
        subject: The subscription of an `EVENT`, `EOSE` or `CLOSED`; the event's id of an `OK`.
        agreed: Of an `OK`: whether the relay took the event.
        text: Its reason or notice, on one line of at most `MAX_REASON` characters; of an `AUTH` the challenge as it
            is, for nobody's log.
        event: Of an `EVENT`: what it gives for one.
    """

    verb: Verb
    subject: str = ""
    agreed: bool = False
    text: str = ""
    event: JsonValue = None


def publish_message(event: NostrEvent) -> str:
    """``["EVENT", event]``."""
    return f'["EVENT",{event_json(event)}]'


def request_message(subscription: str, filters: Sequence[Filter]) -> str:
    """``["REQ", subscription, filter, ...]``."""
    return orjson.dumps(["REQ", subscription, *map(_wire, filters)]).decode()


def close_message(subscription: str) -> str:
    """``["CLOSE", subscription]``."""
    return orjson.dumps(["CLOSE", subscription]).decode()


def parse_message(text: str | bytes) -> RelayMessage | None:
    """Read what a relay sent; nothing when it is no message. Never raises."""
    try:
        parts = orjson.loads(text) if len(text) <= MAX_MESSAGE_BYTES else None
    except ValueError:
        return None
    if not isinstance(parts, list) or not parts or not isinstance(parts[0], str):
        return None
    verb, least = _PARTS.get(parts[0], ("OTHER", 0))
    if verb == "OTHER":
        return RelayMessage(verb="OTHER")
    if len(parts) < least or not isinstance(parts[1], str):
        return None
    return _message(verb, parts)


def matches(event: NostrEvent, wanted: Filter) -> bool:
    """Whether `wanted` lets the event through; its `limit` counts for nothing here."""
    return (
        (not wanted.kinds or event.kind in wanted.kinds)
        and (not wanted.authors or event.pubkey in wanted.authors)
        and (not wanted.ids or event.id in wanted.ids)
        and (wanted.since is None or event.created_at >= wanted.since)
        and (wanted.until is None or event.created_at <= wanted.until)
        and all(not set(values).isdisjoint(event.values(name)) for name, values in wanted.tags.items())
    )


def _message(verb: Verb, parts: list[JsonValue]) -> RelayMessage | None:
    second, third = str(parts[1]), parts[2] if len(parts) > 2 else ""
    match verb:
        case "EVENT":
            return RelayMessage(verb, second[:MAX_SUBSCRIPTION], event=third)
        case "OK" if isinstance(third, bool):
            return RelayMessage(verb, second[:MAX_SUBSCRIPTION], third, _line(parts[3] if parts[3:] else ""))
        case "OK":
            return None
        case "NOTICE":
            return RelayMessage(verb, text=_line(second))
        case "AUTH":
            # It is signed as it came, or not at all.
            return RelayMessage(verb, text=second) if len(second) <= MAX_REASON else None
        case _:
            return RelayMessage(verb, second[:MAX_SUBSCRIPTION], text=_line(third))


def _line(value: JsonValue) -> str:
    # A stranger's text ends in our log: no line breaks, no terminal commands.
    text = value if isinstance(value, str) else ""
    if text.isprintable() and len(text) <= MAX_REASON:
        return text.strip()
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_REASON]).strip()


def _wire(wanted: Filter) -> dict[str, JsonValue]:
    given = wanted.model_dump(mode="json", exclude={"tags"}, exclude_defaults=True)
    return {**given, **{f"#{name}": list(values) for name, values in wanted.tags.items()}}
