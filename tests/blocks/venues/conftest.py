"""Model servers on random loopback ports, and requests to ask them with."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.counting_server import CountingServer, launch
from swarmc.contracts.completions import CompletionRequest, Message, Sampling

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def counting() -> Iterator[CountingServer]:
    """A counting server that answers at once and without fail."""
    with launch() as server:
        yield server


@pytest.fixture
def serving() -> Iterator[Callable[..., CountingServer]]:
    """Starts counting servers with flags of a test's own; they end with the test."""
    with ExitStack() as stack:
        yield lambda *flags: stack.enter_context(launch(*flags))


@pytest.fixture(scope="session")
def scripts() -> ModuleType:
    """The module `scripted_server.py` beside this file."""
    spec = importlib.util.spec_from_file_location("scripted_server", HERE / "scripted_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ask() -> Callable[..., CompletionRequest]:
    """Makes a request of one user message: `ask(model, text, max_tokens=...)`."""

    def make(model: str, text: str = "say label=red", **sampling) -> CompletionRequest:
        messages = (Message(role="system", content="Be brief."), Message(role="user", content=text))
        return CompletionRequest(lane="swarm", model=model, messages=messages, sampling=Sampling(**sampling))

    return make
