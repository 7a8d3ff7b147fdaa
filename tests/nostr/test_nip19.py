"""NIP-19's longer words: the NIP's examples, another library both ways, and words that were tampered with."""

from contextlib import suppress

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynostr.bech32 import Encoding, bech32_encode, convertbits

from swarmc.nostr.keys import SecretKey, note_of, npub_of
from swarmc.nostr.nip19 import (
    MAX_RELAYS,
    MAX_WORD,
    AddressPointer,
    EventPointer,
    Pointer,
    ProfilePointer,
    RelayPointer,
    parse_word,
    word_of,
)

NPROFILE = (
    "nprofile1qqsrhuxx8l9ex335q7he0f09aej04zpazpl0ne2cgukyawd24mayt8gpp4mhxue69uhhytnc9e3k7mgpz4mhxue69uhkg6nzv9ejuumpv"
    "34kytnrdaksjlyr9p"
)
PUBKEY = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"
PROFILE = ProfilePointer(pubkey=PUBKEY, relays=("wss://r.x.com", "wss://djbas.sadkb.com"))
authors = st.integers(1, 2**200).map(lambda number: SecretKey(number.to_bytes(32, "big")).pubkey)
ids = st.binary(min_size=32, max_size=32).map(bytes.hex)
kinds = st.integers(0, 65_535)
urls = st.lists(st.from_regex(r"wss://[a-z]{1,20}\.com", fullmatch=True), max_size=5).map(tuple)
pointers = st.one_of(
    st.builds(ProfilePointer, pubkey=authors, relays=urls),
    st.builds(EventPointer, id=ids, relays=urls, author=st.none() | authors, kind=st.none() | kinds),
    st.builds(AddressPointer, name_d=st.text(max_size=60), author=authors, kind=kinds, relays=urls),
    st.builds(RelayPointer, url=st.just("wss://relay.example.com")),
)


def word(prefix: str, data: bytes, encoding: Encoding = Encoding.BECH32) -> str:
    return bech32_encode(prefix, convertbits(data, 8, 5), encoding)


def part(number: int, value: bytes) -> bytes:
    return bytes((number, len(value))) + value


def test_the_nips_example_is_read_and_written_to_the_letter() -> None:
    assert parse_word(NPROFILE) == parse_word(f" {NPROFILE.upper()}\n") == PROFILE
    assert word_of(PROFILE) == NPROFILE


@settings(max_examples=100, deadline=None)
@given(pointer=pointers)
def test_what_is_written_is_read_again(pointer: Pointer) -> None:
    assert parse_word(word_of(pointer)) == pointer


@settings(max_examples=40, deadline=None)
@given(author=authors, event_id=ids, kind=kinds, relays=urls)
def test_another_library_reads_our_profiles_and_events_and_we_read_theirs(
    author: str, event_id: str, kind: int, relays: tuple[str, ...]
) -> None:
    profile = ProfilePointer(pubkey=author, relays=relays)
    event = EventPointer(id=event_id, relays=relays, author=author, kind=kind)
    their_profile = nostr_sdk.Nip19Profile.from_bech32(word_of(profile))
    their_event = nostr_sdk.Nip19Event.from_bech32(word_of(event))
    assert their_profile.public_key().to_hex() == author
    assert len(their_profile.relays()) == len(their_event.relays()) == len(relays)
    assert (their_event.event_id().to_hex(), their_event.kind().as_u16()) == (event_id, kind)
    assert parse_word(their_profile.to_bech32()) == profile
    assert parse_word(their_event.to_bech32()) == event


@settings(max_examples=40, deadline=None)
@given(author=authors, name_d=st.text("abc-é", min_size=1, max_size=20), relays=urls)
def test_another_library_reads_our_addresses_and_we_read_theirs(
    author: str, name_d: str, relays: tuple[str, ...]
) -> None:
    address = AddressPointer(name_d=name_d, author=author, kind=31_990, relays=relays)
    theirs = nostr_sdk.Nip19Coordinate.from_bech32(word_of(address))
    assert theirs.coordinate().identifier() == name_d
    assert parse_word(theirs.to_bech32()) == address


def test_bare_words_are_pointers_without_hints() -> None:
    assert parse_word(npub_of(PUBKEY)) == ProfilePointer(pubkey=PUBKEY)
    assert parse_word(note_of(PUBKEY)) == EventPointer(id=PUBKEY)


@pytest.mark.attack("E4")
def test_a_secret_key_given_by_mistake_is_refused_and_not_repeated() -> None:
    nsec = SecretKey(b"\7" * 32).nsec()
    for text in (nsec, nsec[:-1], nsec + "q"):
        with pytest.raises(ValueError, match=r"secret key|none, or a letter") as caught:
            parse_word(text)
        assert text[5:20] not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=100) | st.binary(max_size=80).map(lambda data: word("nevent", data)))
def test_no_text_makes_the_reader_fail_other_than_by_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_word(text), Pointer)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is bech32"), (NPROFILE[:-1] + "q", "letter is wrong"), ("npub1" * 2_000, "5000 letters"),
        (word("nprofile", b""), "lacks its part 0"), (word("nprofile", b"\0"), "ends within"),
        (word("nprofile", b"\0\x20" + bytes(31)), "ends within"), (word("nprofile", part(0, bytes(31))), "31"),
        (word("nevent", part(0, bytes(32)) + part(3, b"\1")), "4 bytes"),
        (word("nevent", part(0, bytes(32)) + part(3, b"\1\0\0\0")), "65535"),
        (word("nevent", part(0, bytes(32)) + part(2, b"")), "has 0"),
        (word("naddr", part(0, b"d") + part(2, bytes(32))), "part 3"), (word("lnbc", bytes(32)), "begins with"),
        (word("naddr", part(0, b"\xff") + part(2, bytes(32)) + part(3, bytes(4))), "UTF-8"),
        (word("nrelay", part(0, b"\x1b[2J")), "no relay"), (word("npub", bytes(33)), "33"),
        (word("npub", bytes(32), Encoding.BECH32M), "is bech32"),
    ],
    ids=range(16),
)  # fmt: skip
def test_malformed_words_are_refused_for_their_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_word(text)


def test_unknown_parts_and_unreadable_or_too_many_relays_are_left_out() -> None:
    relays = b"".join(part(1, b"wss://r%d.com" % number) for number in range(MAX_RELAYS + 5))
    found = parse_word(
        word("nprofile", part(9, b"?") + part(1, b"\xff\n") + part(0, bytes(32)) + part(0, b"") + relays)
    )
    assert isinstance(found, ProfilePointer)
    assert (found.pubkey, len(found.relays), found.relays[0]) == ("0" * 64, MAX_RELAYS, "wss://r0.com")


@pytest.mark.parametrize(
    ("pointer", "reason"),
    [
        (ProfilePointer(pubkey=PUBKEY, relays=("wss://" + "x" * 250,)), "256 bytes"),
        (ProfilePointer(pubkey=PUBKEY, relays=("wss://é",)), "printable ASCII"),
        (ProfilePointer(pubkey=PUBKEY, relays=("wss://" + "x" * 240,) * MAX_RELAYS), f"may have {MAX_WORD}"),
        (AddressPointer(name_d="é" * 128, author=PUBKEY, kind=1), "256 bytes"),
        (RelayPointer(url=""), "printable ASCII"),
    ],
    ids=range(5),
)
def test_what_does_not_fit_a_word_is_not_written(pointer: Pointer, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        word_of(pointer)
