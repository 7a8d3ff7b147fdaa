"""Real parts for flow tests: a counting model server, the command line in its own process."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]

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
