"""Extract: turn the evidence of runs and sessions into training sets that a compile reads."""

import asyncio
import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import dspy
from pydantic import JsonValue

from swarmc.compiler.datasets import load_examples
from swarmc.compiler.metrics import BUILT_IN, load_metric
from swarmc.contracts.canonical import Contract, plain
from swarmc.contracts.errors import DatasetError, SwarmcError, boundary
from swarmc.contracts.spec import DatasetSpec
from swarmc.contracts.training import (
    Label,
    Problem,
    Selection,
    SourceFile,
    TrainingManifest,
    TrainingSet,
    TrainingSplit,
)
from swarmc.tracing.bundled import bundles
from swarmc.tracing.extraction import Found, Notes, hash_of, read_examples
from swarmc.tracing.privacy import Redactor
from swarmc.tracing.runs import EVENTS, SPANS, untagged
from swarmc.tracing.sessions import REPLAYS, SESSIONS
from swarmc.tracing.training import MANIFEST, MOST_PROBLEMS_TOLD, TrainingWriter, read_labels, read_manifest
from tasks.stage import StageNotes, publish, step

REPORT = "report.md"
SUFFIXES = (".jsonl", ".json")
LOOKED_FOR = (
    "bundles (`swarmc bundle`), events, spans with content, OTLP JSON, session logs (`event_type`) and REPLAY events "
    "(`event`)"
)
_BATCH = 256
_TOLD_EVERY_S = 5.0

Tell = Callable[[str], None]
"""Takes a sentence on how far an extraction is."""


class Extracted(Contract):
    """What came of an extraction. `directory` holds the manifest and everything that it names."""

    directory: str
    manifest: TrainingManifest


@dataclass(frozen=True)
class Extraction:
    """What is to be extracted, and how.

    Attributes:
        sources: Files, or directories whose `.jsonl` and `.json` files are taken by name.
        out: The directory to make; an earlier extraction's is replaced when the new one is whole.
        selection: Which examples.
        secrets: Texts that are never written, whatever they look like.
        tell: Told now and then how far it is.
    """

    sources: tuple[Path, ...]
    out: Path
    selection: Selection = field(default_factory=Selection)
    secrets: tuple[str, ...] = ()
    tell: Tell = lambda _: None


@step("extract")
async def extract(job: Extraction) -> Extracted:
    """Extract as a step of a flow; its report is shown on the run's page."""
    extracted = await extracted_to(job)
    await publish("training-data", StageNotes(sentence=sentence_of(extracted), report=report_of(extracted.manifest)))
    return extracted


async def extracted_to(job: Extraction) -> Extracted:
    """Read the sources and write datasets, manifest and report.

    Raises:
        DatasetError: no such file, nothing found, nothing taken, or `out` cannot be written.
    """
    files = files_of(job.sources)
    _must_be_free(job.out)
    redactor = Redactor.of(job.selection.privacy_mode, known=job.secrets)
    with _drafted(job.out) as draft:
        with TrainingWriter(draft, job.selection, redactor) as writer:
            told = [await _read(file, writer, job.tell) for file in files]
            manifest = _manifest(job.selection, writer, told)
        _must_hold_something(manifest, [one.source for _, one in told])
        with boundary(DatasetError, f"writing to {job.out}", OSError):
            written = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
            (draft / MANIFEST).write_text(written + "\n", encoding="utf-8")
            (draft / REPORT).write_text(report_of(manifest), encoding="utf-8")
    return Extracted(directory=str(job.out), manifest=manifest)


def files_of(sources: Sequence[Path]) -> list[Path]:
    """The files that are meant, each once, in the order in which they are given.

    Raises:
        DatasetError: one of them is not there, or a directory has nothing to read.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        path = source.expanduser()
        if not path.exists():
            raise DatasetError(f"no such file or directory: {source} (looked for in {Path.cwd()})")
        inside = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise DatasetError(f"the directory {source} has no file that ends in {' or '.join(SUFFIXES)}")
        found |= {one.resolve(): one for one in inside if one.is_file() and one.resolve() not in found}
    if not found:
        raise DatasetError("name at least one file to extract from")
    return list(found.values())


def load_training(directory: Path, signature: str, split: TrainingSplit = "train") -> list[tuple[dspy.Example, Label]]:
    """The examples of a signature with what is known of them, as they were extracted.

    Raises:
        DatasetError: no such dataset, or its files were changed.
    """
    sets = [one for one in read_manifest(directory).datasets if one.signature == signature]
    found: list[tuple[dspy.Example, Label]] = []
    for one in sets:
        if split in one.splits:
            file = one.splits[split]
            labels = read_labels(directory, file)
            examples = load_examples(DatasetSpec(source=str(directory / file.path)), one.inputs)
            found += zip(examples, labels, strict=True)
    if not sets:
        raise DatasetError(f"{directory} has no dataset of the signature {signature!r}")
    return found


def rescored(metric: str, fields: Mapping[str, JsonValue], outputs: Mapping[str, JsonValue]) -> int | None:
    """The score that one of our own metrics gives an answer; a stranger's metric is never run."""
    expected = {name: value for name, value in untagged(fields).items() if name in outputs}
    if metric not in BUILT_IN or not expected or {"base", "self"} & outputs.keys():
        return None
    try:
        return load_metric(metric).score_ppm(dspy.Example(**expected).with_inputs(), dspy.Prediction(**outputs))
    except SwarmcError:
        return None


def sentence_of(extracted: Extracted) -> str:
    """One line for people."""
    manifest = extracted.manifest
    return (
        f"{manifest.count:,} examples of {len(manifest.datasets)} signatures in {extracted.directory}; "
        f"{sum(manifest.dropped.values()):,} dropped, {manifest.problem_count:,} problems"
    )


def report_of(manifest: TrainingManifest) -> str:
    """The extraction as Markdown."""
    rows = [
        f"| {_cell(one.signature)} | {_cell(', '.join(one.inputs))} | {_cell(', '.join(one.outputs))} | "
        + " | ".join(str(one.splits[name].count) if name in one.splits else "0" for name in _SPLITS)
        + " |"
        for one in manifest.datasets
    ]
    parts = [
        "# Training data",
        f"{manifest.count:,} examples from {len(manifest.sources)} files.",
        "\n".join(["| signature | inputs | outputs | train | validation | test |", "|---|---|---|--:|--:|--:|", *rows]),
        _counts("Not taken", manifest.dropped),
        _counts("Ignored", manifest.ignored),
        _sources(manifest.sources),
        _problems(manifest.problems, manifest.problem_count),
        _use(manifest.datasets),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_SPLITS: tuple[TrainingSplit, ...] = ("train", "validation", "test")


async def _read(path: Path, writer: TrainingWriter, tell: Tell) -> tuple[SourceFile, Notes]:
    """All examples of a file, in batches, so that others have their turn and a person sees how far it is."""
    sha256, size_bytes = await asyncio.to_thread(hash_of, path)
    notes, read = Notes(path.name), _Read(path.name, size_bytes, tell)
    examples = read_examples(path, (bundles(rescored), EVENTS, SPANS, SESSIONS, REPLAYS), notes, read.progress)
    found = 0
    while batch := await asyncio.to_thread(_take, examples, writer, sha256):
        found += batch
    source = SourceFile(
        name=path.name,
        sha256=sha256,
        size_bytes=size_bytes,
        lines=notes.lines,
        found=found,
        shapes=dict(sorted(notes.shapes.items())),
    )
    return source, notes


def _take(examples: Iterator[Found], writer: TrainingWriter, source: str) -> int:
    count = 0
    for found in islice(examples, _BATCH):
        writer.add(found, source)
        count += 1
    return count


@dataclass
class _Read:
    """Tells how far a file is read, not too often."""

    name: str
    size_bytes: int
    tell: Tell
    told_s: float = 0.0

    def progress(self, done_bytes: int, all_bytes: int) -> None:
        now_s = time.monotonic()
        if now_s - self.told_s >= _TOLD_EVERY_S:
            self.told_s = now_s
            self.tell(f"{self.name}: {100 * done_bytes // max(1, all_bytes)} % of {all_bytes:,} bytes")


def _manifest(
    selection: Selection, writer: TrainingWriter, told: Sequence[tuple[SourceFile, Notes]]
) -> TrainingManifest:
    ignored: Counter[str] = Counter()
    for _, notes in told:
        ignored.update(notes.ignored)
    return TrainingManifest(
        selection=plain(selection.model_dump(mode="json")),
        sources=tuple(source for source, _ in told),
        datasets=writer.sets(),
        dropped=dict(sorted(writer.dropped.items())),
        ignored=dict(sorted(ignored.items())),
        problems=tuple(one for _, notes in told for one in notes.problems)[:MOST_PROBLEMS_TOLD],
        problem_count=sum(notes.problem_count for _, notes in told),
    )


def _must_hold_something(manifest: TrainingManifest, names: Sequence[str]) -> None:
    if manifest.datasets:
        return
    where = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    found = sum(manifest.dropped.values())
    if found:
        why = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items())
        raise DatasetError(f"{found:,} examples were found in {where}, and none is as asked: {why}; ask for more")
    said = [f"{count:,} {what}" for what, count in manifest.ignored.items()]
    said += [f"line {one.line} of {one.source}: {one.what}" for one in manifest.problems[:3]]
    raise DatasetError(f"no example was found in {where}; looked for {LOOKED_FOR}. {'; '.join(said)}".strip())


def _must_be_free(out: Path) -> None:
    """Refuse to write where somebody else's files are.

    Raises:
        DatasetError: `out` is a file, or holds what no extraction wrote.
    """
    with boundary(DatasetError, f"looking into {out}", OSError):
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
        if not out.is_dir():
            raise DatasetError(f"{out} is a file; name a directory for the datasets")
    try:
        ours = {MANIFEST, REPORT, *(path for one in read_manifest(out).datasets for path in _paths(one))}
    except DatasetError:
        ours = set()
    with boundary(DatasetError, f"looking into {out}", OSError):
        there = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if strange := sorted(there - ours):
        raise DatasetError(f"{out} holds {strange[0]!r}, which no extraction wrote; name another directory")


def _paths(one: TrainingSet) -> Iterator[str]:
    for file in one.splits.values():
        yield from file.sha256


@contextmanager
def _drafted(out: Path) -> Iterator[Path]:
    """A directory that takes the place of `out` when the block ends well."""
    mark = uuid.uuid4().hex[:8]
    draft, old = out.with_name(f".{out.name}.{mark}"), out.with_name(f".{out.name}.{mark}.old")
    try:
        with boundary(DatasetError, f"writing to {out}", OSError):
            draft.mkdir(parents=True)
        yield draft
        with boundary(DatasetError, f"writing to {out}", OSError):
            _swap(draft, out, old)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, out: Path, old: Path) -> None:
    """Put `draft` in the place of `out`; what was there goes only when that is done."""
    if not out.exists():
        draft.replace(out)
        return
    out.replace(old)
    try:
        draft.replace(out)
    except OSError:
        old.replace(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _counts(title: str, counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    rows = [f"| {_cell(what)} | {count} |" for what, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]
    return "\n".join([f"## {title}", "", "| why | count |", "|---|--:|", *rows])


def _sources(sources: Sequence[SourceFile]) -> str:
    rows = [
        f"| {_cell(one.name)} | {one.lines} | {one.found} | {one.size_bytes} | `{one.sha256[:19]}` |" for one in sources
    ]
    return "\n".join(["## Sources", "", "| file | lines | found | bytes | hash |", "|---|--:|--:|--:|---|", *rows])


def _problems(problems: Sequence[Problem], count: int) -> str:
    if not problems:
        return ""
    rows = [f"- {_cell(one.source)}, line {one.line}: {_cell(one.what)}" for one in problems[:20]]
    more = [f"- and {count - 20} more; the manifest has the first {MOST_PROBLEMS_TOLD}"] if count > 20 else []
    return "\n".join(["## Problems", "", *rows, *more])


def _use(datasets: Sequence[TrainingSet]) -> str:
    files = [(one, one.splits["train"].path) for one in datasets if "train" in one.splits]
    if not files:
        return ""
    spec = json.dumps({"dataset": {"source": files[0][1], "inputs": list(files[0][0].inputs)}}, ensure_ascii=False)
    return f"## To compile with it\n\nIn a spec, with the path from where it is run:\n\n```json\n{spec}\n```"


def _cell(text: str) -> str:
    """A stranger's text in a table."""
    kept = "".join(letter if letter.isprintable() else " " for letter in text)
    return kept.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")[:200]
