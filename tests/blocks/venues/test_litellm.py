"""litellm against a real HTTP server, and its price table against arithmetic by hand."""

import math
import subprocess
import sys

import pytest
from pydantic import SecretStr, ValidationError

from blocks.venues.litellm import LiteLLM, LiteLLMVenue
from blocks.venues.litellm_prices import Pricing, tariff_of, to_msats
from blocks.venues.prices import Prices
from swarmc.contracts.completions import CompletionRequest, Message, ToolSpec
from swarmc.contracts.errors import VenueError

KEY = "sk-a-key-that-nobody-may-see"
MODEL = "openai/counting"
FREE = Pricing(unknown_is_free=True)
PRICED = Pricing(by_hand=Prices.per_1k(400, 1_600))


def venue_at(
    server, model: str = MODEL, pricing: Pricing = FREE, key: str = "any", timeout_s: float = 10
) -> LiteLLMVenue:
    return LiteLLMVenue(model, api_key=SecretStr(key), api_base=server.base_url, timeout_s=timeout_s, pricing=pricing)


async def failure(venue: LiteLLMVenue, request: CompletionRequest) -> VenueError:
    """The error that asking raises."""
    async with venue:
        with pytest.raises(VenueError) as caught:
            await venue.complete(request)
    return caught.value


async def test_a_provider_string_is_asked_with_every_setting(scripts, ask):
    choice = {"message": {"role": "assistant", "content": "hi"}, "finish_reason": "length"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    answer = {"choices": [choice], "usage": usage}
    async with scripts.scripted(lambda asked: scripts.Said(answer)) as server:
        venue = LiteLLMVenue(MODEL, api_key=SecretStr(KEY), api_base=f"{server.url}/v1", pricing=FREE)
        async with venue:
            settings = {"temperature_ppm": 0, "max_tokens": 5, "seed": 3, "stop": ("END",)}
            answered = await venue.complete(ask(MODEL, "hello", **settings))
    (asked,) = server.asked
    wanted = {"model": "counting", "temperature": 0, "max_tokens": 5, "seed": 3, "stop": ["END"]}
    assert asked.body | wanted == asked.body
    assert not asked.body.get("stream")
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert (answered.text, answered.finish_reason, answered.venue) == ("hi", "length", "litellm")
    assert (answered.usage.prompt_tokens, answered.usage.completion_tokens) == (5, 2)


async def test_a_tool_call_is_read(counting):
    request = CompletionRequest(
        lane="swarm",
        model=MODEL,
        messages=(Message(role="user", content="label=red"),),
        tools=(ToolSpec(name="look_up"),),
        tool_choice="required",
    )
    async with venue_at(counting) as venue:
        answered = await venue.complete(request)
    assert [call.name for call in answered.tool_calls] == ["look_up"]
    assert answered.finish_reason == "tool_calls"


async def test_the_price_is_litellms_table_times_the_rate(counting, ask):
    """gpt-4.1-mini: 0.40 dollars a million prompt tokens, 1.60 a million answered; a dollar is 2,000,000 msats."""
    model = "openai/gpt-4.1-mini"
    async with venue_at(counting, model, Pricing(msats_per_usd=2_000_000)) as venue:
        request = ask(model, max_tokens=100)
        usage = (await venue.complete(request)).usage
        by_hand = math.ceil((4 * usage.prompt_tokens + 16 * usage.completion_tokens) * 2_000_000 / 10_000_000)
        assert usage.cost_msats == by_hand > 0
        assert venue.quote(request) >= 100 * 16 * 2_000_000 // 10_000_000 + by_hand // 4
    assert not usage.estimated


async def test_the_price_of_counted_tokens_is_what_the_table_asks_for_a_plain_call(counting):
    """gpt-4.1-mini as above; a row's tiers bound a quote, and are no price that a bill may compare with."""
    async with venue_at(counting, "openai/gpt-4.1-mini", Pricing(msats_per_usd=2_000_000)) as venue:
        assert venue.price_msats(1_000, 100, 7) == (4 * 1_000 + 16 * 100) * 2_000_000 // 10_000_000
    tiered = tariff_of(pytest.importorskip("litellm"), "anthropic/claude-sonnet-4-5", Pricing())
    assert tiered.plain.sum_msats(300_000, 0, 1) < tiered.prices.sum_msats(300_000, 0, 1)


async def test_without_max_tokens_the_quote_is_the_models_longest_answer(counting, ask):
    model = "openai/gpt-4.1-mini"
    async with venue_at(counting, model, Pricing()) as venue:
        assert venue.quote(ask(model)) > 32_768 * 16 * 1_000_000 // 10_000_000


@pytest.mark.parametrize("setting", ["service_tier", "web_search_options"])
async def test_what_is_billed_otherwise_has_no_quote(counting, ask, setting):
    model = "openai/gpt-4.1-mini"
    async with venue_at(counting, model, Pricing()) as venue:
        with pytest.raises(VenueError, match=setting):
            venue.quote(ask(model, max_tokens=5, extensions=f'{{"{setting}":"x"}}'))


def test_dollars_become_msats_once_and_upwards():
    assert to_msats(3.6e-06, 1_000_000) == 4
    assert to_msats(2.0000000000000003e-05, 1_000_000) == 20
    assert to_msats(0.0, 1_000_000) == 0


@pytest.mark.parametrize("model", ["openai/a-model-of-nobody", "ollama/qwen3", "nonsense/model"])
async def test_a_model_without_a_price_is_refused_at_the_door(model):
    with pytest.raises(VenueError, match="price"):
        async with LiteLLM(model=model).open():
            pass


async def test_prices_given_by_hand_go_before_the_table(counting, ask):
    async with venue_at(counting, "openai/gpt-4.1-mini", PRICED) as venue:
        usage = (await venue.complete(ask("openai/gpt-4.1-mini", max_tokens=9))).usage
    assert usage.cost_msats == math.ceil((400 * usage.prompt_tokens + 1_600 * usage.completion_tokens) / 1_000)


def test_one_price_by_hand_is_half_a_price():
    with pytest.raises(ValidationError, match="or neither"):
        LiteLLM(model="openai/gpt-4.1-mini", input_msats_per_1k_tokens=3)


async def test_no_token_counts_give_estimates_said_to_be_such(serving, ask):
    async with venue_at(serving("--no-usage"), pricing=PRICED) as venue:
        usage = (await venue.complete(ask(MODEL, max_tokens=9))).usage
    assert usage.estimated
    assert usage.cost_msats > 0


async def test_nobody_listening_is_retryable_and_costs_nothing(ask):
    venue = LiteLLMVenue(MODEL, api_key=SecretStr("x"), api_base="http://127.0.0.1:1/v1", pricing=PRICED)
    error = await failure(venue, ask(MODEL, max_tokens=5))
    assert (error.retryable, error.paid_unknown) == (True, False)


@pytest.mark.parametrize("pricing", [FREE, PRICED], ids=["free", "priced"])
@pytest.mark.parametrize("flag", ["--hang-rate", "--drop-rate", "--garbage-rate"])
async def test_a_call_whose_end_is_unknown_may_have_been_billed_only_where_calls_cost(serving, ask, pricing, flag):
    server = serving(flag, "1")
    error = await failure(venue_at(server, pricing=pricing, timeout_s=0.5), ask(MODEL, max_tokens=5))
    assert error.retryable
    assert error.paid_unknown is (pricing is PRICED)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_or_broken_provider_is_worth_another_try(serving, ask, status):
    server = serving("--error-rate", "1", "--error-status", str(status), "--retry-after-s", "7")
    error = await failure(venue_at(server, pricing=PRICED), ask(MODEL, max_tokens=5))
    assert (error.retryable, error.paid_unknown, error.retry_after_s) == (True, False, 7.0)
    assert server.stats()["requests"] == 1


@pytest.mark.parametrize(("status", "fault"), [(400, "request"), (422, "request"), (404, "venue"), (401, "venue")])
async def test_a_refusal_says_whose_fault_it_is(serving, ask, status, fault):
    server = serving("--error-rate", "1", "--error-status", str(status))
    error = await failure(venue_at(server), ask(MODEL))
    assert (error.retryable, error.fault) == (False, fault)


async def test_a_prompt_that_does_not_fit_is_told_apart(scripts, ask):
    body = {"error": {"message": "This model's maximum context length is 10 tokens", "code": "context_length_exceeded"}}
    async with scripts.scripted(lambda asked: scripts.Said(body, status=400)) as server:
        venue = LiteLLMVenue(MODEL, api_key=SecretStr("x"), api_base=server.url, pricing=FREE)
        error = await failure(venue, ask(MODEL))
    assert (error.retryable, error.fault) == (False, "context")


async def test_a_refused_key_is_never_shown(serving, ask):
    venue = venue_at(serving("--api-key", "the-right-one"), key=KEY)
    error = await failure(venue, ask(MODEL))
    shown = str(error), repr(venue), repr(LiteLLM(model=MODEL, api_key=SecretStr(KEY))), repr(error.__cause__)
    assert all(KEY not in text for text in shown)
    assert "api_key" in str(error)
    assert not error.retryable


async def test_a_request_cannot_take_over_what_belongs_to_the_venue(counting, ask):
    error = await failure(venue_at(counting), ask(MODEL, extensions='{"mock_response":"made up"}'))
    assert "mock_response" in str(error)


def test_the_package_imports_neither_litellm_nor_llama_cpp():
    code = "import sys, blocks.venues; print(sorted({'litellm', 'xllamacpp'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
