"""Expiration: read from whatever a stranger wrote, and written so that others read it."""

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.events import event_json, sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip40 import expiration_tag, expires_at, is_expired

ONE = SecretKey(b"\1" * 32)


def event(*tags: tuple[str, ...]) -> NostrEvent:
    return sign_note(UnsignedNote(kind=1, created_at=100, tags=tags), ONE)


@given(at_s=st.integers(0, 2**53 - 1))
def test_a_time_that_is_written_is_read_again_and_divides_before_from_after(at_s: int) -> None:
    made = event(expiration_tag(at_s))
    assert expires_at(made) == at_s
    assert is_expired(made, at_s)
    assert is_expired(made, at_s + 0.5)
    assert not is_expired(made, at_s - 1)


def test_another_library_finds_our_event_expired_as_we_do() -> None:
    assert nostr_sdk.Event.from_json(event_json(event(expiration_tag(1_000)))).is_expired()
    assert not nostr_sdk.Event.from_json(event_json(event(expiration_tag(2**40)))).is_expired()


def test_of_several_times_the_earliest_counts_and_without_one_an_event_lasts() -> None:
    assert expires_at(event(("expiration", "300"), ("expiration", "200"), ("expiration", "never"))) == 200
    assert expires_at(event()) is None
    assert not is_expired(event(), 2**53)


@pytest.mark.parametrize(
    "word",
    ["", "-1", "1e9", "1.5", " 5", "0x10", "1_000", "٣", "²", "9" * 16, "9" * 100_000, str(2**53)],
    ids=range(12),
)
def test_a_tag_that_holds_no_time_counts_for_nothing(word: str) -> None:
    assert expires_at(event(("expiration", word), ("expiration",))) is None


@given(word=st.text(max_size=20))
def test_no_word_breaks_the_reader(word: str) -> None:
    found = expires_at(event(("expiration", word)))
    assert found is None or str(found) == (word.lstrip("0") or "0")


@pytest.mark.parametrize("at_s", [-1, 2**53])
def test_a_time_that_no_event_can_have_is_not_written(at_s: int) -> None:
    with pytest.raises(ValueError, match="cannot expire at"):
        expiration_tag(at_s)
