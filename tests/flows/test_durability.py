"""Killed at any moment, a compile continues, pays for nothing twice, and ends as if nothing had happened."""

import os
import random
import signal
import time
from collections import Counter
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from blocks.ledger import SqlLedger
from flows.lanes import RESERVED_PER_PLACE
from swarmc.contracts.spec import LaneSpec

UNSETTLED = RESERVED_PER_PLACE * LaneSpec().concurrency
"""Calls that the default lane has reserved and not settled at most."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect")]


def bodies(log):
    """How often each request body was answered by the server."""
    return Counter(line.split()[0] for line in log.read_text().splitlines()) if log.exists() else Counter()


def kill_when(process, ready):
    """SIGKILL to the whole process group as soon as `ready()`."""
    while process.poll() is None and not ready():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture
def counted(counting_server, tmp_path):
    """A counting server's port, and the log of its answers."""
    log = tmp_path / "answers.log"
    return counting_server("--latency-ms", "20", "--log", str(log)), log


def test_a_killed_compile_pays_for_no_call_twice(swarmc, manifest_of, counted, write_spec, ledger_url):
    port, log = counted
    spec = str(write_spec(port, ledger=ledger_url))
    moments = sorted(random.Random(7).sample(range(10, 230), 2))
    for calls in moments:
        kill_when(swarmc.start("compile", spec), lambda calls=calls: sum(bodies(log).values()) >= calls)
    (run,) = [
        line.split()[0] for line in swarmc("runs", "--ledger", ledger_url).stdout.splitlines() if "colours" in line
    ]
    done = swarmc("compile", spec)
    assert done.returncode == 0, done.stdout + done.stderr
    killed = manifest_of(done)
    assert killed["run_id"].startswith(run)
    # Whatever the server answered twice was not settled at a kill; each settled call was bought once.
    assert sum(bodies(log).values()) - len(bodies(log)) <= UNSETTLED * len(moments)
    assert killed["details"]["calls"] == len(bodies(log))
    whole = manifest_of(swarmc("compile", str(write_spec(port))))
    assert whole["compiled_id"] == killed["compiled_id"]
    assert whole["details"]["calls"] == killed["details"]["calls"]


def test_a_second_process_on_a_live_run_is_fenced(swarmc, counting_server, write_spec, tmp_path):
    log = tmp_path / "answers.log"
    spec = str(write_spec(counting_server("--latency-ms", "500", "--log", str(log)), {"concurrency": 2}))
    first = swarmc.start("compile", spec)
    try:
        while not bodies(log) and first.poll() is None:
            time.sleep(0.05)
        (line,) = [line for line in swarmc("runs").stdout.splitlines() if "colours" in line]
        second = swarmc("compile", spec, "--continue", line.split()[0])
        assert second.returncode == 6, second.stdout + second.stderr
        assert "is held by" in second.stderr
        assert first.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


def test_ctrl_c_loses_nothing(swarmc, counting_server, write_spec, tmp_path):
    log = tmp_path / "answers.log"
    spec = str(write_spec(counting_server("--latency-ms", "50", "--log", str(log))))
    process = swarmc.start("compile", spec)
    while len(bodies(log)) < 40 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "type the same command to continue" in errors
    done = swarmc("compile", spec)
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(bodies(log).values()) == 1


async def test_a_run_that_the_server_forgot_keeps_its_account(swarmc, manifest_of, counted, write_spec, on_server):
    port, log = counted
    spec = str(write_spec(port))
    kill_when(swarmc.start("compile", spec), lambda: len(bodies(log)) >= 40)
    async with SqlLedger.open(f"sqlite:///{swarmc.home}/ledger.db") as ledger:
        (killed,) = await ledger.runs()
    async with get_client() as client:
        await client.delete_flow_run(UUID(killed.run_id))
    done = swarmc("compile", spec)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = manifest_of(done)
    assert manifest["run_id"] == killed.run_id
    assert manifest["details"]["calls"] == len(bodies(log))
