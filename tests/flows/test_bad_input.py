"""Bad input: one clear message, the right exit code, nothing that was paid for lost."""

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect, a second server")]

METRICS = """
def raises(example, prediction, trace=None):
    raise KeyError("wrong_field")

def nan(example, prediction, trace=None):
    return float("nan")

def text(example, prediction, trace=None):
    return "good"
"""


def fails(done, exit_code, *words):
    """The command ended with this code and one message that holds these words, without a traceback."""
    shown = " ".join(done.stderr.split())
    assert done.exit_code == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in shown, shown
    return shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"program": "nowhere.module:Program"}, ["nowhere.module:Program", "no module"]),
        ({"program": "missing.py:Program"}, ["no file missing.py"]),
        ({"program": "json:loads"}, ["json:loads"]),
        ({"dataset": {"source": "missing.jsonl"}}, ["missing.jsonl"]),
        ({"dataset": {"source": "rows.txt"}}, ["rows.txt", ".jsonl, .csv or .parquet"]),
        ({"metric": "good_match"}, ["good_match", "exact_match"]),
        ({"metric": "METRICS:raises"}, ["KeyError", "wrong_field"]),
        ({"metric": "METRICS:nan"}, ["nan", "0 to 1"]),
        ({"metric": "METRICS:text"}, ["'good'", "0 to 1"]),
        ({"lanes": {"premium": {}}}, ["swarm"]),
    ],
)
def test_a_request_that_cannot_be_met_costs_nothing(swarmc_here, counting_server, write_spec, tmp_path, changes, words):
    (tmp_path / "metrics.py").write_text(METRICS)
    changes = json.loads(json.dumps(changes).replace("METRICS", f"{tmp_path}/metrics.py"))
    fails(swarmc_here("compile", str(write_spec(1, **changes))), 2, *words)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["empty"]),
        ([{"question": "a", "answer": "b"}], ["1 distinct", "too few"]),
        ([{"q": "a", "answer": "b"}] * 9, ["row 1", "'question'", "dataset.rename"]),
        ([{"question": "a"}], ["no label"]),
    ],
)
def test_examples_that_cannot_be_used_are_named(swarmc_here, write_spec, tmp_path, rows, words):
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = {"source": str(tmp_path / "bad.jsonl"), "inputs": ["question"]}
    fails(swarmc_here("compile", str(write_spec(1, dataset=dataset))), 2, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{not json", ["compile.json"]),
        ('{"program": "a -> b"}', ["dataset", "Field required"]),
        ('{"program": "a -> b", "dataset": {"source": "x"}, "sed": 1}', ["sed", "not permitted"]),
        ('{"program": "a -> b", "dataset": {"source": "x"}, "seed": -1}', ["seed", "-1"]),
    ],
)
def test_a_file_that_is_no_spec_is_explained(swarmc_here, tmp_path, text, words):
    path = tmp_path / "compile.json"
    path.write_text(text)
    fails(swarmc_here("compile", str(path)), 2, *words)


def test_a_missing_file_is_named(swarmc_here):
    fails(swarmc_here("compile", "nowhere.json"), 2, "nowhere.json")


def test_a_server_that_is_not_there_is_no_score_of_zero(swarmc_here, write_spec):
    fails(swarmc_here("compile", str(write_spec(9))), 3, "127.0.0.1:9")


def test_a_server_that_hangs_is_left_after_its_timeout(swarmc_here, counting_server, write_spec):
    port = counting_server("--hang-rate", "1.0")
    lane = {"timeout_s": 1, "attempts": 1, "concurrency": 2}
    fails(swarmc_here("compile", str(write_spec(port, lane))), 3, "1 s")


def test_a_model_that_answers_garbage_scores_zero_or_is_an_error_but_never_hangs(
    swarmc_here, counting_server, write_spec
):
    done = swarmc_here("compile", str(write_spec(counting_server("--garbage-rate", "1.0"), {"attempts": 1})))
    assert done.exit_code in (0, 3), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_budget_of_zero_buys_nothing(swarmc_here, counting_server, write_spec):
    spec = write_spec(counting_server(), budget={"run": {"max_calls": 0}})
    fails(swarmc_here("compile", str(spec)), 4, "0 calls", "raise")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root to make a read-only mount")
def test_a_read_only_home_says_what_to_do(swarmc_here, write_spec, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        fails(swarmc_here("compile", str(write_spec(1))), 5, "SWARMC_HOME")
    finally:
        subprocess.run(["umount", str(home)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root to make a small disk")
def test_a_full_disk_stops_the_run_and_keeps_what_was_paid(swarmc_here, counting_server, write_spec, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(home)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    spec = str(write_spec(counting_server()))
    try:
        fails(swarmc_here("compile", spec), 5, "disk")
        subprocess.run(["mount", "-o", "remount,size=100m", str(home)], check=True)
        done = swarmc_here("compile", spec)
        assert done.exit_code == 0, done.stdout + done.stderr
        assert "already paid for" in done.stdout
    finally:
        subprocess.run(["umount", str(home)], check=True)
