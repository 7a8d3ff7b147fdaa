"""A quote is an upper bound, whatever the prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.venues.chat_format import most_completion_tokens
from blocks.venues.prices import Prices, estimated_tokens, most_prompt_tokens
from swarmc.contracts.completions import Completion, CompletionRequest, Message, Sampling, ToolCall, ToolSpec
from swarmc.contracts.errors import VenueError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CALLS = st.builds(ToolCall, id=TEXTS, name=TEXTS, arguments=TEXTS)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=TEXTS,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
)
REQUESTS = st.builds(
    CompletionRequest,
    lane=st.just("swarm"),
    model=st.just("m"),
    messages=st.lists(MESSAGES, min_size=1, max_size=4).map(tuple),
    tools=st.lists(st.builds(ToolSpec, name=TEXTS, description=TEXTS), max_size=2).map(tuple),
)


@given(REQUESTS)
def test_no_prompt_has_more_tokens_than_its_bytes_and_the_templates(request):
    """A byte-level tokenizer, the worst there is, and a template that spends ten tokens on each message."""
    texts = [message.content for message in request.messages]
    texts += [part for m in request.messages for c in m.tool_calls for part in (c.id, c.name, c.arguments)]
    texts += [part for tool in request.tools for part in (tool.name, tool.description, tool.parameters)]
    worst = sum(len(text.encode()) for text in texts) + 10 * len(request.messages)
    assert most_prompt_tokens(request) >= worst


@given(REQUESTS, st.integers(0, 5_000), st.integers(0, 5_000), st.integers(1, 500))
def test_the_bound_covers_every_answer_of_the_allowed_length(request, input_msats, output_msats, most):
    prices = Prices.per_1k(input_msats, output_msats)
    prompt, _ = estimated_tokens(request.messages, Completion(text="", model="m"))
    assert prices.bound_msats(request, most) >= prices.cost_msats(prompt, most)
    assert prices.bound_msats(request, most) >= prices.cost_msats(most_prompt_tokens(request), 0)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_price_is_rounded_up_and_by_less_than_one(prompt, answer):
    cost = Prices.per_1k(3, 7).cost_msats(prompt, answer)
    assert 0 <= 1_000 * cost - (3 * prompt + 7 * answer) < 1_000


def ask(**fields) -> CompletionRequest:
    return CompletionRequest(lane="swarm", model="m", messages=(Message(role="user", content="hi", **fields),))


def test_a_free_place_needs_no_limit():
    assert Prices().bound_msats(ask(images=("https://example.test/a.png",)), None) == 0


def test_an_image_of_unknown_size_has_no_bound():
    request = ask(images=("https://example.test/a.png",))
    with pytest.raises(VenueError, match="tokens_per_image"):
        Prices.per_1k(1, 1).bound_msats(request, 5)
    known = Prices.per_1k(1_000, 0, tokens_per_image=2_000)
    assert known.bound_msats(request, 5) == known.bound_msats(ask(), 5) + 2_000


def test_the_estimate_is_bytes_by_four_and_four_a_message():
    messages = (Message(role="user", content="æøå"), Message(role="user", content="abcde"))
    assert estimated_tokens(messages, Completion(text="12345", model="m")) == (3 + 8, 2)


def test_a_length_among_the_extensions_counts_too():
    sampling = Sampling(max_tokens=5, extensions='{"max_completion_tokens":9}')
    assert most_completion_tokens(ask().model_copy(update={"sampling": sampling})) == 9
    assert most_completion_tokens(ask()) is None
