"""Chat requests, read and written again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.venues.chat_format import chat_body
from blocks.venues.chat_request import read_chat
from swarmc.contracts.completions import CompletionRequest, Message, Sampling, ToolCall, ToolSpec
from swarmc.contracts.errors import VenueError

TEXTS = st.text(max_size=40)
CALLS = st.builds(ToolCall, id=st.text(min_size=1, max_size=8), name=st.text(min_size=1, max_size=8), arguments=TEXTS)
TOOLS = st.builds(ToolSpec, name=st.text(min_size=1, max_size=8), parameters=st.just('{"type":"object"}'))
MESSAGES = st.one_of(
    st.builds(Message, role=st.sampled_from(["system", "user", "developer"]), content=TEXTS),
    st.builds(Message, role=st.just("user"), content=TEXTS, images=st.tuples(st.just("data:image/png;base64,AA=="))),
    st.builds(Message, role=st.just("assistant"), content=TEXTS, tool_calls=st.lists(CALLS, max_size=2).map(tuple)),
    st.builds(Message, role=st.just("tool"), content=TEXTS, tool_call_id=st.text(min_size=1, max_size=8)),
)
SAMPLINGS = st.builds(
    Sampling,
    temperature_ppm=st.none() | st.integers(0, 2_000_000),
    top_p_ppm=st.none() | st.integers(0, 1_000_000),
    max_tokens=st.none() | st.integers(1, 10_000),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
    seed=st.none() | st.integers(0, 2**31),
    response_format=st.none() | st.just('{"type":"json_object"}'),
    extensions=st.sampled_from(["{}", '{"top_k":4}']),
)
REQUESTS = st.builds(
    CompletionRequest,
    lane=st.just("swarm"),
    model=st.just("m"),
    messages=st.lists(MESSAGES, min_size=1, max_size=4).map(tuple),
    tools=st.lists(TOOLS, max_size=2).map(tuple),
    tool_choice=st.sampled_from([None, "auto", "none"]),
    sampling=SAMPLINGS,
)


@given(REQUESTS)
def test_what_is_written_is_read_as_it_was(request_):
    body = chat_body(request_)
    assert read_chat(body["model"], body["messages"], body) == request_


@pytest.mark.parametrize(
    ("messages", "parameters", "match"),
    [
        ([], {}, "messages"),
        ([{"content": "x"}], {}, "role"),
        ([{"role": "king", "content": "x"}], {}, "role"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], {}, "no venue carries"),
        ([{"role": "user", "content": 3}], {}, "reading a chat request"),
        ([{"role": "user", "content": "x"}], {"n": 3}, "one answer"),
        ([{"role": "user", "content": "x"}], {"tools": [{"type": "web_search"}]}, "web_search"),
        ([{"role": "user", "content": "x"}], {"temperature": "hot"}, "reading a chat request"),
        ([{"role": "user", "content": "x"}], {"max_tokens": 0}, "max_tokens"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], {}, "function"),
        (["hello"], {}, "reading a chat request"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_the_requests_fault(messages, parameters, match):
    with pytest.raises(VenueError, match=match) as caught:
        read_chat("m", messages, parameters)
    assert (caught.value.fault, caught.value.retryable) == ("request", False)
