"""Apple's bridge: an OpenAI-compatible server whose absence says what to start."""

import pytest

from blocks.venues.apple_fm import AppleFm, bridge_url
from swarmc.contracts.errors import VenueError


async def test_the_bridge_is_asked_by_openais_chat_api(counting, ask):
    async with AppleFm(base_url=counting.base_url, model="counting").open() as venue:
        completion = await venue.complete(ask("counting"))
    assert (completion.venue, completion.model, venue.quote(ask("counting"))) == ("apple-fm", "counting", 0)


async def test_where_no_bridge_answers_it_says_what_to_start(ask):
    async with AppleFm(base_url="http://127.0.0.1:1", model="m").open() as venue:
        with pytest.raises(VenueError, match=r"only on a Mac.*start the bridge") as caught:
            await venue.complete(ask("m"))
    assert caught.value.retryable


async def test_a_bridge_that_refuses_is_not_taken_for_one_that_is_away(scripts, ask):
    refusing = scripts.Said({"error": {"message": "guardrail"}}, status=400)
    async with scripts.scripted(lambda asked: refusing) as server, AppleFm(base_url=server.url).open() as venue:
        with pytest.raises(VenueError, match="guardrail") as caught:
            await venue.complete(ask(venue.model))
    assert caught.value.fault == "request"


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ({}, "http://localhost:11435"),
        ({"FM_BRIDGE_URL": "http://mac:9000/"}, "http://mac:9000"),
        ({"FM_BRIDGE_URL": "http://mac:9000/v1"}, "http://mac:9000"),
    ],
)
def test_the_environment_says_where_the_bridge_is(said, url):
    assert bridge_url(said) == url


async def test_a_bridge_address_that_is_none_is_refused():
    with pytest.raises(VenueError, match="address"):
        async with AppleFm(base_url="mac:9000").open():
            pass
