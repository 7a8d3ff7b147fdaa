"""NIP-90: notes with the tags that others read, and a reader that strangers cannot break, flood or fool."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.market import Answer, Ask, Feedback, Job, JobInput, JobResult
from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.encryption import encrypt_as
from swarmc.nostr.events import sign_note
from swarmc.nostr.nip90 import (
    MAX_INPUTS,
    MAX_PARAMS,
    Unreadable,
    encrypted_request_note,
    feedback_note,
    parse_feedback,
    parse_job,
    parse_result,
    request_note,
    result_note,
)
from tests.nostr.jobs import CUSTOMER, NOW_S, PROVIDER, REQUEST, STRANGER, invoice, job, request

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
filled = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
kinds_of_input = st.sampled_from(["text", "url", "event", "job", "image"])
inputs = st.builds(JobInput, data=words, type=kinds_of_input, relay=words, marker=words)
asks = st.builds(
    Ask,
    kind=st.integers(5000, 5999),
    inputs=st.lists(inputs, min_size=1, max_size=4).map(tuple),
    output=words,
    params=st.lists(st.tuples(words, words), max_size=4).map(tuple),
    bid_msats=st.none() | st.integers(0, 2_100_000_000_000_000_000),
    relays=st.lists(filled, unique=True, max_size=3).map(tuple),
    providers=st.sampled_from([(PROVIDER.pubkey,)]),
    expires_at=st.none() | st.integers(0, 2**53 - 1),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
TAG_NAMES = ["i", "param", "bid", "relays", "p", "e", "output", "encrypted", "expiration", "status", "amount"]
TAG_NAMES += ["usage", "details", "request", "bolt11", "model"]
odd_words = words | st.sampled_from([CUSTOMER.pubkey, PROVIDER.pubkey, "-1", "1e3", "\u0661", "9" * 30, "text", "url"])
odd_tags = st.lists(st.tuples(st.sampled_from(TAG_NAMES), odd_words) | st.lists(odd_words, max_size=5).map(tuple))
odd_tags |= st.lists(st.tuples(st.sampled_from(TAG_NAMES)))
FULL = Ask(
    inputs=(JobInput(data="hi"), JobInput(data="http://127.0.0.1/x", type="url", marker="page")),
    output="text/plain",
    params=(("model", "m"), ("max_tokens", "9")),
    bid_msats=1000,
    relays=("ws://127.0.0.1:1", "ws://127.0.0.1:2"),
    providers=(PROVIDER.pubkey,),
    expires_at=NOW_S + 60,
)


def signed(kind: int, tags, content: str = "", by=CUSTOMER) -> NostrEvent:
    return sign_note(UnsignedNote(kind=kind, created_at=NOW_S, tags=tuple(tags), content=content), by, aux=bytes(32))


def test_a_request_has_its_tags_in_the_ancestors_order() -> None:
    assert request_note(FULL, NOW_S).tags == (
        ("i", "hi", "text"),
        ("i", "http://127.0.0.1/x", "url", "", "page"),
        ("output", "text/plain"),
        ("param", "model", "m"),
        ("param", "max_tokens", "9"),
        ("bid", "1000"),
        ("relays", "ws://127.0.0.1:1", "ws://127.0.0.1:2"),
        ("p", PROVIDER.pubkey),
        ("expiration", str(NOW_S + 60)),
    )


def test_the_ancestors_own_request_has_the_ancestors_id() -> None:
    prompt = JobInput(data="System: Be brief.\n\nUser: hi")
    asked = Ask(inputs=(prompt,), bid_msats=1000, relays=("wss://nexus.openagents.com",))
    event = sign_note(request_note(asked, 1_700_000_000), CUSTOMER)
    assert event.id == "a34d3d5e966529e2c9486a93f1636279c4ff4d6ff426f6eb282dc1d00ff65f20"


@settings(max_examples=60, deadline=None)
@given(asked=asks)
def test_what_is_asked_is_read_as_it_was_asked(asked: Ask) -> None:
    event = sign_note(request_note(asked, NOW_S), CUSTOMER)
    read = parse_job(event)
    assert isinstance(read, Job)
    assert Ask(**{name: getattr(read, name) for name in Ask.model_fields}) == asked
    assert (read.event_id, read.customer, read.created_at, read.encryption) == (event.id, CUSTOMER.pubkey, NOW_S, None)


@settings(max_examples=30, deadline=None)
@given(asked=asks, scheme=st.sampled_from(["nip04", "nip44"]))
def test_an_encrypted_job_is_read_by_its_provider_as_it_was_asked(asked: Ask, scheme) -> None:
    event = sign_note(encrypted_request_note(asked, NOW_S, CUSTOMER, scheme), CUSTOMER)
    read = parse_job(event, PROVIDER)
    assert isinstance(read, Job)
    assert Ask(**{name: getattr(read, name) for name in Ask.model_fields}) == asked
    assert read.encryption == scheme


@pytest.mark.attack("B12")
@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
def test_the_words_of_an_encrypted_job_appear_nowhere_in_clear(scheme) -> None:
    asked = FULL.model_copy(update={"params": (("model", "SECRET-model"),), "inputs": (JobInput(data="SECRET-text"),)})
    event = sign_note(encrypted_request_note(asked, NOW_S, CUSTOMER, scheme), CUSTOMER)
    answer = Answer(text="SECRET-answer", model="SECRET-model", prompt_tokens=1, completion_tokens=2)
    done = sign_note(result_note(job(event), answer, NOW_S, key=PROVIDER), PROVIDER)
    assert "SECRET" not in event.model_dump_json() + done.model_dump_json()
    assert not {"i", "param", "request"} & {tag[0] for tag in (*event.tags, *done.tags)}
    read = parse_result(done, CUSTOMER)
    assert isinstance(read, JobResult)
    assert (read.answer, read.encryption) == (answer, scheme)


@pytest.mark.attack("B3")
def test_an_encrypted_job_is_unreadable_to_everybody_else() -> None:
    event = sign_note(encrypted_request_note(FULL, NOW_S, CUSTOMER, "nip44"), CUSTOMER)
    for key in (None, STRANGER):
        read = parse_job(event, key)
        assert isinstance(read, Unreadable)
        assert (read.code, read.addressees) == ("not_ours", (PROVIDER.pubkey,))


def test_an_encrypted_job_is_for_one_provider() -> None:
    for providers in ((), (PROVIDER.pubkey, STRANGER.pubkey)):
        with pytest.raises(ValueError, match="one provider"):
            encrypted_request_note(FULL.model_copy(update={"providers": providers}), NOW_S, CUSTOMER, "nip44")


@pytest.mark.parametrize("content", ["", "no cipher", "AA?iv=AA", "A" * 200])
def test_a_job_that_only_says_that_it_is_encrypted_is_unreadable(content: str) -> None:
    read = parse_job(signed(5050, [("p", PROVIDER.pubkey), ("encrypted",)], content), PROVIDER)
    assert isinstance(read, Unreadable)
    assert read.code == "undecryptable"


@settings(max_examples=40, deadline=None)
@given(hidden=json_values)
def test_whatever_an_encrypted_job_hides_reading_it_raises_nothing(hidden) -> None:
    content = encrypt_as("nip44", json.dumps(hidden), CUSTOMER, PROVIDER.pubkey)
    read = parse_job(signed(5050, [("p", PROVIDER.pubkey), ("encrypted",)], content), PROVIDER)
    are_tags = isinstance(hidden, list) and all(isinstance(tag, list) for tag in hidden)
    assert isinstance(read, Job) is are_tags


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from([5050, 6050, 7000, 1]), tags=odd_tags, content=words)
def test_whatever_a_stranger_signs_reading_it_raises_nothing(kind: int, tags, content: str) -> None:
    event = signed(kind, tags, content)
    for key in (None, PROVIDER):
        assert isinstance(parse_job(event, key), Job | Unreadable)
        assert isinstance(parse_feedback(event, key), Feedback | Unreadable)
        assert isinstance(parse_result(event, key), JobResult | Unreadable)


@pytest.mark.parametrize("tag", [("i", "hi"), ("i", "hi", ""), ("i", "hi", "prompt"), ("i", "hi", "TEXT")])
def test_an_input_of_type_prompt_or_none_is_text(tag) -> None:
    assert job(signed(5050, [tag])).inputs == (JobInput(data="hi"),)


def test_a_job_without_inputs_asks_what_its_content_says() -> None:
    assert job(signed(5050, [], "hi")).inputs == (JobInput(data="hi"),)


def test_a_bid_that_is_no_number_is_none_and_relays_are_gathered_from_every_tag() -> None:
    tags = [("i", "x"), ("bid", "1.5"), ("relays", "ws://a", "ws://b"), ("relays", "ws://b", "ws://c", "")]
    read = job(signed(5050, tags))
    assert (read.bid_msats, read.relays) == (None, ("ws://a", "ws://b", "ws://c"))


def test_a_parameter_with_several_values_loses_none() -> None:
    assert job(signed(5050, [("param", "size", "1", "2"), ("param", "flag")])).params == (
        ("size", "1"),
        ("size", "2"),
        ("flag", ""),
    )


@pytest.mark.attack("B5")
@pytest.mark.parametrize(("name", "most"), [("i", MAX_INPUTS), ("param", MAX_PARAMS)])
def test_a_job_with_too_many_inputs_or_parameters_is_refused_unread(name: str, most: int) -> None:
    assert isinstance(parse_job(signed(5050, [(name, "x", "text")] * most)), Job)
    read = parse_job(signed(5050, [(name, "x", "text")] * (most + 1)))
    assert isinstance(read, Unreadable)
    assert read.code == "too_large"


def test_a_job_that_names_its_provider_unreadably_is_not_for_everybody() -> None:
    read = parse_job(signed(5050, [("i", "x", "text"), ("p", "npub1xyz")]))
    assert isinstance(read, Unreadable)


def test_feedback_has_its_tags_in_order_and_is_read_back() -> None:
    asked = invoice()
    note = feedback_note(
        REQUEST, "payment-required", NOW_S, extra="pay", amount_msats=asked.amount_msats, bolt11=asked.bolt11
    )
    assert [tag[0] for tag in note.tags] == ["status", "e", "p", "amount"]
    read = parse_feedback(sign_note(note, PROVIDER))
    assert isinstance(read, Feedback)
    assert (read.status, read.extra, read.job_id) == ("payment-required", "pay", REQUEST.id)
    assert (read.customer, read.provider) == (CUSTOMER.pubkey, PROVIDER.pubkey)
    assert (read.amount_msats, read.bolt11) == (asked.amount_msats, asked.bolt11)


def test_an_unknown_status_is_kept_and_a_bolt11_tag_of_its_own_is_read() -> None:
    tags = [("status", "chain-scheduled"), ("e", REQUEST.id), ("p", CUSTOMER.pubkey), ("bolt11", "lnbc1")]
    read = parse_feedback(signed(7000, tags, by=PROVIDER))
    assert isinstance(read, Feedback)
    assert (read.status, read.amount_msats, read.bolt11) == ("chain-scheduled", None, "lnbc1")


def test_feedback_that_hides_its_tags_is_read_by_the_customer_alone() -> None:
    hidden = encrypt_as("nip04", json.dumps([["status", "error", "full"]]), PROVIDER, CUSTOMER.pubkey)
    tags = [("e", REQUEST.id), ("p", CUSTOMER.pubkey), ("encrypted",)]
    read = parse_feedback(signed(7000, tags, hidden, by=PROVIDER), CUSTOMER)
    assert isinstance(read, Feedback)
    assert (read.status, read.extra, read.content) == ("error", "full", "")
    assert isinstance(parse_feedback(signed(7000, tags, hidden, by=PROVIDER), STRANGER), Unreadable)


def test_hidden_tags_do_not_change_which_job_feedback_is_about() -> None:
    hidden = encrypt_as("nip44", json.dumps([["status", "error"], ["e", "0" * 64]]), PROVIDER, CUSTOMER.pubkey)
    tags = [("e", REQUEST.id), ("p", CUSTOMER.pubkey), ("encrypted",)]
    read = parse_feedback(signed(7000, tags, hidden, by=PROVIDER), CUSTOMER)
    assert isinstance(read, Feedback)
    assert read.job_id == REQUEST.id


def test_a_result_has_its_tags_in_order_and_the_bare_text() -> None:
    answer = Answer(text="4", model="toy", finish_reason="length", prompt_tokens=5, completion_tokens=1)
    note = result_note(job(), answer, NOW_S, amount_msats=7, bolt11="lnbc1")
    assert (note.kind, note.content) == (6050, "4")
    assert note.tags == (
        ("e", REQUEST.id),
        ("i", "What is 2 + 2?", "text"),
        ("p", CUSTOMER.pubkey),
        ("amount", "7", "lnbc1"),
        ("status", "success"),
        ("model", "toy"),
        ("finish_reason", "length"),
        ("usage", "5", "1"),
    )


answers = st.builds(
    Answer,
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    model=words,
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "other"]),
    prompt_tokens=st.just(3) | st.just(0),
    completion_tokens=st.integers(0, 10**9),
)


@settings(max_examples=40, deadline=None)
@given(answer=answers, scheme=st.sampled_from([None, "nip04", "nip44"]))
def test_an_answer_arrives_as_it_was_given_hidden_or_not(answer: Answer, scheme) -> None:
    event = REQUEST
    if scheme is not None:
        event = sign_note(encrypted_request_note(FULL, NOW_S, CUSTOMER, scheme), CUSTOMER)
    done = sign_note(result_note(job(event), answer, NOW_S, amount_msats=5, key=PROVIDER), PROVIDER)
    read = parse_result(done, CUSTOMER)
    assert isinstance(read, JobResult)
    assert read.answer == answer
    assert (read.job_id, read.provider, read.customer) == (event.id, PROVIDER.pubkey, CUSTOMER.pubkey)
    assert (read.amount_msats, read.status) == (5, "success")


def test_a_plain_result_of_the_ancestor_is_an_answer_that_says_nothing_of_itself() -> None:
    tags = [("e", REQUEST.id), ("p", CUSTOMER.pubkey), ("status", "success"), ("request", "{}")]
    read = parse_result(signed(6050, tags, "4", by=PROVIDER))
    assert isinstance(read, JobResult)
    assert read.answer == Answer(text="4")
    assert read.request_json == "{}"


def test_the_result_of_an_encrypted_job_is_not_written_without_a_key() -> None:
    hidden = job(sign_note(encrypted_request_note(FULL, NOW_S, CUSTOMER, "nip44"), CUSTOMER))
    with pytest.raises(ValueError, match="encrypted"):
        result_note(hidden, Answer(text="4"), NOW_S)


def test_a_long_input_is_not_repeated_in_the_result() -> None:
    long = request(inputs=(JobInput(data="x" * 20_000),))
    note = result_note(job(long), Answer(text="4"), NOW_S)
    assert "i" not in {tag[0] for tag in note.tags}


def test_a_result_or_feedback_without_job_or_customer_is_unreadable() -> None:
    for tags in ([("e", REQUEST.id)], [("p", CUSTOMER.pubkey)], [("e", "x"), ("p", CUSTOMER.pubkey)]):
        assert isinstance(parse_result(signed(6050, tags)), Unreadable)
        assert isinstance(parse_feedback(signed(7000, [("status", "error"), *tags])), Unreadable)
