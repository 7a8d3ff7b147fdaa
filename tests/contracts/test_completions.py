"""A request's hash is its identity: equal requests are bought once, different ones never mistaken for each other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swarmc.contracts import completions
from swarmc.contracts.canonical import content_id
from swarmc.contracts.completions import Completion, CompletionRequest, Message, Sampling, ToolCall, ToolSpec, Usage

ASKED = CompletionRequest(lane="swarm", model="m", messages=(Message(role="user", content="hello"),))
texts = st.text(max_size=12)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=texts,
    images=st.lists(texts, max_size=2).map(tuple),
    tool_calls=st.lists(st.builds(ToolCall, id=texts, name=texts, arguments=texts), max_size=2).map(tuple),
    tool_call_id=st.none() | texts,
)
requests = st.builds(
    CompletionRequest,
    lane=st.sampled_from(["swarm", "validation", "premium"]),
    model=texts,
    messages=st.lists(messages, min_size=1, max_size=3).map(tuple),
    tools=st.lists(st.builds(ToolSpec, name=texts), max_size=2).map(tuple),
    sampling=st.builds(Sampling, temperature_ppm=st.none() | st.integers(0, 10**7), stop=st.tuples(texts)),
    rollout_id=st.integers(0, 9),
)


def test_the_canonical_form_is_what_it_always_was(vector: dict) -> None:
    record = getattr(completions, vector["contract"]).model_validate(vector["input"])
    assert record.canonical().decode() == vector["canonical"]
    assert record.content_id == vector["id"]
    if isinstance(record, CompletionRequest):
        assert record.request_id == vector["id"]


@given(requests)
def test_reading_and_writing_a_request_does_not_change_its_bytes(request: CompletionRequest) -> None:
    again = CompletionRequest.model_validate_json(request.body)
    assert again == request
    assert again.request_id == request.request_id == content_id(request.body) == content_id(request.canonical())


@given(requests, requests)
def test_requests_have_one_id_exactly_when_they_are_equal(one: CompletionRequest, other: CompletionRequest) -> None:
    assert (one == other) == (one.request_id == other.request_id)


@pytest.mark.parametrize(
    "change",
    [
        {"lane": "premium"},
        {"model": "n"},
        {"messages": (Message(role="user", content="hello "),)},
        {"messages": (Message(role="system", content="hello"),)},
        {"messages": (*ASKED.messages, Message(role="assistant"))},
        {"tools": (ToolSpec(name="t"),)},
        {"tool_choice": "none"},
        {"sampling": Sampling(temperature_ppm=0)},
        {"sampling": Sampling(extensions='{"top_k":1}')},
        {"rollout_id": 1},
    ],
    ids=lambda change: f"{next(iter(change))}",
)
def test_a_request_that_asks_for_something_else_is_another_one(change: dict[str, Any]) -> None:
    changed = CompletionRequest.model_validate(
        {**{name: getattr(ASKED, name) for name in ASKED.model_fields_set}, **change}
    )
    assert changed.request_id != ASKED.request_id


def test_a_changed_copy_of_a_request_does_not_keep_the_id_of_the_first() -> None:
    assert ASKED.request_id
    copy = ASKED.model_copy(update={"rollout_id": 1})
    assert copy.request_id == content_id(copy.canonical())


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (CompletionRequest, {"lane": "swarm", "model": "m", "messages": ()}),
        (CompletionRequest, {"lane": "fast", "model": "m", "messages": [{"role": "user"}]}),
        (Message, {"role": "robot"}),
        (Sampling, {"temperature_ppm": 0.7}),
        (Sampling, {"temperature_ppm": -1}),
        (Sampling, {"max_tokens": 0}),
        (Sampling, {"extensions": '{"top_p": 0.5}'}),
        (ToolSpec, {"name": "t", "parameters": "no json"}),
        (Usage, {"cost_msats": -1}),
        (Usage, {"cost_msats": 0.5}),
        (Completion, {"text": "", "model": "m", "finish_reason": "bored"}),
        (Completion, {"text": None, "model": "m"}),
    ],
)
def test_a_record_that_means_nothing_is_refused(kind: type, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(fields)


@pytest.mark.parametrize(("msats", "sats"), [(0, 0), (1, 1), (1000, 1), (1001, 2), (75, 1)])
def test_a_price_in_sats_is_rounded_up(msats: int, sats: int) -> None:
    assert Usage(cost_msats=msats).cost_sats == sats
