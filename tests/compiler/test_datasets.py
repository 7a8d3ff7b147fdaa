"""Examples: read from every kind of source, refused with the place and the remedy, split without overlap."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.datasets import SPLITS, Splits, example_id, load_examples, split_examples
from swarmc.contracts.errors import DatasetError
from swarmc.contracts.spec import DatasetSpec, SplitSpec

ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(5)]


def load(source: Path | str, **spec: Any) -> list[dict[str, Any]]:
    """The rows that a source gives, after checking that their inputs are marked."""
    examples = load_examples(DatasetSpec(source=str(source), **spec), ("question",))
    assert all(list(example.inputs().keys()) == ["question"] for example in examples)
    return [dict(example) for example in examples]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def examples_of(values: list[Any]) -> list[dspy.Example]:
    return [dspy.Example(question=value, answer="a").with_inputs("question") for value in values]


def test_jsonl_is_read_with_its_types(tmp_path: Path) -> None:
    rows = [{"question": "naïve 東京", "answer": [1, 0.5, None, {"a": True}]}, *ROWS]
    assert load(write(tmp_path / "qa.jsonl", rows)) == rows


def test_jsonl_may_end_without_a_newline_and_hold_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "QA.JSONL"
    path.write_bytes(b'{"question": "q", "answer": "a"}\r\n\r\n   \n{"question": "r", "answer": "b"}')
    assert [row["answer"] for row in load(path)] == ["a", "b"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_text_may_hold_separators_that_only_look_like_the_end_of_a_line(tmp_path: Path, separator: str) -> None:
    rows = [{"question": f"one{separator}two", "answer": "a"}]
    assert load(write(tmp_path / "qa.jsonl", rows)) == rows


def test_csv_is_read_with_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "qa.csv"
    path.write_bytes('\ufeffquestion,answer\r\n"say ""hi"",\nthen go",á\r\nq,\r\n'.encode())
    assert load(path) == [{"question": 'say "hi",\nthen go', "answer": "á"}, {"question": "q", "answer": ""}]


def test_parquet_is_read_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "it's a file é.parquet"
    relation = duckdb.sql("SELECT 'q' AS question, 7 AS answer, [0.5::DOUBLE] AS more")
    assert relation is not None
    relation.write_parquet(str(path))
    assert load(path) == [{"question": "q", "answer": 7, "more": [0.5]}]


@pytest.fixture
def module_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module `rows_for_a_test` with functions that give, fail to give, or are none."""
    (tmp_path / "rows_for_a_test.py").write_text(
        "import dspy\n"
        "def good(): return (dspy.Example(question=str(n), answer=n) for n in range(3))\n"
        "def bad(): raise OSError('the warehouse is closed')\n"
        "def none(): return None\n"
        "def empty(): return []\n"
        "def numbers(): return [1, 2]\n"
        "async def later(): return []\n"
        "value = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "rows_for_a_test"
    sys.modules.pop("rows_for_a_test", None)


def test_a_function_gives_examples(module_of_rows: str, tmp_path: Path) -> None:
    expected = [{"question": str(n), "answer": n} for n in range(3)]
    assert load(f"{module_of_rows}:good") == load(f"{tmp_path / 'rows_for_a_test.py'}:good") == expected


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bad", "raised OSError: the warehouse is closed"),
        ("none", "raised TypeError"),
        ("empty", "is empty"),
        ("numbers", "row 1: int instead of named fields"),
        ("later", "is no plain function"),
        ("value", "is no plain function"),
        ("missing", "has no 'missing'; it has: .*good"),
    ],
)
def test_a_function_that_gives_no_examples_is_named(module_of_rows: str, name: str, sentence: str) -> None:
    with pytest.raises(DatasetError, match=f"{module_of_rows}:{name}.*{sentence}"):
        load(f"{module_of_rows}:{name}")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"question": "q", "answer": 1}\n\n{"question": \n', "line 3 is no JSON"),
        ("a.jsonl", b'{"question": "q", "answer": 1}\n[1]\n', "row 2: list instead of named fields"),
        ("a.jsonl", b'{"question": "caf\xe9", "answer": 1}\n', "reading .*a.jsonl: UnicodeDecodeError"),
        ("a.jsonl", b'{"question": "q"}\n', "row 1: only input fields .*no label"),
        ("a.jsonl", b'{"text": "q", "answer": 1}\n', "row 1: no column 'question'; it has: 'text', 'answer'.*rename"),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1 is no JSON"),
        ("a.csv", b"question,answer\nq,a,b\n", "line 2: another number of columns"),
        ("a.csv", b"question,answer\nq,a\nq\n", "line 3: another number of columns"),
        ("a.csv", b"question,answer\ncaf\xe9,a\n", "reading .*a.csv: UnicodeDecodeError"),
        ("a.csv", b"question,answer\n", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"question,answer\nq,a\0b" + b"x" * 200_000, "reading .*a.csv"),
        ("a.parquet", b"PAR1 no parquet", "as Parquet"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_with_the_place(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=sentence):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("missing.jsonl", "reading the dataset missing.jsonl in .*FileNotFoundError"),
        ("tickets.xlsx", "no .jsonl, .csv or .parquet file and no `module:function`"),
        ("", "no .jsonl, .csv or .parquet file"),
        ("no_such_module:rows", "no module 'no_such_module'"),
        ("missing.py:rows", "no file missing.py"),
    ],
)
def test_a_source_that_is_not_there_is_refused_with_where_was_looked(source: str, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        load(source)


def test_columns_can_be_renamed_and_inputs_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "x", "category": "y", "note": "z"}])
    renamed = load(path, rename={"q": "question", "category": "label"})
    assert renamed == [{"question": "x", "label": "y", "note": "z"}]
    spec = DatasetSpec(source=str(path), inputs=("q", "note"))
    assert load_examples(spec, ("question",))[0].inputs().toDict() == {"q": "x", "note": "z"}


def test_half_a_character_in_a_file_is_refused_like_other_bad_data(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"question": "q{n}", "answer": "\\ud83d"}}\n' for n in range(8)))
    with pytest.raises(DatasetError):
        split_examples(load_examples(DatasetSpec(source=str(path)), ("question",)), SplitSpec(), 0)


def test_one_example_is_too_few_for_four_parts() -> None:
    with pytest.raises(DatasetError, match="has 1 distinct examples, too few for four parts"):
        split_examples(examples_of(["only"]), SplitSpec(), 0)


def test_four_examples_are_just_enough() -> None:
    splits = split_examples(examples_of(list("abcd")), SplitSpec(), 0)
    assert [splits.refs[name].count for name in SPLITS] == [1, 1, 1, 1]


def test_duplicates_are_counted_and_kept_once() -> None:
    splits = split_examples(examples_of([*"abcdef", *"abc"]), SplitSpec(), 0)
    assert splits.duplicates == 3
    with pytest.raises(DatasetError, match="has 3 distinct examples"):
        split_examples(examples_of([*"abc"] * 9), SplitSpec(), 0)


def test_examples_that_differ_only_in_their_label_are_different() -> None:
    one, other = (dspy.Example(question="q", answer=answer).with_inputs("question") for answer in ("a", "b"))
    assert example_id(one) != example_id(other)


@pytest.mark.parametrize("asked", [{"train": 11}, {"train": 4, "search": 4, "validation": 2}, {"test": 8}])
def test_parts_that_ask_for_more_than_there_is_are_refused(asked: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match=r"has 10 distinct examples.*ask for smaller parts in `split`"):
        split_examples(examples_of(list(range(10))), SplitSpec(**asked), 0)


def ids(splits: Splits) -> list[tuple[str, ...]]:
    return [splits.ids(name) for name in SPLITS]


sizes = st.none() | st.integers(1, 8)
asked_splits = st.builds(SplitSpec, train=sizes, search=sizes, validation=sizes, test=sizes)


@given(st.sets(st.integers(), min_size=35, max_size=60), asked_splits, st.integers(0, 99), st.randoms())
def test_parts_are_disjoint_sized_as_asked_and_independent_of_the_files_order(
    values: set[int], asked: SplitSpec, seed: int, rng: Any
) -> None:
    examples = examples_of(list(values))
    splits = split_examples(examples, asked, seed)
    flat = [key for part in ids(splits) for key in part]
    assert len(set(flat)) == len(flat) <= len(values)
    assert set(splits.examples) == set(flat)
    assert all(splits.refs[name].count == (getattr(asked, name) or splits.refs[name].count) >= 1 for name in SPLITS)
    rng.shuffle(examples)
    again = split_examples(examples * 2, asked, seed)
    assert again.refs == splits.refs
    assert again.duplicates == len(values)


def test_another_seed_cuts_otherwise() -> None:
    examples = examples_of(list(range(40)))
    assert ids(split_examples(examples, SplitSpec(), 0)) != ids(split_examples(examples, SplitSpec(), 1))


def test_empty_parts_share_what_is_left_three_three_two_two() -> None:
    splits = split_examples(examples_of(list(range(400))), SplitSpec(), 0)
    assert [splits.refs[name].count for name in SPLITS] == [120, 120, 80, 80]
    fixed = split_examples(examples_of(list(range(100))), SplitSpec(test=50), 0)
    assert [fixed.refs[name].count for name in SPLITS] == [18, 18, 12, 50]


def test_a_parts_id_follows_its_examples_and_their_order() -> None:
    splits = split_examples(examples_of(list(range(40))), SplitSpec(), 0)
    assert len({ref.dataset_id for ref in splits.refs.values()}) == len(SPLITS)
    changed = examples_of([*range(39), "another"])
    assert split_examples(changed, SplitSpec(), 0).refs != splits.refs
