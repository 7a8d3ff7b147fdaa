"""Proxies: what is right and what is wrong of an answer's form, with a sentence, whatever a stranger wrote."""

import contextlib
import time
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.answers import Answered
from swarmc.compiler.proxies import UNREADABLE, make_proxy, parse, unfenced
from swarmc.contracts.errors import MetricError
from swarmc.contracts.metrics import FormatPart, KeywordsPart, LengthPart, SyntaxPart

EXAMPLE = dspy.Example(question="?").with_inputs("question")
LIMIT_S = 5.0
"""Of what takes half a second here, with room for a slow machine."""


def asked(part: Any, **fields: Any) -> tuple[float, str]:
    opinion = make_proxy(part)(Answered(EXAMPLE, dspy.Prediction(**fields)))
    return opinion.score_ppm / 1_000_000, opinion.feedback


SCHEMA = {
    "type": "object",
    "required": ["city"],
    "properties": {"lat": {"maximum": 90.5}, "city": {"pattern": "^[A-Z]"}},
}


@pytest.mark.parametrize(
    ("options", "fields", "wrong"),
    [
        ({}, {"answer": "yes"}, ""),
        ({}, {"answer": 0}, ""),
        ({}, {"answer": " \n"}, "the answer is blank"),
        ({}, {}, "the answer is blank"),
        ({"field": "b"}, {"a": "x"}, "b is blank"),
        ({"required": ["a", "b"]}, {"a": "x", "b": " "}, "nothing was given for b"),
        ({"parses_json": True}, {"a": "no JSON", "b": '{"x": 1}'}, ""),
        ({"parses_json": True}, {"a": "[1, 2"}, "begins like JSON and is none"),
        ({"parses_json": True}, {"a": "[NaN]"}, "NaN is no JSON"),
        ({"pattern": r"\d{4}"}, {"a": "2026"}, ""),
        ({"pattern": r"\d{4}"}, {"a": "in 2026"}, "does not match"),
        ({"pattern": "a*"}, {"a": "a" * 100_001}, "too many to be matched"),
        ({"json_schema": SCHEMA}, {"a": '```json\n{"city": "Rome", "lat": 41.9}\n```'}, ""),
        ({"json_schema": SCHEMA}, {"a": {"city": "Rome", "lat": 41.9}}, ""),
        ({"json_schema": SCHEMA}, {"a": '{"lat": 91}'}, "'city' is a required property"),
        ({"json_schema": SCHEMA}, {"a": '{"city": "Rome", "lat": 91}'}, "at $.lat, 91 is greater"),
        ({"json_schema": SCHEMA}, {"a": '{"city": "rome"}'}, "does not match '^[A-Z]'"),
        ({"json_schema": SCHEMA}, {"a": "Rome"}, "is no JSON"),
        ({"json_schema": {"$ref": "#"}}, {"a": "1"}, "nested too deeply"),
        ({"json_schema": False}, {"a": "1"}, "does not meet the schema"),
    ],
    ids=str,
)  # fmt: skip
def test_format_says_what_is_wrong(options: Any, fields: Any, wrong: str) -> None:
    score, feedback = asked(FormatPart(**options), **fields)
    assert score == (0 if wrong else 1)
    assert wrong in feedback


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pattern": "("}, "no regular expression"),
        ({"json_schema": {"type": "colour"}}, "is none"),
        ({"json_schema": {"patternProperties": {"a": {}}}}, "patternProperties"),
    ],
    ids=str,
)  # fmt: skip
def test_a_form_that_cannot_be_checked_is_refused_at_once(options: Any, named: str) -> None:
    with pytest.raises(MetricError, match=named):
        make_proxy(FormatPart(**options))


def test_a_schema_fetches_nothing() -> None:
    with pytest.raises(MetricError, match=r"127\.0\.0\.1"):
        asked(FormatPart(json_schema={"$ref": "http://127.0.0.1:9/x.json"}), a="1")


def test_a_pattern_that_never_ends_is_an_error_and_no_score() -> None:
    with pytest.raises(MetricError, match="repetitions inside repetitions"):
        asked(FormatPart(pattern="(a|aa)+[^a]"), a="a" * 5_000)


@pytest.mark.parametrize(
    ("required", "forbidden", "text", "score", "said"),
    [
        (("refund", "Order"), (), "your REFUND for order 3", 1, "says what it must"),
        (("refund", "order", "date"), (), "refund", 1 / 3, "it lacks 'order', 'date'"),
        (("refund",), ("sorry",), "Sorry, a refund", 0, "must not say 'sorry'"),
        ((), ("sorry",), "", 1, ""),
        (("x",), (), "", 0, "it lacks 'x'"),
    ],
    ids=str,
)  # fmt: skip
def test_keywords_count_what_is_said_in_any_case(
    required: Any, forbidden: Any, text: str, score: float, said: str
) -> None:
    found, feedback = asked(KeywordsPart(required=required, forbidden=forbidden), a=text)
    assert found == pytest.approx(score, abs=1e-6)
    assert said in feedback


@pytest.mark.parametrize(
    ("bounds", "text", "score"),
    [((3, None), "abc", 1), ((3, None), "ab", 0), ((0, 3), "ab€", 0), ((0, 5), "ab€", 1), ((1, 2), "", 0)],
    ids=str,
)
def test_length_counts_bytes(bounds: Any, text: str, score: float) -> None:
    assert asked(LengthPart(min_bytes=bounds[0], max_bytes=bounds[1]), a=text)[0] == score
    assert asked(LengthPart(field="a", min_bytes=bounds[0], max_bytes=bounds[1]), a=text, b="more")[0] == score


@pytest.mark.parametrize(
    ("language", "text", "valid"),
    [
        ("python", "def f(x):\n    return 'it''s'", True), ("python", "```python\nx = 1\n```", True),
        ("python", "def f(x) return", False), ("python", "it's prose", False), ("python", "a\0b", False),
        ("python", r"x = '\d'", True), ("python", "9" * 5_000, False),
        ("json", '{"a": [1, 2]}', True), ("json", "{'a': 1}", False), ("json", '{"a": Infinity}', False),
        ("toml", "[a]\nb = 1", True), ("toml", "a = 1\na = 2", False),
        ("yaml", "a:\n  - b", True), ("yaml", "just prose", False), ("yaml", "a: [", False),
        ("yaml", "!!python/object/apply:os.system [ls]", True),
        ("xml", "<a><b/></a>", True), ("xml", "<a>&b;</a>", False), ("xml", "<a></b>", False),
        ("xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", False), ("xml", "", False),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_syntax_asks_a_real_parser(language: Any, text: str, valid: bool) -> None:
    score, feedback = asked(SyntaxPart(language=language), a=text)
    assert score == valid
    assert feedback


@pytest.mark.parametrize(
    "deep", ["(" * 90_000, "-" * 199_000 + "1", "1" + "+1" * 90_000, "a" + ".a" * 99_000], ids=lambda text: text[:9]
)
def test_python_that_is_too_deep_is_invalid_and_ends_nothing(deep: str) -> None:
    assert asked(SyntaxPart(language="python"), a=deep)[0] == 0


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("toml", ".".join("a" * 4_900) + "=1"), ("yaml", "[" * 19_000), ("yaml", "a: b\n" * 3_900),
        ("json", "[" * 900_000), ("xml", "<a>" * 300_000), ("python", "a" + "<a" * 90_000),
        ("toml", "a" * 99_000), ("yaml", "- " * 99_000), ("json", " " * 9_000_000),
    ],
    ids=lambda value: value[:8],
)  # fmt: skip
def test_no_text_keeps_a_parser_for_long(language: Any, text: str) -> None:
    began = time.process_time()
    asked(SyntaxPart(language=language), a=text)
    assert time.process_time() - began < LIMIT_S


def test_syntax_reads_the_code_where_no_output_is_named() -> None:
    assert asked(SyntaxPart(language="python"), reason="it's prose", code="x = 1")[0] == 1
    assert asked(SyntaxPart(language="python"), first="x = 1", reason="it's prose")[0] == 1
    assert asked(SyntaxPart(language="python", field="reason"), reason="it's prose", code="x = 1")[0] == 0


@pytest.mark.parametrize("text", ["", "```", "```\n```", "a ```b``` c", "```x\n1\n``` and more"], ids=repr)
def test_only_a_fence_around_everything_is_left_out(text: str) -> None:
    assert unfenced(text) == ("" if text == "```\n```" else text)


@given(st.sampled_from(["python", "json", "toml", "yaml", "xml"]), st.text(max_size=60))
def test_whatever_is_parsed_is_parsed_or_refused(language: Any, text: str) -> None:
    with contextlib.suppress(*UNREADABLE):
        parse(text, language)


@given(st.text(max_size=40), st.text(max_size=40))
def test_every_form_scores_every_text_and_says_why(one: str, two: str) -> None:
    parts = [
        FormatPart(parses_json=True, pattern="[^x]*"),
        KeywordsPart(required=("a", "b"), forbidden=("z",)),
        LengthPart(min_bytes=3, max_bytes=9),
        SyntaxPart(language="yaml"),
    ]
    for part in parts:
        score, feedback = asked(part, one=one, two=two)
        assert 0 <= score <= 1
        assert feedback
