"""Authentication: only for the relay that we dialled and for what it asked last."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.events import check_event, sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip42 import MAX_CHALLENGE, answers, auth_message, auth_note

ONE = SecretKey(b"\1" * 32)
URL = "ws://127.0.0.1:7777/"


def proof(challenge: str = "c1", url: str = URL) -> NostrEvent:
    return sign_note(auth_note(url, challenge, 100), ONE)


@settings(max_examples=40, deadline=None)
@given(challenge=st.text(min_size=1, max_size=MAX_CHALLENGE))
def test_the_message_carries_a_true_event_of_the_right_kind_with_both_tags(challenge: str) -> None:
    verb, fields = json.loads(auth_message(proof(challenge)))
    event = check_event(fields)
    assert verb == "AUTH"
    assert event == proof(challenge).model_copy(update={"sig": fields["sig"]})
    assert (fields["kind"], fields["tags"]) == (22_242, [["relay", URL], ["challenge", challenge]])


@pytest.mark.attack("A9")
def test_a_proof_counts_for_the_url_we_dialled_and_the_latest_challenge_alone() -> None:
    assert answers(proof(), URL, "c1")
    assert not answers(proof(), URL, "c2")
    assert not answers(proof(), "wss://other.example/", "c1")


@pytest.mark.attack("A9")
@pytest.mark.parametrize(
    "change",
    [
        {"kind": 1}, {"content": "I owe you"}, {"tags": (("relay", URL), ("challenge", "c1"), ("p", ONE.pubkey))},
        {"tags": (("challenge", "c1"), ("relay", URL))}, {"tags": ()},
        {"tags": (("relay", "wss://other.example/"), ("relay", URL), ("challenge", "c1"))},
    ],
    ids=range(6),
)  # fmt: skip
def test_an_event_that_says_anything_more_is_no_proof(change: dict) -> None:
    note = auth_note(URL, "c1", 100).model_copy(update=change)
    assert not answers(sign_note(note, ONE), URL, "c1")


@pytest.mark.attack("A9")
@pytest.mark.parametrize("challenge", ["", "x" * (MAX_CHALLENGE + 1), "x" * 1_000_000], ids=["none", "over", "flood"])
def test_a_challenge_that_is_empty_or_endless_is_not_signed_nor_repeated(challenge: str) -> None:
    with pytest.raises(ValueError, match="asks to sign a challenge of") as caught:
        auth_note(URL, challenge, 100)
    assert len(str(caught.value)) < 200


@pytest.mark.attack("A9")
def test_no_other_event_is_sent_as_a_proof() -> None:
    with pytest.raises(ValueError, match="this event has kind 5050"):
        auth_message(sign_note(UnsignedNote(kind=5050, created_at=100), ONE))


@pytest.mark.attack("A9")
def test_a_challenge_that_looks_like_an_event_stays_a_word_of_one_tag() -> None:
    trap = '"]],"",[0,"x",5,1,[["'
    assert proof(trap).tags == (("relay", URL), ("challenge", trap))
    assert answers(proof(trap), URL, trap)
