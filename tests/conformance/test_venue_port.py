"""The laws of the venue port, for every registered venue, the wrappers and the fakes that tests use."""

import asyncio
import importlib.util
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from benchmarks.counting_server import launch
from blocks.venues import VENUES, AppleFm, LiteLLM, LlamaCpp, Ollama, OpenAICompatible, Pylon, VenueBlock
from blocks.venues.auto import choose
from swarmc.compiler.around import price_msats
from swarmc.compiler.lanes import Limited, Retried
from swarmc.contracts.completions import CompletionRequest, Message, Sampling
from swarmc.contracts.errors import VenueError
from swarmc.contracts.ports import Venue
from swarmc.contracts.relay import NostrEvent
from tests.fakes import AnsweringVenue
from tests.market import Stranger, open_market
from tests.nostr.relays import real_relay

TESTS = Path(__file__).parents[1]
KEY = "sk-a-key-that-nobody-may-see"
PRICES: dict[str, Any] = {"input_msats_per_1k_tokens": 700, "output_msats_per_1k_tokens": 2_900}
NOTHING = {"OLLAMA_HOST": "127.0.0.1:1", "LLAMACPP_BASE_URL": "http://127.0.0.1:1"}
FAKES = ("answering", "limited and retried")
PRICED = ("litellm", "openai", "answering", "limited and retried", "swarm")
OVER_HTTP = ("litellm", "openai", "ollama", "apple-fm")


def module(path: Path) -> ModuleType:
    """A test's own module, loaded by its path: tests are no package."""
    spec = importlib.util.spec_from_file_location(f"conformance_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


SCRIPTS = module(TESTS / "blocks/venues/scripted_server.py")


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with launch("--latency-ms", "15") as server:
        yield server.base_url


async def block_of(name: str, base_url: str, ollama_url: str) -> VenueBlock:
    """A venue's configuration, for servers that run here."""
    key = SecretStr(KEY)
    match name:
        case "litellm":
            return LiteLLM(model="openai/counting", api_base=base_url, api_key=key, timeout_s=20, **PRICES)
        case "openai":
            return OpenAICompatible(model="counting", base_url=base_url, api_key=key, timeout_s=20, **PRICES)
        case "ollama":
            return Ollama(model="tiny:latest", base_url=ollama_url, timeout_s=20)
        case "llamacpp":
            return LlamaCpp(parallel=2)
        case "apple-fm":
            return AppleFm(model="counting", base_url=base_url, timeout_s=20)
        case "pylon":
            return Pylon(backend="llamacpp", base_url=base_url, timeout_s=20)
        case _:
            return (await choose(NOTHING)).block


@asynccontextmanager
async def opened(name: str, base_url: str) -> AsyncIterator[Venue]:
    if name == "swarm":
        async with real_relay() as url, open_market(url, Path(tempfile.mkdtemp())) as market:
            await market.stranger(echoing)
            yield await market.venue(timeout_s=20.0)
        return
    if name in FAKES:
        fake = AnsweringVenue(lambda request: {"answer": request.messages[-1].content[:40]}, price_msats=70)
        yield fake if name == "answering" else Retried(Limited(fake, 8, 2_000), 2)
        return
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(SCRIPTS.scripted(SCRIPTS.ollama()))
        yield await stack.enter_async_context((await block_of(name, base_url, server.url)).open())


async def echoing(stranger: Stranger, request: NostrEvent) -> None:
    """A provider that answers at once with the beginning of what it was asked, and is paid for it."""
    invoice = await stranger.quote(request)

    async def work() -> None:
        if await stranger.paid(invoice, within_s=20.0):
            last = orjson.loads(stranger.job(request).inputs[0].data)[-1]["content"]
            await stranger.answer(request, f"you said {last[:40]}")

    stranger.work(work())


@pytest.fixture(params=[*VENUES, *FAKES, "swarm"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def venue(kind: str, base_url: str) -> AbstractAsyncContextManager[Venue]:
    return opened(kind, base_url)


def ask(model: str, *texts: str, max_tokens: int = 24) -> CompletionRequest:
    messages = (Message(role="system", content="Be brief."), *(Message(role="user", content=text) for text in texts))
    sampling = Sampling(temperature_ppm=0, max_tokens=max_tokens)
    return CompletionRequest(lane="swarm", model=model, messages=messages, sampling=sampling)


async def test_a_completion_says_what_it_is_and_what_it_used(venue, kind):
    async with venue as open_venue:
        answered = await open_venue.complete(ask(open_venue.model, "my parcel label=red"))
    assert answered.venue.startswith(open_venue.name)
    assert answered.text
    assert answered.usage.prompt_tokens > 0
    assert answered.usage.completion_tokens > 0
    assert bool(answered.usage.cost_msats) == (kind in PRICED)


@pytest.mark.parametrize("texts", [("hi",), ("æ" * 400,), ("\U0001f980" * 90,), ("one two " * 20,) * 6], ids=len)
async def test_no_call_costs_more_than_its_quote(venue, texts):
    async with venue as open_venue:
        request = ask(open_venue.model, *texts)
        quote_msats = open_venue.quote(request)
        answered = await open_venue.complete(request)
    assert isinstance(quote_msats, int)
    assert 0 <= answered.usage.cost_msats <= quote_msats


async def test_the_price_of_counted_tokens_is_what_they_cost_or_is_not_known(venue, kind):
    async with venue as open_venue:
        used = (await open_venue.complete(ask(open_venue.model, "my parcel label=red"))).usage
        told_msats = price_msats(open_venue, used.prompt_tokens, used.completion_tokens, 1)
    assert told_msats == (None if kind in (*FAKES, "swarm") else used.cost_msats)


async def test_answers_go_to_those_who_asked(venue):
    """Equal requests, asked alone and among others, have equal answers."""
    async with venue as open_venue:
        requests = [ask(open_venue.model, f"number {i} label=c{i}") for i in range(24)]
        together = await asyncio.gather(*(open_venue.complete(request) for request in requests))
        alone = [(await open_venue.complete(request)).text for request in requests[:4]]
    assert [answer.text for answer in together[:4]] == alone


@pytest.mark.parametrize("kind", VENUES, indirect=True)
async def test_another_models_request_is_refused(venue):
    async with venue as open_venue:
        with pytest.raises(VenueError, match="another-model") as caught:
            await open_venue.complete(ask("another-model", "hi"))
    assert (caught.value.retryable, caught.value.fault, caught.value.paid_unknown) == (False, "request", False)


# litellm makes its coroutine in a thread; when the call is cancelled meanwhile, nobody is left to await it.
@pytest.mark.filterwarnings("ignore:coroutine 'BaseLLMHTTPHandler")
async def test_cancelled_calls_leave_the_venue_usable(venue):
    async with venue as open_venue:
        calls = [asyncio.create_task(open_venue.complete(ask(open_venue.model, f"q{i}"))) for i in range(8)]
        await asyncio.sleep(0.005)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        after = await asyncio.wait_for(open_venue.complete(ask(open_venue.model, "my parcel label=red")), 20)
    assert after.text


@pytest.mark.parametrize("kind", VENUES, indirect=True)
async def test_closing_twice_is_harmless_and_a_closed_venue_says_so(venue):
    async with venue as open_venue:
        await open_venue.complete(ask(open_venue.model, "hi"))
        await open_venue.aclose()
        await open_venue.aclose()
        with pytest.raises(VenueError, match="async with") as caught:
            await open_venue.complete(ask(open_venue.model, "hi"))
    assert not caught.value.retryable
    assert not caught.value.paid_unknown


@pytest.mark.parametrize("kind", OVER_HTTP, indirect=True)
async def test_a_place_that_is_gone_is_worth_another_try_and_nothing_was_paid(kind):
    block = await block_of(kind, "http://127.0.0.1:1/v1", "http://127.0.0.1:1")
    async with block.open() as open_venue:
        with pytest.raises(VenueError) as caught:
            await open_venue.complete(ask(open_venue.model, "hi"))
    error = caught.value
    assert (error.retryable, error.paid_unknown, error.fault) == (True, False, "venue")
    assert "127.0.0.1" in str(error)


@pytest.mark.parametrize("kind", VENUES, indirect=True)
async def test_no_key_is_ever_shown(kind, base_url):
    block = await block_of(kind, base_url, "http://127.0.0.1:1")
    async with block.open() as open_venue:
        shown = [repr(block), str(block), block.model_dump_json(), repr(open_venue), str(vars(open_venue))]
    assert [text for text in shown if KEY in text] == []
    assert os.environ.get("OPENAI_API_KEY") is None


@pytest.mark.parametrize("kind", VENUES, indirect=True)
async def test_a_block_with_equal_settings_is_equal(kind, base_url):
    """Lanes with equal configuration share one opened venue."""
    one, other = [await block_of(kind, base_url, "http://127.0.0.1:1") for _ in range(2)]
    assert one == other
