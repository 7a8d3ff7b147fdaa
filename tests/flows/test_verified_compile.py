"""A compile over several lanes: cheap tries, redundant finalists, premium for what disagrees."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from flows.evidence import verify_bundle
from flows.lanes import RESERVED_PER_PLACE
from flows.present import present_plan
from flows.preview import preview
from flows.replay import replay_bundle
from swarmc.contracts.completions import CompletionRequest, Lane
from swarmc.contracts.events import StageStarted, Verified
from swarmc.contracts.spec import LaneSpec
from swarmc.contracts.transfer import Climb
from swarmc.tracing.bundle import read_bundle
from swarmc.tracing.evidence import evidence_of
from swarmc.tracing.withholding import Guard
from tasks.package import Packaging
from tasks.rescore import rescore
from tests.bundles import forged, rehash
from tests.fakes import AnsweringVenue
from tests.tracing.test_verify import value
from tests.voices import (
    LABEL,
    LIAR,
    LIES,
    PRICES,
    Compiled,
    Divided,
    Voices,
    bundled,
    compiled,
    draw,
    lanes_spec,
    right,
)

Venues = dict[Lane, AnsweringVenue]


def venues(lie: str = "", latency_s: float = 0.0, **others: AnsweringVenue) -> Venues:
    """A cheap swarm, a validation lane of five voices, and a premium lane that knows."""
    return {
        "swarm": Voices(price_msats=PRICES["swarm"], latency_s=latency_s),
        "validation": Voices(lie, price_msats=PRICES["validation"], latency_s=latency_s),
        "premium": AnsweringVenue(right, price_msats=PRICES["premium"], latency_s=latency_s),
        **others,  # type: ignore[dict-item]
    }


def groups_told(done: Compiled) -> list[Verified]:
    return [event for event in done.events if isinstance(event, Verified) and event.what.startswith("runs agree")]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A compile whose voices are all honest."""
    directory = tmp_path_factory.mktemp("honest")
    return asyncio.run(compiled(directory, lanes_spec(directory, "validation", "premium"), venues()))


@pytest.mark.parametrize("lie", LIES)
async def test_one_lying_voice_of_five_is_named_and_moves_the_truth_less_than_its_interval(
    honest: Compiled, tmp_path: Path, lie: str
):
    lying = await compiled(tmp_path, lanes_spec(tmp_path, "validation", "premium"), venues(lie))
    one, other = (done.recorded.manifest.scorecard.truth_score for done in (honest, lying))
    assert one is not None
    assert other is not None
    assert abs(one.mean_ppm - other.mean_ppm) < (one.high_ppm - one.low_ppm) // 2
    assert str(lying.recorded.manifest.details["dissent"]).startswith(f"{LIAR} in ")
    assert "dissent" not in honest.recorded.manifest.details
    assert LIAR in lying.report
    assert any(LIAR in event.detail for event in groups_told(lying))
    counts = lying.recorded.manifest.scorecard.verification
    assert counts is not None
    assert counts.decided == 20


async def test_premium_answers_only_what_disagrees_and_for_all_programs_alike(tmp_path: Path):
    told = venues(validation=Divided())
    done = await compiled(tmp_path, lanes_spec(tmp_path, "validation", "premium"), told)
    verification, compared = done.validation.verification, done.validation.comparison
    assert verification is not None
    assert compared is not None
    assert verification.counts.unverified == 0
    assert 0 < verification.counts.verified < 20
    programs = len({compared.winner.candidate_id, compared.baseline.candidate_id})
    assert len(told["premium"].asked) == programs * verification.counts.verified
    assert done.msats("premium") == len(told["premium"].asked) * PRICES["premium"]
    for side in (compared.winner, compared.baseline):
        premium = [one.score_ppm for one in side.outcomes if one.example_id in verification.verified]
        assert set(premium) == {1_000_000}
    assert "verified by premium" in done.report


async def test_a_premium_budget_that_runs_out_is_no_error_and_says_what_is_unverified(tmp_path: Path):
    cap = 3_500
    spec = lanes_spec(tmp_path, "validation", "premium", budget={"lanes": {"premium": {"max_msats": cap}}})
    done = await compiled(tmp_path, spec, venues(validation=Divided()))
    counts = done.recorded.manifest.scorecard.verification
    assert counts is not None
    assert done.msats("premium") <= cap
    assert counts.unverified > 0
    assert counts.decided + counts.verified + counts.unverified == 20
    assert f"{counts.unverified} unverified" in done.report
    assert done.recorded.manifest.scorecard.truth_score is not None


async def test_every_lane_holds_its_own_budget_at_once(tmp_path: Path):
    caps = {"swarm": 60, "validation": 230, "premium": 5}
    budget = {"lanes": {lane: {"max_calls": calls} for lane, calls in caps.items()}}
    told = venues(latency_s=0.002, validation=Divided(latency_s=0.002))
    done = await compiled(tmp_path, lanes_spec(tmp_path, "validation", "premium", budget=budget), told)
    for lane, tally in done.account.by_lane().items():
        assert tally.calls <= caps[lane], lane
        assert tally.calls == len(told[lane].asked)


async def test_without_a_premium_lane_the_largest_camp_stands_unverified(tmp_path: Path):
    done = await compiled(tmp_path, lanes_spec(tmp_path, "validation"), venues(validation=Divided()))
    counts = done.recorded.manifest.scorecard.verification
    assert counts is not None
    assert (counts.verified, counts.unverified > 0) == (0, True)


async def test_one_lane_may_serve_them_all(tmp_path: Path):
    done = await compiled(tmp_path, lanes_spec(tmp_path), venues(swarm=Voices()))
    assert {line.lane for line in done.account.lines} == {"swarm"}
    assert done.validation.verification is not None
    assert done.validation.verification.counts.decided == 20


async def test_killed_anywhere_it_ends_the_same_and_pays_for_no_call_twice(tmp_path: Path):
    (tmp_path / "whole").mkdir()
    spec = lanes_spec(tmp_path, "validation", "premium", transfer={"examples": 4, "texts": 3})
    whole = await compiled(tmp_path / "whole", spec, venues(validation=Divided()))
    told = venues(latency_s=0.001, validation=Divided(latency_s=0.001))
    for calls in (30, 120, 260):
        task = asyncio.create_task(compiled(tmp_path, spec, told))
        while not task.done() and sum(len(one.asked) for one in told.values()) < calls:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    done = await compiled(tmp_path, spec, told)
    assert done.validation == whole.validation
    assert done.recorded.manifest.compiled_id == whole.recorded.manifest.compiled_id
    assert done.account.total.calls == whole.account.total.calls
    asked = sum(len(one.asked) for one in told.values())
    assert asked <= done.account.total.calls + done.account.total.lost


async def test_its_bundle_holds_and_is_compiled_again_without_a_model(tmp_path: Path):
    await compiled(tmp_path, lanes_spec(tmp_path, "validation", "premium"), venues("wrong", validation=Divided()))
    bundle = await bundled(tmp_path, Packaging(Guard()))
    report = await verify_bundle(bundle)
    assert report.faults == ()
    assert any("verified by premium" in what for what in report.checked)
    rescored = await rescore(evidence_of(read_bundle(bundle)))
    assert rescored.why_not == ""
    replayed = await replay_bundle(bundle)
    assert replayed.is_same, replayed


@pytest.mark.parametrize("forgery", ["decided", "verified", "counts", "votes"])
async def test_a_forged_agreement_is_found(tmp_path: Path, forgery: str):
    await compiled(tmp_path, lanes_spec(tmp_path, "validation", "premium"), venues(validation=Divided()))
    bundle = await bundled(tmp_path, Packaging(Guard()))

    def change(lines: list) -> None:
        told = value(lines, "validation.json")["verification"]
        undecided = next(group for group in told["groups"] if not group["decided"])
        match forgery:
            case "decided":
                undecided["decided"] = True
            case "verified":
                told["verified"].append(next(group["example_id"] for group in told["groups"] if group["decided"]))
            case "counts":
                value(lines, "manifest.json")["scorecard"]["verification"]["decided"] += 1
            case "votes":
                undecided["votes"] = undecided["votes"][:1] * 3
        rehash(lines, "validation.json")

    assert (await verify_bundle(forged(bundle, change))).faults


async def test_a_swarm_that_answers_at_random_is_not_searched_in(tmp_path: Path):
    search = {"trials": 30, "minibatch": 12, "demo_sets": 3, "instructions": 3, "finalists": 2, "halving": 2}
    split = {"train": 8, "search": 16, "validation": 10, "test": 20}
    asked = {"transfer": {"examples": 16, "texts": 6}, "search": search, "split": split}
    lost = AnsweringVenue(lambda request: {"answer": "pink"}, price_msats=PRICES["swarm"])
    told = venues(swarm=lost, validation=Voices(of_256=120))
    done = await compiled(tmp_path, lanes_spec(tmp_path, "validation", "premium", **asked), told)
    details = done.recorded.manifest.details
    assert details["search_lane"] == "validation"
    assert "moves from lane swarm up to lane validation" in str(details["transfer"])
    lines = {(line.stage, line.lane): line.tally.calls for line in done.account.lines}
    assert lines["search", "swarm"] <= 96 < lines["search", "validation"]
    assert str(details["transfer"]) in done.report
    await _replays(tmp_path)


def taught(helps: int, **price: int) -> AnsweringVenue:
    """A model that finds the same questions hard as others of its kind, and is helped or hurt by one instruction."""

    def answer(request: CompletionRequest) -> dict[str, str]:
        asked = request.messages[-1].content
        told = helps if "Classify" in request.messages[0].content else 0
        return {"answer": LABEL.findall(asked)[-1] if draw(asked) < 120 + told else "pink"}

    return AnsweringVenue(answer, **price)


CLIMBED = {
    "search": {"trials": 30, "minibatch": 12, "demo_sets": 4, "instructions": 3, "finalists": 2},
    "split": {"train": 8, "search": 22, "validation": 10, "test": 20},
}


@pytest.fixture(scope="module")
def climbing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Compiled]:
    """A compile whose cheap lane dislikes what the better one likes, and finds the same questions hard."""
    folder = tmp_path_factory.mktemp("climbing")
    told = venues(swarm=taught(-110, price_msats=10), validation=taught(110, price_msats=50))
    return folder, asyncio.run(compiled(folder, lanes_spec(folder, "validation", "premium", **CLIMBED), told))


def test_a_swarm_that_likes_other_prompts_passes_the_early_test_and_is_found_out_after_the_search(climbing):
    _, done = climbing
    details = done.recorded.manifest.details
    assert "the search runs in lane swarm" in str(details["transfer"])
    assert "moves from lane swarm up to lane validation" in str(details["climb"])
    assert details["search_lane"] == "validation"
    assert "Classify" in next(iter(done.validation.winner.predictors.values())).instruction
    assert str(details["climb"]) in done.report
    lines = {(line.stage, line.lane): line.tally for line in done.account.lines}
    assert lines["climb", "validation"].calls > lines["search", "validation"].calls
    assert lines["climb", "validation"].msats == 50 * lines["climb", "validation"].calls


def test_what_the_better_lane_said_is_an_event_an_artifact_and_a_part_of_the_plan(climbing):
    folder, done = climbing
    told = [event for event in done.events if isinstance(event, Verified) and "bears out" in event.what]
    assert [event.holds for event in told] == [False]
    climbed = Climb.model_validate_json((folder / "artifacts/runs/run-1/climb.json").read_bytes())
    assert climbed.whole
    assert climbed.test is not None
    assert climbed.test.reason == done.recorded.manifest.details["climb"]
    stages = [event.stage for event in done.events if isinstance(event, StageStarted)]
    assert stages.index("search") < stages.index("climb") < stages.index("validate")
    plan = json.loads((folder / "artifacts/runs/run-1/plan.json").read_bytes())
    assert ("climb", "validation") in {(line["stage"], line["lane"]) for line in plan["stages"]}


async def test_a_climb_is_verified_from_its_bundle_and_climbed_again_without_a_model(climbing):
    folder, _ = climbing
    bundle = await bundled(folder, Packaging(Guard()))
    report = await verify_bundle(bundle)
    assert report.faults == ()
    assert (await replay_bundle(bundle)).is_same


@pytest.mark.parametrize("forgery", ["reason", "finalist", "score"])
async def test_a_forged_climb_is_found(climbing, forgery: str):
    folder, _ = climbing
    bundle = await bundled(folder, Packaging(Guard()))

    def change(lines: list) -> None:
        told = value(lines, "climb.json")
        match forgery:
            case "reason":
                told["test"]["reason"] = "it was borne out"
            case "finalist":
                told["result"]["measured"] = told["result"]["measured"][:1]
            case "score":
                told["result"]["measured"][0]["candidate_id"] = told["result"]["measured"][1]["candidate_id"]
        rehash(lines, "climb.json")

    assert (await verify_bundle(forged(bundle, change))).faults


async def test_what_is_borne_out_costs_a_fifth_of_the_search_and_names_who_ran_where(tmp_path: Path):
    told = venues(swarm=taught(110, price_msats=10), validation=taught(110, price_msats=50))
    done = await compiled(tmp_path, lanes_spec(tmp_path, "validation", "premium", **CLIMBED), told)
    details = done.recorded.manifest.details
    assert details["search_lane"] == "swarm"
    assert "bears out what the search in lane swarm learned" in str(details["climb"])
    lines = {(line.stage, line.lane): line.tally.calls for line in done.account.lines}
    assert lines["climb", "validation"] <= 160
    assert done.recorded.manifest.scorecard.proxy_score is not None


async def _replays(directory: Path) -> None:
    replayed = await replay_bundle(await bundled(directory, Packaging(Guard())))
    assert replayed.is_same, replayed


async def test_a_compile_without_redundancy_writes_what_it_always_wrote(tmp_path: Path):
    done = await compiled(tmp_path, lanes_spec(tmp_path, "validation", redundancy=None), venues())
    validation = json.loads(done.validation.canonical())
    assert set(validation) == {"comparison", "ended", "finalists", "incumbent", "winner"}
    assert "verification" not in json.loads(done.recorded.manifest.canonical())["scorecard"]
    assert set(done.recorded.manifest.details) == {"calls", "metric", "search", "seed"}
    assert "redundancy" not in (tmp_path / "artifacts/runs/run-1/spec.json").read_text()
    assert len(done.account.by_lane()) == 2


async def test_a_plan_names_every_lane_and_buys_nothing(tmp_path: Path):
    from rich.console import Console

    spec = lanes_spec(tmp_path, "validation", "premium", store=str(tmp_path / "store"))
    plan, sentences = await preview(spec)
    console = Console(record=True, width=200)
    present_plan(console, plan, sentences)
    shown = console.export_text()
    for lane in ("swarm", "validation", "premium"):
        assert f"lane {lane}: at most" in shown
    assert "verify" in shown


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_a_killed_compile_of_several_lanes_continues_from_the_command_line(
    swarmc, manifest_of, counting_server, write_spec, tmp_path: Path
):
    log = tmp_path / "answers.log"
    port = counting_server("--latency-ms", "20", "--log", str(log))
    server = {"venue": f"http://127.0.0.1:{port}/v1", "max_tokens": 64, "attempts": 2}
    lanes = {lane: server | {"model": lane} for lane in ("swarm", "validation", "premium")}
    asked = {"lanes": lanes, "redundancy": {"agree": 2, "of": 3}, "transfer": {"examples": 5, "texts": 4}}
    spec = str(write_spec(port, **asked))
    process = swarmc.start("compile", spec)
    while process.poll() is None and (not log.exists() or log.read_text().count("\n") < 260):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = swarmc("compile", spec)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = manifest_of(done)
    assert sum(manifest["scorecard"]["verification"].values()) == 40
    assert "decided by agreement" in done.stdout
    assert "search lane  the search runs in lane" in done.stdout
    # What the server answered beyond what was settled was in flight at the kill.
    assert (
        0 <= log.read_text().count("\n") - manifest["details"]["calls"] <= RESERVED_PER_PLACE * LaneSpec().concurrency
    )
