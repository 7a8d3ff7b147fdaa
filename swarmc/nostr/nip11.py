"""NIP-11: what a relay says of itself and of its limits, read liberally."""

import orjson

from swarmc.contracts.canonical import Contract

MAX_DOCUMENT_BYTES = 1 << 18
MAX_LINE = 300
MAX_NIPS = 500

MEDIA_TYPE = "application/nostr+json"
"""What a client accepts, over HTTP at the relay's own address, to be given the document."""

_LINES = ("name", "description", "pubkey", "contact", "software", "version", "payments_url")
_MOST = 2**53 - 1


class RelayLimits(Contract):
    """What a relay takes. `None`: it does not say.

    Attributes:
        max_message_length: Bytes of one message, brackets included; so of an event too.
        max_subscriptions: At one time on one connection.
        max_subid_length: Letters of a subscription's name.
        max_limit: Events that one filter gives.
        default_limit: Events that a filter without a limit gives.
        max_event_tags: Tags of an event.
        max_content_length: Letters of an event's content.
        min_pow_difficulty: Bits of work (NIP-13) that an event must show; 0 for none.
        created_at_lower_limit: Seconds that an event may be old.
        created_at_upper_limit: Seconds that it may be ahead.
        auth_required: Nothing goes before NIP-42.
        payment_required: Nothing goes before it is paid.
        restricted_writes: It does not take events from everybody.
    """

    max_message_length: int | None = None
    max_subscriptions: int | None = None
    max_subid_length: int | None = None
    max_limit: int | None = None
    default_limit: int | None = None
    max_event_tags: int | None = None
    max_content_length: int | None = None
    min_pow_difficulty: int = 0
    created_at_lower_limit: int | None = None
    created_at_upper_limit: int | None = None
    auth_required: bool = False
    payment_required: bool = False
    restricted_writes: bool = False


class RelayInfo(Contract):
    """What a relay says of itself: unproven, and texts cut to one printable line of `MAX_LINE` letters.

    Attributes:
        pubkey: Of who runs it, as the relay wrote it: perhaps no key at all.
        supported_nips: By number.
    """

    name: str = ""
    description: str = ""
    pubkey: str = ""
    contact: str = ""
    software: str = ""
    version: str = ""
    payments_url: str = ""
    supported_nips: tuple[int, ...] = ()
    limitation: RelayLimits = RelayLimits()


def parse_relay_info(text: str | bytes) -> RelayInfo | None:
    """Read what a stranger sent as the document; nothing when it is no JSON object, or too large. Never raises.

    A field of another type than NIP-11 gives it counts as absent, and so does a maximum of 0 or less.
    """
    if len(text) > MAX_DOCUMENT_BYTES:
        return None
    try:
        value = orjson.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    nips = value.get("supported_nips")
    limitation = value.get("limitation")
    return RelayInfo(
        **{name: _line(value.get(name)) for name in _LINES},
        supported_nips=_nips(nips) if isinstance(nips, list) else (),
        limitation=_limits(limitation) if isinstance(limitation, dict) else RelayLimits(),
    )


def _limits(value: dict[str, object]) -> RelayLimits:
    fields = RelayLimits.model_fields
    kept = {name: value[name] for name in fields.keys() & value.keys() if _fits(value[name], fields[name].default)}
    return RelayLimits.model_validate(kept)


def _fits(given: object, default: object) -> bool:
    if isinstance(default, bool):
        return isinstance(given, bool)
    return type(given) is int and 0 < given <= _MOST


def _nips(values: list[object]) -> tuple[int, ...]:
    known = dict.fromkeys(nip for nip in values if type(nip) is int and 0 < nip <= _MOST)
    return tuple(known)[:MAX_NIPS]


def _line(value: object) -> str:
    # A stranger's text ends in our log: no line breaks, no terminal commands.
    text = value[:MAX_LINE] if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
