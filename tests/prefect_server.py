"""A Prefect server for tests, in a process of its own and with a home of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[1]
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
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

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
