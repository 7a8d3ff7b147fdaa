"""The conventions of the house. An allow-list here may shrink, never grow: a stale entry fails too."""

import ast
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.attacks import ATTACKS

ROOT = Path(__file__).parents[1]
ROOMS = ("flows", "tasks", "blocks", "swarmc")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_FUNCTION_LINES_P95 = 35
MAX_TEST_FUNCTION_LINES = 40
MAX_PARAMETERS = 6

SHELVES_FOR_NOTHING = {"util", "utils", "helper", "helpers", "common", "manager", "misc", "handler"}
SHADOWS_ALLOWED: set[str] = set()
MANY_PARAMETERS_ALLOWED: set[str] = set()
SHAPELESS_ALLOWED = {
    "flows/cli.py",  # a compile.json before it is checked
    "swarmc/compiler/engine.py",  # DSPy's own untyped extensions and arguments
    "swarmc/compiler/programs.py",  # DSPy's signatures, which type checkers cannot follow
    "swarmc/compiler/evaluation.py",  # keyword arguments of a user's program, DSPy's trace
}
BROAD_WITH_REASON = "# noqa: BLE001 - "

# Written in parts, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me"]) + r")/")
REGISTRY_HOSTS = tuple(".".join(parts) for parts in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org")])
GENERATED = re.compile(
    r"(^|/)(__pycache__|\.venv|\.swarmc|node_modules|build|dist|[^/]+\.egg-info|\.[a-z_]+_cache)/|"
    r"\.(pyc|pyo|so|db|sqlite3?|log)$|(^|/)(\.DS_Store|\.coverage|uv\.lock)$"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tracked() -> tuple[str, ...]:
    """Every file that is in the repository or would be added to it; without git, every file that nobody generated."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    with contextlib.suppress(FileNotFoundError):
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if listed.returncode == 0:
            return tuple(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())
    names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]
    return tuple(name for name in names if not GENERATED.search(name) and not name.startswith(".git/"))


def python_files(*tops: str) -> list[str]:
    """Tracked Python files below any of these folders; all of them when none is named."""
    return [name for name in tracked() if name.endswith(".py") and (not tops or name.split("/")[0] in tops)]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def functions(name: str) -> Iterator[Function]:
    return (node for node in ast.walk(tree(name)) if isinstance(node, Function))


def lines_of(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(function)
    return lines - ((first.end_lineno or 0) - first.lineno + 1) if documented else lines


def long_functions(names: list[str], most: int) -> list[str]:
    return [
        f"{name}:{f.lineno} {f.name}: {lines_of(f)}" for name in names for f in functions(name) if lines_of(f) > most
    ]


def found_or_stale(found: set[str], allowed: set[str]) -> dict[str, list[str]]:
    """What breaks a rule and is not allowed, and what is allowed but no longer breaks it."""
    problems = {"breaks the rule": sorted(found - allowed), "allowed for nothing": sorted(allowed - found)}
    return {what: names for what, names in problems.items() if names}


def test_imports_go_down_the_floors() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_contracts_import_the_standard_library_and_pydantic_alone() -> None:
    allowed = {*sys.stdlib_module_names, "pydantic"}
    foreign = []
    for name in python_files("swarmc"):
        if name.startswith("swarmc/contracts/"):
            imported = imports(tree(name))
            foreign += [
                (name, what)
                for what in imported
                if what.split(".")[0] not in allowed and not what.startswith("swarmc.contracts")
            ]
    assert foreign == []


def imports(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "a relative import"


def test_tests_of_one_group_stay_on_one_worker(request: pytest.FixtureRequest) -> None:
    """pytest-xdist writes a test's group behind its name; where that fails, each worker starts every server again."""
    if getattr(request.config.option, "loadgroup", False):
        groups = {item.nodeid: item.get_closest_marker("xdist_group") for item in request.session.items}
        assert [name for name, group in groups.items() if not (group and name.endswith(f"@{group.args[0]}"))] == []


def test_no_module_is_a_shelf_for_nothing() -> None:
    words = {name: set(re.split(r"[/_.]", name)) for name in python_files()}
    assert {name for name, parts in words.items() if parts & SHELVES_FOR_NOTHING} == set()


def test_no_module_shadows_the_standard_library() -> None:
    parts = {(part, name) for name in python_files(*ROOMS) for part in name.removesuffix(".py").split("/")}
    shadows = {name for part, name in parts if part in sys.stdlib_module_names}
    assert found_or_stale(shadows, SHADOWS_ALLOWED) == {}


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    long = {name: len((ROOT / name).read_bytes().splitlines()) for name in python_files()}
    assert {name: lines for name, lines in long.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    assert long_functions([name for name in python_files() if not name.startswith("tests/")], MAX_FUNCTION_LINES) == []


def test_functions_are_short_as_a_rule() -> None:
    lengths = sorted(lines_of(function) for name in python_files(*ROOMS) for function in functions(name))
    assert lengths[int(0.95 * len(lengths))] <= MAX_FUNCTION_LINES_P95


def test_no_test_is_longer_than_its_reader_has_patience() -> None:
    assert long_functions(python_files("tests"), MAX_TEST_FUNCTION_LINES) == []


def test_every_file_opens_with_a_sentence() -> None:
    silent = []
    for name in python_files():
        opening = (ast.get_docstring(tree(name)) or "").partition("\n\n")[0]
        empty = name.endswith("__init__.py") and not tree(name).body
        if not empty and not opening.endswith((".", "?", ":")):
            silent.append(f"{name}: {opening!r}")
    assert silent == []


def test_no_function_takes_more_parameters_than_a_reader_can_hold() -> None:
    # A test's parameters are its fixtures, which it shares with others and nobody passes by hand.
    names = [name for name in python_files() if not name.startswith("tests/")]
    found = {f"{name}:{f.name}" for name in names for f in functions(name) if parameters(f) > MAX_PARAMETERS}
    assert found_or_stale(found, MANY_PARAMETERS_ALLOWED) == {}


def parameters(function: Function) -> int:
    """How many there are, besides `self` and `cls`."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return len([argument for argument in every if argument.arg not in ("self", "cls")])


def test_no_error_is_swallowed_without_a_reason() -> None:
    swallowed = []
    for name in python_files(*ROOMS):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ExceptHandler) and catches_all(node) and not isinstance(node.body[-1], ast.Raise):
                reason = lines[node.lineno - 1].partition(BROAD_WITH_REASON)[2]
                swallowed += [] if reason.strip() else [f"{name}:{node.lineno}"]
    assert swallowed == []


def catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in kinds
    )


def test_shapeless_records_stay_where_foreign_json_enters() -> None:
    found = {
        name
        for name in python_files("flows", "tasks", "swarmc")
        if re.search(r"\b[dD]ict\[str, Any\]", (ROOT / name).read_text(encoding="utf-8"))
    }
    assert found_or_stale(found, SHAPELESS_ALLOWED) == {}


def texts() -> Iterator[tuple[str, str]]:
    """Every tracked text file, with its name."""
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data:
            yield name, data.decode("utf-8", "replace")


def test_no_file_names_a_place_of_one_machine() -> None:
    assert [f"{name}: {match[0]}" for name, text in texts() if (match := MACHINE_PATH.search(text))] == []


def test_no_file_names_a_package_registry() -> None:
    assert [(name, host) for name, text in texts() for host in REGISTRY_HOSTS if host in text] == []


def test_nothing_generated_is_tracked() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() + [name for name in tracked() if GENERATED.search(name)] == []


def test_every_flow_can_be_deployed() -> None:
    if not (ROOT / "prefect.yaml").exists():
        pytest.skip("there is no prefect.yaml yet")
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    flows = {
        f"flows.{Path(name).stem}:{function.name}"
        for name in python_files("flows")
        for function in functions(name)
        if any(decorator_name(decorator) == "flow" for decorator in function.decorator_list)
    }
    assert flows
    assert {deployment["entrypoint"] for deployment in deployments} == flows


def decorator_name(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)


def registers() -> Iterator[tuple[str, str]]:
    """Every family's register: (file, name), a literal with a declared type in the family's `__init__`."""
    for name in python_files("blocks", "swarmc"):
        if name.endswith("__init__.py"):
            for node in tree(name).body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict | ast.Tuple):
                    yield name, ast.unparse(node.target)


def test_every_registered_implementation_is_held_to_its_port() -> None:
    laws = " ".join(
        (ROOT / name).read_text(encoding="utf-8") for name in python_files("tests") if "/conformance/" in name
    )
    found = list(registers())
    assert found
    assert [(name, register) for name, register in found if not re.search(rf"\b{register}\b", laws)] == []


def test_every_attack_of_the_list_has_a_test() -> None:
    named = {
        row
        for path in (ROOT / "tests").rglob("test_*.py")
        for call in re.findall(r"mark\.attack\(([^)]*)\)", path.read_text(encoding="utf-8"))
        for row in re.findall(r'"([A-E]\d+)"', call)
    }
    assert found_or_stale(named, set(ATTACKS)) == {}
