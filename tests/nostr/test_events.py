"""Events: ids and signatures as others make them, and a parser that strangers cannot break or fool."""

import hashlib
import json

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.relay import NostrEvent, Reference, UnsignedNote
from swarmc.nostr.events import (
    MAX_EVENT_BYTES,
    MAX_TAGS,
    Unfit,
    check_event,
    event_json,
    parse_event,
    serialized,
    sign_note,
    sign_notes,
    verify,
)
from swarmc.nostr.keys import SecretKey

ONE = SecretKey((1).to_bytes(32, "big"))
COMPILED = "94f5329362a853adeba88e11d6b9cfc5c2a531ca6c5cff20d32ca9769b19612f"
ANCESTOR = UnsignedNote(
    kind=1,
    created_at=1_700_000_000,
    tags=(("dsrs", "predict"), ("signature", "PlanningSignature"), ("compiled_id", COMPILED), ("app", "autopilot")),
    content=(
        f'{{"node_id":1,"signature_name":"PlanningSignature","compiled_id":"{COMPILED}","has_output":true,'
        '"token_usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"cost_msats":75}}'
    ),
)
words = st.text(max_size=20)
notes = st.builds(
    UnsignedNote,
    kind=st.integers(0, 65_535),
    created_at=st.integers(0, 2**53 - 1),
    tags=st.lists(st.lists(words, min_size=1, max_size=4).map(tuple), max_size=4).map(tuple),
    content=st.text(max_size=200),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def written(note: UnsignedNote = ANCESTOR) -> dict:
    return json.loads(event_json(sign_note(note, ONE)))


def test_the_ancestors_event_has_the_ancestors_id() -> None:
    event = sign_note(ANCESTOR, ONE)
    assert event.id == "82044fb4d6eaf20ae6e4ed737ce302279089c8b706871efb53faf9ba76492a54"
    assert event.pubkey == "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    assert verify(event)


def test_the_serialized_form_escapes_what_the_nip_says_and_nothing_else() -> None:
    note = UnsignedNote(kind=1, created_at=5, content='\n"\\\r\t\b\f é\u2028😀\x7f/', tags=(("a", ""),))
    assert serialized("ab", note).decode() == '[0,"ab",5,1,[["a",""]],"\\n\\"\\\\\\r\\t\\b\\f é\u2028😀\x7f/"]'


@settings(max_examples=60, deadline=None)
@given(note=notes)
def test_what_we_sign_another_library_reads_and_verifies_to_the_same_id(note: UnsignedNote) -> None:
    event = sign_note(note, ONE)
    theirs = nostr_sdk.Event.from_json(event_json(event))
    assert theirs.verify()
    assert theirs.id().to_hex() == event.id == hashlib.sha256(serialized(ONE.pubkey, note)).hexdigest()


@settings(max_examples=60, deadline=None)
@given(note=notes)
def test_what_is_signed_is_parsed_to_the_same_event(note: UnsignedNote) -> None:
    event = sign_note(note, ONE)
    assert parse_event(event_json(event)) == parse_event(event_json(event).encode()) == event
    assert verify(event)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_change_of_any_field_passes_for_an_event(data: st.DataObject) -> None:
    fields = written()
    name = data.draw(st.sampled_from(sorted(fields)))
    value = data.draw(json_values)
    if value == fields[name] and type(value) is type(fields[name]):
        return
    assert isinstance(check_event({**fields, name: value}), Unfit)
    del fields[name]
    assert check_event(fields) == Unfit(reason="no event")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("id", "0" * 64, "wrong id"), ("id", written()["id"].upper(), "no event"), ("pubkey", "f" * 64, "wrong id"),
        ("sig", "0" * 128, "wrong signature"), ("kind", "1", "no event"), ("kind", True, "no event"),
        ("kind", 65_536, "no event"),
        ("created_at", 1.7e9, "no event"), ("created_at", -1, "no event"), ("created_at", 2**53, "no event"),
        ("tags", [["e"], []], "wrong id"), ("tags", [[1]], "no event"), ("tags", ["e"], "no event"),
        ("tags", [[]] * (MAX_TAGS + 1), "no event"), ("content", "x" * (MAX_EVENT_BYTES + 1), "too large"),
        ("content", "\ud800", "no event"), ("content", None, "no event"), ("tags", [["t", "\udfff"]], "no event"),
    ],
)  # fmt: skip
def test_every_known_lie_is_refused_with_its_reason(name: str, value: object, reason: str) -> None:
    assert check_event({**written(), name: value}) == Unfit(reason=reason)


def test_a_right_signature_under_a_wrong_id_is_refused() -> None:
    fields = written()
    other = written(ANCESTOR.model_copy(update={"content": "other"}))
    assert check_event({**fields, "id": other["id"]}) == Unfit(reason="wrong id")
    assert check_event({**fields, "id": other["id"], "content": "other"}) == Unfit(reason="wrong signature")


def test_a_key_that_is_no_point_of_the_curve_is_refused() -> None:
    pubkey = "f" * 64
    note = [0, pubkey, 5, 1, [], ""]
    event_id = hashlib.sha256(json.dumps(note, separators=(",", ":")).encode()).hexdigest()
    fields = {"id": event_id, "pubkey": pubkey, "created_at": 5, "kind": 1, "tags": [], "content": "", "sig": "0" * 128}
    assert check_event(fields) == Unfit(reason="wrong signature")


@settings(max_examples=200)
@given(text=st.one_of(st.binary(max_size=300), st.text(max_size=300), json_values.map(json.dumps)))
def test_no_text_makes_the_parser_raise_or_pass_for_an_event(text: str | bytes) -> None:
    assert isinstance(parse_event(text), Unfit)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 100_000,
        '{"kind": 1e999}',
        "\ud800",
        b"\xff\xfe",
        "NaN",
        " " * (MAX_EVENT_BYTES + 1),
    ],
    ids=range(8),
)
def test_hostile_json_is_refused_at_once(text: str | bytes) -> None:
    assert isinstance(parse_event(text), Unfit)


def test_tags_that_are_empty_or_lack_a_value_are_events_like_others() -> None:
    event = sign_note(ANCESTOR.model_copy(update={"tags": ((), ("e",), ("e", "x"))}), ONE)
    assert parse_event(event_json(event)) == event
    assert event.values("e") == ("x",)


def test_references_become_the_ids_of_earlier_notes() -> None:
    child = ANCESTOR.model_copy(
        update={"references": (Reference(note=0, marker="root"), Reference(note=0, marker="parent"))}
    )
    first, second = sign_notes([ANCESTOR, child], ONE)
    assert second.tags[-2:] == (("e", first.id, "", "root"), ("e", first.id, "", "parent"))
    assert verify(second)
    with pytest.raises(ValueError, match="note 0 refers to note 0"):
        sign_notes([child], ONE)


def test_a_note_that_cannot_be_an_event_is_not_signed() -> None:
    with pytest.raises(ValueError, match="half a character"):
        sign_note(ANCESTOR.model_copy(update={"content": "\ud800"}), ONE)
    with pytest.raises(ValueError, match="an event may have"):
        sign_note(ANCESTOR.model_copy(update={"content": "x" * MAX_EVENT_BYTES}), ONE)


def test_signatures_repeat_only_when_their_randomness_is_given() -> None:
    assert sign_note(ANCESTOR, ONE) != sign_note(ANCESTOR, ONE)
    assert sign_note(ANCESTOR, ONE, aux=bytes(32)) == sign_note(ANCESTOR, ONE, aux=bytes(32))


def test_an_event_made_by_hand_does_not_verify() -> None:
    event = sign_note(ANCESTOR, ONE)
    assert not verify(NostrEvent(**{**event.model_dump(), "content": "rewritten"}))


@given(note=notes)
def test_the_bytes_of_an_id_are_those_that_plain_json_writes(note: UnsignedNote) -> None:
    value = [0, ONE.pubkey, note.created_at, note.kind, note.tags, note.content]
    assert serialized(ONE.pubkey, note) == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_an_event_that_nobody_wants_is_told_apart_before_its_signature_is_looked_at() -> None:
    forged = {**written(), "sig": "0" * 128}
    assert check_event(forged, wanted=lambda event: event.kind != 1) == Unfit(reason="not wanted")
    assert check_event(forged, wanted=lambda event: event.kind == 1) == Unfit(reason="wrong signature")
