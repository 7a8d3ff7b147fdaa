"""The span file: whole lines only, whoever was killed in the middle of one, and however many write."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blocks.sinks.span_file import SpanFile, read_spans
from swarmc.contracts.errors import StoreError
from swarmc.contracts.graphs import TraceSpan
from swarmc.tracing.spans import TraceContract
from tests.tracing.test_spans import two_step_graph

ROOT = Path(__file__).parents[3]
WRITER = "tests.blocks.sinks.span_writer"
SPANS = TraceContract.graph_to_spans(two_step_graph())


def write(path: Path, spans: tuple[TraceSpan, ...] = SPANS) -> None:
    opened = SpanFile(path)
    opened.export(spans)
    opened.close()


def test_spans_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "made" / "spans.jsonl"
    write(path)
    write(path)
    assert tuple(read_spans(path)) == SPANS + SPANS
    assert path.read_bytes().splitlines()[0] == SPANS[0].canonical()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("torn", [b"{", b'{"a":"' + b"x" * 200_000])
def test_a_torn_line_is_not_read_and_is_cut_off_by_the_next_writer(tmp_path: Path, torn: bytes) -> None:
    for path, before in ((tmp_path / "empty.jsonl", ()), (tmp_path / "full.jsonl", SPANS)):
        write(path, before)
        with path.open("ab") as lines:
            lines.write(torn)
        assert tuple(read_spans(path)) == before
        write(path)
        assert tuple(read_spans(path)) == (*before, *SPANS)


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_whole_spans_and_the_next_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    for _ in range(2):
        before = path.stat().st_size if path.exists() else 0
        process = subprocess.Popen([sys.executable, "-m", WRITER, str(path)], cwd=ROOT)
        deadline_s = time.monotonic() + 60
        while (not path.exists() or path.stat().st_size < before + 100_000) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert len(list(read_spans(path))) > 50
    lines = path.read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"}\n") for line in lines[:-1])


def test_writers_of_one_file_do_not_cut_into_each_other(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write(path), range(20)))
    assert len(list(read_spans(path))) == 20 * len(SPANS)


def test_a_file_that_cannot_be_written_or_read_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"opening {tmp_path}"):
        SpanFile(tmp_path)
    with pytest.raises(StoreError, match="reading the span file"):
        list(read_spans(tmp_path / "none"))
    (tmp_path / "other").write_text("{}\n")
    with pytest.raises(StoreError, match="reading line 1 of the span file"):
        list(read_spans(tmp_path / "other"))
