"""A compile with a weighed metric: judged, paid, remembered, within its budget, replayed from its bundle."""

import asyncio
import json
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest

from blocks.ledger import SqlLedger
from blocks.venues.find import find_venue
from flows.evidence import verify_bundle
from flows.replay import replay_bundle
from swarmc.compiler.answers import Answered
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.judges import Judge
from swarmc.compiler.portal import Portal
from swarmc.contracts.completions import Sampling
from swarmc.contracts.metrics import JudgePart
from swarmc.contracts.money import Account
from swarmc.contracts.spec import CompileSpec, LaneSpec
from swarmc.tracing.bundle import read_bundle
from swarmc.tracing.evidence import evidence_of
from swarmc.tracing.withholding import Guard
from tasks.package import Packaging
from tasks.rescore import rescore
from tests.bundles import small_bundle, small_spec

METRIC = {
    "parts": [
        {"kind": "format", "pattern": "red|green|blue|black", "weight_ppm": 200_000},
        {"kind": "diff", "weight_ppm": 400_000},
        {"kind": "llm_judge", "weight_ppm": 400_000},
    ],
    "rollouts": 2,
}
SERVER = {"venue": "http://127.0.0.1:9/v1", "max_tokens": 64}


def judged_spec(directory: Path, **changes: Any) -> CompileSpec:
    return small_spec(directory, **{"metric": METRIC, "lanes": {"swarm": SERVER, "judge": SERVER}, **changes})


async def account(directory: Path, run_id: str) -> Account:
    async with SqlLedger.open(f"sqlite:///{directory / 'ledger.db'}") as ledger:
        return await ledger.account(run_id)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small compile with a judge; not to be written to."""
    directory = tmp_path_factory.mktemp("judged")
    return asyncio.run(small_bundle(directory, judged_spec(directory), Packaging(Guard())))


async def test_opinions_are_booked_where_answers_are_scored_and_only_on_what_proxies_let_pass(judged: Path) -> None:
    lines = {(line.stage, line.lane): line.tally for line in (await account(judged.parent, "run-1")).lines}
    assert ("bootstrap", "swarm") in lines  # Its answers are all of another colour, so nobody judges them.
    assert {stage for stage, lane in lines if lane == "judge"} == {"search", "validate"}
    opinions = sum(tally.calls for (_, lane), tally in lines.items() if lane == "judge")
    answers = sum(tally.calls for (_, lane), tally in lines.items() if lane == "swarm")
    assert 0 < opinions < 2 * answers
    assert all(tally.msats == 3 * tally.calls for tally in lines.values())


async def test_scores_of_a_judge_are_checked_and_made_again_from_the_bundle(judged: Path) -> None:
    report = await verify_bundle(judged)
    assert report.faults == ()
    rescored = await rescore(evidence_of(read_bundle(judged)))
    assert rescored.why_not == ""
    assert {outcome.score_ppm for outcome in rescored.outcomes.values()} == {0, 1_000_000}
    replayed = await replay_bundle(judged)
    assert replayed.is_same, replayed


async def test_the_same_compile_again_buys_no_opinion_and_finds_the_same(judged: Path) -> None:
    again = await small_bundle(judged.parent, judged_spec(judged.parent), Packaging(Guard()), "run-2")
    total = (await account(judged.parent, "run-2")).total
    assert total.calls == 0
    assert total.reused > 0
    first, second = (evidence_of(read_bundle(path)).validation for path in (judged, again))
    assert first == second


async def test_a_cap_on_the_judge_holds_and_the_compile_still_ends(tmp_path: Path) -> None:
    spec = judged_spec(tmp_path, budget={"lanes": {"judge": {"max_calls": 60}}})
    bundle = await small_bundle(tmp_path, spec, Packaging(Guard()))
    assert (await account(tmp_path, "run-1")).by_lane()["judge"].calls <= 60
    assert evidence_of(read_bundle(bundle)).validation is not None


async def test_a_server_that_is_no_judge_is_asked_and_believed_nothing(counting_server) -> None:
    port = counting_server()
    block, _ = await find_venue(LaneSpec(venue=f"http://127.0.0.1:{port}/v1", model="counting", max_tokens=64))
    example = dspy.Example(question="number 1 label=red", answer="red").with_inputs("question")
    answered = Answered(example, dspy.Prediction(answer="red"), ("answer",))
    async with block.open() as venue:
        lm = lane_lm(venue, "judge", Portal(), Sampling(max_tokens=64))
        opinion = await Judge(lambda lane: lm).opinion(JudgePart(), answered, 3, "median")
    assert (opinion.score_ppm, opinion.feedback[:23]) == (0, "no opinion of 3 could b")
    stats = await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/stats")
    assert stats.json()["total"] == 3


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_a_weighed_metric_is_compiled_with_from_the_command_line(
    swarmc_here, manifest_of, counting_server, write_spec, tmp_path
) -> None:
    metric = {"parts": [{"kind": "format", "pattern": "[a-z]+"}, {"kind": "diff"}]}
    manifest = manifest_of(swarmc_here("compile", str(write_spec(counting_server(), metric=metric))))
    assert manifest["details"]["metric"].startswith("sha256:")
    assert manifest["scorecard"]["truth_score"]["mean_ppm"] >= 500_000
    spec = json.loads((tmp_path / "compile.json").read_text())
    refused = swarmc_here("plan", str(write_spec(9, metric={"parts": [{"kind": "llm_judge"}]}, name=spec["name"])))
    assert refused.exit_code == 2
    assert "needs a lane `judge`" in refused.output
