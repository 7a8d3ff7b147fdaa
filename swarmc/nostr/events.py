"""NIP-01: what an event's id is the hash of, signing, and the one place where strangers' events are read.

Source: NIP-01 (serialization, ids), BIP-340 (signatures).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeGuard

import orjson

from swarmc.contracts.canonical import Contract
from swarmc.contracts.relay import NostrEvent, Reference, Tags, UnsignedNote
from swarmc.nostr.keys import SecretKey, is_signed

MAX_EVENT_BYTES = 1 << 20
"""Of one event in its serialized form. Public relays mostly stop at 64 KiB, ours for tests at 2 MB."""

MAX_TAGS = 5_000
MAX_TAG_VALUES = 100

MAX_CREATED_AT = 2**53 - 1
MAX_KIND = 65_535

Unfitness = Literal["no json", "no event", "too large", "not wanted", "wrong id", "wrong signature"]

_FIELDS = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")
_HEX_64 = re.compile(r"[0-9a-f]{64}").fullmatch
_HEX_128 = re.compile(r"[0-9a-f]{128}").fullmatch


class Unfit(Contract):
    """Why something that a stranger sent is no event that may be used."""

    reason: Unfitness


def serialized(pubkey: str, note: UnsignedNote, tags: Tags | None = None) -> bytes:
    """The bytes whose SHA-256 is the event's id: ``[0,pubkey,created_at,kind,tags,content]``.

    Args:
        pubkey: The author, in hex.
        note: What is said.
        tags: In place of `note.tags`, when its references are known by now.

    Raises:
        ValueError: a text holds half a character (a lone surrogate), which has no UTF-8.
    """
    return _serialized(pubkey, note.created_at, note.kind, note.tags if tags is None else tags, note.content)


def sign_note(note: UnsignedNote, key: SecretKey, *, aux: bytes | None = None) -> NostrEvent:
    """Sign a note that refers to no other. Raises as `sign_notes`."""
    return sign_notes([note], key, aux=aux)[0]


def sign_notes(notes: Sequence[UnsignedNote], key: SecretKey, *, aux: bytes | None = None) -> tuple[NostrEvent, ...]:
    """Sign notes in their order, each with `e` tags that name the earlier ones it refers to.

    Args:
        notes: Every reference points to an earlier one.
        key: Who signs them.
        aux: 32 bytes in place of fresh randomness, so that the signatures repeat.

    Raises:
        ValueError: a reference to a note that is not earlier, a half character, or a note over `MAX_EVENT_BYTES`.
    """
    signed: list[NostrEvent] = []
    for place, note in enumerate(notes):
        ids = [event.id for event in signed]
        tags = (*note.tags, *(_reference_tag(reference, ids, place) for reference in note.references))
        data = serialized(key.pubkey, note, tags)
        if len(data) > MAX_EVENT_BYTES:
            raise ValueError(f"note {place} has {len(data)} bytes; an event may have {MAX_EVENT_BYTES}")
        digest = hashlib.sha256(data).digest()
        signed.append(
            NostrEvent(
                id=digest.hex(),
                pubkey=key.pubkey,
                created_at=note.created_at,
                kind=note.kind,
                tags=tags,
                content=note.content,
                sig=key.sign(digest, aux=aux).hex(),
            )
        )
    return tuple(signed)


def verify(event: NostrEvent) -> bool:
    """Whether the id is that of the content, and the signature that of the author over the id."""
    return _fault(event) is None


def parse_event(text: str | bytes) -> NostrEvent | Unfit:
    """Read an event that a stranger wrote as JSON. Never raises; what comes back as an event is verified."""
    if len(text) > MAX_EVENT_BYTES:
        return Unfit(reason="too large")
    try:
        value = orjson.loads(text)
    except ValueError:  # As orjson says it of bad JSON, half characters and nesting beyond its bound.
        return Unfit(reason="no json")
    return check_event(value)


def check_event(value: object, *, wanted: Callable[[NostrEvent], bool] | None = None) -> NostrEvent | Unfit:
    """The same for JSON that is read by now: any value at all. Fields beyond NIP-01's are left out.

    Bounded before anything is computed: see `MAX_EVENT_BYTES`, `MAX_TAGS`, `MAX_TAG_VALUES`.

    Args:
        value: What a stranger gave for an event.
        wanted: Asked before the costly part of an event that is not yet known to be true.
    """
    if not isinstance(value, dict) or not _well_formed(value):
        return Unfit(reason="no event")
    if not _small(value["tags"], value["content"]):
        return Unfit(reason="too large")
    # Not validated again: `_well_formed` checked every field, more strictly than the contract does.
    fields = {name: value[name] for name in _FIELDS}
    event = NostrEvent.model_construct(**{**fields, "tags": tuple(map(tuple, value["tags"]))})
    if wanted is not None and not wanted(event):
        return Unfit(reason="not wanted")
    fault = _fault(event)
    return event if fault is None else Unfit(reason=fault)


def event_json(event: NostrEvent) -> str:
    """The event as relays take it, compact, fields in NIP-01's order."""
    fields = vars(event)
    return orjson.dumps({name: fields[name] for name in _FIELDS}).decode()


def _serialized(pubkey: str, created_at: int, kind: int, tags: Tags, content: str) -> bytes:
    try:
        return orjson.dumps([0, pubkey, created_at, kind, tags, content])
    except TypeError:  # As orjson says it of half characters.
        raise ValueError("an event's text holds half a character (a lone surrogate)") from None


def _reference_tag(reference: Reference, ids: Sequence[str], place: int) -> tuple[str, ...]:
    if reference.note >= len(ids):
        raise ValueError(f"note {place} refers to note {reference.note}, which is not signed before it")
    return ("e", ids[reference.note], "", reference.marker)


def _fault(event: NostrEvent) -> Unfitness | None:
    """Why an event whose form is right is not true."""
    try:
        data = _serialized(event.pubkey, event.created_at, event.kind, event.tags, event.content)
    except ValueError:
        return "no event"
    if len(data) > MAX_EVENT_BYTES:
        return "too large"
    digest = hashlib.sha256(data).digest()
    if digest.hex() != event.id:
        return "wrong id"
    return None if is_signed(event.pubkey, digest, bytes.fromhex(event.sig)) else "wrong signature"


def _well_formed(value: dict[object, object]) -> TypeGuard[dict[str, str]]:
    if not (_is_hex(value.get("id"), _HEX_64) and _is_hex(value.get("pubkey"), _HEX_64)):
        return False
    # Exact types: a JSON true is an int to Python, and would be hashed as another number than was signed.
    created_at, kind, content = value.get("created_at"), value.get("kind"), value.get("content")
    if type(created_at) is not int or type(kind) is not int or not isinstance(content, str):
        return False
    fits = 0 <= created_at <= MAX_CREATED_AT and 0 <= kind <= MAX_KIND and _is_hex(value.get("sig"), _HEX_128)
    return fits and _are_tags(value.get("tags"))


def _are_tags(tags: object) -> bool:
    if not isinstance(tags, list) or len(tags) > MAX_TAGS:
        return False
    for tag in tags:
        if not isinstance(tag, list) or len(tag) > MAX_TAG_VALUES:
            return False
        for text in tag:
            if not isinstance(text, str):
                return False
    return True


def _is_hex(text: object, fits: Callable[[str], object]) -> bool:
    return isinstance(text, str) and fits(text) is not None


def _small(tags: object, content: str) -> bool:
    letters = len(content) + sum(len(text) for tag in tags for text in tag) if isinstance(tags, list) else len(content)
    return letters <= MAX_EVENT_BYTES
