"""Pylon in litellm's hands and DSPy's: real models, a real ledger, prices, budgets, replays, streams."""

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest

from blocks.ledger.sql import SqlLedger
from blocks.venues.openai_compatible import OpenAICompatible
from blocks.venues.pylon import Pylon
from blocks.venues.pylon_litellm import Home, PylonProvider, register

ASKED: list[dict[str, Any]] = [{"role": "user", "content": "say label=red"}]
LISTED = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CHOSEN = {
    "tools": [LISTED],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "_skip_mcp_handler": True,
}


@pytest.fixture(scope="module")
def litellm() -> Any:
    """Imported by who needs it: it takes seconds, which every worker would spend that only collects these tests."""
    return importlib.import_module("litellm")


@pytest.fixture
def ledger_url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def pylon(litellm, ledger_url, counting) -> Iterator[PylonProvider]:
    """The provider, registered; `pylon/local:llamacpp` is a counting server."""
    before = litellm.custom_provider_map
    provider = register(Pylon(base_url=counting.base_url), ledger=ledger_url)
    yield provider
    provider.close()
    litellm.custom_provider_map = before


@pytest.fixture
def selling(litellm, ledger_url, counting) -> Iterator[Callable[[int], PylonProvider]]:
    """Registers a provider of a priced venue with a budget: 5,000 msats per 1,000 tokens, in and out."""
    before, providers = litellm.custom_provider_map, []

    def sell(budget_sats: int) -> PylonProvider:
        block = OpenAICompatible(
            base_url=counting.base_url,
            model="counting",
            input_msats_per_1k_tokens=5000,
            output_msats_per_1k_tokens=5000,
        )
        home = Home(lambda reference, base_url: block, budget_sats=budget_sats, ledger=ledger_url)
        providers.append(PylonProvider(home))
        litellm.custom_provider_map = [{"provider": "pylon", "custom_handler": providers[-1]}]
        return providers[-1]

    yield sell
    for provider in providers:
        provider.close()
    litellm.custom_provider_map = before


def test_litellm_completes_on_a_local_pylon(litellm, pylon):
    response: Any = litellm.completion("pylon/local:llamacpp", ASKED, max_tokens=24)
    assert response.choices[0].message.content
    assert response.usage.prompt_tokens > 0
    assert (response.usage.cost_msats, response._hidden_params["response_cost"]) == (0, 0.0)
    assert response._hidden_params["venue"] == "pylon:local"


async def test_litellm_completes_from_any_loop(litellm, pylon):
    calls = (litellm.acompletion("pylon/local:llamacpp", ASKED, max_tokens=24) for _ in range(4))
    responses: list[Any] = await asyncio.gather(*calls)
    threaded: Any = await asyncio.to_thread(litellm.completion, "pylon/local:llamacpp", ASKED)
    assert all(response.choices[0].message.content for response in [*responses, threaded])


def test_a_stream_is_the_settled_text_and_what_it_used(litellm, pylon):
    asked: Any = {"stream": True, "stream_options": {"include_usage": True}}
    stream: Any = litellm.completion("pylon/local:llamacpp", ASKED, **asked)
    pieces = list(stream)
    texts = [piece.choices[0].delta.content for piece in pieces if piece.choices[0].delta.content]
    assert len(texts) == 1
    assert "stop" in [piece.choices[0].finish_reason for piece in pieces]
    assert pieces[-1].usage.completion_tokens > 0
    assert [piece.cost_msats for piece in pieces if "cost_msats" in piece.model_dump()] == [0]


async def test_a_stream_may_be_read_by_a_loop(litellm, pylon):
    stream: Any = await litellm.acompletion("pylon/local:llamacpp", ASKED, stream=True)
    texts = [piece.choices[0].delta.content or "" async for piece in stream]
    assert "".join(texts)


def test_tool_calls_come_through_whole_and_streamed(litellm, pylon):
    asked: dict[str, Any] = {"tools": [LISTED], "tool_choice": "required", "_skip_mcp_handler": True}
    response: Any = litellm.completion("pylon/local:llamacpp", ASKED, **asked)
    stream: Any = litellm.completion("pylon/local:llamacpp", ASKED, stream=True, **asked)
    streamed = [call for piece in stream for call in piece.choices[0].delta.tool_calls or ()]
    calls = [*response.choices[0].message.tool_calls, *streamed]
    assert [call.function.name for call in calls] == ["look", "look"]


def test_dspy_runs_on_it(pylon):
    lm = dspy.LM("pylon/local:llamacpp", cache=False, max_tokens=64)
    assert lm("say label=red")
    assert lm.history[-1]["cost"] == 0.0


def test_the_practice_model_answers_dspy(pylon, tmp_path):
    lm = dspy.LM("pylon/local:practice", cache=False, max_tokens=8, temperature=0)
    assert lm("my parcel")


def test_prices_are_real_and_a_budget_ends_it(litellm, selling, ledger_url):
    provider, costs = selling(3), []

    def buy_until_it_ends() -> None:
        for _ in range(100):
            response: Any = litellm.completion("pylon/any", ASKED, max_tokens=24, num_retries=0)
            costs.append(response.usage.cost_msats)
            assert response._hidden_params["response_cost"] == pytest.approx(costs[-1] / 1_000_000)

    with pytest.raises(litellm.exceptions.PaymentRequiredError, match="budget of run is 3000 msats"):
        buy_until_it_ends()
    assert 0 < sum(costs) <= 3000
    provider.close()
    assert asyncio.run(booked(ledger_url)) == [("litellm-pylon", "completed", sum(costs))]


async def booked(url: str) -> list[tuple[str, str, int]]:
    async with SqlLedger.open(url) as ledger:
        records = await ledger.runs()
        return [(one.name, one.state, (await ledger.account(one.run_id)).total.msats) for one in records]


def test_equal_calls_are_bought_anew_unless_they_name_their_sample(litellm, selling, counting):
    provider = selling(0)
    bought = []
    for sample in (None, None, 7, 7):
        if len(bought) == 3:
            provider.close()  # Another process would read it too.
        before = counting.stats()["total"]
        named = {} if sample is None else {"rollout_id": sample}
        litellm.completion("pylon/any", ASKED, max_tokens=24, **named)
        bought.append(counting.stats()["total"] - before)
    assert bought == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("model", "call", "kind", "match"),
    [
        ("pylon/mars", {}, "NotFoundError", "names no Pylon"),
        ("pylon/local:llamacpp", {"n": 2}, "BadRequestError", "one answer a call"),
        ("pylon/local:llamacpp", {"api_base": "http://127.0.0.1:1"}, "ServiceUnavailableError", "llama-server"),
        ("pylon/local:llamacpp:other", {}, "NotFoundError", "lacks other"),
        ("pylon/local:llamacpp", CHOSEN, "BadRequestError", "which tool"),
    ],
)
def test_errors_are_litellms_own_and_say_what_to_do(litellm, pylon, model, call, kind, match):
    with pytest.raises(getattr(litellm.exceptions, kind), match=match):
        litellm.completion(model, ASKED, num_retries=0, **call)


def test_a_caller_waits_no_longer_than_it_said(litellm, pylon, serving):
    server = serving("--hang-rate", "1")
    with pytest.raises(litellm.exceptions.ServiceUnavailableError, match=r"within the 0\.5 s"):
        litellm.completion("pylon/local:llamacpp", ASKED, api_base=server.base_url, timeout=0.5, num_retries=0)
    pylon.close()


def test_a_process_ends_cleanly_after_it_was_used(ledger_url):
    script = (
        "import sys; from blocks.venues.pylon_litellm import register; register(ledger=sys.argv[1]); import litellm;"
        "print(litellm.completion('pylon/local:practice', [{'role': 'user', 'content': 'my parcel'}]).choices[0])"
    )
    command = [sys.executable, "-c", script, ledger_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "content=" in done.stdout
    assert [state for _, state, _ in asyncio.run(booked(ledger_url))] == ["completed"]
