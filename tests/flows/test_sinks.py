"""Where a run is told changes nothing of what it finds, and a dead listener costs it nothing."""

import json
import socket

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect, a second server")]


@pytest.fixture
def dead_address():
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_run_that_nobody_can_be_told_of_ends_as_any_other(
    swarmc_here, manifest_of, counting_server, write_spec, tmp_path, dead_address
):
    port, spans = counting_server(), tmp_path / "spans.jsonl"
    silent = swarmc_here("compile", str(write_spec(port)))
    told = swarmc_here("compile", str(write_spec(port, sinks=[f"http://{dead_address}", "hud", str(spans)])), "--fresh")
    assert told.exit_code == 0, told.output
    assert manifest_of(told)["compiled_id"] == manifest_of(silent)["compiled_id"]
    assert "live at http://127.0.0.1:" in told.output
    names = {json.loads(line)["name"] for line in spans.read_text().splitlines()}
    assert {"dsrs.root", "dsrs.predict.question -> answer"} <= names
    (log,) = (tmp_path / "home" / "artifacts" / "runs").glob(f"{manifest_of(told)['run_id']}/events.jsonl")
    kinds = {json.loads(line)["kind"] for line in log.read_text().splitlines()}
    assert {"run_opened", "plan_made", "candidate_entered", "trial_scored", "verified", "program_ended"} <= kinds


def test_a_place_that_is_none_is_refused_before_anything_is_bought(swarmc_here, write_spec):
    done = swarmc_here("compile", str(write_spec(1, sinks=["nowhere"])))
    assert done.exit_code == 2
    assert "names no place to tell a run" in done.output
