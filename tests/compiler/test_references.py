"""Names of a user's own code: found as python finds them, refused with what is there instead."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmc.compiler.references import resolve
from swarmc.contracts.errors import DatasetError, ProgramError, SpecError


def find(reference: Path | str) -> Any:
    return resolve(str(reference), ProgramError, "the program")


@pytest.fixture(autouse=True)
def forget_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, name: str, code: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    return path


def test_a_module_and_a_dotted_attribute_are_found() -> None:
    assert find("pathlib:Path.home") == Path.home
    assert find("os.path:join")("a", "b") == "a/b"


def test_a_file_is_found_from_where_it_is_and_from_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a folder é", "my-program.py", "class Outer:\n    class Inner:\n        value = 7\n")
    assert find(f"{path}:Outer.Inner.value") == 7
    monkeypatch.chdir(tmp_path)
    assert find("a folder é/my-program.py:Outer.Inner.value") == 7


def test_a_file_is_loaded_once_and_shadows_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "json.py", "loaded = []\nclass Thing: ...\n")
    find(f"{path}:loaded").append(1)
    assert find(f"{path.parent / '.' / 'json.py'}:loaded") == [1]
    assert "dumps" in vars(sys.modules["json"])
    thing = find(f"{path}:Thing")
    assert sys.modules[thing.__module__].Thing is thing


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, "program.py", f"value = {name!r}") for name in ("one", "two"))
    assert [find(f"{path}:value") for path in (one, two)] == ["one", "two"]


@pytest.mark.parametrize("reference", ["", ":", "module", "module:", ":attribute", "program.py", "a->b"])
def test_what_names_no_attribute_is_refused(reference: str) -> None:
    with pytest.raises(ProgramError, match="is no `package"):
        find(reference)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "program.py", "_private = 1\nclass Triage: ...\n")
    for reference, sentence in {
        "program.py:Router": "program.py has no 'Router'; it has: Triage",
        "program.py:Triage.deep": "has no 'Triage.deep'",
        "elsewhere.py:Router": f"no file elsewhere.py in {tmp_path}",
        "no_such_package.triage:Router": "no module 'no_such_package.triage' here",
        "json.no_such_module:Router": "no module 'json.no_such_module' here",
    }.items():
        with pytest.raises(ProgramError, match=f"the program '{reference}'.*{sentence}"):
            find(reference)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import no_such_dependency", "needs the module 'no_such_dependency'; install it"),
        ("x = (", "raised SyntaxError"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("from . import sibling", "raised ImportError"),
        ("raise PermissionError('locked')", "raised PermissionError: locked"),
        ("open('no such prompt.txt')", "raised FileNotFoundError.*no such prompt.txt"),
    ],
)
def test_a_file_that_breaks_while_it_is_read_is_to_blame_itself(tmp_path: Path, code: str, sentence: str) -> None:
    path = write(tmp_path, "program.py", code)
    with pytest.raises(ProgramError, match=sentence):
        find(f"{path}:Router")


def test_a_file_that_broke_can_be_mended_and_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, "program.py", "1 / 0")
    with pytest.raises(ProgramError):
        find(f"{path}:value")
    path.write_text("value = 1")
    assert find(f"{path}:value") == 1


def test_the_error_is_of_the_kind_that_was_asked_for() -> None:
    for kind in (SpecError, ProgramError, DatasetError):
        with pytest.raises(kind, match="the thing 'nothing'") as caught:
            resolve("nothing", kind, "the thing")
        assert type(caught.value) is kind
