"""A compile whose metric runs tests on what the model wrote: in a real sandbox, killed, continued, refused early."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dspy
import pytest

from blocks.sandboxes import Bubblewrap
from flows.preview import preview
from flows.swarm_compiler import SwarmCompiler
from swarmc.compiler.judges import Judge
from swarmc.compiler.metrics import load_metric
from swarmc.contracts.errors import SandboxError
from swarmc.contracts.metrics import MetricSpec
from swarmc.contracts.spec import CompileSpec
from tests.fakes import AnsweringVenue
from tests.sandboxes import skip_without_sandbox, until

skip_without_sandbox()

PART = {
    "kind": "tests_pass",
    "files": {"answer.py": "answer.code", "test.py": "example.tests"},
    "commands": [["python3", "test.py"]],
    "timeout_s": 20,
}
GOOD = "Write a function f of n that returns the result."
ROWS = [
    {"task": f"multiply by {n}", "tests": f"from answer import f\nassert f(3) == {3 * n}, 'f(3) is not {3 * n}'\n"}
    for n in range(2, 22)
]
SPLIT = {"train": 4, "search": 5, "validation": 5, "test": 6}
SEARCH = {"trials": 4, "minibatch": 4, "demo_sets": 1, "max_bootstrapped_demos": 0, "max_labeled_demos": 0}


def written(request) -> dict[str, str]:
    """Code that prints the result, which is no use; that returns it where the instruction says so."""
    n = request.messages[-1].content.rpartition("multiply by ")[2].split()[0]
    word = "return" if GOOD in request.messages[0].content else "print"
    return {"code": f"def f(x):\n    {word}(x * {n})"}


def metric(**changes: object) -> MetricSpec:
    return MetricSpec.model_validate({"parts": [PART | changes]})


def compiler(home: Path, venue: AnsweringVenue, asked: MetricSpec) -> SwarmCompiler:
    options = {"proposer": "none", "instructions": ["Write code.", GOOD], "split": SPLIT}
    kept = {"ledger": f"sqlite:///{home}/ledger.db", "store": str(home / "artifacts")}
    return SwarmCompiler(
        lanes=venue, metric=asked, search=SEARCH, options=options | {"adapter": {"json_fallback": False}}, quiet=True,
        name="coder", **kept,
    )  # fmt: skip


def examples() -> list[dspy.Example]:
    return [dspy.Example(row).with_inputs("task") for row in ROWS]


def main(home: Path) -> None:
    """A compile in a process of its own."""
    result = compiler(home, AnsweringVenue(written, price_msats=3), metric()).compile("task -> code", examples())
    print(json.dumps([result.manifest.run_id, result.manifest.compiled_id, result.account.total.calls]))


async def test_it_finds_the_program_whose_code_passes_and_says_where_it_ran(tmp_path: Path) -> None:
    venue = AnsweringVenue(written, price_msats=3)
    result = await compiler(tmp_path, venue, metric()).acompile("task -> code", examples())
    assert result.program.signature.instructions == GOOD
    assert (result.scorecard.truth_score.mean, result.scorecard.baseline_score.mean) == (1, 0)
    assert "no network" in result.manifest.details["sandbox"]
    assert "bubblewrap" in (tmp_path / f"artifacts/runs/{result.manifest.run_id}/report.md").read_text()


async def test_the_feedback_names_the_assertion_that_failed() -> None:
    asked = metric()
    nobody = Judge(lambda lane: dspy.settings.lm)
    async with Bubblewrap().open() as sandbox:
        scorer = load_metric(asked, ["code"], sandbox)
        said = await scorer.assess(examples()[0], dspy.Prediction(code="def f(x): return x"), nobody)
        slow = load_metric(metric(timeout_s=1), ["code"], sandbox)
        late = await slow.assess(examples()[0], dspy.Prediction(code="while True: pass"), nobody)
    assert said[0] == late[0] == 0
    assert "AssertionError: f(3) is not 6" in said[1]
    assert "`python3 test.py` did not end within 1 s" in late[1]


def start(home: Path) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = kept | {"SWARMC_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.flows.test_commands_compile", str(home)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
def test_killed_in_the_middle_it_continues_and_no_job_is_run_twice(tmp_path: Path) -> None:
    def ended() -> dict[Path, int]:
        return {one: one.stat().st_mtime_ns for one in tmp_path.glob("artifacts/runs/*/commands/*.json")}

    process = start(tmp_path)
    assert until(lambda: len(ended()) >= 8)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = ended()
    run_id, compiled_id, calls = json.loads(start(tmp_path).communicate()[0])
    assert {one: at for one, at in ended().items() if one in before} == before
    assert {one.parent.parent.name for one in ended()} == {run_id}
    whole = asyncio.run(
        compiler(tmp_path / "whole", AnsweringVenue(written, price_msats=3), metric()).acompile(
            "task -> code", examples()
        )
    )
    assert (whole.manifest.compiled_id, whole.account.total.calls) == (compiled_id, calls)
    assert len(list(tmp_path.glob("whole/artifacts/runs/*/commands/*.json"))) == len(ended())


async def test_nothing_is_bought_where_commands_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venue = AnsweringVenue(written, price_msats=3)
    absent = metric(commands=[["python3", "test.py"], ["no-such-checker"]])
    with pytest.raises(SandboxError, match="'no-such-checker' is not in the sandbox"):
        await compiler(tmp_path, venue, absent).acompile("task -> code", examples())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="`apt-get install bubblewrap`"):
        await compiler(tmp_path, venue, metric()).acompile("task -> code", examples())
    assert venue.asked == []


async def test_a_plan_needs_no_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    asked = {
        "program": "task -> code", "metric": metric().model_dump(), "split": SPLIT, "proposer": "template",
        "dataset": {"source": str(tmp_path / "rows.jsonl"), "inputs": ["task"]}, "store": str(tmp_path),
        "lanes": {"swarm": {"venue": "http://127.0.0.1:9/v1", "model": "m", "max_tokens": 9}}, "sandbox": "bubblewrap",
    }  # fmt: skip
    plan, _ = await preview(CompileSpec.model_validate(asked))
    assert plan.calls[1] > 0


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_the_flow_runs_commands_from_the_command_line(swarmc_here, manifest_of, counting_server, write_spec) -> None:
    part = {
        "kind": "tests_pass",
        "files": {"said": "answer.answer", "wanted": "example.answer"},
        "commands": [["cmp", "said", "wanted"]],
    }
    path = write_spec(
        counting_server(), metric={"parts": [part]}, split={"train": 5, "search": 6, "validation": 6, "test": 6}
    )
    manifest = manifest_of(swarmc_here("compile", str(path)))
    assert manifest["scorecard"]["truth_score"]["mean_ppm"] > 0
    assert manifest["details"]["sandbox"].startswith("bubblewrap")
    refused = swarmc_here("compile", str(path), "--set", "sandbox=nowhere")
    assert (refused.exit_code, "'nowhere' names no sandbox" in refused.output) == (12, True), refused.output


if __name__ == "__main__":
    main(Path(sys.argv[1]))
