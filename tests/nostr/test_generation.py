"""Text generation over jobs: the seller asks its venue exactly what the buyer was asked, and no more."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.canonical import canonical_bytes, plain
from swarmc.contracts.completions import Completion, CompletionRequest, Message, Sampling, ToolCall, ToolSpec, Usage
from swarmc.contracts.market import Ask, Job, JobInput, Offer, PriceList
from swarmc.nostr.events import sign_note
from swarmc.nostr.generation import answer_of, ask_of, completion_of, completion_request_of, price_of, tokens_of
from swarmc.nostr.nip90 import encrypted_request_note, parse_job, parse_result, request_note, result_note
from tests.nostr.jobs import CUSTOMER, NOW_S, PROVIDER, result

READS_MESSAGES = Offer(
    event_id="0" * 64, provider=PROVIDER.pubkey, name_d="x", created_at=NOW_S, kinds=(5050,), messages=True
)
READS_TEXT = READS_MESSAGES.model_copy(update={"messages": False})
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.sampled_from(["top_k", "min_p", "frequency_penalty", "other"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
canonical_objects = st.dictionaries(names, values, max_size=3).map(lambda value: canonical_bytes(plain(value)).decode())
sampling = st.builds(
    Sampling,
    temperature_ppm=st.none() | st.integers(0, 10**12),
    top_p_ppm=st.none() | st.integers(0, 10**6),
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    stop=st.lists(words | st.sampled_from(['["a"]', "[", ""]), max_size=3).map(tuple),
    seed=st.none() | st.integers(-(2**63), 2**63),
    response_format=st.none() | canonical_objects,
    extensions=canonical_objects,
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    content=words,
    images=st.sampled_from([(), ("data:image/png;base64,AA==",)]),
    tool_calls=st.sampled_from([(), (ToolCall(id="1", name="n", arguments="{"),)]),
    tool_call_id=st.none() | words,
)
requests = st.builds(
    CompletionRequest,
    lane=st.just("swarm"),
    model=st.sampled_from(["toy", "big"]),
    messages=st.lists(messages, min_size=1, max_size=4).map(tuple),
    sampling=sampling,
    rollout_id=st.integers(-5, 10**9),
)
ALL = frozenset({"top_k", "min_p", "frequency_penalty", "other"})


def chat(*turns: tuple[str, str], **changes) -> CompletionRequest:
    said = tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    return CompletionRequest(lane="swarm", model="toy", messages=said, **changes)


TEXT = (JobInput(data="hi"),)


def job_with(*params: tuple[str, str], inputs=TEXT, kind: int = 5050) -> Job:
    read = parse_job(sign_note(request_note(Ask(kind=kind, inputs=inputs, params=params), NOW_S), CUSTOMER))
    assert isinstance(read, Job)
    return read


def asked_of(job: Job, **options) -> CompletionRequest:
    return completion_request_of(job, **{"lane": "swarm", "models": ("toy", "big"), **options})


@settings(max_examples=150, deadline=None)
@given(request=requests, scheme=st.sampled_from([None, "nip44"]))
def test_the_seller_asks_exactly_what_the_buyer_was_asked(request: CompletionRequest, scheme) -> None:
    ask = ask_of(request, READS_MESSAGES, salt="s")
    note = request_note(ask, NOW_S) if scheme is None else encrypted_request_note(ask, NOW_S, CUSTOMER, scheme)
    job = parse_job(sign_note(note, CUSTOMER), PROVIDER)
    assert isinstance(job, Job)
    assert asked_of(job, extensions=ALL).body == request.body


@settings(max_examples=60, deadline=None)
@given(wanted=sampling)
def test_in_plain_text_the_sampling_survives_too(wanted: Sampling) -> None:
    request = chat(("system", "Be brief."), ("user", "hi"), sampling=wanted)
    job = parse_job(sign_note(request_note(ask_of(request, READS_TEXT, salt="s"), NOW_S), CUSTOMER))
    assert isinstance(job, Job)
    read = asked_of(job, extensions=ALL)
    assert read.sampling == wanted
    assert read.messages == (Message(role="user", content="System: Be brief.\n\nUser: hi"),)


def test_plain_text_is_written_as_the_ancestor_does() -> None:
    turns = (("developer", "Be brief."), ("user", "hi"), ("assistant", "ho"), ("user", "hu"))
    ask = ask_of(chat(*turns), None, salt="s")
    assert ask.inputs == (JobInput(data="System: Be brief.\n\nUser: hi\n\nAssistant: ho\n\nUser: hu"),)
    assert ask.providers == ()
    assert ask_of(chat(("user", "hi")), READS_TEXT, salt="s").inputs == (JobInput(data="hi"),)
    assert ask_of(chat(("system", "hi")), READS_TEXT, salt="s").inputs == (JobInput(data="System: hi"),)


def test_fractions_are_written_exactly_and_without_trailing_zeros() -> None:
    wanted = Sampling(temperature_ppm=700_000, top_p_ppm=1)
    params = dict(ask_of(chat(("user", "hi"), sampling=wanted), None, salt="s").params)
    assert (params["temperature"], params["top_p"], params["salt"]) == ("0.7", "0.000001", "s")


@pytest.mark.attack("B14")
def test_equal_asks_of_one_second_are_two_events_by_their_salt() -> None:
    one, two = (sign_note(request_note(ask_of(chat(("user", "hi")), None, salt=s), NOW_S), CUSTOMER) for s in "ab")
    assert one.id != two.id


def test_what_needs_tools_or_in_plain_text_images_is_refused() -> None:
    tooled = chat(("user", "hi"), tools=(ToolSpec(name="t"),))
    shown = CompletionRequest(lane="swarm", model="m", messages=(Message(role="user", images=("data:,",)),))
    with pytest.raises(ValueError, match="tools"):
        ask_of(tooled, READS_MESSAGES, salt="s")
    with pytest.raises(ValueError, match="images"):
        ask_of(shown, READS_TEXT, salt="s")
    with pytest.raises(ValueError, match="tool answers"):
        ask_of(chat(("tool", "x")), None, salt="s")


def test_parameters_with_hyphens_and_numbers_as_strangers_write_them_are_read() -> None:
    job = job_with(("top-p", "0.90"), ("top-k", "40"), ("frequency-penalty", "-0.5"), ("stop", "a"), ("stop", '["b"]'))
    read = asked_of(job).sampling
    assert (read.top_p_ppm, read.stop) == (900_000, ("a", "b"))
    assert json.loads(read.extensions) == {"top_k": 40, "frequency_penalty": {"$float": "-0.5"}}


def test_a_job_that_names_no_model_gets_the_default_and_another_is_not_passed_off_for_it() -> None:
    assert asked_of(job_with()).model == "toy"
    assert asked_of(job_with(("model", "big"))).model == "big"
    with pytest.raises(ValueError, match="not run here"):
        asked_of(job_with(("model", "huge")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "0"),
        ("max_tokens", "9" * 12),
        ("max_tokens", "1e3"),
        ("max_tokens", "\u0663"),
        ("temperature", "-1"),
        ("temperature", "NaN"),
        ("temperature", "1e9999999"),
        ("top_k", "many"),
        ("min_p", "inf"),
        ("seed", "1" * 5000),
        ("stop", "[1]"),
        ("stop", "[" * 100_000),
        ("response_format", "{"),
        ("response_format", '{"a":NaN}'),
        ("response_format", '"\\ud800"'),
        ("extensions", "[]"),
        ("extensions", '{"a":' * 20_000),
    ],
)
def test_a_parameter_that_is_none_is_refused_without_being_repeated(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        asked_of(job_with((name, value)))
    assert len(str(caught.value)) < 200


@pytest.mark.attack("B5")
@pytest.mark.parametrize("setting", ["api_base", "api_key", "base_url", "n", "grammar", "extra_headers"])
def test_a_stranger_sets_no_address_key_or_count_at_our_venue(setting: str) -> None:
    with pytest.raises(ValueError, match="not taken here"):
        asked_of(job_with(("extensions", json.dumps({setting: "x"}))))


def test_nothing_is_fetched_for_a_stranger() -> None:
    image = json.dumps([{"role": "user", "images": ["http://169.254.169.254/x"]}])
    for hostile in (JobInput(data="http://127.0.0.1/", type="url"), JobInput(data=image, marker="messages")):
        with pytest.raises(ValueError, match="address"):
            asked_of(job_with(inputs=(hostile,)))


@pytest.mark.parametrize("kind", ["job", "event"])
def test_other_jobs_and_events_are_not_resolved(kind: str) -> None:
    with pytest.raises(ValueError, match="not read here"):
        asked_of(job_with(inputs=(JobInput(data="0" * 64, type=kind),)))


@pytest.mark.parametrize(
    "data", ["", "[", "{}", "[]", "[1]", '[{"role":"king"}]', '[{"role":"user","x":1}]', "[" * 9999]
)
def test_messages_that_are_none_are_refused(data: str) -> None:
    with pytest.raises(ValueError, match=r"messages|no text"):
        asked_of(job_with(inputs=(JobInput(data=data, marker="messages"),)))


def test_a_job_of_another_kind_or_without_text_is_no_generation() -> None:
    with pytest.raises(ValueError, match="5100"):
        asked_of(job_with(kind=5100))
    with pytest.raises(ValueError, match="no text"):
        asked_of(job_with(inputs=()))


def test_several_texts_are_one_prompt() -> None:
    two = (JobInput(data="a"), JobInput(data="b", marker="messages"))
    assert asked_of(job_with(inputs=two)).messages == (Message(role="user", content="a\n\nb"),)


def test_an_answer_is_no_longer_than_what_was_paid_for() -> None:
    assert asked_of(job_with(), most_tokens=512).sampling.max_tokens == 512
    assert asked_of(job_with(("max_tokens", "9")), most_tokens=512).sampling.max_tokens == 9
    with pytest.raises(ValueError, match="max_tokens"):
        asked_of(job_with(("max_tokens", "513")), most_tokens=512)


def test_buyer_and_seller_count_the_same_price() -> None:
    prices = PriceList(request_msats=100, input_msats_per_1k_tokens=1000, output_msats_per_1k_tokens=2000)
    ask = ask_of(chat(("user", "12345"), sampling=Sampling(max_tokens=7)), READS_TEXT, salt="s")
    assert tokens_of(ask) == (2, 7)
    assert price_of(prices, ask) == 100 + 2 + 14
    assert price_of(prices, job_with(*ask.params, inputs=ask.inputs)) == 116
    assert tokens_of(job_with(("max_tokens", "x"))) == (1, 512)


def test_an_absurd_length_costs_at_most_all_the_money_there_is() -> None:
    most = PriceList(output_msats_per_1k_tokens=2_100_000_000_000_000_000)
    assert price_of(most, job_with(("max_tokens", str(2**31 - 1)))) == 2_100_000_000_000_000_000


@settings(max_examples=40, deadline=None)
@given(text=words, model=st.sampled_from(["toy", "big"]), tokens=st.integers(0, 10**6), estimated=st.booleans())
def test_a_completion_arrives_as_the_venue_gave_it(text: str, model: str, tokens: int, estimated: bool) -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=tokens, estimated=estimated)
    local = Completion(text=text, model=model, usage=usage, finish_reason="length")
    event = sign_note(result_note(job_with(), answer_of(local), NOW_S), PROVIDER)
    read = parse_result(event)
    bought = completion_of(read, chat(("user", "hi")), cost_msats=5, simulated=True, venue="swarm")  # type: ignore[arg-type]
    assert (bought.text, bought.model, bought.finish_reason) == (text, model, "length")
    assert bought.usage.estimated is estimated
    assert (bought.usage.cost_msats, bought.usage.simulated, bought.venue) == (5, True, "swarm")
    assert estimated or bought.usage.total_tokens == usage.total_tokens


def test_tokens_that_nobody_counted_are_estimated_and_marked_so() -> None:
    bare = result().model_copy(
        update={"answer": answer_of(Completion(text="12345", model="", usage=Usage(estimated=True)))}
    )
    bought = completion_of(bare, chat(("user", "123456789")))
    assert (bought.usage.prompt_tokens, bought.usage.completion_tokens, bought.usage.estimated) == (3, 2, True)
    assert bought.model == "toy"
