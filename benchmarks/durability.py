"""Kill -9 a compile at random moments and continue it: is anything paid for twice, is the result the same?

    python benchmarks/durability.py [--kills 20] [--per-run 5] [--only demo|server]

Two subjects: the demo on the practice model, and a run against a counting HTTP server with 20 ms
latency. Each is first run without interruption; then killed runs follow, each killed `--per-run`
times at random moments (the whole process group, SIGKILL) and continued by the same command.

`settled, paid again` counts settled calls that were bought once more: for the server, the answers
it gave beyond the completions in the ledger, less those that were in flight at a kill; for both,
settlements in the account beyond distinct completions.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.overhead import counting_server  # noqa: E402

RUN_LIMIT_S = 600
DEMO = ROOT / "examples/ticket_routing/compile.json"


@dataclass
class Outcome:
    """One run from its begin to its end, through its kills."""

    kills: int
    compiled_id: str
    bought: int
    distinct: int
    lost: int
    wall_s: float


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="kills by subject")
    parser.add_argument("--per-run", type=int, default=5, help="kills of one run")
    parser.add_argument("--only", choices=["demo", "server"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    print("| subject | kills | runs | calls bought | lost in flight | settled, paid again | same compiled_id |")
    print("|---|---|---|---|---|---|---|", flush=True)
    failed = False
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api_url = stack.enter_context(prefect_server(work / "prefect"))
        for subject in [arguments.only] if arguments.only else ["server", "demo"]:
            failed |= _subject(subject, work / subject, api_url, arguments)
    sys.exit(failed)


def _subject(subject: str, work: Path, api_url: str, arguments: argparse.Namespace) -> bool:
    rng = random.Random(arguments.seed)
    with ExitStack() as stack:
        spec, port = DEMO, None
        work.mkdir(parents=True)
        if subject == "server":
            port = stack.enter_context(counting_server(20))
            spec = _server_spec(work, port)
        whole = _run_through(spec, work / "whole", api_url, [])
        killed: list[Outcome] = []
        answered = _answered(port) if port else 0
        while sum(outcome.kills for outcome in killed) < arguments.kills:
            left = arguments.kills - sum(outcome.kills for outcome in killed)
            moments = [rng.uniform(0.15, 0.9) for _ in range(min(arguments.per_run, left))]
            folder = work / f"killed-{len(killed)}"
            killed.append(_run_through(spec, folder, api_url, [m * whole.wall_s / len(moments) for m in moments]))
            print(f"  ... {subject}: {sum(o.kills for o in killed)} kills", file=sys.stderr, flush=True)
        answered = (_answered(port) - answered) if port else 0
    return _print_row(subject, whole, killed, answered)


def _print_row(subject: str, whole: Outcome, killed: list[Outcome], answered: int) -> bool:
    bought = sum(outcome.bought for outcome in killed)
    distinct = sum(outcome.distinct for outcome in killed)
    lost = sum(outcome.lost for outcome in killed)
    again = bought - distinct
    if answered:
        # What the server answered beyond the ledger was in flight at a kill (lost), or was paid for again.
        again += max(0, answered - distinct - lost)
    same = sum(outcome.compiled_id == whole.compiled_id for outcome in killed)
    kills = sum(outcome.kills for outcome in killed)
    cells = (subject, kills, len(killed), f"{bought:,}", lost, again, f"{same} of {len(killed)}")
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return bool(again) or same != len(killed)


def _run_through(spec: Path, home: Path, api_url: str, moments_s: list[float]) -> Outcome:
    """Run to the end, killed after each of the given times (counted from each start of the calls)."""
    started = time.monotonic()
    kills = 0
    environment = {**os.environ, "SWARMC_HOME": str(home), "PREFECT_API_URL": api_url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows", "compile", str(spec)]
    for moment_s in moments_s:
        process = _start(command, environment)
        _wait_for_calls(process, home, moment_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if process.returncode == 0:
            break
    process = _start(command, environment)
    output, _ = process.communicate(timeout=RUN_LIMIT_S)
    if process.returncode != 0:
        raise SystemExit(f"a run ended with exit code {process.returncode}:\n{output}")
    return asyncio.run(_outcome(home, kills, time.monotonic() - started))


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **told)


def _wait_for_calls(process: subprocess.Popen[str], home: Path, then_s: float) -> None:
    """Wait until this attempt has opened its ledger, then for a while."""
    ledger = home / "ledger.db"
    deadline = time.monotonic() + 60
    while not ledger.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    until = time.monotonic() + then_s
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


async def _outcome(home: Path, kills: int, wall_s: float) -> Outcome:
    from blocks.ledger import SqlLedger
    from blocks.stores import read_uri

    async with SqlLedger.open(f"sqlite:///{home}/ledger.db") as ledger:
        (record,) = await ledger.runs()
        total = (await ledger.account(record.run_id)).total
        receipts = [receipt async for receipt in ledger.receipts(record.run_id)]
    assert record.manifest_uri is not None
    manifest = json.loads(await read_uri(record.manifest_uri))
    distinct = len({receipt.request_id for receipt in receipts})
    return Outcome(kills, manifest["compiled_id"], total.calls, distinct, total.lost, wall_s)


def _answered(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as answer:
        return json.load(answer)["total"]


def _server_spec(work: Path, port: int) -> Path:
    """A compile whose answers come from the counting server's little world."""
    data = work / "questions.jsonl"
    colours = ("red", "green", "blue", "black")
    rows = [{"question": f"number {i} label={colours[i % 4]}", "answer": colours[i % 4]} for i in range(200)]
    data.write_text("\n".join(map(json.dumps, rows)))
    spec = {
        "name": "counted",
        "program": "question -> answer",
        "dataset": {"source": str(data), "inputs": ["question"]},
        "split": {"train": 40, "search": 60, "validation": 40, "test": 60},
        "lanes": {
            "swarm": {"venue": f"http://127.0.0.1:{port}/v1", "model": "counting", "max_tokens": 64, "concurrency": 16}
        },
        "adapter": {"json_fallback": False},
        "proposer": "template",
        "search": {"trials": 25, "minibatch": 20, "demo_sets": 5},
    }
    path = work / "compile.json"
    path.write_text(json.dumps(spec))
    return path


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """A Prefect server of this benchmark's own, on a free loopback port."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}
    environment["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_healthy(url, server)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def _wait_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the Prefect server did not start")


if __name__ == "__main__":
    main()
