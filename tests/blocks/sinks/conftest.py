"""A receiver of spans, and the events of a small program's runs."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

RECEIVER = Path(__file__).with_name("otlp_receiver.py")


@dataclass(frozen=True)
class Received:
    """A running receiver."""

    url: str

    def seen(self) -> dict[str, Any]:
        with urlopen(f"{self.url}/seen", timeout=10) as answer:
            return json.load(answer)

    def spans(self) -> list[dict[str, Any]]:
        return self.seen()["spans"]


@pytest.fixture
def receiver() -> Iterator[Callable[..., Received]]:
    """Starts receivers; each ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(status: int = 200, delay_s: float = 0) -> Received:
        command = [sys.executable, str(RECEIVER), str(status), str(delay_s)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return Received(f"http://127.0.0.1:{int(process.stdout.readline())}")

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
