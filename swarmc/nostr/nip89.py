"""NIP-89: what a provider offers, announced as a kind 31990 event and read from anybody's."""

import json
from collections.abc import Iterable
from typing import get_args

import orjson
from pydantic import JsonValue, ValidationError

from swarmc.contracts.market import HANDLER, TEXT_GENERATION, Announcement, Encryption, Offer, PriceList
from swarmc.contracts.relay import NostrEvent, Tags, UnsignedNote
from swarmc.contracts.wallet import Network
from swarmc.nostr.invoices import MAX_MSATS
from swarmc.nostr.nip90 import MAX_RELAY_LETTERS, MAX_RELAYS, REQUESTS, Code, Unreadable

MAX_CONTENT_LETTERS = 65_536
MAX_KINDS = 64
MAX_MODELS = 256
MAX_NAME_LETTERS = 200
MAX_ABOUT_LETTERS = 4_000

_PARAMS = ("model", "max_tokens", "temperature", "top_p", "seed", "stop", "response_format")


def offer_note(announcement: Announcement, created_at: int) -> UnsignedNote:
    """The event that announces it, with the tags that other clients and the Rust ancestor look for."""
    content = json.dumps(_content(announcement), ensure_ascii=False, separators=(",", ":"))
    return UnsignedNote(kind=HANDLER, created_at=created_at, tags=_tags(announcement), content=content)


def parse_offer(event: NostrEvent) -> Offer | Unreadable:
    """Read an offer, ours or another's. Never raises.

    What it does not say, or says in a form that nobody uses, is left empty. An offer without `d` has the empty one.
    A single price without more is what the ancestor and nostrdvm mean by it: msats for each request.
    """
    if event.kind != HANDLER:
        return _unreadable(event, "kind", f"an event of kind {event.kind} is no offer")
    if len(event.content) > MAX_CONTENT_LETTERS:
        return _unreadable(event, "too_large", f"an offer's content has at most {MAX_CONTENT_LETTERS} characters")
    fields = _fields(event.content)
    kinds = _kinds(event, fields)
    if not kinds:
        return _unreadable(event, "malformed", "it names no kind of job")
    network = _text(fields, "network") or next(iter(event.values("network")), "")
    try:
        return Offer(
            event_id=event.id,
            provider=event.pubkey,
            name_d=next(iter(event.values("d")), ""),
            created_at=event.created_at,
            kinds=kinds,
            name=_text(fields, "name")[:MAX_NAME_LETTERS],
            about=(_text(fields, "about") or _text(fields, "description"))[:MAX_ABOUT_LETTERS],
            models=_texts(fields, "models")[:MAX_MODELS],
            prices=_prices(event, fields),
            messages=fields.get("messages") is True,
            encryption=_encryption(fields),
            network=next((known for known in get_args(Network) if known == network), None),
            simulated=fields.get("simulated") is True,
            relays=_relays(event, fields),
        )
    except ValidationError:  # Half a character, which JSON can write and no text can be.
        return _unreadable(event, "malformed", "its texts hold what is no text")


def newest_offers(events: Iterable[NostrEvent]) -> tuple[Offer, ...]:
    """Of every author and `d` the newest event, if it can be read; newest first, then by id.

    What its author deleted is the caller's to leave out.
    """
    newest: dict[tuple[str, str], NostrEvent] = {}
    for event in sorted((event for event in events if event.kind == HANDLER), key=_age):
        newest.setdefault((event.pubkey, next(iter(event.values("d")), "")), event)
    offers = (parse_offer(event) for event in newest.values())
    return tuple(offer for offer in offers if isinstance(offer, Offer))


def _age(event: NostrEvent) -> tuple[int, str]:
    # Of two of one second NIP-01 keeps the lower id.
    return (-event.created_at, event.id)


def _tags(announcement: Announcement) -> Tags:
    kinds = announcement.kinds
    tags: list[tuple[str, ...]] = [("d", announcement.name_d), *(("k", str(kind)) for kind in kinds), ("t", "dvm")]
    tags.append(("handler", "compute_provider"))
    if TEXT_GENERATION in kinds:
        tags.append(("capability", "text-generation"))
    tags += [("capability", f"nip90-kind-{kind}") for kind in kinds]
    if announcement.prices is not None:
        tags.append(("price", str(_least_msats(announcement.prices)), "per-request", "sats"))
    if announcement.network is not None:
        tags.append(("network", announcement.network))
    return tuple(tags)


def _content(announcement: Announcement) -> dict[str, JsonValue]:
    names = _PARAMS if TEXT_GENERATION in announcement.kinds else ()
    params: dict[str, JsonValue] = {name: {"required": False, "values": []} for name in names}
    if "model" in params:
        params["model"] = {"required": False, "values": list(announcement.models)}
    content: dict[str, JsonValue] = {
        "name": announcement.name,
        "about": announcement.about,
        "description": announcement.about,
        "nip90Params": params,
        "encryptionSupported": bool(announcement.encryption),
        "encryption": list(announcement.encryption),
        "supported_kinds": list(announcement.kinds),
        "models": list(announcement.models),
        "messages": announcement.messages,
        "network": announcement.network,
        "simulated": announcement.simulated,
        "relays": list(announcement.relays),
    }
    if announcement.prices is not None:
        content["amount"] = _least_msats(announcement.prices)
        content["prices"] = announcement.prices.model_dump()
    return content


def _least_msats(prices: PriceList) -> int:
    return prices.price_msats(0, 0)


def _fields(content: str) -> dict[str, JsonValue]:
    """The content's JSON object; an empty one where it is none."""
    try:
        value = orjson.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _kinds(event: NostrEvent, fields: dict[str, JsonValue]) -> tuple[int, ...]:
    """From `k` tags; else as the ancestor says it, by capability or in the content."""
    words = list(event.values("k"))
    words = words or [word.removeprefix("nip90-kind-") for word in event.values("capability") if "-kind-" in word]
    kinds = [int(word) for word in words if word.isascii() and word.isdecimal() and len(word) <= 5]
    if not words:
        listed = fields.get("supported_kinds")
        kinds = [kind for kind in listed if type(kind) is int] if isinstance(listed, list) else []
    return tuple(dict.fromkeys(kind for kind in kinds if kind in REQUESTS))[:MAX_KINDS]


def _prices(event: NostrEvent, fields: dict[str, JsonValue]) -> PriceList | None:
    listed = fields.get("prices")
    if isinstance(listed, dict):
        known = {name: listed[name] for name in PriceList.model_fields if name in listed}
        try:
            return PriceList.model_validate(known)
        except ValidationError:
            return None
    said = [*event.values("price"), fields.get("amount")]
    return next((PriceList(request_msats=msats) for value in said if (msats := _msats(value)) is not None), None)


def _msats(value: object) -> int | None:
    if value == "free":
        return 0
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_MSATS else None


def _encryption(fields: dict[str, JsonValue]) -> tuple[Encryption, ...]:
    known: tuple[Encryption, ...] = get_args(Encryption)
    listed = _texts(fields, "encryption")
    if listed:
        return tuple(scheme for scheme in known if scheme in listed)
    # nostrdvm says so without saying which: it tries both.
    return known if fields.get("encryptionSupported") is True else ()


def _relays(event: NostrEvent, fields: dict[str, JsonValue]) -> tuple[str, ...]:
    urls = dict.fromkeys((*_texts(fields, "relays"), *event.values("relay")))
    return tuple(url for url in urls if len(url) <= MAX_RELAY_LETTERS)[:MAX_RELAYS]


def _text(fields: dict[str, JsonValue], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _texts(fields: dict[str, JsonValue], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _unreadable(event: NostrEvent, code: Code, reason: str) -> Unreadable:
    return Unreadable(event_id=event.id, author=event.pubkey, created_at=event.created_at, code=code, reason=reason)
