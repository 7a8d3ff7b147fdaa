"""Plans that are shown and kept to, and recompiles that start from what was learned and keep what they cannot beat."""

import json
from pathlib import Path

import pytest

from flows.cli import read_spec

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect, a second server")]


def test_a_plan_names_every_stage_and_buys_nothing(swarmc_here, counting_server, write_spec):
    path = str(write_spec(counting_server()))
    shown = swarmc_here("plan", path, "--set", "search.calls=300")
    assert shown.exit_code == 0, shown.output
    for stage in ("bootstrap", "search", "validate", "all"):
        assert stage in shown.output
    assert "no runs yet" in swarmc_here("runs").output


@pytest.mark.parametrize("calls", [60, 250])
def test_a_number_of_calls_is_kept_to_and_the_winner_is_still_measured(
    swarmc_here, manifest_of, counting_server, write_spec, calls
):
    done = swarmc_here("compile", str(write_spec(counting_server())), "--set", f"search.calls={calls}")
    assert done.exit_code == 0, done.output
    manifest = manifest_of(done)
    assert manifest["details"]["calls"] <= calls
    assert manifest["scorecard"]["truth_score"]["count"] >= 3
    plan = json.loads((Path(done.output.split("manifest     ")[1].split()[0]).parent / "plan.json").read_text())
    assert sum(line["calls_high"] for line in plan["stages"]) <= calls


def test_a_recompile_starts_warm_and_replaces_only_what_it_beats(swarmc_here, manifest_of, counting_server, write_spec):
    port = counting_server()
    path = str(write_spec(port, search={"auto": "light", "demo_sets": 4, "instructions": 6}))
    first = swarmc_here("compile", path)
    assert first.exit_code == 0, first.output
    promoted = Path(first.output.split("manifest     ")[1].split()[0]).parents[2] / "promoted/colours/promotion.json"
    decided = json.loads(promoted.read_text())
    assert decided["decision"] == "promoted", first.output
    again = swarmc_here("recompile", path, "--set", "seed=1")
    assert again.exit_code == 0, again.output
    assert "the search starts from what the last one learned" in again.output
    assert "promoted now" in again.output
    said = [line for line in again.output.splitlines() if line.startswith(("kept:", "promoted:"))]
    assert len(said) == 1
    if said[0].startswith("kept:"):
        assert json.loads(promoted.read_text()) == decided
    else:
        assert manifest_of(again)["compiled_id"] == json.loads(promoted.read_text())["compiled_id"]


def test_a_search_set_of_five_says_that_the_interval_is_wide_and_promotes_nothing(
    swarmc_here, counting_server, write_spec
):
    split = {"train": 20, "search": 5, "validation": 20, "test": 40}
    done = swarmc_here("compile", str(write_spec(counting_server(), split=split)))
    assert done.exit_code == 0, done.output
    assert "intervals will be wide, and nothing is promoted" in done.output
    assert "kept: 5 search and 40 test examples are too few" in done.output


def test_a_changed_field_replaces_the_files_and_of_sizes_the_last_word_counts(tmp_path):
    path = tmp_path / "compile.json"
    path.write_text('{"program": "a -> b", "dataset": {"source": "x.jsonl"}, "search": {"trials": 9, "visit": 2}}')
    spec = read_spec(path, {"search.calls": 50, "name": "other"})
    assert (spec.search.trials, spec.search.calls, spec.search.visit, spec.name) == (None, 50, 2, "other")


@pytest.mark.parametrize("said", ["search.calls", "=5", "search.calls=none at all", "no.such=1", "search.calls=0"])
def test_a_change_that_makes_no_sense_is_one_clear_line(swarmc_here, write_spec, said):
    done = swarmc_here("compile", str(write_spec(1)), "--set", said)
    assert done.exit_code == 2
    assert said.partition("=")[0].split(".")[0] in done.output.replace("\n", " ")
