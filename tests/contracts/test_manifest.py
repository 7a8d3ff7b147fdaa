"""A compiled program's id covers all of its text; its manifest says what it needs and is never changed in place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swarmc.contracts import manifest
from swarmc.contracts.candidates import Candidate, DatasetRef, Demo, PredictorChoice, Score
from swarmc.contracts.manifest import (
    Compatibility,
    CompiledModuleManifest,
    CompiledPredictor,
    CompiledProgram,
    FieldSpec,
    PrivacyMode,
    Runtime,
    Scorecard,
)

ID, OTHER_ID = "sha256:" + "a" * 64, "sha256:" + "b" * 64
words = st.sampled_from(["rg", "git", "lsp", "semantic", "pytest", "naïve tool"])
fractions = st.none() | st.integers(0, 1_000_000)
scores = st.builds(
    Score, mean_ppm=st.integers(0, 10**6), count=st.integers(1, 99), low_ppm=st.just(0), high_ppm=st.just(10**6)
)
requirements = st.builds(
    Compatibility,
    required_tools=st.lists(words, unique=True).map(tuple),
    required_lanes=st.lists(words, unique=True).map(tuple),
    privacy_modes_allowed=st.lists(st.sampled_from(PrivacyMode), unique=True).map(tuple),
    min_provider_reputation=fractions,
)
runtimes = st.builds(
    Runtime,
    tools=st.frozensets(words),
    lanes=st.frozensets(words),
    privacy_mode=st.sampled_from(PrivacyMode),
    provider_reputation=fractions,
)
manifests = st.builds(
    CompiledModuleManifest,
    signature_name=st.text(max_size=10),
    compiled_id=st.sampled_from([None, ID]),
    scorecard=st.builds(
        Scorecard, truth_score=st.none() | scores, custom_metrics=st.dictionaries(words, st.integers())
    ),
    compatibility=requirements,
    instruction=st.none() | st.text(max_size=20),
    artifacts=st.dictionaries(words, st.just(ID)),
    details=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none()),
)


def field(name: str, **changes: str) -> FieldSpec:
    return FieldSpec(**{"name": name, "annotation": "str", "description": f"the {name}", "prefix": "", **changes})


def predictor(**changes: Any) -> CompiledPredictor:
    fields = {"signature_name": "Route", "inputs": (field("text"),), "outputs": (field("team"),), "instruction": "Do."}
    return CompiledPredictor(**{**fields, "demos": (Demo(fields={"text": "a", "team": "b"}),), **changes})


def program(reference: str = "shop:Triage", **changes: Any) -> CompiledProgram:
    return CompiledProgram(program=reference, predictors={"first": predictor(), "second": predictor(**changes)})


def test_the_canonical_form_is_what_it_always_was(vector: dict) -> None:
    record = getattr(manifest, vector["contract"]).model_validate(vector["input"])
    assert record.canonical().decode() == vector["canonical"]
    assert record.content_id == vector["id"]


@given(manifests)
def test_reading_and_writing_a_manifest_does_not_change_its_bytes(made: CompiledModuleManifest) -> None:
    again = CompiledModuleManifest.model_validate_json(made.canonical())
    assert again == made
    assert again.canonical() == made.canonical()


@pytest.mark.parametrize(
    "changed",
    [
        program(instruction="Do it."),
        program(instruction="Do. "),
        program(demos=()),
        program(demos=(Demo(fields={"text": "a", "team": "c"}),)),
        program(demos=(Demo(fields={"text": "a", "team": "b"}, augmented=True),)),
        program(demos=(Demo(fields={"text": "a"}),)),
        program(signature_name="Route2"),
        program(inputs=(field("ticket"),)),
        program(inputs=(field("text", annotation="int"),)),
        program(inputs=(field("text", description="a text"),)),
        program(outputs=(field("team", prefix="Team:"),)),
        program(outputs=(field("reasoning"), field("team"))),
        program(reference="shop:Triage2"),
        CompiledProgram(program="shop:Triage", predictors={"first": predictor()}),
        CompiledProgram(program="shop:Triage", predictors={"first": predictor(), "third": predictor()}),
    ],
)
def test_a_program_that_differs_anywhere_has_another_id(changed: CompiledProgram) -> None:
    assert changed.content_id != program().content_id
    assert CompiledModuleManifest.new("s").with_artifact(changed).compiled_id == changed.content_id


def test_a_candidate_replaces_the_text_of_its_predictors_alone() -> None:
    demo = Demo(fields={"text": "x"})
    candidate = Candidate(predictors={"second": PredictorChoice(instruction="New.", demos=(demo, demo))})
    dressed = program().with_candidate(candidate)
    assert dressed == program(instruction="New.", demos=(demo, demo))
    assert dressed.demo_count == 3
    assert program().predictors["second"].instruction == "Do."
    with pytest.raises(KeyError, match="fourth"):
        program().with_candidate(Candidate(predictors={"fourth": PredictorChoice(instruction="")}))


@given(requirements, runtimes)
def test_everything_that_is_missing_is_named_and_nothing_else(needs: Compatibility, place: Runtime) -> None:
    tools = [repr(tool) for tool in needs.required_tools if tool not in place.tools]
    lanes = [repr(lane) for lane in needs.required_lanes if lane not in place.lanes]
    forbidden = bool(needs.privacy_modes_allowed) and place.privacy_mode not in needs.privacy_modes_allowed
    least, has = needs.min_provider_reputation, place.provider_reputation
    distrusted = least is not None and (has is None or has < least)
    problems = needs.problems(place)
    assert len(problems) == len(tools) + len(lanes) + forbidden + distrusted
    for kind, missing in (("tool", tools), ("lane", lanes)):
        assert [word for word in missing if f"{kind} {word} is missing" not in problems] == []
    assert forbidden == any(f"privacy mode {place.privacy_mode.value!r} is not allowed" in text for text in problems)
    assert distrusted == any(text.startswith("provider reputation") for text in problems)


def test_a_program_without_requirements_fits_everywhere() -> None:
    assert Compatibility().problems(Runtime()) == ()


def test_a_reputation_is_enough_at_the_least_that_is_asked() -> None:
    needs = Compatibility(min_provider_reputation=900_000)
    assert needs.problems(Runtime(provider_reputation=900_000)) == ()
    assert needs.problems(Runtime(provider_reputation=899_999)) == ("provider reputation 0.899999 is below 0.9",)
    assert needs.problems(Runtime()) == ("provider reputation is unknown (needed: 0.9)",)


def test_every_verb_gives_a_new_frozen_manifest() -> None:
    trainset = DatasetRef(name="train", dataset_id=OTHER_ID, example_ids=(ID,))
    made = CompiledModuleManifest.new("Planning")
    for verb, value in [
        (CompiledModuleManifest.with_optimizer, "MIPROv2"),
        (CompiledModuleManifest.with_scorecard, Scorecard(iterations=3)),
        (CompiledModuleManifest.with_compatibility, Compatibility(required_tools=("rg",))),
        (CompiledModuleManifest.with_trainset, trainset),
        (CompiledModuleManifest.with_artifact, program()),
    ]:
        before = made.canonical()
        after = verb(made, value)
        assert after is not made
        assert (made.canonical(), after.canonical() != before) == (before, True)
        with pytest.raises(ValidationError, match="frozen"):
            after.optimizer = "by hand"
        made = after
    assert (made.optimizer, made.trainset_id, made.demo_count) == ("MIPROv2", OTHER_ID, 2)


@pytest.mark.parametrize("details", [{"colour": "red"}, {"created_at": -1}, {"spec_id": "none"}, {"verdict": None}])
def test_a_detail_that_is_none_is_refused(details: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CompiledModuleManifest.new("Planning").with_details(**details)
