"""The fast path against a real HTTP server: what is sent, what is read, what a failure says of itself."""

import asyncio
import email.utils
import time

import pytest
from pydantic import SecretStr

from blocks.venues.openai_compatible import OpenAICompatible, OpenAIVenue
from blocks.venues.prices import Prices
from swarmc.contracts.completions import CompletionRequest, Message, Sampling, ToolCall, ToolSpec
from swarmc.contracts.errors import VenueError

KEY = "sk-a-key-that-nobody-may-see"
PRICED = Prices.per_1k(400, 1_600)


def completion(**message) -> dict:
    """A minimal answer of the API."""
    return {"choices": [{"message": {"role": "assistant", "content": "hello", **message}, "finish_reason": "stop"}]}


async def failure(venue: OpenAIVenue, request: CompletionRequest) -> VenueError:
    """The error that asking raises."""
    async with venue:
        with pytest.raises(VenueError) as caught:
            await venue.complete(request)
    return caught.value


async def test_an_answer_comes_with_its_tokens_and_its_venue(counting, ask):
    async with OpenAIVenue(counting.base_url, "counting") as venue:
        answered = await venue.complete(ask("counting"))
    assert answered.text
    assert answered.venue == "openai"
    assert answered.model == "counting"
    assert answered.finish_reason == "stop"
    assert answered.usage.prompt_tokens > 0
    assert answered.usage.completion_tokens > 0
    assert not answered.usage.estimated
    assert answered.usage.cost_msats == 0


async def test_every_field_of_a_request_reaches_the_server(scripts):
    tool = ToolSpec(name="look_up", description="finds", parameters='{"properties":{},"type":"object"}')
    call = ToolCall(id="c1", name="look_up", arguments='{"q": 1}')
    request = CompletionRequest(
        lane="swarm",
        model="m",
        messages=(
            Message(role="user", content="see", images=("https://example.test/cat.png",)),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content="found", tool_call_id="c1"),
        ),
        tools=(tool,),
        tool_choice="auto",
        sampling=Sampling(
            temperature_ppm=700_000,
            top_p_ppm=900_000,
            max_tokens=9,
            stop=("END",),
            seed=4,
            response_format='{"type":"json_object"}',
            extensions='{"min_p":{"$float":"0.05"},"top_k":3}',
        ),
    )
    async with scripts.scripted(lambda asked: scripts.Said(completion())) as server:
        async with OpenAIVenue(f"{server.url}/v1", "m") as venue:
            await venue.complete(request)
        sent = server.asked[0].body
    assert sent["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "https://example.test/cat.png"}},
    ]
    assert sent["messages"][1]["tool_calls"][0]["function"] == {"name": "look_up", "arguments": '{"q": 1}'}
    assert sent["messages"][1]["content"] is None
    assert sent["messages"][2] == {"role": "tool", "content": "found", "tool_call_id": "c1"}
    assert sent["tools"][0]["function"]["parameters"] == {"properties": {}, "type": "object"}
    wanted = {"tool_choice": "auto", "temperature": 0.7, "top_p": 0.9, "max_tokens": 9, "stop": ["END"], "seed": 4}
    assert sent | wanted | {"response_format": {"type": "json_object"}, "min_p": 0.05, "top_k": 3} == sent


async def test_tool_calls_thoughts_and_the_end_are_read(scripts, ask):
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{not json"}}
    answer = completion(content=None, tool_calls=[call], reasoning_content="hm")
    answer["choices"][0]["finish_reason"] = "tool_calls"
    async with scripts.scripted(lambda asked: scripts.Said(answer)) as server, OpenAIVenue(server.url, "m") as venue:
        answered = await venue.complete(ask("m"))
    assert answered.text == ""
    assert answered.tool_calls == (ToolCall(id="x", name="f", arguments="{not json"),)
    assert answered.finish_reason == "tool_calls"
    assert answered.reasoning == "hm"


async def test_a_server_that_counts_no_tokens_gets_estimates_said_to_be_such(serving, ask):
    server = serving("--no-usage")
    async with OpenAIVenue(server.base_url, "m", prices=PRICED) as venue:
        answered = await venue.complete(ask("m", "say label=red", max_tokens=20))
    assert answered.usage.estimated
    assert answered.usage.prompt_tokens == -(-len("Be brief.say label=red") // 4) + 2 * 4
    assert answered.usage.completion_tokens == -(-len(answered.text) // 4)
    assert answered.usage.cost_msats == PRICED.cost_msats(
        answered.usage.prompt_tokens, answered.usage.completion_tokens
    )


async def test_prices_are_rounded_up_and_bounded_by_the_quote(counting, ask):
    async with OpenAIVenue(counting.base_url, "m", prices=PRICED) as venue:
        request = ask("m", max_tokens=50)
        usage = (await venue.complete(request)).usage
        assert usage.cost_msats == -(-(400 * usage.prompt_tokens + 1_600 * usage.completion_tokens) // 1_000)
        assert usage.cost_msats <= venue.quote(request)


async def test_a_priced_call_without_max_tokens_has_no_quote(counting, ask):
    async with OpenAIVenue(counting.base_url, "m", prices=PRICED) as venue:
        with pytest.raises(VenueError, match="max_tokens") as caught:
            venue.quote(ask("m"))
    assert caught.value.fault == "request"


async def test_nobody_listening_is_retryable_and_costs_nothing(ask):
    error = await failure(OpenAIVenue("http://127.0.0.1:1/v1", "m", prices=PRICED), ask("m", max_tokens=5))
    assert (error.retryable, error.paid_unknown, error.fault) == (True, False, "venue")


@pytest.mark.parametrize("prices", [None, PRICED], ids=["free", "priced"])
@pytest.mark.parametrize("flags", [("--hang-rate", "1"), ("--drop-rate", "1")], ids=["hang", "drop"])
async def test_a_call_whose_end_is_unknown_may_have_been_billed_only_where_calls_cost(serving, ask, prices, flags):
    server = serving(*flags)
    venue = OpenAIVenue(server.base_url, "m", prices=prices, timeout_s=0.4)
    error = await failure(venue, ask("m", max_tokens=5))
    assert error.retryable
    assert error.paid_unknown is (prices is not None)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_a_busy_or_broken_server_is_worth_another_try(serving, ask, status):
    server = serving("--error-rate", "1", "--error-status", str(status), "--retry-after-s", "7")
    error = await failure(OpenAIVenue(server.base_url, "m", prices=PRICED), ask("m", max_tokens=5))
    assert (error.retryable, error.paid_unknown, error.retry_after_s, error.fault) == (True, False, 7.0, "venue")


async def test_a_retry_date_is_read_as_seconds_from_now(scripts, ask):
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    said = scripts.Said({}, status=429, headers={"Retry-After": date})
    async with scripts.scripted(lambda asked: said) as server:
        error = await failure(OpenAIVenue(server.url, "m"), ask("m"))
    assert error.retry_after_s == pytest.approx(30, abs=2)


@pytest.mark.parametrize(
    ("status", "message", "fault"),
    [
        (400, "Unknown parameter: foo", "request"),
        (422, "bad schema", "request"),
        (400, "This model's maximum context length is 4096 tokens", "context"),
        (413, "prompt is too long: 9000 tokens", "context"),
    ],
)
async def test_a_refused_request_is_at_fault_itself(scripts, ask, status, message, fault):
    said = scripts.Said({"error": {"message": message}}, status=status)
    async with scripts.scripted(lambda asked: said) as server:
        error = await failure(OpenAIVenue(server.url, "m"), ask("m"))
    assert (error.retryable, error.fault) == (False, fault)
    assert message in str(error)


@pytest.mark.parametrize("status", [301, 402, 404])
async def test_a_wrong_address_is_the_venues_fault_not_the_candidates(scripts, ask, status):
    async with scripts.scripted(lambda asked: scripts.Said({}, status=status)) as server:
        error = await failure(OpenAIVenue(server.url, "m"), ask("m"))
    assert (error.retryable, error.fault) == (False, "venue")


async def test_a_refused_key_names_its_setting_and_is_never_shown(serving, ask):
    server = serving("--api-key", "the right one")
    venue = OpenAIVenue(server.base_url, "m", api_key=SecretStr(KEY))
    error = await failure(venue, ask("m"))
    assert "api_key" in str(error)
    assert "***" in str(error)
    assert KEY not in str(error)
    assert KEY not in repr(venue)
    assert (error.retryable, error.fault) == (False, "venue")


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b"", {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": 3}}]}, {}],
    ids=str,
)
async def test_an_answer_that_is_none_is_quoted_and_tried_again(scripts, ask, body):
    async with scripts.scripted(lambda asked: scripts.Said(body)) as server:
        error = await failure(OpenAIVenue(server.url, "m", prices=PRICED), ask("m", max_tokens=5))
    assert (error.retryable, error.paid_unknown) == (True, True)


async def test_an_error_inside_a_success_is_an_error(scripts, ask):
    body = {"error": {"message": "upstream is busy", "code": 429}}
    async with scripts.scripted(lambda asked: scripts.Said(body)) as server:
        error = await failure(OpenAIVenue(server.url, "m"), ask("m"))
    assert error.retryable
    assert "upstream is busy" in str(error)


async def test_an_endless_answer_is_cut_off(scripts, ask):
    huge = scripts.Said(b" " * (33 * 1024 * 1024))
    async with scripts.scripted(lambda asked: huge) as server:
        error = await failure(OpenAIVenue(server.url, "m"), ask("m"))
    assert "more than" in str(error)


@pytest.mark.parametrize("extension", ["n", "stream", "model"])
async def test_extensions_may_not_change_what_is_bought(counting, ask, extension):
    request = ask("m", extensions=f'{{"{extension}":1}}')
    error = await failure(OpenAIVenue(counting.base_url, "m"), request)
    assert extension in str(error)
    assert error.fault == "request"


async def test_an_address_that_is_none_is_refused_at_the_door():
    with pytest.raises(VenueError, match="no address"):
        async with OpenAICompatible(base_url="ftp:/nowhere", model="m").open():
            pass


async def test_many_callers_share_one_session(serving, ask):
    server = serving("--latency-ms", "20")
    async with OpenAIVenue(server.base_url, "m") as venue:
        requests = [ask("m", f"number {i} label=c{i}") for i in range(60)]
        answers = await asyncio.gather(*(venue.complete(request) for request in requests))
    stats = server.stats()
    assert len(answers) == stats["total"] == stats["unique"] == 60
    assert stats["in_flight_max"] > 10
