"""What is asked for has an id: what shapes a result is in it, what only limits the work is not."""

from typing import Any

import pytest
from pydantic import ValidationError

from swarmc.contracts.manifest import Compatibility, PrivacyMode
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.spec import AdapterSpec, CompileSpec, DatasetSpec, LaneSpec, SearchSpec, SplitSpec

ASKED: dict[str, Any] = {"program": "question -> answer", "dataset": {"source": "qa.jsonl"}}


def spec(**changes: Any) -> CompileSpec:
    return CompileSpec.model_validate({**ASKED, **changes})


def lane(**changes: Any) -> dict[str, Any]:
    return {"lanes": {"swarm": {"venue": "auto", **changes}}}


def test_the_id_is_what_it_always_was(vector: dict) -> None:
    asked = CompileSpec.model_validate(vector["input"])
    assert asked.spec_id == vector["id"]
    assert CompileSpec.model_validate_json(asked.model_dump_json()).spec_id == vector["id"]


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": {"run": {"max_calls": 5, "max_msats": 1}}},
        {"budget": {"stages": {"search": {"max_calls": 5}}, "lanes": {"swarm": {"max_msats": 5}}}},
        {"ledger": "postgresql://u:p@h/db"},
        {"store": "s3://bucket/prefix"},
        {"identity": "mine"},
        {"sinks": ["spans.jsonl", "http://127.0.0.1:4318"]},
        lane(concurrency=1),
        lane(rate_per_s=0.5),
        lane(timeout_s=3),
        lane(attempts=1),
    ],
    ids=str,
)
def test_a_limit_is_no_part_of_what_is_asked_for(changes: dict[str, Any]) -> None:
    assert spec(**changes).spec_id == spec().spec_id


@pytest.mark.parametrize(
    "changes",
    [
        {"program": "question -> answer: int"},
        {"dataset": {"source": "other.jsonl"}},
        {"dataset": {"source": "qa.jsonl", "inputs": ["question"]}},
        {"dataset": {"source": "qa.jsonl", "rename": {"q": "question"}}},
        {"metric": "contains"},
        {"split": {"test": 20}},
        {"seed": 1},
        {"search": {"trials": 31}},
        {"search": {"parallel_trials": 1}},
        {"search": {"bootstrap_threshold": 0.9}},
        {"proposer": "template"},
        {"instructions": ["Be kind."]},
        {"adapter": {"kind": "json"}},
        {"adapter": {"json_fallback": False}},
        lane(venue="openai/gpt-4o-mini"),
        lane(model="big"),
        lane(temperature=0.5),
        lane(max_tokens=5),
        {"lanes": {"swarm": {}, "teacher": {"model": "big"}}},
    ],
    ids=str,
)
def test_what_shapes_a_result_is_part_of_what_is_asked_for(changes: dict[str, Any]) -> None:
    assert spec(**changes).spec_id != spec().spec_id


def test_a_temperature_is_the_same_however_it_is_written() -> None:
    assert spec(**lane(temperature=1)).spec_id == spec(**lane(temperature=1.0)).spec_id


def test_one_list_of_instructions_is_for_all_predictors() -> None:
    assert spec(instructions=["a", "b"]).instructions == {"*": ("a", "b")}
    assert spec(instructions={"route": ["a"]}).instructions == {"route": ("a",)}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"dataset": {"source": "a", "colour": "red"}}, "colour"),
        ({"name": ""}, "name"),
        ({"name": "../up"}, "name"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"optimizer": "luck"}, "optimizer"),
        ({"search": {"trials": 0}}, "trials"),
        ({"split": {"test": 0}}, "test"),
        ({"budget": {"run": {"max_msats": -1}}}, "max_msats"),
        ({"budget": {"run": {"max_msats": 0.5}}}, "max_msats"),
        ({"lanes": {"fast": {}}}, "fast"),
        (lane(temperature="warm"), "temperature"),
        (lane(temperature=float("nan")), "temperature"),
        (lane(timeout_s=0), "timeout_s"),
        ({"instructions": "one"}, "instructions"),
    ],
    ids=str,
)
def test_a_wrong_word_is_named_where_it_stands(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        spec(**changes)


def test_every_field_says_in_the_form_what_it_is_for() -> None:
    kinds = (CompileSpec, DatasetSpec, SplitSpec, LaneSpec, AdapterSpec, SearchSpec)
    fields = {f"{kind.__name__}.{name}": field for kind in kinds for name, field in kind.model_fields.items()}
    described_by_their_kind = (*kinds, BudgetPolicy, Compatibility, PrivacyMode)
    silent = [name for name, field in fields.items() if not field.description]
    assert [name for name in silent if fields[name].annotation not in described_by_their_kind] == []
