"""Ollama's own API: what is sent and read, against a server that answers as its documentation says."""

import pytest

from blocks.venues.ollama import OllamaVenue
from swarmc.contracts.completions import CompletionRequest, Message, Sampling, ToolCall, ToolSpec
from swarmc.contracts.errors import VenueError

MODEL = "tiny:latest"


async def sent_for(scripts, request: CompletionRequest, **settings) -> dict:
    """The JSON that a request becomes."""
    async with scripts.scripted(scripts.ollama()) as server:
        async with OllamaVenue(MODEL, base_url=server.url, **settings) as venue:
            await venue.complete(request)
        (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/api/chat")
    return asked.body


async def test_sampling_becomes_options(scripts, ask):
    sampling = {"temperature_ppm": 500_000, "top_p_ppm": 900_000, "max_tokens": 7, "stop": ("END",), "seed": 2}
    extensions = '{"options":{"mirostat":1},"think":false,"top_k":3}'
    sent = await sent_for(scripts, ask(MODEL, extensions=extensions, **sampling), context_tokens=2_048)
    wanted = {"temperature": 0.5, "top_p": 0.9, "num_predict": 7, "stop": ["END"], "seed": 2}
    assert sent["options"] == wanted | {"num_ctx": 2_048, "mirostat": 1, "top_k": 3}
    assert sent["stream"] is False
    assert sent["think"] is False


@pytest.mark.parametrize(
    ("response_format", "wanted"),
    [
        ('{"type":"json_object"}', "json"),
        ('{"json_schema":{"schema":{"type":"object"}},"type":"json_schema"}', {"type": "object"}),
        ('{"type":"text"}', None),
    ],
)
async def test_a_response_format_becomes_a_format(scripts, ask, response_format, wanted):
    sent = await sent_for(scripts, ask(MODEL, response_format=response_format))
    assert sent.get("format") == wanted


async def test_messages_carry_images_and_tool_calls_in_ollamas_form(scripts):
    messages = (
        Message(role="user", content="see", images=("data:image/png;base64,AAAA",)),
        Message(role="assistant", tool_calls=(ToolCall(id="1", name="f", arguments='{"q":1}'),)),
        Message(role="tool", content="found", tool_call_id="1"),
    )
    sent = await sent_for(scripts, CompletionRequest(lane="swarm", model=MODEL, messages=messages))
    assert sent["messages"][0]["images"] == ["AAAA"]
    assert sent["messages"][1]["tool_calls"] == [{"function": {"name": "f", "arguments": {"q": 1}}}]
    assert sent["messages"][2]["role"] == "tool"


async def test_tokens_and_the_end_are_read(scripts, ask):
    async with scripts.scripted(scripts.ollama()) as server, OllamaVenue(MODEL, base_url=server.url) as venue:
        answered = await venue.complete(ask(MODEL))
    assert (answered.text, answered.finish_reason, answered.venue) == ("forty-two", "stop", "ollama")
    assert (answered.usage.prompt_tokens, answered.usage.completion_tokens) == (11, 3)
    assert (answered.usage.estimated, answered.usage.cost_msats) == (False, 0)


async def test_a_count_that_is_left_out_is_estimated(scripts, ask):
    body = {"model": MODEL, "message": {"role": "assistant", "content": "yes"}, "done": True, "eval_count": 2}
    say = scripts.scripted(lambda asked: scripts.Said(body))
    async with say as server, OllamaVenue(MODEL, base_url=server.url) as venue:
        usage = (await venue.complete(ask(MODEL))).usage
    assert usage.estimated
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens == 2


async def test_tool_calls_come_back_as_text(scripts):
    tool = ToolSpec(name="weather", parameters='{"properties":{"city":{"type":"string"}},"type":"object"}')
    request = CompletionRequest(
        lane="swarm", model=MODEL, messages=(Message(role="user", content="?"),), tools=(tool,), sampling=Sampling()
    )
    async with scripts.scripted(scripts.ollama()) as server, OllamaVenue(MODEL, base_url=server.url) as venue:
        answered = await venue.complete(request)
    (call,) = answered.tool_calls
    assert (call.name, call.arguments) == ("weather", '{"city":"Oslo","days":2}')
    assert answered.finish_reason == "tool_calls"


async def test_a_missing_model_says_how_to_get_it(scripts, ask):
    async with scripts.scripted(scripts.ollama()) as server, OllamaVenue("qwen3:4b", base_url=server.url) as venue:
        with pytest.raises(VenueError, match="ollama pull qwen3:4b") as caught:
            await venue.complete(ask("qwen3:4b"))
    assert (caught.value.retryable, caught.value.fault) == (False, "venue")


async def test_what_ollama_cannot_do_is_refused_before_it_is_asked(scripts, ask):
    image = Message(role="user", content="see", images=("https://example.test/cat.png",))
    with_image = CompletionRequest(lane="swarm", model=MODEL, messages=(image,))
    forced = ask(MODEL).model_copy(update={"tools": (ToolSpec(name="f"),), "tool_choice": "required"})
    async with scripts.scripted(scripts.ollama()) as server:
        async with OllamaVenue(MODEL, base_url=server.url) as venue:
            for request in (with_image, forced):
                with pytest.raises(VenueError) as caught:
                    await venue.complete(request)
                assert caught.value.fault == "request"
        assert server.asked == []


@pytest.mark.parametrize("body", [b"oops", {"done": True}, {"message": "text"}, {"message": {"content": 4}}], ids=str)
async def test_an_answer_that_is_none_is_an_error(scripts, ask, body):
    say = scripts.scripted(lambda asked: scripts.Said(body))
    async with say as server, OllamaVenue(MODEL, base_url=server.url) as venue:
        with pytest.raises(VenueError) as caught:
            await venue.complete(ask(MODEL))
    assert (caught.value.retryable, caught.value.paid_unknown) == (True, False)
