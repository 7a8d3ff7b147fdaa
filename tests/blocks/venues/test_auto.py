"""The order in which a venue is looked for, with real servers and an environment of each test's own."""

import pytest

from blocks.venues.auto import PROVIDERS, Auto, choose, ollama_url
from blocks.venues.litellm import LiteLLM
from blocks.venues.llamacpp import LlamaCpp
from blocks.venues.ollama import Ollama
from blocks.venues.openai_compatible import OpenAICompatible
from swarmc.contracts.errors import VenueError

NOTHING = {"OLLAMA_HOST": "127.0.0.1:1", "LLAMACPP_BASE_URL": "http://127.0.0.1:1"}
KEY = "sk-a-key-that-nobody-may-see"


async def test_where_there_is_nothing_the_practice_model_is_chosen():
    choice = await choose(NOTHING)
    assert isinstance(choice.block, LlamaCpp)
    assert choice.block.model_path is None
    assert "practice model" in choice.sentence


@pytest.mark.parametrize("variable", PROVIDERS)
async def test_a_providers_key_goes_before_every_local_server(scripts, variable):
    async with scripts.scripted(scripts.ollama()) as server:
        choice = await choose({"OLLAMA_HOST": server.url, variable: KEY})
        assert server.asked == []
    assert isinstance(choice.block, LiteLLM)
    assert choice.block.model == PROVIDERS[variable]
    assert variable in choice.sentence
    assert KEY not in choice.sentence + repr(choice)


async def test_every_providers_model_has_a_price():
    for variable, model in PROVIDERS.items():
        async with (await choose({variable: KEY})).block.open() as venue:
            assert venue.model == model


async def test_the_first_provider_in_the_list_wins():
    choice = await choose(dict.fromkeys(reversed(PROVIDERS), KEY))
    assert isinstance(choice.block, LiteLLM)
    assert choice.block.model == PROVIDERS["OPENAI_API_KEY"]


@pytest.mark.parametrize(
    ("model", "kind"),
    [("groq/llama", LiteLLM), ("ollama/qwen3:4b", Ollama), ("models/mine.gguf", LlamaCpp)],
)
async def test_a_named_model_goes_before_all(model, kind):
    choice = await choose({"SWARMC_MODEL": model, "OPENAI_API_KEY": KEY})
    assert isinstance(choice.block, kind)
    assert "SWARMC_MODEL" in choice.sentence


async def test_ollama_is_chosen_when_it_has_a_model(scripts):
    async with scripts.scripted(scripts.ollama(("nomic-embed-text", "qwen3:4b"))) as server:
        choice = await choose(NOTHING | {"OLLAMA_HOST": server.url})
    assert isinstance(choice.block, Ollama)
    assert (choice.block.model, choice.block.base_url) == ("qwen3:4b", server.url)
    assert server.url in choice.sentence


async def test_an_ollama_without_models_is_passed_over(scripts):
    async with scripts.scripted(scripts.ollama(())) as server:
        choice = await choose(NOTHING | {"OLLAMA_HOST": server.url})
    assert isinstance(choice.block, LlamaCpp)


async def test_a_llama_cpp_server_is_found_and_asked(counting, ask):
    environ = NOTHING | {"LLAMACPP_BASE_URL": counting.base_url}
    choice = await choose(environ)
    assert isinstance(choice.block, OpenAICompatible)
    async with choice.block.open() as venue:
        assert (await venue.complete(ask("counting"))).text


@pytest.mark.parametrize("body", [b"hello", {"status": "fine"}, {"status": "ok", "data": "x"}], ids=str)
async def test_another_server_at_the_usual_address_is_not_taken_for_a_model(scripts, body):
    async with scripts.scripted(lambda asked: scripts.Said(body)) as server:
        choice = await choose(NOTHING | {"LLAMACPP_BASE_URL": server.url, "OLLAMA_HOST": server.url})
    assert isinstance(choice.block, LlamaCpp)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box:9000", "http://box:9000"),
        ("https://ollama.example.test", "https://ollama.example.test"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(host, url):
    assert ollama_url({"OLLAMA_HOST": host}) == url


def test_an_ollama_host_that_is_no_address_is_named():
    with pytest.raises(VenueError, match="OLLAMA_HOST"):
        ollama_url({"OLLAMA_HOST": "http://box:notaport"})


async def test_what_was_chosen_is_opened_and_logged(caplog):
    with caplog.at_level("INFO", logger="swarmc.venues"):
        async with Auto().open() as venue:
            assert venue.model in caplog.text or "practice model" in caplog.text
