"""Examples found in evidence: bundles, events, spans, session logs and replays, each line by what it is.

Every line is a stranger's: bounded, parsed here, never executed. What cannot be used is counted with its
line number; what is no evidence of a program run is ignored and counted. A file is read twice, because a
score may stand after what it scores; between the two passes only ids, scores and a compile's examples are
kept.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from swarmc.contracts.bundle import MAX_LINE_BYTES
from swarmc.contracts.candidates import RunCost
from swarmc.contracts.errors import DatasetError, boundary
from swarmc.contracts.training import Problem, SeedExample

T = TypeVar("T", bound=BaseModel)
Row = dict[str, JsonValue]
Progress = Callable[[int, int], None]
"""Told of the bytes read so far, and of all."""

MAX_DEPTH = 64
MOST_PROBLEMS = 100
MOST_REASONS = 50
_WORD = re.compile(r"[A-Za-z_]{1,40}")
_SHOWN_CHARS = 100
_STEP_BYTES = 1 << 16
_TOLD_EVERY = 512


@dataclass(frozen=True)
class Found:
    """One example, and what is known of it. `inputs` and `outputs` are Python's values, not tagged.

    Attributes:
        line: On which it stands, or on which it was complete.
        failure: Why the step failed; nothing when it did not, or when nobody knows.
        success: What the evidence itself says; a score says it otherwise.
        seed: The same as the seed's record, where it is one.
    """

    line: int
    signature: str
    inputs: Mapping[str, JsonValue]
    outputs: Mapping[str, JsonValue]
    failure: str | None = None
    success: bool | None = None
    score_ppm: int | None = None
    scored_again: bool = False
    cost: RunCost = field(default_factory=RunCost)
    phase: str = ""
    run_id: str = ""
    candidate_id: str | None = None
    is_best: bool = False
    run_example_id: str | None = None
    run_split: str | None = None
    seed: SeedExample | None = None


@dataclass
class Notes:
    """What is said of a file that is read: problems with their lines, and what was ignored."""

    source: str
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    lines: int = 0

    def problem(self, line: int, what: str) -> None:
        """Count a problem, and keep it if it is one of the first."""
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(source=self.source, line=line, what=what))

    def ignore(self, what: str, named: JsonValue = "") -> None:
        """Count a line that holds no example.

        Args:
            what: What it is.
            named: The stranger's own word for it, told if it is one word and not one of too many.
        """
        if isinstance(named, str) and _WORD.fullmatch(named) and len(self.ignored) < MOST_REASONS:
            what = f"{what} ({named})"
        self.ignored[what] += 1

    def shaped(self, kind: type[T], value: object, line: int, what: str) -> T | None:
        """A stranger's record, or nothing and a problem."""
        try:
            return kind.model_validate(value)
        except (ValidationError, RecursionError) as error:
            self.problem(line, f"no {what}: {first_fault(error)}")
            return None


class Reader(Protocol):
    """Reads the lines of one shape."""

    def look(self, line: int, row: Row) -> None:
        """In the first pass: note what later lines, or earlier ones, will need."""
        ...

    def take(self, line: int, row: Row) -> Iterator[Found]:
        """In the second pass: the examples that this line completes."""
        ...

    def end(self) -> Iterator[Found]:
        """The examples that were waiting for more."""
        ...


class Kind(NamedTuple):
    """A shape of line, how it is known, and who reads it."""

    name: str
    is_it: Callable[[Row], bool]
    reader: Callable[[Notes], Reader]


def read_examples(
    path: Path, kinds: tuple[Kind, ...], notes: Notes, progress: Progress | None = None
) -> Iterator[Found]:
    """The examples of a file, in the order in which they are complete.

    Args:
        path: The file: one JSON value a line, or one alone.
        kinds: The shapes that are known.
        notes: Takes problems and counts.
        progress: Told now and then how much was read.

    Raises:
        DatasetError: it cannot be read.
    """
    silent = Notes(notes.source)
    readers: dict[str, Reader] = {kind.name: kind.reader(notes) for kind in kinds}
    for number, row in read_rows(path, silent):
        kind = kind_of(row, kinds)
        if kind is not None:
            readers[kind.name].look(number, row)
    for number, row in read_rows(path, notes, progress):
        kind = kind_of(row, kinds)
        if kind is None:
            notes.ignore("unknown line")
        else:
            notes.shapes[kind.name] += 1
            yield from readers[kind.name].take(number, row)
    for reader in readers.values():
        yield from reader.end()


def kind_of(row: Row, kinds: tuple[Kind, ...]) -> Kind | None:
    """What a line is; the first shape that it has."""
    return next((kind for kind in kinds if kind.is_it(row)), None)


def read_rows(path: Path, notes: Notes, progress: Progress | None = None) -> Iterator[tuple[int, Row]]:
    """The JSON objects of a file with their line numbers; a whole file of one object is its line 1.

    Raises:
        DatasetError: it cannot be read.
    """
    with boundary(DatasetError, f"reading {path}", OSError):
        size = path.stat().st_size
        with path.open("rb") as file:
            if _is_one_value(file, size):
                notes.lines = 1
                yield from _checked(1, file.read(), notes)
                return
            for number, data in _lines(file, notes):
                notes.lines = number
                if progress and number % _TOLD_EVERY == 0:
                    progress(file.tell(), size)
                yield from _checked(number, data, notes)


def hash_of(path: Path) -> tuple[str, int]:
    """A file's `sha256:` id and size, read piece by piece.

    Raises:
        DatasetError: it cannot be read.
    """
    with boundary(DatasetError, f"reading {path}", OSError), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return f"sha256:{digest.hexdigest()}", file.tell()


def first_fault(error: ValidationError | RecursionError) -> str:
    """The first of a validation's complaints, in a few words."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:_SHOWN_CHARS]}: {first['msg'][:_SHOWN_CHARS]}"


def text_at(row: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that is a text with something in it."""
    found = (row.get(name) for name in names)
    return next((value for value in found if isinstance(value, str) and value.strip()), None)


def texts_at(row: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """A field that is a list of texts, or JSON of one; nothing when it is not."""
    value = row.get(name)
    if isinstance(value, str):
        value = value_of(value)
    texts = [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
    return tuple(texts) if isinstance(value, list) and len(texts) == len(value) else None


def value_of(text: str) -> JsonValue:
    """JSON within a text; nothing when it is none."""
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if is_too_deep(value) else value


def is_too_deep(value: JsonValue, depth: int = MAX_DEPTH) -> bool:
    """Whether a value is nested deeper than is read."""
    level: list[JsonValue] = [value]
    for _ in range(depth):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _is_one_value(file: BinaryIO, size: int) -> bool:
    """Whether the file is one JSON value over several lines, as a person's export is."""
    first = file.readline(_STEP_BYTES).strip()
    file.seek(0)
    return first in (b"{", b"[") and size <= MAX_LINE_BYTES


def _lines(file: BinaryIO, notes: Notes) -> Iterator[tuple[int, bytes]]:
    number = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(data) > MAX_LINE_BYTES:
            notes.problem(number, f"the line has more than {MAX_LINE_BYTES} bytes and is not read")
            while data and not data.endswith(b"\n"):
                data = file.readline(_STEP_BYTES)
        elif data.strip():
            yield number, data


def _checked(number: int, data: bytes, notes: Notes) -> Iterator[tuple[int, Row]]:
    cut = "" if data.endswith(b"\n") else "; it is the last and may have been cut"
    try:
        # Not `loads` of bytes, which guesses another encoding.
        value = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        notes.problem(number, "nested too deeply")
        return
    except ValueError as error:
        notes.problem(number, f"no JSON: {str(error)[:_SHOWN_CHARS]}{cut}")
        return
    if is_too_deep(value):
        notes.problem(number, f"nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, dict):
        yield number, value
    else:
        notes.problem(number, f"a JSON {type(value).__name__} instead of an object")
