"""What the documentation shows, works: Python is executed, targets and links exist, JSON is read."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.doctest import DocTestParser
from sybil.parsers.markdown import PythonCodeBlockParser

from swarmc.contracts.spec import CompileSpec

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FIRST_LINES = 30
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
WITH_EXAMPLES = sorted(path for path in (ROOT / "swarmc").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.fixture
def readme() -> str:
    if not README.exists():
        pytest.skip("README.md is not written yet")
    return README.read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> Iterator[str]:
    return (textwrap.dedent(body) for language, body in FENCE.findall(text) if language in languages)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_docstring_example_gives_what_it_shows(path: Path) -> None:
    sybil = Sybil(parsers=[DocTestParser()], pattern="*.py", document_types={".py": PythonDocStringDocument})
    examples = list(sybil.parse(path).examples())
    assert examples
    for example in examples:
        example.evaluate()


def test_every_python_block_of_the_readme_runs(readme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert "make" in readme
    for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(README).examples():
        example.evaluate()


def test_the_readme_says_first_how_to_see_it_work(readme: str) -> None:
    opening = "\n".join(readme.splitlines()[:FIRST_LINES])
    assert "make demo" in opening
    assert "make test" in opening


def test_every_target_that_the_readme_names_exists(readme: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)\b", readme, re.MULTILINE))
    assert named - targets == set()


def test_every_file_that_the_readme_links_to_exists(readme: str) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", readme) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_compile_that_the_readme_shows_could_be_asked_for(readme: str) -> None:
    for block in blocks(readme, "json"):
        CompileSpec.model_validate_json(block)
