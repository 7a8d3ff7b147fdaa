"""The main job over real parts: a counting model server, a ledger on disk, a Prefect server, plain DSPy at the end."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect, a third server")]

TWO_STEPS = """
import dspy

class TwoSteps(dspy.Module):
    def __init__(self):
        super().__init__()
        self.think = dspy.Predict("question -> thought")
        self.say = dspy.Predict("question, thought -> answer")

    def forward(self, question):
        return self.say(question=question, thought=self.think(question=question).thought)
"""
LOADED_BY_PLAIN_DSPY = """
import sys
for name in ("swarmc", "flows", "tasks", "blocks"):
    sys.modules[name] = None
import dspy
program = dspy.Predict("question -> answer")
program.load(sys.argv[1])
print(program.signature.instructions)
"""


def test_a_compile_leaves_a_manifest_an_account_and_a_program(swarmc, manifest_of, counting_server, write_spec):
    done = swarmc("compile", str(write_spec(counting_server())))
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = manifest_of(done)
    card = manifest["scorecard"]
    assert card["truth_score"]["count"] == card["baseline_score"]["count"] == 40
    assert manifest["trainset_id"] == manifest["datasets"][0]["dataset_id"]
    run = manifest["run_id"]
    assert manifest["compiled_id"] in swarmc("show", run[:8]).stdout
    assert f"{manifest['details']['calls']:,}" in swarmc("cost", run[:8]).stdout
    assert "completed" in swarmc("runs").stdout
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED_BY_PLAIN_DSPY, str(swarmc.home / "artifacts/runs" / run / "program.json")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert loaded.stdout.strip() == manifest["instruction"].strip(), loaded.stderr


def test_the_same_command_again_pays_for_nothing(swarmc_here, manifest_of, counting_server, write_spec):
    spec = str(write_spec(counting_server()))
    first, second = (manifest_of(swarmc_here("compile", spec)) for _ in range(2))
    assert second["run_id"] != first["run_id"]
    assert second["compiled_id"] == first["compiled_id"]
    assert second["details"]["calls"] == 0


def test_a_program_of_two_steps_with_only_forward_is_compiled(
    swarmc_here, manifest_of, counting_server, write_spec, tmp_path
):
    (tmp_path / "two_steps.py").write_text(TWO_STEPS)
    spec = write_spec(counting_server(), program=f"{tmp_path}/two_steps.py:TwoSteps")
    manifest = manifest_of(swarmc_here("compile", str(spec)))
    compiled = json.loads((tmp_path / "home/artifacts/runs" / manifest["run_id"] / "compiled.json").read_text())
    assert set(compiled["predictors"]) == {"think", "say"}


@pytest.mark.parametrize("calls", [60, 150])
def test_a_budget_of_few_calls_plans_a_smaller_search_and_still_measures(
    swarmc_here, manifest_of, counting_server, write_spec, calls
):
    done = swarmc_here("compile", str(write_spec(counting_server(), budget={"run": {"max_calls": calls}})))
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "so that the budget holds" in done.stdout
    manifest = manifest_of(done)
    assert manifest["details"]["calls"] <= calls
    assert manifest["scorecard"]["truth_score"]


def test_a_budget_too_small_to_measure_says_so_and_keeps_the_best(
    swarmc_here, manifest_of, counting_server, write_spec
):
    done = swarmc_here("compile", str(write_spec(counting_server(), budget={"run": {"max_calls": 8}})))
    assert done.exit_code == 4, done.stdout + done.stderr
    manifest = manifest_of(done)
    assert manifest["verdict"] == "not measured: the budget ran out"
    assert manifest["details"]["calls"] == 8


def test_venues_that_stumble_are_tried_again_and_cost_nothing_more(
    swarmc_here, manifest_of, counting_server, write_spec
):
    steady, shaky = counting_server(), counting_server("--error-rate", "0.1", "--error-status", "503")
    first = manifest_of(swarmc_here("compile", str(write_spec(steady, {"attempts": 8}))))
    second = manifest_of(
        swarmc_here("compile", str(write_spec(shaky, {"attempts": 8, "model": "counting"})), "--fresh")
    )
    assert second["compiled_id"] == first["compiled_id"]


def test_help_teaches_without_waiting_for_prefect():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flows", "compile", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
        check=True,
        timeout=60,
    )
    assert "continued" in done.stdout
    assert "Exit codes" in done.stdout
    assert "prefect" not in done.stderr
