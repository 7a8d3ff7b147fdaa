"""A deployed compile whose process is killed comes back by itself, and buys nothing twice that was settled."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment

from blocks.ledger.find import find_ledger
from flows.lanes import RESERVED_PER_PLACE
from flows.setup import WORK_POOL, Recovery, setup
from swarmc.contracts.spec import LaneSpec

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect, a third server")]

REPOSITORY = Path(__file__).parents[2]
SETTLE_S = 20
"""Longer than a worker needs to report a death for the second time."""
LIMIT_S = 200
METRIC = """
import os
with open({pids!r}, "a") as pids:
    pids.write(f"{{os.getpid()}}\\n")
def exact(example, prediction, trace=None):
    return example.answer == prediction.answer
"""


@pytest.fixture
def worker(prefect_api_url: str, prefect_env: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """A process worker of our pool; yields its log."""
    log_path = tmp_path / "worker.log"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"]
    environment = prefect_env | {"PREFECT_WORKER_QUERY_SECONDS": "2"}
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    yield log_path
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_of(log: Path) -> str:
    return log.read_text()[-4000:]


def answers(log: Path) -> Counter[str]:
    """How often the model's server answered each request."""
    return Counter(line.split()[0] for line in log.read_text().splitlines()) if log.exists() else Counter()


def processes(pids: Path) -> list[int]:
    """The processes that the compile ran in, the latest last."""
    return list(dict.fromkeys(map(int, pids.read_text().split()))) if pids.exists() else []


async def until(found: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not found():
        assert time.monotonic() < deadline_s, f"no {what} after {LIMIT_S} s"
        await asyncio.sleep(0.05)


async def ended(run: FlowRun, worker_log: Path) -> FlowRun:
    deadline_s = time.monotonic() + LIMIT_S
    async with get_client() as client:
        while (now := await client.read_flow_run(run.id)).state_name not in ("Completed", "Failed"):
            assert time.monotonic() < deadline_s, f"{now.state_name}\n{end_of(worker_log)}"
            await asyncio.sleep(0.5)
    return now


@pytest.mark.timeout(480)
async def test_a_killed_process_is_replaced_and_nothing_settled_is_bought_twice(
    on_server: str, worker: Path, counting_server: Callable[..., int], write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    log, pids, metric = tmp_path / "answers.log", tmp_path / "pids", tmp_path / "metric.py"
    metric.write_text(METRIC.format(pids=str(pids)))
    kept = {"ledger": f"sqlite:///{tmp_path}/ledger.db", "store": str(tmp_path / "artifacts")}
    port = counting_server("--latency-ms", "50", "--log", str(log))
    spec = json.loads(write_spec(port, metric=f"{metric}:exact", **kept).read_text())
    await setup(REPOSITORY, Recovery(settle_s=SETTLE_S))
    run = await arun_deployment("compile-program/default", parameters={"spec": spec}, timeout=0)
    await until(lambda: answers(log).total() > 100, "hundred answers")
    (killed,) = processes(pids)
    os.kill(killed, signal.SIGKILL)
    finished = await ended(run, worker)
    assert finished.state_name == "Completed", end_of(worker)
    assert finished.run_count == len(processes(pids)) == 2
    async with find_ledger(kept["ledger"]) as ledger:
        bought = [receipt.request_id async for receipt in ledger.receipts(str(run.id))]
        total = (await ledger.account(str(run.id))).total
    assert len(bought) == len(set(bought)) == total.calls == len(answers(log))
    assert answers(log).total() - len(bought) <= total.lost <= most_reserved(spec)


def most_reserved(spec: dict) -> int:
    """Most calls that can be reserved, and so be lost, when the process is killed."""
    return RESERVED_PER_PLACE * spec["lanes"]["swarm"].get("concurrency", LaneSpec().concurrency)
