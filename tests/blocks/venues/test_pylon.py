"""A Pylon: what its strings mean, what it finds on a machine, what it fills in, what it may spend."""

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from blocks.ledger.sql import SqlLedger
from blocks.venues.apple_fm import AppleFm
from blocks.venues.find import find_venue
from blocks.venues.llamacpp import PRACTICE_MODEL, LlamaCpp
from blocks.venues.ollama import Ollama
from blocks.venues.openai_compatible import OpenAICompatible
from blocks.venues.pylon import Pylon, PylonVenue, Spending, settings_of
from blocks.venues.pylon_backends import Wish, find_backend
from swarmc.compiler.lanes import Retried
from swarmc.compiler.metering import Metered, Purse
from swarmc.contracts.completions import Completion, Sampling
from swarmc.contracts.errors import BudgetExhausted, VenueError
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.spec import LaneSpec
from swarmc.nostr.keys import SecretKey
from tests.fakes import AnsweringVenue

AWAY = "http://127.0.0.1:1"
NOTHING = {"OLLAMA_HOST": AWAY, "FM_BRIDGE_URL": AWAY, "LLAMACPP_URL": AWAY}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("pylon", {"venue": "local"}),
        ("pylon:local", {"venue": "local"}),
        ("pylon:local:ollama", {"venue": "local", "backend": "ollama"}),
        ("pylon:local:llama", {"venue": "local", "backend": "llamacpp"}),
        ("pylon:local:apple-fm", {"venue": "local", "backend": "apple-fm"}),
        ("pylon:local:practice", {"venue": "local", "backend": "practice"}),
        ("pylon:local:qwen3:4b", {"venue": "local", "backend": "ollama", "model": "qwen3:4b"}),
        ("pylon:local:ollama:qwen3:4b", {"venue": "local", "backend": "ollama", "model": "qwen3:4b"}),
        ("pylon:local:m/a.gguf", {"venue": "local", "backend": "llamacpp", "model_path": Path("m/a.gguf")}),
        ("pylon:swarm", {"venue": "swarm"}),
        ("pylon:swarm:qwen3:4b", {"venue": "swarm", "model": "qwen3:4b"}),
        ("pylon:hybrid", {"venue": "hybrid"}),
        ("pylon:hybrid:llamacpp", {"venue": "hybrid", "backend": "llamacpp"}),
    ],
)
def test_a_model_string_says_which_pylon(reference, said):
    assert settings_of(reference) == said
    assert Pylon(**said).model_dump(include=set(said)) == said


@pytest.mark.parametrize("reference", ["pylon:mars", "pylon:local:auto:", "pylons", "Pylon:local", "pylon/local"])
def test_what_names_no_pylon_is_refused_or_means_the_plain_one(reference):
    if reference == "pylon:local:auto:":
        assert settings_of(reference) == {"venue": "local", "backend": "auto"}
        return
    with pytest.raises(VenueError, match="pylon:local"):
        settings_of(reference)


def test_defaults_are_free_and_those_of_the_seed():
    pylon = Pylon()
    assert (pylon.venue, pylon.backend, pylon.timeout_s, pylon.budget_sats) == ("local", "auto", 60, 0)
    assert (pylon.max_tokens, pylon.temperature) == (512, 0.7)
    assert (pylon.relays, pylon.bid_msats, pylon.auto_pay) == (["wss://nexus.openagents.com"], 1000, True)


async def test_a_lane_may_name_a_pylon_and_its_model():
    block, sentence = await find_venue(LaneSpec(venue="pylon:local:ollama", model="qwen3:4b", timeout_s=7), NOTHING)
    assert isinstance(block, Pylon)
    assert (block.backend, block.model, block.timeout_s) == ("ollama", "qwen3:4b", 7)
    assert "qwen3:4b from ollama, free" in sentence


@pytest.mark.parametrize("spec", [{"venue": "pylon:mars"}, {"venue": "pylon:local:a", "model": "b"}], ids=str)
async def test_a_lane_that_names_no_pylon_or_two_models_is_told(spec):
    with pytest.raises(VenueError, match="pylon:"):
        await find_venue(LaneSpec.model_validate(spec), NOTHING)


async def test_an_unconfigured_machine_is_told_what_was_looked_for_and_what_to_start():
    with pytest.raises(VenueError) as caught:
        await Pylon().choose(NOTHING)
    wanted = ("no Ollama", "ollama serve", "only on a Mac", "no llama.cpp server", ".gguf", "pylon:local:practice")
    assert [word for word in wanted if word not in str(caught.value)] == []
    assert caught.value.retryable


async def test_the_first_that_answers_is_taken_in_the_registrys_order(scripts, counting):
    listed = scripts.Said({"status": "ok", "model_available": True, "data": [{"id": "apple-foundation-model"}]})
    async with scripts.scripted(scripts.ollama()) as ollama, scripts.scripted(lambda asked: listed) as bridge:
        there = {"OLLAMA_HOST": ollama.url, "FM_BRIDGE_URL": bridge.url, "LLAMACPP_URL": counting.base_url}
        found = [(await Pylon().choose(there | away)).block for away in ({}, {"OLLAMA_HOST": AWAY}, NOTHING_BUT_LLAMA)]
    assert [type(block) for block in found] == [Ollama, AppleFm, OpenAICompatible]


NOTHING_BUT_LLAMA = {"OLLAMA_HOST": AWAY, "FM_BRIDGE_URL": AWAY}


async def test_a_bridge_without_its_model_is_passed_by(scripts, counting):
    off = scripts.Said({"status": "ok", "model_available": False})
    async with scripts.scripted(lambda asked: off) as bridge:
        there = NOTHING | {"FM_BRIDGE_URL": bridge.url}
        assert isinstance((await Pylon().choose(there | {"LLAMACPP_URL": counting.base_url})).block, OpenAICompatible)
        with pytest.raises(VenueError, match="Apple Intelligence gives it no model") as caught:
            await Pylon().choose(there)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("environ", "model", "taken"),
    [
        ({}, None, "llama3.1:8b"),
        ({}, "zephyr", "zephyr:7b"),
        ({"OLLAMA_MODEL": "zephyr:7b"}, None, "zephyr:7b"),
        ({"OLLAMA_MODEL": "zephyr:7b", "PYLON_LOCAL_MODEL": "mistral"}, "llama3.1:8b", "mistral"),
    ],
    ids=str,
)
async def test_ollamas_model_is_the_environments_or_the_configured_or_the_preferred(scripts, environ, model, taken):
    models = ("nomic-embed-text", "zephyr:7b", "mistral:latest", "llama3.1:8b")
    async with scripts.scripted(scripts.ollama(models)) as server:
        wish = Wish("ollama", server.url, model)
        choice = await find_backend(wish, environ)
    assert isinstance(choice.block, Ollama)
    assert choice.block.model == taken
    assert all(name in choice.sentence for name in list(environ)[-1:])


async def test_a_model_that_ollama_lacks_is_named_with_those_it_has(scripts):
    async with scripts.scripted(scripts.ollama()) as server:
        with pytest.raises(
            VenueError, match=r"lacks qwen3:4b \(it has tiny:latest; `ollama pull qwen3:4b`\)"
        ) as caught:
            await Pylon(backend="ollama", base_url=server.url, model="qwen3:4b").choose({})
    assert not caught.value.retryable  # A hybrid must not pay for a misspelt name.


async def test_a_file_is_run_where_it_is_named_and_no_server_answers(counting):
    named = Pylon(model_path=PRACTICE_MODEL)
    assert isinstance((await named.choose(NOTHING)).block, LlamaCpp)
    assert isinstance((await named.choose(NOTHING | {"LLAMACPP_URL": counting.base_url})).block, OpenAICompatible)
    at_once = Pylon(model_path=PRACTICE_MODEL, backend="llamacpp")
    assert isinstance((await at_once.choose(NOTHING | {"LLAMACPP_URL": counting.base_url})).block, LlamaCpp)


async def test_the_embedded_model_answers_for_nothing(ask):
    async with Pylon(backend="practice").open() as venue:
        completion = await venue.complete(ask(venue.model, "my parcel", max_tokens=8))
    assert (venue.name, completion.venue, completion.usage.cost_msats) == ("pylon:local", "pylon:local", 0)
    assert completion.text


async def test_a_hybrid_whose_relays_are_away_works_here_and_says_so(ask, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("SWARMC_HOME", str(tmp_path))
    monkeypatch.setenv("SWARMC_NOSTR_KEY", SecretKey.generate().nsec())
    pylon = Pylon(venue="hybrid", backend="practice", relays=["ws://127.0.0.1:1"])
    async with pylon.open() as venue:
        completion = await venue.complete(ask(venue.model, "my parcel", max_tokens=8))
    assert completion.venue == "pylon:local"
    assert "nothing can be bought" in caplog.text


async def test_a_hybrid_that_can_never_buy_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("SWARMC_HOME", str(tmp_path))
    monkeypatch.delenv("SWARMC_NOSTR_KEY", raising=False)
    with pytest.raises(VenueError, match="identity"):
        async with Pylon(venue="hybrid", backend="practice", relays=["ws://127.0.0.1:1"]).open():
            pass


async def test_what_a_request_leaves_open_is_filled_in_and_no_more(scripts, ask):
    async with scripts.scripted(scripts.ollama()) as server:
        async with Pylon(backend="ollama", base_url=server.url).open() as venue:
            await venue.complete(ask(venue.model))
            await venue.complete(ask(venue.model, temperature_ppm=0, max_tokens=9))
            await venue.complete(ask(venue.model, temperature_ppm=0, extensions='{"max_completion_tokens":5}'))
        options = [asked.body["options"] for asked in server.asked if asked.path == "/api/chat"]
    assert options[0] == {"temperature": 0.7, "num_predict": 512}
    assert options[1] == {"temperature": 0.0, "num_predict": 9}
    assert "num_predict" not in options[2]


def priced(limit_msats: int, price_msats: int = 70, latency_s: float = 0.0) -> tuple[PylonVenue, AnsweringVenue]:
    async def nothing() -> None: ...

    inside = AnsweringVenue(lambda request: {"answer": "x"}, price_msats=price_msats, latency_s=latency_s)
    defaults = Sampling(temperature_ppm=700_000, max_tokens=512)
    return PylonVenue(inside, defaults, Spending(limit_msats), nothing), inside


async def test_a_budget_holds_however_many_ask_at_once(ask):
    pylon, inside = priced(1000, latency_s=0.01)
    calls = (pylon.complete(ask("answering-1", f"q{i}")) for i in range(40))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert len(inside.asked) == 14  # 14 times 70 is the most below 1000.
    assert {type(result) for result in results[14:]} == {VenueError}
    with pytest.raises(BudgetExhausted, match="980 msats are spent"):
        pylon.quote(ask("answering-1"))


async def test_a_lanes_meter_ends_on_it_and_leaves_nothing_reserved(ask, tmp_path):
    pylon, inside = priced(1000, latency_s=0.01)
    async with (
        SqlLedger.open(f"sqlite:///{tmp_path}/l.db") as ledger,
        ledger.open_run("r", spec_id="s", name="n", budget=BudgetPolicy()) as lease,
    ):
        purse = Purse(ledger, "r", lease.epoch, "swarm", emit=lambda event: None)
        lane = Retried(Metered(pylon, purse), attempts=2)
        calls = (lane.complete(ask("answering-1", f"q{i}")) for i in range(40))
        results = await asyncio.gather(*calls, return_exceptions=True)
        total = (await ledger.account("r")).total
    assert {type(result) for result in results} == {Completion, BudgetExhausted}
    assert (len(inside.asked), total.msats, total.reserved, total.lost) == (14, 980, 0, 0)


async def test_a_call_that_may_have_been_billed_counts_and_one_that_was_refused_does_not(ask):
    pylon, inside = priced(100)
    errors = [VenueError("no"), VenueError("hung", paid_unknown=True)]

    def failing(request):
        raise errors.pop(0)

    inside._answer = failing
    for _ in range(2):
        assert pylon.quote(ask("answering-1")) == 70
        with pytest.raises(VenueError, match=r"no|hung"):
            await pylon.complete(ask("answering-1"))
    with pytest.raises(BudgetExhausted):
        pylon.quote(ask("answering-1"))


async def test_no_budget_means_no_limit_and_free_calls_need_none(ask):
    for pylon, _ in (priced(0), priced(1, price_msats=0)):
        for i in range(20):
            await pylon.complete(ask("answering-1", f"q{i}"))
        pylon.quote(ask("answering-1"))


@pytest.mark.parametrize("field", ["identity", "wallet"])
@pytest.mark.parametrize("secret", ["nostr+walletconnect://abc?secret=def", "nsec1qqqq", "abandon " * 12])
def test_a_secret_is_neither_kept_nor_repeated(field, secret):
    with pytest.raises(ValidationError, match="secret itself") as caught:
        Pylon.model_validate({field: secret})
    assert secret.strip() not in str(caught.value)
