"""Training sets written: examples chosen, redacted, kept once, shared out by the hash of their inputs.

A dataset's rows are its fields alone, so that a compile reads them as they are; what is known of each row
stands in the same line of the file of labels beside it.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, get_args

from pydantic import JsonValue

from swarmc.contracts.canonical import canonical_bytes, content_id, plain, unplain
from swarmc.contracts.errors import DatasetError, boundary
from swarmc.contracts.training import (
    DatasetFile,
    Label,
    SeedExample,
    Selection,
    Shares,
    TrainingManifest,
    TrainingSet,
    TrainingSplit,
)
from swarmc.tracing.extraction import Found
from swarmc.tracing.privacy import Redactor

SPLITS: tuple[TrainingSplit, ...] = get_args(TrainingSplit)
MOST_SIGNATURES = 100
"""Datasets of one extraction; each holds files open."""

MOST_PROBLEMS_TOLD = 100
MANIFEST = "manifest.json"
_TEXTS_KEPT = 2_048
_MOST_KEPT_CHARS = 4_096
_MOST_NAME_CHARS = 1_000
_NO_FIELD_NAMES = frozenset({"base", "self"})
"""Names that `dspy.Example` takes for something else."""

_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9_.]+")
Shape = tuple[str, tuple[str, ...], tuple[str, ...]]
Row = dict[str, JsonValue]


class TrainingWriter:
    """Takes examples and writes those that are asked for.

    Args:
        directory: An empty directory.
        selection: What is asked for.
        redactor: Cuts out what must not be written.

    Attributes:
        dropped: Examples that were not taken, by reason.
    """

    def __init__(self, directory: Path, selection: Selection, redactor: Redactor) -> None:
        self.dropped: Counter[str] = Counter()
        self._directory = directory
        self._selection = selection
        self._redactor = redactor
        self._sets: dict[Shape, _Set] = {}
        self._seen: set[bytes] = set()
        # Steps of one session or program share most of their texts, and to look through one takes longest of all.
        self._text = lru_cache(_TEXTS_KEPT)(lambda name, text: next(iter(redactor.fields({name: text}).values())))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._sets.values():
            one.close()

    def add(self, found: Found, source: str) -> bool:
        """Take an example, or count why not.

        Args:
            found: The example.
            source: Hash of the file that it stands in.

        Raises:
            DatasetError: a file cannot be written.
        """
        why_not = refusal(found, self._selection)
        if why_not is None:
            why_not = self._written(found, source)
        if why_not is not None:
            self.dropped[why_not] += 1
        return why_not is None

    def sets(self) -> tuple[TrainingSet, ...]:
        """What was written, in the order in which the signatures were first met."""
        return tuple(one.told() for one in self._sets.values())

    def _written(self, found: Found, source: str) -> str | None:
        seed, inputs, outputs = self._redacted(found)
        if len(found.signature) > _MOST_NAME_CHARS:
            return f"a signature's name of more than {_MOST_NAME_CHARS} characters"
        if _NO_FIELD_NAMES & {*inputs, *outputs} or any(name.startswith("dspy_") for name in (*inputs, *outputs)):
            return "a field's name means something else to DSPy"
        try:
            row = json.dumps({**inputs, **outputs}, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
            identity = canonical_bytes(plain({**inputs, **outputs}))
            split = split_of(inputs, self._selection.shares)
        except ValueError:
            return "no JSON (half a character, or a number that is none)"
        shape: Shape = (self._redactor.name(found.signature), tuple(inputs), tuple(outputs))
        # Python's own hash of a shape changes from process to process; this one is only held, never written.
        key = hashlib.sha256(repr(shape).encode() + identity).digest()
        if key in self._seen:
            return "the same again"
        if shape not in self._sets and len(self._sets) >= MOST_SIGNATURES:
            return f"beyond the first {MOST_SIGNATURES} signatures"
        self._seen.add(key)
        self._set(shape).add(split, row, identity, (self._label(found, content_id(identity), source), seed))
        return None

    def _redacted(self, found: Found) -> tuple[SeedExample | None, Row, Row]:
        if found.seed is None:
            return None, self._values(found.inputs), self._values(found.outputs)
        # The record alone: its fields are made of it, so both forms say the same.
        seed = type(found.seed).model_validate(self._values(found.seed.model_dump(mode="json")))
        fields = seed.fields()
        return seed, fields.inputs, fields.outputs

    def _values(self, values: Mapping[str, JsonValue]) -> Row:
        """Every value redacted under its name, which stays."""
        return {name: self._value(name, bare) for name, bare in values.items()}

    def _value(self, name: str, bare: JsonValue) -> JsonValue:
        if isinstance(bare, str) and len(bare) <= _MOST_KEPT_CHARS:
            return self._text(name, bare)
        (clean,) = self._redactor.fields({name: plain(bare)}).values()
        return unplain(clean)

    def _set(self, shape: Shape) -> "_Set":
        if shape not in self._sets:
            name = _NO_FILE_NAME.sub("-", shape[0]).strip("-.")[:60] or "unnamed"
            if name.casefold() in {one.name.casefold() for one in self._sets.values()}:
                name = f"{name}-{hashlib.sha256(repr(shape).encode()).hexdigest()[:8]}"
            self._sets[shape] = _Set(self._directory, name, shape)
        return self._sets[shape]

    def _label(self, found: Found, example_id: str, source: str) -> Label:
        scored = None if found.score_ppm is None else ("again" if found.scored_again else "recorded")
        return Label(
            example_id=example_id,
            success=success_of(found, self._selection),
            score_ppm=found.score_ppm,
            scored=scored,
            cost=found.cost,
            phase=self._name(found.phase) or "",
            run_id=self._name(found.run_id) or "",
            candidate_id=self._name(found.candidate_id),
            is_best=found.is_best,
            run_example_id=self._name(found.run_example_id),
            run_split=found.run_split,
            source=source,
            line=found.line,
        )

    def _name(self, name: str | None) -> str | None:
        return None if name is None else self._redactor.name(name[:_MOST_NAME_CHARS])


def refusal(found: Found, selection: Selection) -> str | None:
    """Why an example is not taken; nothing when it is."""
    success = success_of(found, selection)
    reasons = (
        (bool(selection.signatures) and found.signature not in selection.signatures, "another signature"),
        (bool(selection.phases) and found.phase not in selection.phases, "another phase"),
        (not found.inputs, "no inputs"),
        (not found.outputs, "no outputs: it failed" if found.failure else "no outputs"),
        (not found.inputs.keys().isdisjoint(found.outputs), "a field that is both input and output"),
        (selection.only_best and not found.is_best, "not of the best candidate"),
        (selection.min_score is not None and found.score_ppm is None, "no score"),
        (found.score_ppm is not None and _is_low(found.score_ppm, selection), "a lower score"),
        (selection.only_successful and success is False, "no success"),
        (selection.only_successful and success is None, "not known to have succeeded"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def success_of(found: Found, selection: Selection) -> bool | None:
    """What the evidence says of the outcome; what it does not say, the score does."""
    if found.failure is not None:
        return False
    if found.success is not None or found.score_ppm is None:
        return found.success
    return found.score_ppm >= selection.success_ppm


def split_of(inputs: Mapping[str, JsonValue], shares: Shares) -> TrainingSplit:
    """Where an example belongs: decided by its inputs alone, so that equal inputs are never in two splits.

    Raises:
        ValueError: the inputs have no canonical form.
    """
    parts = (shares.train, shares.validation, shares.test)
    place = int(content_id(canonical_bytes(plain(dict(inputs)))).removeprefix("sha256:"), 16) % sum(parts)
    if place < parts[0]:
        return "train"
    return "validation" if place < parts[0] + parts[1] else "test"


def read_manifest(directory: Path) -> TrainingManifest:
    """What an extraction wrote into a directory.

    Raises:
        DatasetError: nothing that this version wrote.
    """
    with boundary(DatasetError, f"reading {directory / MANIFEST}, as `swarmc extract` writes it", OSError, ValueError):
        return TrainingManifest.model_validate_json((directory / MANIFEST).read_bytes())


def read_labels(directory: Path, file: DatasetFile) -> list[Label]:
    """What is known of each row of a dataset's file, in the rows' order.

    Raises:
        DatasetError: the files are not those that were written.
    """
    for path, right in file.sha256.items():
        with boundary(DatasetError, f"reading {directory / path}", OSError):
            found = content_id((directory / path).read_bytes())
        if found != right:
            raise DatasetError(f"{directory / path} was changed after it was written; extract it again")
    with boundary(DatasetError, f"reading {directory / file.labels}", OSError, ValueError):
        lines = (directory / file.labels).read_bytes().split(b"\n")
        return [Label.model_validate_json(line) for line in lines if line]


class _Lines:
    """A file of lines, hashed as it is written."""

    def __init__(self, directory: Path, path: str) -> None:
        self.path = path
        with boundary(DatasetError, f"writing {directory / path}", OSError):
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = (directory / path).open("xb")
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def add(self, line: bytes) -> None:
        with boundary(DatasetError, f"writing {self.path}", OSError):
            self._file.write(line + b"\n")
        self._digest.update(line + b"\n")

    def close(self) -> None:
        with boundary(DatasetError, f"writing {self.path}", OSError):
            self._file.close()


class _Split:
    """The files of one split of a dataset."""

    def __init__(self, directory: Path, stem: str, *, has_seed: bool) -> None:
        self.rows = _Lines(directory, f"{stem}.jsonl")
        self.labels = _Lines(directory, f"{stem}.labels.jsonl")
        self.seed = _Lines(directory, f"{stem}.seed.jsonl") if has_seed else None
        self.count = 0
        self._examples = hashlib.sha256()

    @property
    def files(self) -> Sequence[_Lines]:
        return [one for one in (self.rows, self.labels, self.seed) if one is not None]

    def add(self, row: bytes, identity: bytes, label: Label, seed: SeedExample | None) -> None:
        self.rows.add(row)
        self.labels.add(label.canonical())
        if self.seed is not None and seed is not None:
            self.seed.add(json.dumps(seed.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":")).encode())
        # As `dataset_ref` of the compiler hashes it: one example a line, no line feed at the end.
        self._examples.update((b"\n" if self.count else b"") + identity)
        self.count += 1

    def told(self) -> DatasetFile:
        return DatasetFile(
            path=self.rows.path,
            labels=self.labels.path,
            seed=self.seed.path if self.seed else None,
            count=self.count,
            dataset_id=f"sha256:{self._examples.hexdigest()}",
            sha256={one.path: one.sha256 for one in self.files},
        )


class _Set:
    """The dataset of one signature. Files are made when they get their first row."""

    def __init__(self, directory: Path, name: str, shape: Shape) -> None:
        self.name = name
        self._directory = directory
        self._shape = shape
        self._splits: dict[TrainingSplit, _Split] = {}

    def add(self, split: TrainingSplit, row: bytes, identity: bytes, beside: tuple[Label, SeedExample | None]) -> None:
        if split not in self._splits:
            has_seed = beside[1] is not None
            self._splits[split] = _Split(self._directory, f"{self.name}/{split}", has_seed=has_seed)
        self._splits[split].add(row, identity, *beside)

    def told(self) -> TrainingSet:
        signature, inputs, outputs = self._shape
        splits: dict[TrainingSplit, DatasetFile] = {
            name: self._splits[name].told() for name in SPLITS if name in self._splits
        }
        return TrainingSet(signature=signature, inputs=inputs, outputs=outputs, splits=splits)

    def close(self) -> None:
        for split in self._splits.values():
            for file in split.files:
                file.close()


def _is_low(score_ppm: int, selection: Selection) -> bool:
    return selection.min_score is not None and score_ppm < selection.success_ppm
