"""Bytes are law: one form for one value, no float in it, and a user's data comes back as it was."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from swarmc.contracts.canonical import CanonicalText, Contract, Ppm, canonical_bytes, content_id, plain, ppm, unplain
from swarmc.contracts.manifest import Runtime

VECTORS = Path(__file__).parents[1] / "vectors"
FAMILIES = ("candidates", "canonical", "completions", "manifest", "spec")
"""Vectors of one form: an input, its canonical text, its id. Others have a form of their own."""
scalars = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
keys = st.text(max_size=8) | st.sampled_from(["$float", "$repr", "$dict", "$"])
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)
canonical_text = TypeAdapter(CanonicalText)


class Note(Contract):
    text: str
    count: int = 0


def reordered(value: Any) -> Any:
    """The same data, every dictionary built in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


def in_canonical_order(value: Any) -> Any:
    """The same data as it is read back: keys sorted by code point."""
    if isinstance(value, dict):
        return {key: in_canonical_order(value[key]) for key in sorted(value)}
    return [in_canonical_order(item) for item in value] if isinstance(value, list) else value


def test_the_canonical_form_is_what_it_always_was(vector: dict) -> None:
    text = canonical_bytes(plain(vector["input"]))
    assert text.decode() == vector["canonical"]
    assert content_id(text) == vector["id"]
    # The sign of a negative zero is lost on `==` alone.
    assert repr(unplain(json.loads(vector["canonical"]))) == repr(in_canonical_order(vector["input"]))


@pytest.mark.parametrize("path", [VECTORS / f"{family}.json" for family in FAMILIES], ids=lambda path: path.stem)
def test_every_vectors_id_is_the_hash_of_its_text(path: Path) -> None:
    for vector in json.loads(path.read_text(encoding="utf-8")):
        text = vector["canonical"]
        assert vector["id"] == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        assert json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":")) == text


@given(data)
def test_a_users_data_comes_back_as_it_was(value: Any) -> None:
    assert unplain(json.loads(canonical_bytes(plain(value)))) == value


@given(data, data)
def test_different_data_has_different_bytes(one: Any, other: Any) -> None:
    same_bytes = canonical_bytes(plain(one)) == canonical_bytes(plain(other))
    assert same_bytes == (repr(in_canonical_order(one)) == repr(in_canonical_order(other)))


@given(data)
def test_bytes_do_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert canonical_bytes(plain(reordered(value))) == canonical_bytes(plain(value))


@given(st.floats(), st.sampled_from([lambda x: x, lambda x: [x], lambda x: {"a": {"b": [1, x]}}]))
def test_a_bare_float_has_no_canonical_form(number: float, around: Any) -> None:
    with pytest.raises(ValueError, match="is a float"):
        canonical_bytes(around(number))


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, {"a": {1, 2}}, object(), b"bytes", [1, 2j]])
def test_what_json_cannot_say_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(ValueError, match="no canonical form"):
        canonical_bytes(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_survives_as_data(value: float) -> None:
    assert repr(unplain(json.loads(canonical_bytes(plain(value))))) == repr(value)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_a_numpy_float_in_a_users_data_can_be_read_back(kind: type) -> None:
    back = unplain(json.loads(canonical_bytes(plain({"price": kind(0.5)}))))
    assert float(back["price"]) == 0.5


def test_a_double_has_the_same_bytes_whichever_library_made_it() -> None:
    assert canonical_bytes(plain(np.float64(0.1))) == canonical_bytes(plain(0.1))


def test_objects_become_what_can_be_written() -> None:
    class Point(BaseModel):
        x: float
        tags: tuple[str, ...] = ()

    assert plain(Point(x=0.5, tags=("a",))) == {"x": {"$float": "0.5"}, "tags": ["a"]}
    assert plain({3, 1, 2}) == [1, 2, 3]
    assert plain({1: "one"}) == {"1": "one"}
    assert plain(Path("a") / "b") == {"$repr": [type(Path()).__name__, "a/b"]}


def test_a_record_with_a_set_has_the_same_bytes_in_every_process() -> None:
    code = "from swarmc.contracts.manifest import Runtime; print(Runtime(tools=frozenset('abcdefgh')).content_id)"
    seen = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        seen.add(run.stdout)
    assert seen == {Runtime(tools=frozenset("abcdefgh")).content_id + "\n"}


def test_a_record_is_frozen_and_refuses_what_it_does_not_know() -> None:
    note = Note(text="a")
    with pytest.raises(ValidationError, match="frozen"):
        note.text = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="colour"):
        Note.model_validate({"text": "a", "colour": "red"})
    with pytest.raises(ValidationError, match="count"):
        Note.model_validate({"text": "a", "count": 1.5})


def test_defaults_and_nones_are_part_of_the_bytes() -> None:
    assert Note(text="a").canonical() == b'{"count":0,"text":"a"}'


def test_a_record_with_half_a_character_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="no canonical form"):
        Note(text="\ud800").canonical()


@pytest.mark.parametrize(
    "text",
    ['{"b":1,"a":2}', '{"a": 1}', '{"a":1.0}', '{"a":1e2}', "[NaN]", "-0", '{"a":1,"a":1}', '"\\u00e9"', '"\\ud800"',
     "", "{", "[1,]", "nul", '{"a":1}\n', "\ufeff{}"],
)  # fmt: skip
def test_text_that_is_not_in_canonical_form_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        canonical_text.validate_python(text)


@given(data)
def test_canonical_text_is_kept_to_the_byte(value: Any) -> None:
    text = canonical_bytes(plain(value)).decode()
    assert canonical_text.validate_python(text) == text


def test_text_nested_beyond_reason_is_refused_like_any_other() -> None:
    with pytest.raises(ValidationError):
        canonical_text.validate_python("[" * 100_000 + "]" * 100_000)


@given(st.integers(0, 1_000_000))
def test_a_fraction_of_a_million_survives_the_float_between(parts: int) -> None:
    assert ppm(parts / 1_000_000) == parts


@pytest.mark.parametrize("fraction", [math.nan, math.inf, -math.inf])
def test_a_fraction_that_is_not_finite_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="no finite number"):
        ppm(fraction)


@pytest.mark.parametrize("value", [-1, 1_000_001, 0.5, "5", True])
def test_parts_per_million_are_whole_and_in_range(value: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Ppm).validate_python(value)
