"""A metric's parts are a contract: one id, no float, and a wrong word is named where it stands."""

from typing import Any

import pytest
from pydantic import ValidationError

from swarmc.contracts.metrics import CommandPart, MetricSpec, TrimmedMean
from swarmc.contracts.spec import CompileSpec

DIFF = {"kind": "diff"}
JUDGE = {"kind": "llm_judge"}
ALL = [
    {"kind": "format", "required": ["answer"], "json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"minimum": 0.5}}}},
    {"kind": "keywords", "required": ["x"]},
    {"kind": "length", "max_bytes": 9},
    {"kind": "syntax", "language": "python"},
    DIFF,
    JUDGE,
    {"kind": "tests_pass", "commands": [["pytest"]], "files": {"src/a.py": "answer.code", "t.py": "example.tests"}},
    {"kind": "function", "metric": "contains", "tier": "proxy"},
]


def metric(*parts: dict[str, Any], **options: Any) -> MetricSpec:
    return MetricSpec.model_validate({"parts": parts, **options})


def spec(**changes: Any) -> CompileSpec:
    return CompileSpec.model_validate({"program": "question -> answer", "dataset": {"source": "a.jsonl"}, **changes})


def test_the_defaults_are_the_seeds() -> None:
    asked = metric(DIFF)
    assert (asked.rollouts, asked.aggregation, asked.proxy_threshold_ppm) == (3, "median", 500_000)
    assert asked.parts[0].weight_ppm == 1_000_000


def test_a_metric_of_all_kinds_is_the_same_after_writing_and_reading() -> None:
    asked = metric(*ALL, aggregation={"trimmed_mean": 10.0})
    assert asked.aggregation == TrimmedMean(trimmed_mean=10)
    again = MetricSpec.model_validate_json(asked.canonical())
    assert again == asked
    assert again.content_id == asked.content_id
    assert asked.title.startswith("format + keywords")


def test_what_a_metric_is_made_of_is_a_part_of_what_is_asked_for() -> None:
    lanes = {"lanes": {"swarm": {}, "judge": {}}}
    ids = {
        spec(**lanes, metric={"parts": [JUDGE], **options}).spec_id
        for options in ({}, {"rollouts": 1}, {"aggregation": "mean"}, {"proxy_threshold_ppm": 1})
    }
    assert len(ids | {spec(metric="exact_match").spec_id, spec(metric={"parts": [DIFF]}).spec_id}) == 6
    asked = spec(**lanes, metric={"parts": [JUDGE]})
    assert CompileSpec.model_validate_json(asked.model_dump_json()).spec_id == asked.spec_id
    assert isinstance(asked.metric, MetricSpec)
    assert asked.metric_name == asked.metric.content_id
    assert spec().metric_name == "exact_match"


def test_calls_of_a_judge_are_counted() -> None:
    assert metric(JUDGE, DIFF, JUDGE, rollouts=2).judge_calls == 4
    assert spec().judge_calls == spec(metric={"parts": [DIFF]}).judge_calls == 0


def test_a_judge_needs_a_lane() -> None:
    with pytest.raises(ValidationError, match="needs a lane `judge`"):
        spec(metric={"parts": [JUDGE]})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"parts": []}, "parts"),
        ({"parts": [DIFF] * 33}, "parts"),
        ({"parts": [{"kind": "colour"}]}, "colour"),
        ({"parts": [{**DIFF, "colour": 1}]}, "colour"),
        ({"parts": [{**DIFF, "weight_ppm": -1}]}, "weight_ppm"),
        ({"parts": [{**DIFF, "weight_ppm": 0.5}]}, "weight_ppm"),
        ({"parts": [{**DIFF, "weight_ppm": 0}]}, "every part has weight 0"),
        ({"parts": [{**DIFF, "threshold_ppm": 0}]}, "threshold_ppm"),
        ({"parts": [{**DIFF, "expected": "gold"}]}, "name it in `field`"),
        ({"parts": [{"kind": "length"}]}, "min_bytes"),
        ({"parts": [{"kind": "length", "min_bytes": 9, "max_bytes": 8}]}, "no text has"),
        ({"parts": [{"kind": "keywords"}]}, "name words"),
        ({"parts": [{"kind": "keywords", "required": [" "]}]}, "no blank ones"),
        ({"parts": [{"kind": "syntax", "language": "sql"}]}, "language"),
        ({"parts": [{**JUDGE, "criteria": []}]}, "criteria"),
        ({"parts": [DIFF], "rollouts": 0}, "rollouts"),
        ({"parts": [DIFF], "aggregation": "luck"}, "aggregation"),
        ({"parts": [DIFF], "aggregation": {"trimmed_mean": 51}}, "trimmed_mean"),
        ({"parts": [DIFF], "proxy_threshold_ppm": 1_000_001}, "proxy_threshold_ppm"),
        ({"parts": [{"kind": "format", "json_schema": '{"a":1.5}'}]}, "canonical"),
        (5, "valid string"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_word_is_named_where_it_stands(changes: Any, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        spec(metric=changes)


@pytest.mark.parametrize("name", ["../a", "/a", "a/../b", ".a", "a//b", "a/", "", "a b", "~/a", "a\n"], ids=repr)
def test_a_file_of_commands_stays_where_they_run(name: str) -> None:
    with pytest.raises(ValidationError, match="files"):
        CommandPart.model_validate({"commands": [["x"]], "files": {name: "answer.code"}})


@pytest.mark.parametrize("files", [{}, {"a": "example.tests"}, {"a": "code"}, {"a": "answer."}], ids=str)
def test_commands_that_do_not_look_at_the_answer_are_no_metric(files: Any) -> None:
    with pytest.raises(ValidationError, match=r"files|would not look at it"):
        CommandPart.model_validate({"commands": [["x"]], "files": files})


def test_an_error_names_the_part_and_not_the_other_form() -> None:
    with pytest.raises(ValidationError) as caught:
        spec(metric={"parts": [{**DIFF, "method": "luck"}]})
    assert caught.value.errors()[0]["loc"] == ("metric", "weighed", "parts", 0, "diff", "method")
