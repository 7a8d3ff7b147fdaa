"""What a lane's `venue` may say, and which venue it then is."""

import pytest

from blocks.venues import VENUES, find_venue
from blocks.venues.find import SWARM_SLUG
from blocks.venues.litellm import LiteLLM
from blocks.venues.llamacpp import LlamaCpp
from blocks.venues.ollama import Ollama
from blocks.venues.openai_compatible import OpenAICompatible
from blocks.venues.swarm import Swarm
from swarmc.contracts.errors import VenueError
from swarmc.contracts.spec import LaneSpec

NOTHING = {"OLLAMA_HOST": "127.0.0.1:1", "LLAMACPP_BASE_URL": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("venue", "kind"),
    [
        ("auto", LlamaCpp),
        ("practice", LlamaCpp),
        ("openai/gpt-4o-mini", LiteLLM),
        ("ollama/qwen3:4b", Ollama),
        ("models/mine.gguf", LlamaCpp),
    ],
)
async def test_a_word_or_a_model_names_a_venue(venue, kind):
    block, sentence = await find_venue(LaneSpec(venue=venue, timeout_s=7), NOTHING)
    assert isinstance(block, kind)
    assert block.model_dump()["timeout_s"] == 7
    assert sentence


async def test_a_provider_and_a_model_may_be_named_apart():
    block, _ = await find_venue(LaneSpec(venue="anthropic", model="claude-haiku-4-5"), {"ANTHROPIC_API_KEY": "k"})
    assert isinstance(block, LiteLLM)
    assert block.model == "anthropic/claude-haiku-4-5"
    assert block.api_key is not None


async def test_an_address_is_asked_for_its_only_model(counting):
    block, sentence = await find_venue(LaneSpec(venue=counting.base_url), NOTHING)
    assert isinstance(block, OpenAICompatible)
    assert block.model == "counting"
    assert counting.base_url in sentence


async def test_an_address_with_several_models_lists_them(scripts):
    listed = {"data": [{"id": "small"}, {"id": "large"}]}
    async with scripts.scripted(lambda asked: scripts.Said(listed)) as server:
        with pytest.raises(VenueError, match="small, large"):
            await find_venue(LaneSpec(venue=server.url), NOTHING)
        block, _ = await find_venue(LaneSpec(venue=server.url, model="large"), NOTHING)
    assert isinstance(block, OpenAICompatible)
    assert block.model == "large"


@pytest.mark.parametrize(
    "spec",
    [{"venue": "nonsense"}, {"venue": ""}, {"venue": "openai/a", "model": "b"}, {"venue": "http://127.0.0.1:1/v1"}],
    ids=str,
)
async def test_what_names_no_venue_says_what_would(spec):
    with pytest.raises(VenueError, match=r"venue|model"):
        await find_venue(LaneSpec.model_validate(spec), NOTHING)


def test_every_venue_has_a_slug_and_a_form_that_explains_itself():
    slugs = [kind.get_block_type_slug() for kind in VENUES.values()]
    assert len(set(slugs)) == len(slugs)
    for kind in VENUES.values():
        assert kind.get_description()
        fields = kind.model_json_schema()["properties"]
        assert [name for name, field in fields.items() if not field.get("description")] == []


def test_the_markets_block_is_looked_for_by_its_own_slug() -> None:
    assert Swarm.get_block_type_slug() == SWARM_SLUG
