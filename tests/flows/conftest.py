"""Real parts for flow tests: a Prefect server, a counting model server, the command line in its own process."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from tests.databases import ledger_url, postgres_schema_url, postgres_url

__all__ = ["ledger_url", "postgres_schema_url", "postgres_url"]  # fixtures

REPOSITORY = Path(__file__).parents[2]
START_LIMIT_S = 120.0
STOP_LIMIT_S = 10.0


@pytest.fixture(scope="session")
def prefect_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a subprocess that shall talk to the tests' server and to nobody else."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SWARMC_"))}
    home = tmp_path_factory.mktemp("prefect")
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{_free_port()}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "SWARMC_HOME": str(home / "swarmc"),
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.fixture(scope="session")
def prefect_api_url(prefect_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running Prefect server."""
    url = prefect_env["PREFECT_API_URL"]
    port = url.removesuffix("/api").rpartition(":")[2]
    log_path = tmp_path_factory.mktemp("log") / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]
    with log_path.open("wb") as log:
        server = subprocess.Popen(command, env=prefect_env, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_healthy(url, server, log_path)
        yield url
    finally:
        stop(server)


@pytest.fixture
def on_server(prefect_api_url: str, prefect_env: dict[str, str]) -> Iterator[str]:
    """Prefect in this process talks to the tests' server while the test runs."""
    with temporary_settings({PREFECT_API_URL: prefect_api_url, PREFECT_HOME: prefect_env["PREFECT_HOME"]}):
        yield prefect_api_url


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that a test started; by force if it does not end itself."""
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the Prefect server did not start:\n{log_path.read_text()[-4000:]}")


COLOURS = ("red", "green", "blue", "black")
SEARCH = {"trials": 8, "minibatch": 10, "demo_sets": 4, "instructions": 4, "max_bootstrapped_demos": 2, "halving": 3}
SPLIT = {"train": 20, "search": 20, "validation": 20, "test": 40}


@pytest.fixture
def counting_server(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts a model server that counts; call it with its options, get its port."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> int:
        command = [sys.executable, str(REPOSITORY / "benchmarks/counting_server.py"), "--port", "0", *options]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(server)
        assert server.stdout is not None
        return int(server.stdout.readline())

    yield start
    for server in started:
        server.kill()
        server.wait()


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small compile whose answers come from the counting server's world."""

    def write(port: int, lane: dict[str, object] | None = None, **changes: object) -> Path:
        rows = [{"question": f"number {i} label={COLOURS[i % 4]}", "answer": COLOURS[i % 4]} for i in range(120)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        swarm = {"venue": f"http://127.0.0.1:{port}/v1", "model": "counting", "max_tokens": 64, "attempts": 2}
        spec = {
            "name": "colours",
            "program": "question -> answer",
            "dataset": {"source": str(tmp_path / "rows.jsonl"), "inputs": ["question"]},
            "split": SPLIT,
            "lanes": {"swarm": swarm | (lane or {})},
            "adapter": {"json_fallback": False},
            "proposer": "template",
            "search": SEARCH,
        }
        path = tmp_path / "compile.json"
        path.write_text(json.dumps(spec | changes))
        return path

    return write


class CommandLine:
    """`swarmc` in processes of its own, with a home and an environment."""

    def __init__(self, environment: dict[str, str], home: Path) -> None:
        self.home = home
        self.environment = environment | {"SWARMC_HOME": str(home), "COLUMNS": "200"}

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=180)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start, in a process group that can be killed as one."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def manifest_of() -> Callable[[Any], dict[str, Any]]:
    """Reads the manifest that the last lines of a compile name."""

    def read(done: Any) -> dict[str, Any]:
        lines = [line for line in done.stdout.splitlines() if line.startswith("manifest ")]
        assert lines, done.stdout + done.stderr
        return json.loads(Path(lines[-1].split(maxsplit=1)[1]).read_text())

    return read


@pytest.fixture
def swarmc(prefect_env: dict[str, str], prefect_api_url: str, tmp_path: Path) -> CommandLine:
    """The command line with an empty home, on the tests' Prefect server."""
    return CommandLine(prefect_env, tmp_path / "home")


@pytest.fixture
def swarmc_here(on_server: str, tmp_path: Path) -> Callable[..., Any]:
    """The command line in this process: seconds faster, for what needs no process of its own."""
    from typer.testing import CliRunner

    from flows.cli import app

    def run(*arguments: str) -> Any:
        environment = {"SWARMC_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
        return CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)

    return run
