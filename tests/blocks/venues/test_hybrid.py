"""The local venue first, the swarm where that is down: with a real model in the swarm's place."""

import asyncio

import pytest

from blocks.venues.hybrid import Breaker, HybridVenue
from blocks.venues.llamacpp import LlamaCpp
from blocks.venues.openai_compatible import OpenAICompatible
from blocks.venues.pylon import Labelled
from swarmc.contracts.errors import BudgetExhausted, SpecError, VenueError
from tests.fakes import AnsweringVenue

DEAD = "http://127.0.0.1:1/v1"
MODEL = "counting"


class Raising:
    """A local venue whose every call ends so."""

    name, model = "pylon:local", "answering-1"

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def quote(self, request) -> int:
        return 7

    async def complete(self, request):
        self.calls += 1
        raise self.error


def swarm_of(price_msats: int = 70) -> AnsweringVenue:
    return AnsweringVenue(lambda request: {"answer": "from the swarm"}, price_msats=price_msats)


async def test_a_dead_local_server_is_replaced_by_the_swarm_and_that_is_said(ask):
    said: list[str] = []
    local = OpenAICompatible(base_url=DEAD, model=MODEL)
    async with local.open() as dead, LlamaCpp(model=MODEL, parallel=1).open() as practice:
        hybrid = HybridVenue(Labelled(dead, "pylon:local"), Labelled(practice, "pylon:swarm"), said.append)
        answers = [await hybrid.complete(ask(MODEL, "my parcel", max_tokens=8)) for _ in range(2)]
    assert [answer.venue for answer in answers] == ["pylon:swarm"] * 2
    assert len(said) == 2
    assert "cannot be reached" in said[0]


async def test_it_charges_what_both_do_and_says_nothing_where_they_differ():
    free, dear = (OpenAICompatible(base_url=DEAD, model=MODEL, input_msats_per_1k_tokens=price) for price in (0, 9))
    async with free.open() as local, free.open() as same, dear.open() as paid:
        assert HybridVenue(Labelled(local, "here"), same).price_msats(1_000, 5, 2) == 0
        assert HybridVenue(Labelled(paid, "here"), paid).price_msats(1_000, 5, 2) == 9
        assert HybridVenue(local, paid).price_msats(1_000, 5, 2) is None
    said = HybridVenue(Raising(AssertionError()), swarm_of())
    assert said.price_msats(1_000, 5, 2) is None


async def test_a_local_server_that_lives_is_never_passed_by(counting, ask):
    swarm = Raising(AssertionError("the swarm was asked"))
    swarm.model = MODEL
    async with OpenAICompatible(base_url=counting.base_url, model=MODEL).open() as local:
        hybrid = HybridVenue(Labelled(local, "pylon:local"), swarm)
        answer = await hybrid.complete(ask(MODEL))
    assert (answer.venue, answer.usage.cost_msats, swarm.calls) == ("pylon:local", 0, 0)


@pytest.mark.parametrize("flags", [("--error-rate", "1", "--error-status", "503"), ("--hang-rate", "1")], ids=str)
async def test_an_overloaded_or_silent_local_server_is_replaced(serving, ask, flags):
    server, swarm = serving(*flags), swarm_of()
    async with OpenAICompatible(base_url=server.base_url, model="answering-1", timeout_s=0.5).open() as local:
        answer = await HybridVenue(local, swarm).complete(ask("answering-1"))
    assert "from the swarm" in answer.text


async def test_an_answer_of_the_market_still_says_which_provider_gave_it(ask):
    class Market(AnsweringVenue):
        name = "swarm"

        async def complete(self, request):
            return (await super().complete(request)).model_copy(update={"venue": "swarm:npub1abc"})

    answer = await Labelled(Market(lambda request: {}), "pylon:swarm").complete(ask("answering-1"))
    assert answer.venue == "pylon:swarm:npub1abc"


@pytest.mark.parametrize(
    "error",
    [
        VenueError("refused", fault="request"),
        VenueError("too long", fault="context"),
        VenueError("no such model"),
        VenueError("hung", retryable=True, paid_unknown=True),
        BudgetExhausted("spent", scope="run"),
    ],
    ids=str,
)
async def test_nobody_pays_the_swarm_for_a_mistake_or_after_the_budget(ask, error):
    swarm = swarm_of()
    hybrid = HybridVenue(Raising(error), swarm)
    with pytest.raises(type(error), match=str(error)):
        await hybrid.complete(ask("answering-1"))
    assert swarm.asked == []


async def test_the_quote_is_the_larger_of_the_two_so_that_a_budget_holds(ask):
    local = Raising(VenueError("down", retryable=True))
    quotes = [HybridVenue(local, swarm_of(price)).quote(ask("answering-1")) for price in (3, 70)]
    assert quotes == [7, 70]


async def test_a_dead_server_is_not_waited_for_by_every_call(ask):
    now_s = 0.0
    local = Raising(VenueError("down", retryable=True))
    hybrid = HybridVenue(local, swarm_of(), breaker=Breaker(lambda: now_s, first_rest_s=5))
    for _ in range(10):
        await hybrid.complete(ask("answering-1"))
    assert local.calls == 1
    now_s = 5.0
    await asyncio.gather(*(hybrid.complete(ask("answering-1", f"q{i}")) for i in range(10)))
    assert local.calls == 2


async def test_a_server_that_comes_back_is_used_again(counting, ask):
    now_s = 0.0
    breaker = Breaker(lambda: now_s, first_rest_s=5)
    async with (
        OpenAICompatible(base_url=counting.base_url, model=MODEL).open() as alive,
        LlamaCpp(model=MODEL, parallel=1).open() as practice,
    ):
        hybrid = HybridVenue(Labelled(alive, "pylon:local"), Labelled(practice, "pylon:swarm"), breaker=breaker)
        breaker.failed()
        resting = await hybrid.complete(ask(MODEL, "my parcel", max_tokens=8))
        now_s = 5.0
        back = [await hybrid.complete(ask(MODEL)) for _ in range(2)]
    assert [resting.venue, *(answer.venue for answer in back)] == ["pylon:swarm", "pylon:local", "pylon:local"]


async def test_a_cancelled_look_leaves_the_way_open(ask):
    now_s = 0.0
    breaker = Breaker(lambda: now_s, first_rest_s=5)
    breaker.failed()
    now_s = 5.0
    with pytest.raises(asyncio.CancelledError):
        await HybridVenue(Raising(asyncio.CancelledError()), swarm_of(), breaker=breaker).complete(ask("answering-1"))
    assert breaker.enters()


def test_rests_double_to_a_limit_and_calls_that_fail_together_count_once():
    now_s, rests = 0.0, []
    breaker = Breaker(lambda: now_s, first_rest_s=5, longest_rest_s=12)
    for _ in range(4):
        assert breaker.enters()
        for _ in range(3):
            breaker.failed()
        start_s = now_s
        while not breaker.enters():
            now_s += 1
        breaker.left()
        rests.append(now_s - start_s)
    assert rests == [5, 10, 12, 12]


def test_a_pause_that_the_server_asks_for_is_kept():
    now_s = 0.0
    breaker = Breaker(lambda: now_s, first_rest_s=5, longest_rest_s=60)
    breaker.failed(30)
    now_s = 29.0
    assert not breaker.enters()
    now_s = 30.0
    assert breaker.enters()


async def test_when_both_are_down_the_swarms_error_comes_with_the_reason_it_was_asked(ask):
    local = Raising(VenueError("ollama is down", retryable=True))
    swarm = Raising(VenueError("no provider answers", retryable=True))
    with pytest.raises(VenueError, match="no provider answers") as caught:
        await HybridVenue(local, swarm).complete(ask("answering-1"))
    assert "ollama is down" in caught.value.__notes__[0]


def test_two_models_make_no_hybrid():
    with pytest.raises(SpecError, match="one model"):
        HybridVenue(Raising(VenueError("down")), type("Other", (AnsweringVenue,), {"model": "b"})(lambda request: {}))
