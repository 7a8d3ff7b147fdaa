"""Spans in a file: one `TraceSpan` a line as canonical JSON, whole lines only, by any number of processes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from pydantic import ValidationError

from blocks.sinks.line_file import LineFile
from swarmc.contracts.errors import StoreError, boundary
from swarmc.contracts.graphs import TraceSpan


@final
class SpanFile:
    """Appends spans to a file.

    Args:
        path: The file; it and the directories above it are made when missing.

    Raises:
        StoreError: it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)

    def export(self, spans: Sequence[TraceSpan]) -> bool:
        """Append them all.

        Raises:
            StoreError: not all could be written; what was begun is cut off again.
        """
        self._file.append(b"".join(span.canonical() + b"\n" for span in spans))
        return True

    def close(self) -> None:
        """Nothing more will be written."""
        self._file.close()


def read_spans(path: Path) -> Iterator[TraceSpan]:
    """The spans of a file, in the order in which they were written; a last line without an end is not read.

    Raises:
        StoreError: the file cannot be read, or a whole line is no span.
    """
    with boundary(StoreError, f"reading the span file {path}", OSError), path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                with boundary(StoreError, f"reading line {number} of the span file {path}", ValidationError):
                    yield TraceSpan.model_validate_json(line)
