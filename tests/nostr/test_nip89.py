"""NIP-89: offers that others find and read, and others' offers read as far as they say anything."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.market import Announcement, Offer, PriceList
from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.events import sign_note
from swarmc.nostr.nip89 import newest_offers, offer_note, parse_offer
from swarmc.nostr.nip90 import Unreadable
from tests.nostr.jobs import NOW_S, PROVIDER, STRANGER

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
money = st.integers(0, 2_100_000_000_000_000_000)
prices = st.builds(
    PriceList,
    min_msats=money,
    request_msats=money,
    input_msats_per_1k_tokens=money,
    output_msats_per_1k_tokens=money,
)
announcements = st.builds(
    Announcement,
    name_d=words,
    kinds=st.lists(st.integers(5000, 5999), min_size=1, max_size=4, unique=True).map(tuple),
    name=words,
    about=words,
    models=st.lists(words, max_size=3).map(tuple),
    prices=st.none() | prices,
    messages=st.booleans(),
    encryption=st.sampled_from([(), ("nip44",), ("nip44", "nip04")]),
    network=st.sampled_from([None, "bitcoin", "regtest"]),
    simulated=st.booleans(),
    relays=st.lists(words, max_size=3, unique=True).map(tuple),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(Offer.model_fields)), inner),
    max_leaves=10,
)
OURS = Announcement(
    kinds=(5050, 5930),
    name="shop",
    about="Sells words.",
    models=("toy",),
    prices=PriceList(min_msats=1000, input_msats_per_1k_tokens=3, output_msats_per_1k_tokens=9),
    messages=True,
    encryption=("nip44", "nip04"),
    network="regtest",
    simulated=True,
)


def offered(announcement: Announcement, at_s: int = NOW_S, by=PROVIDER) -> NostrEvent:
    return sign_note(offer_note(announcement, at_s), by, aux=bytes(32))


def handler(tags, content: str) -> NostrEvent:
    note = UnsignedNote(kind=31_990, created_at=NOW_S, tags=tuple(tags), content=content)
    return sign_note(note, STRANGER, aux=bytes(32))


def test_our_offer_has_the_tags_that_relays_clients_and_the_ancestor_look_for() -> None:
    tags = offered(OURS).tags
    assert tags[:4] == (("d", "swarmc"), ("k", "5050"), ("k", "5930"), ("t", "dvm"))
    for tag in (
        ("handler", "compute_provider"),
        ("capability", "text-generation"),
        ("capability", "nip90-kind-5930"),
        ("price", "1000", "per-request", "sats"),
        ("network", "regtest"),
    ):
        assert tag in tags


def test_our_offers_content_has_what_other_clients_read() -> None:
    content = json.loads(offered(OURS).content)
    assert content["about"] == content["description"] == "Sells words."
    assert content["amount"] == 1000
    assert content["encryptionSupported"] is True
    assert content["nip90Params"]["model"] == {"required": False, "values": ["toy"]}


@pytest.mark.attack("C11")
def test_an_offer_over_simulated_money_says_so() -> None:
    assert json.loads(offered(OURS).content)["simulated"] is True
    read = parse_offer(offered(OURS))
    assert isinstance(read, Offer)
    assert read.simulated


@settings(max_examples=60, deadline=None)
@given(announcement=announcements)
def test_what_is_announced_is_read_as_it_was_announced(announcement: Announcement) -> None:
    event = offered(announcement)
    read = parse_offer(event)
    assert isinstance(read, Offer)
    assert Announcement(**{name: getattr(read, name) for name in Announcement.model_fields}) == announcement
    assert (read.event_id, read.provider, read.created_at) == (event.id, PROVIDER.pubkey, NOW_S)


def test_the_ancestors_offer_is_read_without_d_k_or_models() -> None:
    tags = [("handler", "compute_provider"), ("capability", "text-generation"), ("capability", "nip90-kind-5050")]
    tags += [("price", "1000", "per-request", "sats"), ("network", "regtest")]
    read = parse_offer(handler(tags, json.dumps({"name": "Rust", "description": "old", "supported_kinds": [5050]})))
    assert isinstance(read, Offer)
    assert (read.name_d, read.kinds, read.name, read.about) == ("", (5050,), "Rust", "old")
    assert (read.models, read.prices, read.network) == ((), PriceList(request_msats=1000), "regtest")
    assert not read.messages


def test_an_offer_of_nostrdvm_is_read() -> None:
    content = {
        "name": "D",
        "image": "x",
        "about": "a",
        "encryptionSupported": True,
        "nip90Params": {},
        "amount": "free",
    }
    read = parse_offer(handler([("d", "x"), ("k", "5050"), ("k", "5000")], json.dumps(content)))
    assert isinstance(read, Offer)
    assert (read.kinds, read.encryption, read.prices) == ((5050, 5000), ("nip44", "nip04"), PriceList())


def test_a_price_in_words_is_no_price() -> None:
    read = parse_offer(handler([("d", "x"), ("k", "5050")], json.dumps({"amount": "flexible", "prices": None})))
    assert isinstance(read, Offer)
    assert read.prices is None


@settings(max_examples=100, deadline=None)
@given(content=json_values.map(json.dumps) | words, kinds=st.lists(words | st.just("5050"), max_size=3))
def test_whatever_a_stranger_offers_reading_it_raises_nothing(content: str, kinds) -> None:
    read = parse_offer(handler([("k", kind) for kind in kinds], content))
    assert isinstance(read, Offer | Unreadable)


def test_an_offer_without_kinds_or_too_large_is_unreadable() -> None:
    assert isinstance(parse_offer(handler([("d", "x"), ("k", "1")], "{}")), Unreadable)
    assert isinstance(parse_offer(handler([("k", "5050")], "x" * 70_000)), Unreadable)
    assert isinstance(parse_offer(sign_note(UnsignedNote(kind=1, created_at=NOW_S), PROVIDER)), Unreadable)


def test_the_newest_offer_of_each_author_and_d_counts_in_whatever_order_they_come() -> None:
    other = OURS.model_copy(update={"name_d": "other"})
    newer = OURS.model_copy(update={"name": "new"})
    events = [offered(OURS), offered(other, NOW_S + 2), offered(newer, NOW_S + 5), offered(OURS, NOW_S + 9, STRANGER)]
    offers = newest_offers(events)
    assert [(one.provider, one.name_d, one.name) for one in offers] == [
        (STRANGER.pubkey, "swarmc", "shop"),
        (PROVIDER.pubkey, "swarmc", "new"),
        (PROVIDER.pubkey, "other", "shop"),
    ]
    assert newest_offers(reversed(events)) == newest_offers([*events, *events]) == offers


def test_an_unreadable_newest_offer_does_not_bring_back_the_one_that_it_replaced() -> None:
    broken = UnsignedNote(kind=31_990, created_at=NOW_S + 1, tags=(("d", "swarmc"),), content="")
    assert newest_offers([offered(OURS), sign_note(broken, PROVIDER)]) == ()


def test_of_two_offers_of_one_second_the_lower_id_counts() -> None:
    two = [offered(OURS), offered(OURS.model_copy(update={"name": "twin"}))]
    assert [offer.event_id for offer in newest_offers(two)] == [min(event.id for event in two)]
