"""Examples: read from files or functions, told apart by their hashes, split without overlap."""

import csv
import inspect
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import dspy

from swarmc.compiler.references import resolve
from swarmc.contracts.candidates import DatasetRef
from swarmc.contracts.canonical import canonical_bytes, content_id, plain
from swarmc.contracts.errors import DatasetError, boundary
from swarmc.contracts.spec import DatasetSpec, SplitSpec

SplitName = Literal["train", "search", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
SHARES: dict[SplitName, int] = {"train": 3, "search": 3, "validation": 2, "test": 2}
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Splits:
    """Disjoint examples by split and by id.

    Attributes:
        examples: Every example of every split, by `example_id`.
        refs: What each split holds, in order.
        duplicates: How many equal examples were dropped.
    """

    examples: Mapping[str, dspy.Example]
    refs: Mapping[SplitName, DatasetRef]
    duplicates: int

    def ids(self, name: SplitName) -> tuple[str, ...]:
        """The ids of a split, in its order."""
        return self.refs[name].example_ids


def load_examples(spec: DatasetSpec, inputs: Sequence[str]) -> list[dspy.Example]:
    """Read all examples, with their input fields marked.

    Args:
        spec: Where from.
        inputs: The program's input fields, used when the spec names none.

    Raises:
        DatasetError: no such file, a row that cannot be read (with its number), a missing input
            column, no label column, or no rows.
    """
    return marked_examples(list(_rows(spec.source)), spec, inputs)


def marked_examples(rows: Sequence[Any], spec: DatasetSpec, inputs: Sequence[str]) -> list[dspy.Example]:
    """Rows as examples, with their input fields marked. Arguments and errors are those of `load_examples`."""
    names = tuple(spec.inputs or inputs)
    return [_example(row, number, names, spec) for number, row in enumerate(rows, start=1)]


def split_examples(examples: Sequence[dspy.Example], spec: SplitSpec, seed: int) -> Splits:
    """Shuffle by the seed and cut into train, search, validation and test.

    Equal examples are kept once, so that no split can hold another's example.

    Raises:
        DatasetError: fewer distinct examples than the splits need.
    """
    by_id: dict[str, dspy.Example] = {}
    for example in examples:
        by_id.setdefault(example_id(example), example)
    # Sorted first: the split depends on what the examples are, not on the order of the file.
    order = sorted(by_id)
    random.Random(f"split:{seed}").shuffle(order)
    sizes = _sizes(spec, len(order))
    refs: dict[SplitName, DatasetRef] = {}
    start = 0
    for name in SPLITS:
        refs[name] = dataset_ref(name, order[start : start + sizes[name]], by_id)
        start += sizes[name]
    used = {key: by_id[key] for ref in refs.values() for key in ref.example_ids}
    return Splits(examples=used, refs=refs, duplicates=len(examples) - len(by_id))


def example_id(example: dspy.Example) -> str:
    """Hash of an example's fields, inputs and labels alike."""
    return content_id(_example_bytes(example))


def dataset_ref(name: SplitName, ids: Sequence[str], by_id: Mapping[str, dspy.Example]) -> DatasetRef:
    """A reference whose id is the hash of the examples themselves, in order, one a line."""
    body = b"\n".join(_example_bytes(by_id[key]) for key in ids)
    return DatasetRef(name=name, dataset_id=content_id(body), example_ids=tuple(ids))


def _example_bytes(example: dspy.Example) -> bytes:
    return canonical_bytes(plain(dict(example)))


def _sizes(spec: SplitSpec, available: int) -> dict[SplitName, int]:
    asked: dict[SplitName, int | None] = {name: getattr(spec, name) for name in SPLITS}
    fixed = sum(size for size in asked.values() if size)
    shares = {name: SHARES[name] for name in SPLITS if asked[name] is None}
    rest = available - fixed
    if rest < len(shares):
        wanted = ", ".join(f"{name} {asked[name] or 'at least 1'}" for name in SPLITS)
        raise DatasetError(
            f"the dataset has {available} distinct examples, too few for four parts that share none ({wanted}); "
            "add examples, or ask for smaller parts in `split`"
        )
    total = sum(shares.values())
    return {name: asked[name] or max(1, rest * shares[name] // total) for name in SPLITS}


def _example(row: Any, number: int, inputs: tuple[str, ...], spec: DatasetSpec) -> dspy.Example:
    if not isinstance(row, Mapping | dspy.Example):
        raise DatasetError(f"{spec.source}, row {number}: {type(row).__name__} instead of named fields")
    fields = {spec.rename.get(str(name), str(name)): value for name, value in dict(row).items()}
    if len(fields) < len(dict(row)):
        raise DatasetError(f"{spec.source}, row {number}: `dataset.rename` gives two columns one name; mend it")
    missing = [name for name in inputs if name not in fields]
    if missing:
        raise DatasetError(
            f"{spec.source}, row {number}: no column {', '.join(map(repr, missing))}; it has: "
            f"{', '.join(map(repr, fields))}. Name the inputs in `dataset.inputs`, or map columns in `dataset.rename`"
        )
    if len(fields) == len(inputs):
        raise DatasetError(
            f"{spec.source}, row {number}: only input fields ({', '.join(inputs)}), no label to score by"
        )
    example = dspy.Example(**fields).with_inputs(*inputs)
    with boundary(DatasetError, f"{spec.source}, row {number} cannot be written down", ValueError):
        _example_bytes(example)
    return example


def _rows(source: str) -> Iterable[Any]:
    suffix = Path(source).suffix.lower()
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if suffix in readers:
        rows = readers[suffix](_checked_file(source))
    elif ":" in source:
        rows = _call(source)
    else:
        raise DatasetError(f"the dataset {source!r} is no .jsonl, .csv or .parquet file and no `module:function`")
    if not rows:
        raise DatasetError(f"the dataset {source} is empty")
    return rows


def _checked_file(source: str) -> Path:
    path = Path(source).expanduser()
    with boundary(DatasetError, f"reading the dataset {source} in {Path.cwd()}", OSError):
        size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise DatasetError(f"the dataset {source} has {size_bytes} bytes; more than {MAX_FILE_BYTES} are not read")
    return path


def _read_jsonl(path: Path) -> list[Any]:
    rows = []
    with boundary(DatasetError, f"reading {path}", OSError, UnicodeDecodeError):
        # Not `splitlines`: JSON text may hold characters that it takes for the end of a line.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}, line {number} is no JSON: {error}") from None
    return rows


def _read_csv(path: Path) -> list[Any]:
    with (
        boundary(DatasetError, f"reading {path}", OSError, UnicodeDecodeError, csv.Error),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DatasetError(f"{path}, line {number}: another number of columns than the header")
    return rows


def _read_parquet(path: Path) -> list[Any]:
    import duckdb

    with boundary(DatasetError, f"reading {path} as Parquet", duckdb.Error), duckdb.connect() as connection:
        table = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
        columns = [column[0] for column in table.description or []]
        return [dict(zip(columns, row, strict=True)) for row in table.fetchall()]


def _call(source: str) -> list[Any]:
    function = resolve(source, DatasetError, "the dataset")
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise DatasetError(f"the dataset {source!r} is no plain function")
    try:
        return list(cast("Iterable[Any]", function()))
    except Exception as error:
        raise DatasetError(f"the dataset {source!r} raised {type(error).__name__}: {error}") from error
