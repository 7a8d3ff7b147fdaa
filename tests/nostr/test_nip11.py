"""Relay information: read liberally, bounded, and never an exception."""

import json

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.nostr.nip11 import MAX_DOCUMENT_BYTES, MAX_LINE, MAX_NIPS, RelayInfo, RelayLimits, parse_relay_info

WINE = {
    "name": "nostr.wine",
    "contact": "wino@nostr.wine",
    "description": "A paid nostr relay for wine enthusiasts and everyone else.",
    "fees": {"admission": [{"amount": 18_888_000, "unit": "msats"}]},
    "limitation": {
        "auth_required": False, "created_at_lower_limit": 94_608_000, "created_at_upper_limit": 300,
        "max_event_tags": 4_000, "max_limit": 1_000, "max_message_length": 524_288, "max_subid_length": 71,
        "max_subscriptions": 50, "min_pow_difficulty": 0, "payment_required": True, "restricted_writes": True,
    },
    "payments_url": "https://nostr.wine/invoices",
    "pubkey": "4918eb332a41b71ba9a74b1dc64276cfff592e55107b93baae38af3520e55975",
    "supported_nips": [1, 2, 4, 9, 11, 40, 42, 50, 70, 77],
    "version": "0.3.3",
}  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
fields = st.dictionaries(st.sampled_from(sorted([*RelayInfo.model_fields, "fees"])), json_values)
limits = st.dictionaries(st.sampled_from(sorted(RelayLimits.model_fields)), json_values)


def test_the_document_of_a_public_relay_is_read_as_another_library_reads_it() -> None:
    info = parse_relay_info(json.dumps(WINE))
    theirs = nostr_sdk.RelayInformationDocument.from_json(json.dumps(WINE))
    assert info is not None
    assert (info.name, info.pubkey, info.version) == (theirs.name(), theirs.pubkey().to_hex(), theirs.version())
    assert list(info.supported_nips) == theirs.supported_nips()
    limitation = theirs.limitation()
    for name in ("max_message_length", "max_subscriptions", "max_limit", "payment_required", "auth_required"):
        assert getattr(info.limitation, name) == getattr(limitation, name) == WINE["limitation"][name]
    assert info.limitation.created_at_upper_limit == 300


def test_a_document_that_says_nothing_is_a_relay_without_stated_limits() -> None:
    assert parse_relay_info(b"{}") == RelayInfo()
    assert RelayInfo().limitation.max_message_length is None


@settings(max_examples=150, deadline=None)
@given(document=fields, limitation=limits)
def test_fields_of_any_type_are_read_or_left_out(document: dict, limitation: dict) -> None:
    info = parse_relay_info(json.dumps({**document, "limitation": limitation}))
    if info is None:  # Numbers that JSON does not know: NaN, and infinity.
        return
    RelayInfo.model_validate(info.model_dump())
    assert all(nip > 0 for nip in info.supported_nips)


@settings(max_examples=150)
@given(text=st.one_of(st.binary(max_size=200), st.text(max_size=200), json_values.map(json.dumps)))
def test_no_text_makes_the_reader_raise(text: str | bytes) -> None:
    assert parse_relay_info(text) in (None, RelayInfo())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '"name"', "null", "[" * 50_000,
     '{"a":' * 50_000, "\ud800", b"\xff", " " * (MAX_DOCUMENT_BYTES + 1)],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_document_is_nothing(text: str | bytes) -> None:
    assert parse_relay_info(text) is None


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "65536", None, [], 2**53, 10**30], ids=repr)
def test_a_limit_that_is_no_positive_whole_number_is_one_that_was_not_said(value: object) -> None:
    document = {"limitation": {"max_message_length": value, "max_limit": 7, "auth_required": 1}}
    info = parse_relay_info(json.dumps(document))
    assert info == RelayInfo(limitation=RelayLimits(max_limit=7))


def test_texts_and_lists_are_cut_and_cannot_write_to_a_terminal() -> None:
    document = {"name": "a\nb\x1b[31m" + "x" * 9_000, "supported_nips": [*range(5_000), "7", 7.0, True]}
    info = parse_relay_info(json.dumps(document))
    assert info is not None
    assert len(info.name) == MAX_LINE
    assert info.name.startswith("a b [31mx")
    assert info.supported_nips == tuple(range(1, MAX_NIPS + 1))
