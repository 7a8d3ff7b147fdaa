"""NIP-19: words that name a key, an event, an address or a relay, with hints where to find it.

The bare words of keys and events are written by `swarmc.nostr.keys`.
"""

from typing import Annotated

from pydantic import Field
from pynostr.bech32 import Encoding, bech32_decode, bech32_encode, convertbits

from swarmc.contracts.canonical import Contract
from swarmc.contracts.relay import Hex64, Kind

MAX_WORD = 5_000
MAX_RELAYS = 20
MAX_VALUE_BYTES = 255
"""Of one relay's address, or of an address's `d`: its length is written in one byte."""

_MAX_KIND = 65_535
_SPECIAL, _RELAY, _AUTHOR, _KIND = range(4)

Values = dict[int, list[bytes]]
Relays = Annotated[tuple[str, ...], Field(max_length=MAX_RELAYS)]


class ProfilePointer(Contract):
    """Somebody, and relays where they may be found. A stranger's relays are for `blocks/relays` to allow."""

    pubkey: Hex64
    relays: Relays = ()


class EventPointer(Contract):
    """An event. `author` and `kind` are what the word claims, not proven."""

    id: Hex64
    relays: Relays = ()
    author: Hex64 | None = None
    kind: Kind | None = None


class AddressPointer(Contract):
    """The newest event of one kind, author and `d`."""

    name_d: str
    author: Hex64
    kind: Kind
    relays: Relays = ()


class RelayPointer(Contract):
    """A relay. NIP-19 has given these words up; they are still read."""

    url: str


Pointer = ProfilePointer | EventPointer | AddressPointer | RelayPointer


def word_of(pointer: Pointer) -> str:
    """The word: nprofile1..., nevent1..., naddr1... or nrelay1...

    Raises:
        ValueError: an address is no ASCII, a value is over `MAX_VALUE_BYTES`, or the word over `MAX_WORD` letters.
    """
    match pointer:
        case ProfilePointer():
            return _word("nprofile", [(_SPECIAL, bytes.fromhex(pointer.pubkey)), *_relays(pointer.relays)])
        case EventPointer():
            items = [(_SPECIAL, bytes.fromhex(pointer.id)), *_relays(pointer.relays)]
            return _word("nevent", [*items, *_claims(pointer.author, pointer.kind)])
        case AddressPointer():
            items = [(_SPECIAL, pointer.name_d.encode()), *_relays(pointer.relays)]
            return _word("naddr", [*items, *_claims(pointer.author, pointer.kind)])
        case RelayPointer():
            return _word("nrelay", [(_SPECIAL, _ascii(pointer.url))])


def parse_word(text: str) -> Pointer:
    """Read a word that a stranger wrote: the four of `word_of`, and npub1... and note1... as pointers without hints.

    Unknown parts are ignored, as are relays that are no printable ASCII or come after the first `MAX_RELAYS`.

    Raises:
        ValueError: it is none of these words. It is not repeated: it may be a secret key.
    """
    prefix, data = _read(text.strip())
    match prefix:
        case "npub":
            return ProfilePointer(pubkey=_hex32(data))
        case "note":
            return EventPointer(id=_hex32(data))
        case "nprofile":
            values = _values(data)
            return ProfilePointer(pubkey=_hex32(_first(values, _SPECIAL)), relays=_hints(values))
        case "nevent":
            return _event_pointer(_values(data))
        case "naddr":
            return _address_pointer(_values(data))
        case "nrelay":
            return RelayPointer(url=_url(_first(_values(data), _SPECIAL)))
        case "nsec":
            raise ValueError("this is a secret key (nsec1...), which is never given away; give the npub1... of it")
        case _:
            raise ValueError(
                "a NIP-19 word begins with npub, note, nprofile, nevent, naddr or nrelay; this one does not"
            )


def _event_pointer(values: Values) -> EventPointer:
    return EventPointer(
        id=_hex32(_first(values, _SPECIAL)),
        relays=_hints(values),
        author=_hex32(_first(values, _AUTHOR)) if _AUTHOR in values else None,
        kind=_kind(_first(values, _KIND)) if _KIND in values else None,
    )


def _address_pointer(values: Values) -> AddressPointer:
    return AddressPointer(
        name_d=_utf8(_first(values, _SPECIAL)),
        author=_hex32(_first(values, _AUTHOR)),
        kind=_kind(_first(values, _KIND)),
        relays=_hints(values),
    )


def _word(prefix: str, items: list[tuple[int, bytes]]) -> str:
    data = bytearray()
    for number, value in items:
        if len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"a part of an {prefix} word has {len(value)} bytes; it may have {MAX_VALUE_BYTES}")
        data += bytes((number, len(value))) + value
    word = bech32_encode(prefix, convertbits(data, 8, 5), Encoding.BECH32)
    if len(word) > MAX_WORD:
        raise ValueError(f"an {prefix} word would have {len(word)} letters; it may have {MAX_WORD}: name fewer relays")
    return word


def _relays(urls: tuple[str, ...]) -> list[tuple[int, bytes]]:
    return [(_RELAY, _ascii(url)) for url in urls]


def _claims(author: str | None, kind: int | None) -> list[tuple[int, bytes]]:
    claims = [] if author is None else [(_AUTHOR, bytes.fromhex(author))]
    return claims if kind is None else [*claims, (_KIND, kind.to_bytes(4, "big"))]


def _ascii(url: str) -> bytes:
    if not url or not url.isascii() or not url.isprintable():
        raise ValueError(f"a relay's address is printable ASCII in NIP-19; {url!r} is none")
    return url.encode("ascii")


def _read(word: str) -> tuple[str, bytes]:
    if len(word) > MAX_WORD:
        raise ValueError(f"a NIP-19 word has at most {MAX_WORD} letters; this one has {len(word)}")
    prefix, values, encoding = bech32_decode(word)
    data = convertbits(values, 5, 8, False) if values is not None and encoding == Encoding.BECH32 else None
    if prefix is None or data is None:
        raise ValueError("a NIP-19 word is bech32 (npub1..., nprofile1..., ...); this is none, or a letter is wrong")
    return prefix, bytes(data)


def _values(data: bytes) -> Values:
    """The parts by number, each in the order it came: number (one byte), length (one byte), value."""
    found: Values = {}
    place = 0
    while place < len(data):
        start = place + 2
        if start > len(data) or start + data[place + 1] > len(data):
            raise ValueError("a NIP-19 word ends within one of its parts")
        end = start + data[place + 1]
        found.setdefault(data[place], []).append(data[start:end])
        place = end
    return found


def _first(values: Values, number: int) -> bytes:
    if number not in values:
        raise ValueError(f"a NIP-19 word lacks its part {number} (0: what it names, 2: author, 3: kind)")
    return values[number][0]


def _hints(values: Values) -> tuple[str, ...]:
    readable = (value.decode("ascii", "replace") for value in values.get(_RELAY, ()))
    return tuple(url for url in readable if url and url.isascii() and url.isprintable())[:MAX_RELAYS]


def _url(value: bytes) -> str:
    url = value.decode("ascii", "replace")
    if not url or not url.isascii() or not url.isprintable():
        raise ValueError("an nrelay word names no relay: its address is empty or no printable ASCII")
    return url


def _utf8(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError("the `d` of an naddr word is no UTF-8") from None


def _hex32(value: bytes) -> str:
    if len(value) != 32:
        raise ValueError(f"a key or an event's id has 32 bytes; that of this NIP-19 word has {len(value)}")
    return value.hex()


def _kind(value: bytes) -> int:
    kind = int.from_bytes(value, "big")
    if len(value) != 4 or kind > _MAX_KIND:
        raise ValueError(f"a kind is written in 4 bytes and at most {_MAX_KIND}; that of this NIP-19 word is not")
    return kind
