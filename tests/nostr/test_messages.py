"""Messages of NIP-01: what relays say is read without trust, and filters mean what relays take them for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.contracts.relay import Filter, UnsignedNote
from swarmc.nostr.events import sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.messages import (
    MAX_MESSAGE_BYTES,
    MAX_REASON,
    close_message,
    matches,
    parse_message,
    publish_message,
    request_message,
)

KEY = SecretKey((7).to_bytes(32, "big"))
EVENT = sign_note(
    UnsignedNote(kind=78, created_at=100, tags=(("t", "run"), ("t", "other"), ("e",), ()), content=""), KEY
)


@pytest.mark.parametrize(
    ("text", "verb", "subject", "agreed", "said"),
    [
        ('["OK","ab",true,""]', "OK", "ab", True, ""),
        ('["OK","ab",false,"blocked: no"]', "OK", "ab", False, "blocked: no"),
        ('["OK","",false]', "OK", "", False, ""),
        ('["OK","ab",true,7]', "OK", "ab", True, ""),
        ('["EOSE","s"]', "EOSE", "s", False, ""),
        ('["CLOSED","s","error: full"]', "CLOSED", "s", False, "error: full"),
        ('["NOTICE","line\\n\\u001b[31mred"]', "NOTICE", "", False, "line  [31mred"),
        ('["AUTH","challenge"]', "AUTH", "", False, "challenge"),
        ('["COUNT","s",{"count":1}]', "OTHER", "", False, ""),
    ],
)
def test_what_relays_say_is_read(text: str, verb: str, subject: str, agreed: bool, said: str) -> None:
    message = parse_message(text)
    assert message is not None
    assert (message.verb, message.subject, message.agreed, message.text) == (verb, subject, agreed, said)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "[1]", '["OK"]', "[" * 9999, '["OK","ab"]', '["OK","ab","true"]', '["EVENT","s"]',
     '["EVENT",1,{}]', '["NOTICE",null]', '["EOSE",[]]', " " * (MAX_MESSAGE_BYTES + 1), b"\xff"],
)  # fmt: skip
def test_what_is_no_message_is_nothing(text: str | bytes) -> None:
    assert parse_message(text) is None


@given(text=st.text() | st.binary() | st.lists(st.none() | st.booleans() | st.text() | st.integers()).map(json.dumps))
def test_nothing_that_a_relay_says_raises(text: str | bytes) -> None:
    message = parse_message(text)
    assert message is None or len(message.text) <= MAX_REASON


def test_a_long_reason_is_cut() -> None:
    message = parse_message(json.dumps(["NOTICE", "x" * 10_000]))
    assert message is not None
    assert len(message.text) == MAX_REASON


def test_our_messages_have_the_form_of_the_nip() -> None:
    wanted = Filter(authors=(KEY.pubkey,), kinds=(78,), tags={"t": ("run",)}, since=5, limit=3)
    fields = {"authors": [KEY.pubkey], "kinds": [78], "#t": ["run"], "since": 5, "limit": 3}
    assert json.loads(request_message("s", [wanted, Filter()])) == ["REQ", "s", fields, {}]
    assert json.loads(close_message("s")) == ["CLOSE", "s"]
    verb, event = json.loads(publish_message(EVENT))
    assert (verb, event["id"], event["tags"]) == ("EVENT", EVENT.id, [["t", "run"], ["t", "other"], ["e"], []])


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Filter(), True), (Filter(ids=(EVENT.id,)), True), (Filter(ids=("0" * 64,)), False),
        (Filter(authors=(KEY.pubkey,), kinds=(78,)), True), (Filter(authors=(KEY.pubkey,), kinds=(1,)), False),
        (Filter(tags={"t": ("other", "x")}), True), (Filter(tags={"t": ("run",), "e": ("x",)}), False),
        (Filter(since=100, until=100), True), (Filter(since=101), False), (Filter(until=99), False),
    ],
)  # fmt: skip
def test_a_filter_lets_through_what_meets_all_its_conditions(wanted: Filter, fits: bool) -> None:
    assert matches(EVENT, wanted) is fits
