"""Deletion: it counts for events of its own author, and for nothing else."""

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.events import event_json, sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip09 import deleted_by, deletes, deletion_note

ONE, OTHER = SecretKey(b"\1" * 32), SecretKey(b"\2" * 32)


def event(kind: int = 1, *, key: SecretKey = ONE, tags: tuple = (), at: int = 100, content: str = "") -> NostrEvent:
    return sign_note(UnsignedNote(kind=kind, created_at=at, tags=tags, content=content), key)


JOB = event(5050, content="a job")
OFFER = event(31_990, tags=(("d", "shop"), ("k", "5050")))


def deletion(*events: NostrEvent, key: SecretKey = ONE, at: int = 200) -> NostrEvent:
    return sign_note(deletion_note(events, at, "changed my mind"), key)


def test_a_request_names_events_their_addresses_and_their_kinds_once_each() -> None:
    note = deletion_note([JOB, OFFER, event(5050, content="b")], 200, "why")
    assert (note.kind, note.created_at, note.content) == (5, 200, "why")
    assert [tag[0] for tag in note.tags] == ["e", "e", "e", "a", "k", "k"]
    assert ("a", f"31990:{ONE.pubkey}:shop") in note.tags
    assert note.tags[-2:] == (("k", "5050"), ("k", "31990"))
    assert nostr_sdk.Event.from_json(event_json(sign_note(note, ONE))).verify()


@pytest.mark.attack("B10")
def test_a_request_of_the_same_author_counts_and_of_another_does_not() -> None:
    assert deletes(deletion(JOB), JOB)
    assert not deletes(sign_note(deletion_note([JOB], 200), OTHER), JOB)
    assert not deletes(deletion(JOB), event(5050, content="another job"))


def test_an_event_that_is_no_request_deletes_nothing_whatever_it_names() -> None:
    note = event(1, tags=(("e", JOB.id),))
    assert deleted_by(note) == ()
    assert not deletes(note, JOB)


def test_by_address_versions_up_to_the_requests_time_go_and_newer_ones_stay() -> None:
    request = deletion(OFFER, at=200)
    shop = (("d", "shop"),)
    assert deletes(request, event(31_990, tags=shop, at=200, content="older version"))
    assert not deletes(request, event(31_990, tags=shop, at=201, content="newer version"))
    assert not deletes(request, event(31_990, tags=(("d", "other"),), at=50))
    assert not deletes(request, event(31_990, key=OTHER, tags=shop, at=50))
    assert deletes(deletion(event(10_002)), event(10_002, at=50))


def test_a_request_against_a_request_has_no_effect_and_is_not_made() -> None:
    first = deletion(JOB)
    hand_made = event(5, tags=(("e", first.id),))
    assert not deletes(hand_made, first)
    with pytest.raises(ValueError, match="no effect"):
        deletion_note([first], 300)


def test_requests_for_nothing_or_for_events_of_two_authors_are_not_made() -> None:
    for events in ([], [JOB, event(1, key=OTHER)]):
        with pytest.raises(ValueError, match="one author"):
            deletion_note(events, 300)


@settings(max_examples=60, deadline=None)
@given(tags=st.lists(st.lists(st.text(max_size=5) | st.sampled_from(["e", "a", JOB.id]), max_size=3).map(tuple)))
def test_whatever_tags_a_stranger_writes_only_ids_come_out(tags: list) -> None:
    hostile = event(5, key=OTHER, tags=tuple(tags))
    assert set(deleted_by(hostile)) <= {JOB.id}
    assert not deletes(hostile, JOB)
