"""The bill of a compile over several lanes: in the manifest, the report, the store and on the command line."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.ledger import SqlLedger
from blocks.venues.litellm import LiteLLM
from flows.bills import bill_again, terms_of
from swarmc.compiler.quoting import Quoted
from swarmc.contracts.bill import Bill
from swarmc.contracts.completions import Completion, CompletionRequest, Sampling
from tests.fakes import AnsweringVenue
from tests.voices import PRICES, Compiled, Divided, Voices, compiled, lanes_spec, right


class Asking(AnsweringVenue):
    """A venue that says what it charges: so much a call."""

    def price_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        return PRICES["premium"] * calls


class Play(Voices):
    """Voices that are paid in play money."""

    async def complete(self, request: CompletionRequest) -> Completion:
        done = await super().complete(request)
        return done.model_copy(update={"usage": done.usage.model_copy(update={"simulated": True})})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("billed")


@pytest.fixture(scope="module")
def done(home: Path) -> Compiled:
    """A compile whose swarm is paid in play money, and whose premium lane says what it charges."""
    venues: dict[Any, AnsweringVenue] = {
        "swarm": Play(price_msats=PRICES["swarm"]),
        "validation": Divided(),
        "premium": Asking(right, price_msats=PRICES["premium"]),
    }
    return asyncio.run(_finished(home, venues))


async def _finished(home: Path, venues: dict[Any, AnsweringVenue]) -> Compiled:
    spec = lanes_spec(home, "validation", "premium")
    done = await compiled(home, spec, venues)
    async with SqlLedger.open(f"sqlite:///{home / 'ledger.db'}") as ledger:
        opening = ledger.open_run("run-1", spec_id=spec.spec_id, name=spec.name, budget=spec.budget)
        async with opening as lease:
            await ledger.finish_run(lease, "completed", manifest_uri=done.recorded.manifest_uri)
    return done


async def found(home: Path) -> tuple[Bill, str]:
    async with SqlLedger.open(f"sqlite:///{home / 'ledger.db'}") as ledger:
        return await bill_again(ledger, await ledger.find_run("run-1"))


def test_the_manifest_has_what_the_same_calls_would_have_cost(done: Compiled):
    card, bill = done.recorded.manifest.scorecard, done.recorded.bill
    assert bill is not None
    assert card.optimization_cost_msats == bill.msats == done.account.total.msats
    assert card.premium_cost_msats == bill.premium_msats == PRICES["premium"] * done.account.total.calls
    assert not bill.estimated
    assert bill.simulated_msats == done.msats("swarm")
    assert '"premium_cost_msats":' in done.recorded.manifest.canonical().decode()


def test_the_report_shows_it_and_marks_play_money(done: Compiled):
    bill = done.recorded.bill
    assert bill is not None
    assert bill.saving_ppm is not None
    assert "| stage | lane | msats | dollars | on premium, msats | dollars |" in done.report
    assert f"so {bill.saving_ppm / 10_000:.1f} % was saved" in done.report
    assert f"SIMULATED: {done.msats('swarm'):,} of {bill.msats:,} msats" in done.report


async def test_a_premium_lane_that_says_no_price_is_taken_at_what_it_cost(tmp_path: Path):
    venues: dict[Any, AnsweringVenue] = {"swarm": Voices(price_msats=PRICES["swarm"]), "validation": Divided()}
    venues["premium"] = AnsweringVenue(right, price_msats=PRICES["premium"])
    bill = (await compiled(tmp_path, lanes_spec(tmp_path, "validation", "premium"), venues)).recorded.bill
    assert bill is not None
    assert {line.estimated for line in bill.lines if line.lane != "premium"} == {True}
    assert bill.premium_msats == PRICES["premium"] * bill.calls


def test_the_command_line_shows_the_bill_again(done: Compiled, home: Path, swarmc_here):
    bill, told = done.recorded.bill, swarmc_here("cost", "run-1", "--ledger", f"sqlite:///{home / 'ledger.db'}")
    assert bill is not None
    assert told.exit_code == 0, told.output
    assert f"the same {bill.calls:,} calls on lane premium alone: {bill.premium_msats:,} msats" in told.output
    assert "1 dollar is 1,000,000 msats" in told.output
    assert "SIMULATED" in told.output


async def test_a_bill_that_was_changed_or_lost_is_not_believed(done: Compiled, home: Path):
    path = home / "artifacts/runs/run-1/bill.json"
    whole = path.read_bytes()
    assert await found(home) == (done.recorded.bill, "")
    try:
        path.unlink()
        path.write_bytes(json.dumps(json.loads(whole) | {"msats_per_usd": 1}).encode())
        plain, why = await found(home)
        assert "is not the file that the manifest names" in why
        path.unlink()
        bare, missing = await found(home)
        assert "left no bill" in missing
    finally:
        path.write_bytes(whole)
    assert plain == bare
    assert (plain.premium_msats, plain.msats, plain.reference) == (None, done.account.total.msats, None)


async def test_an_account_that_grew_since_is_compared_with_nothing(done: Compiled, home: Path, tmp_path: Path):
    async with SqlLedger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        async with ledger.open_run("run-1", spec_id="s", name="n", budget=lanes_spec(tmp_path).budget) as lease:
            bill, why = await bill_again(ledger, await ledger.find_run("run-1"))
            assert "what other lanes would have cost is told at its end" in why
            await ledger.finish_run(lease, "completed", manifest_uri=done.recorded.manifest_uri)
        bill, why = await bill_again(ledger, await ledger.find_run("run-1"))
    assert "which the ledger does not" in why
    assert (bill.msats, bill.premium_msats) == (0, None)


def test_the_rate_is_that_of_the_reference_lane(tmp_path: Path):
    spec = lanes_spec(tmp_path, "premium")
    blocks: Any = {
        lane: LiteLLM(model="openai/gpt-4o-mini", api_key=SecretStr("k"), msats_per_usd=rate)
        for lane, rate in (("swarm", 5), ("premium", 7))
    }
    quoted: Any = {lane: Quoted(Asking(right), Sampling()) for lane in spec.lanes}
    terms = terms_of(spec, quoted, blocks)
    assert (terms.msats_per_usd, terms.reference, terms.charge(1, 1, 3)) == (7, "premium", 3 * PRICES["premium"])
    assert terms_of(spec, quoted, {}).msats_per_usd == 1_000_000
