"""Serving as a person asks for it: from a spec, by the command line, as a flow; stopped, and looked at."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.fulfil import fulfil_job
from flows.serve import Voice, serve_here, serve_market
from flows.storefront import Storefront, sold_names
from swarmc.contracts.errors import RunFenced, SpecError
from swarmc.contracts.market import HANDLER
from swarmc.contracts.provider import ProviderSpec
from swarmc.contracts.relay import Filter
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip89 import newest_offers
from tests.nostr.relays import real_relay
from tests.sellers import Customer, open_customer

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "The parcel is stuck in Oslo, please help."


@pytest.fixture
async def relay() -> AsyncIterator[str]:
    async with real_relay() as url:
        yield url


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> SecretKey:
    key = SecretKey.generate()
    monkeypatch.setenv("SWARMC_NOSTR_KEY", key.nsec())
    return key


def spec_of(relay: str, folder: Path, **fields: object) -> ProviderSpec:
    said: dict[str, object] = {
        "venue": {"venue": "practice"},
        "relays": [relay],
        "wallet": f"{folder}/wallet.db:seller",
        "ledger": f"sqlite:///{folder}/ledger.db",
        "require_payment": True,
        "health_every_s": 0.2,
    }
    return ProviderSpec.model_validate(said | fields)


async def bought(customer: Customer, provider: str, text: str = QUESTION) -> str:
    job = await customer.ask(text, provider, params=(("max_tokens", "8"),))
    await customer.pay(job)
    return (await customer.result(job)).content


async def offers_on(customer: Customer, provider: str) -> int:
    found = await customer.relay.fetch([Filter(kinds=(HANDLER,), authors=(provider,))])
    return len(newest_offers(found.events))


@pytest.mark.attack("C11")
async def test_a_spec_is_served_announced_reported_and_taken_back(relay: str, tmp_path: Path, key: SecretKey) -> None:
    reports: list[str] = []
    fronts: list[Storefront] = []
    opened = asyncio.Event()

    def tell_opened(front: Storefront) -> None:
        fronts.append(front)
        opened.set()

    voice = Voice(opened=tell_opened, health=lambda health: reports.append(health.markdown()))
    async with open_customer(relay, tmp_path) as customer:
        serving = asyncio.create_task(serve_here(spec_of(relay, tmp_path), 6.0, voice))
        await asyncio.wait({serving, asyncio.create_task(opened.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert await bought(customer, key.pubkey)
        assert await offers_on(customer, key.pubkey) == 1
        served = await serving
        assert (served.delivered, served.simulated_msats, served.earned_msats) == (1, 1_000, 0)
        assert await offers_on(customer, key.pubkey) == 0
    assert fronts[0].announcement.simulated
    assert "SIMULATED" in reports[-1]
    assert "earned 1,000 msats by 1 jobs" in reports[-1]


@pytest.mark.slow
async def test_two_processes_cannot_serve_with_one_identity(relay: str, tmp_path: Path, key: SecretKey) -> None:
    assert key
    spec = spec_of(relay, tmp_path)
    opened = asyncio.Event()
    first = asyncio.create_task(serve_here(spec, 40.0, Voice(opened=lambda front: opened.set())))
    await opened.wait()
    with pytest.raises(RunFenced):
        await serve_here(spec, 1.0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


@pytest.mark.slow
async def test_a_deployed_provider_serves_and_one_job_is_fulfilled_by_its_id(
    on_server: str, relay: str, tmp_path: Path, key: SecretKey
) -> None:
    assert on_server
    spec = spec_of(relay, tmp_path, grace_s=2)
    async with open_customer(relay, tmp_path) as customer:
        serving = asyncio.create_task(serve_market(spec, 8.0))
        assert await bought(customer, key.pubkey)
        assert (await serving).delivered == 1
        job = await customer.ask(QUESTION, key.pubkey, params=(("max_tokens", "8"),))
        paying = asyncio.create_task(customer.pay(job))
        done = await fulfil_job(job.id, spec)
        await paying
        assert (done.state, done.earned_msats, done.simulated) == ("delivered", 1_000, True)
        assert await fulfil_job(job.id, spec) == done
        assert len(customer.results(job)) == 1


@pytest.mark.slow
async def test_the_command_line_serves_until_it_is_told_to_stop_and_shows_what_came_of_it(
    relay: str, tmp_path: Path, key: SecretKey
) -> None:
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    (tmp_path / "provider.json").write_text(spec_of(relay, tmp_path).model_dump_json())
    words = ("provider", "start", str(tmp_path / "provider.json"), "--set", "min_price_msats=1234")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = (sys.executable, "-m", "flows", *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=environment)
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(6)]
    assert key.npub in lines[0]
    assert "1,234 msats" in lines[3]
    assert "SIMULATED" in lines[4]
    async with open_customer(relay, tmp_path) as customer:
        await bought(customer, key.pubkey)
    process.send_signal(signal.SIGTERM)
    said = (await asyncio.wait_for(process.stdout.read(), 30)).decode()
    assert await process.wait() == 0, said
    assert all(word in said for word in ("quoted  1,234 msats", "settled", "performed", "delivered", "stopped: 1 jobs"))
    assert QUESTION not in said
    runner = CliRunner(env={"COLUMNS": "200"})
    jobs = await asyncio.to_thread(runner.invoke, app, ["provider", "jobs", "--ledger", ledger])
    assert "delivered" in jobs.stdout
    assert "1,234 play" in jobs.stdout
    earned = await asyncio.to_thread(runner.invoke, app, ["provider", "earnings", "--ledger", ledger])
    assert "earned 1,234 msats by 1 jobs (SIMULATED" in earned.stdout
    status = ["provider", "status", str(tmp_path / "provider.json")]
    assert "none stands" in (await asyncio.to_thread(runner.invoke, app, status)).stdout


async def test_only_what_the_venue_runs_is_sold_and_under_its_own_name_too() -> None:
    spec = ProviderSpec()
    assert sold_names(spec, "practice-1") == ("practice-1",)
    assert sold_names(spec, "llama3.2:latest") == ("llama3.2", "llama3.2:latest")
    assert sold_names(spec.model_copy(update={"models": ("gpt-4o",)}), "openai/gpt-4o") == ("gpt-4o", "openai/gpt-4o")
    with pytest.raises(SpecError, match="venue runs 'practice-1'"):
        sold_names(spec.model_copy(update={"models": ("gpt-4o",)}), "practice-1")


async def test_a_provider_without_an_identity_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="swarmc identity new"):
        await serve_here(spec_of("ws://127.0.0.1:9", tmp_path), 1.0)


@pytest.mark.parametrize(
    ("change", "names"),
    [("quorum=3", "quorum"), ("colour=red", "colour"), ("capacity=0", "capacity"), ("nothing", "FIELD=VALUE")],
)
def test_a_wrong_spec_is_named_before_anything_is_opened(change: str, names: str) -> None:
    done = CliRunner().invoke(app, ["provider", "start", "--set", change])
    assert done.exit_code == 2
    assert names in done.stderr


def test_the_help_teaches_the_first_steps() -> None:
    said = CliRunner().invoke(app, ["provider", "--help"]).stdout
    assert "identity new" in said
    assert all(word in said for word in ("start", "status", "jobs", "earnings"))
