"""Extract training data: bundles, sessions and traces become datasets that a compile reads."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import flow, get_run_logger
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.shell import put_field, said_fields
from swarmc.contracts.errors import SpecError
from swarmc.contracts.training import Selection
from tasks.extract import Extracted, Extraction, Tell, extract, extracted_to, sentence_of

_SECRET_ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_PASSPHRASE", "_DSN")
_LEAST_SECRET_CHARS = 8


@flow(name="extract-training-data", persist_result=True, validate_parameters=True)
async def extract_training_data(sources: list[str], out: str, selection: Selection | None = None) -> Extracted:
    """Turn evidence of runs into datasets, one for each signature, that a compile reads at once.

    Reads bundles, events, spans with content, OTLP JSON files, session logs and REPLAY events; takes what
    succeeded, each example once, without secrets; shares it out by the hash of its inputs. Nothing that it
    reads is executed.

    Args:
        sources: Files, or directories of `.jsonl` and `.json` files.
        out: The directory to write. That of an earlier extraction is replaced.
        selection: Which examples are taken, and how they are shared out.
    """
    tell = get_run_logger().info
    return await extract(_job(sources, out, selection or Selection(), tell))


async def extract_here(
    sources: Sequence[str], out: str, selection: Selection, console: Console | None = None
) -> Extracted:
    """The same in this process alone, without a Prefect server.

    Raises:
        DatasetError: no such file, nothing found, or `out` cannot be written.
    """

    def tell(sentence: str) -> None:
        if console is not None:
            console.print(Text(sentence, style="dim"), soft_wrap=True)

    return await extracted_to(_job(sources, out, selection, tell))


def selection_of(changes: Mapping[str, object]) -> Selection:
    """A selection from what a command line says.

    Args:
        changes: Values by the path of their field, such as `shares.test`.

    Raises:
        SpecError: no such field, or a wrong value.
    """
    asked: dict[str, object] = {}
    for path, value in changes.items():
        put_field(asked, path, value)
    try:
        return Selection.model_validate(asked)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise SpecError(f"{'.'.join(map(str, wrong['loc'])) or 'the selection'}: {wrong['msg']}") from None


def selection_said(
    sets: Sequence[str] | None, *, everything: bool = False, best: bool = False, min_score: float | None = None
) -> Selection:
    """A selection from a command's options.

    Args:
        sets: `FIELD=VALUE`, such as `shares.test=2` or `phases=["search"]`; a value is JSON, or else text.
        everything: Take what is not known to have succeeded as well.
        best: Take only runs of the best candidate.
        min_score: The least score.

    Raises:
        SpecError: no such field, or a wrong value.
    """
    changes: dict[str, object] = {"only_successful": not everything, "only_best": best, "min_score": min_score}
    return selection_of(changes | said_fields(sets, "shares.test=2"))


def present_extracted(console: Console, extracted: Extracted) -> None:
    """What was written, and what was left out."""
    manifest = extracted.manifest
    table = Table("signature", "train", "validation", "test", box=None, pad_edge=False)
    for one in manifest.datasets:
        counts = [
            str(one.splits[name].count) if name in one.splits else "0" for name in ("train", "validation", "test")
        ]
        table.add_row(_plain(one.signature), *counts)
    console.print(table)
    for reason, count in manifest.dropped.items():
        console.print(_plain(f"  not taken: {count:,} {reason}"))
    for problem in manifest.problems[:5]:
        console.print(_plain(f"  {problem.source}, line {problem.line}: {problem.what}"), soft_wrap=True)
    console.print(_plain(sentence_of(extracted)), soft_wrap=True)


def secrets_of_this_machine() -> tuple[str, ...]:
    """The values of environment variables whose names say that they hold a secret."""
    named = ((name.upper(), value) for name, value in os.environ.items())
    return tuple(v for name, v in named if name.endswith(_SECRET_ENDINGS) and len(v) >= _LEAST_SECRET_CHARS)


def _job(sources: Sequence[str], out: str, selection: Selection, tell: Tell) -> Extraction:
    paths = tuple(Path(source) for source in sources)
    return Extraction(paths, Path(out).expanduser(), selection, secrets_of_this_machine(), tell)


def _plain(text: str) -> Text:
    """A stranger's text without the characters that command a terminal."""
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))
