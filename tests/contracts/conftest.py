"""Golden vectors: `test_<family>.py` gets those of `vectors/<family>.json`, one test each, as `vector`."""

import json
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[1] / "vectors"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vector" in metafunc.fixturenames:
        family = metafunc.definition.path.stem.removeprefix("test_")
        vectors = json.loads((VECTORS / f"{family}.json").read_text(encoding="utf-8"))
        metafunc.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])
