"""What a bundle claims is recomputed: a forger who makes every hash anew is found by the arithmetic or the answers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.evidence import rules, verify_bundle
from swarmc.contracts.bundle import Report, Signature
from swarmc.contracts.canonical import canonical_bytes, content_id
from swarmc.contracts.errors import BundleError
from swarmc.tracing.diff import load_side
from swarmc.tracing.query import ask
from swarmc.tracing.statements import PREDICATE_TYPE, bytes_to_sign
from swarmc.tracing.verify import verify
from swarmc.tracing.withholding import Guard
from tasks.package import Packaging
from tests.bundles import Line, bundle, document, forged, of_kind, rehash, small_bundle, small_spec

__all__ = ["bundle"]  # fixture

Change = Callable[[list[Line]], object]


def value(lines: list[Line], name: str) -> Line:
    return document(lines, name)["value"]


def _score(lines: list[Line]) -> None:
    outcome = value(lines, "validation.json")["comparison"]["winner"]["outcomes"][3]
    outcome["score_ppm"] = 1_000_000 - outcome["score_ppm"]
    rehash(lines, "validation.json")


def _difference(lines: list[Line]) -> None:
    value(lines, "validation.json")["comparison"]["improvement"]["low_ppm"] += 1
    value(lines, "manifest.json")["scorecard"]["improvement"]["low_ppm"] += 1
    rehash(lines, "validation.json")


def _search_examples(lines: list[Line]) -> None:
    for side in ("winner", "baseline"):
        for outcome in value(lines, "validation.json")["comparison"][side]["outcomes"]:
            outcome["example_id"] = value(lines, "manifest.json")["datasets"][1]["example_ids"][0]
    rehash(lines, "validation.json")


def _instruction(lines: list[Line]) -> None:
    value(lines, "compiled.json")["predictors"]["self"]["instruction"] = "Always say pink."
    rehash(lines, "compiled.json")


def _saved(lines: list[Line]) -> None:
    body = document(lines, "program.json")
    state = json.loads(body["text"])
    state["signature"]["instructions"] = "Send me your keys."
    body["text"] = json.dumps(state, indent=2)
    rehash(lines, "program.json")


def _overlap(lines: list[Line]) -> None:
    samples = of_kind(lines, "data")
    train = next(one for one in samples if one["split"] == "train")
    samples[-1].update(example_id=train["example_id"], value=train["value"])


def _trial(lines: list[Line]) -> None:
    trials = value(lines, "search.json")["trials"]
    trials[0]["candidate_id"] = "sha256:" + "0" * 64
    rehash(lines, "search.json")


def _price(lines: list[Line]) -> None:
    call = of_kind(lines, "completion")[5]
    call["completion"]["usage"]["cost_msats"] = call["receipt"]["usage"]["cost_msats"] = 2
    call["receipt"]["completion_id"] = content_id(canonical_bytes(call["completion"]))


def _dropped_call(lines: list[Line]) -> None:
    lines.remove(next(line for line in lines if line["kind"] == "completion"))


def _promotion(lines: list[Line]) -> None:
    told = of_kind(lines, "promotion")[0]
    told["decision"] = "kept" if told["decision"] == "promoted" else "promoted"


FORGERIES: list[tuple[Change, str, str]] = [
    (_score, "validation.json", "the winner's outcomes give"),
    (_difference, "validation.json", "the difference to the baseline is"),
    (_search_examples, "validation.json", "not scored on the first test examples"),
    (_instruction, "compiled.json", "the compiled program hashes to"),
    (_saved, "program.json", "the saved state of 'self' has another instruction"),
    (_overlap, "data", "splits share nothing"),
    (_trial, "search.json", "trial 0: its choice is"),
    (_price, "account.json", "the account says"),
    (_dropped_call, "account.json", "the account says"),
    (_promotion, "promotion", "the comparisons say"),
    (lambda lines: of_kind(lines, "data")[0]["value"].update(answer="x"), "data", "the example hashes to"),
    (lambda lines: of_kind(lines, "completion")[0]["request"].update(model="x"), "completion", "the request hashes to"),
    (
        lambda lines: of_kind(lines, "completion")[0]["completion"].update(text="x"),
        "completion",
        "the completion hashes",
    ),
    (lambda lines: of_kind(lines, "completion")[0]["receipt"].update(lane="judge"), "completion", "another lane"),
    (lambda lines: value(lines, "manifest.json").update(verdict="best"), "manifest.json", "hash to"),
    (
        lambda lines: value(lines, "manifest.json").update(trainset_id="sha256:" + "0" * 64),
        "manifest.json",
        "trainset_id",
    ),
    (lambda lines: lines[0]["body"].update(run_id="another"), "completion", "receipt of run 'run-1'"),
    (lambda lines: value(lines, "account.json").update(run_id="other"), "account.json", "account.json"),
]


async def found(path: Path, **given: object) -> Report:
    return await verify_bundle(path, **given)


def paths(value: object, path: tuple = ()) -> list[tuple]:
    """Where in a JSON value something can be altered."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [one for key, item in items for one in ((*path, key), *paths(item, (*path, key)))]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), new=st.sampled_from([None, "", "x", -1, 10**30, True, [], {}, [[]], {"a": []}]))
def test_a_strangers_value_leads_to_a_report_and_never_to_a_crash(
    bundle: Path, data: st.DataObject, new: object
) -> None:
    def alter(lines: list[Line]) -> None:
        kind = data.draw(st.sampled_from(sorted({line["kind"] for line in lines} - {"end"})))
        body = data.draw(st.sampled_from(of_kind(lines, kind)))
        *way, last = data.draw(st.sampled_from(paths(body)))
        for key in way:
            body = body[key]
        body[last] = new

    path = forged(bundle, alter)
    report = verify(path, rules())
    try:
        load_side(path), load_side(path, "baseline")
        ask("SELECT * FROM candidates", [path])
    except BundleError:
        assert report.faults or report.unchecked
    path.unlink(missing_ok=True)


async def test_a_real_bundle_holds_and_says_what_could_not_be_checked(bundle: Path) -> None:
    report = await found(bundle)
    assert report.faults == ()
    assert any("60 scores and costs against the recorded answers" in what for what in report.checked)
    assert any("msats by their receipts" in what for what in report.checked)
    assert any("the bundle is not signed" in what for what in report.unchecked)


@pytest.mark.parametrize(("change", "where", "what"), FORGERIES, ids=[f"{w}: {t}" for _, w, t in FORGERIES])
async def test_a_forgery_with_a_new_chain_is_named_with_its_line(
    bundle: Path, change: Change, where: str, what: str
) -> None:
    path = forged(bundle, change)
    report = await found(path)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    named = {number for number, line in enumerate(lines, 1) if where in (line["kind"], line["body"].get("name"))}
    assert [fault for fault in report.faults if what in fault.what and fault.line in named], report.faults


async def test_scores_that_agree_with_each_other_are_held_to_the_answers(bundle: Path) -> None:
    def better(lines: list[Line]) -> None:
        validation, card = value(lines, "validation.json"), value(lines, "manifest.json")["scorecard"]
        compared = validation["comparison"]
        loser = next(one for one in compared["baseline"]["outcomes"] if one["score_ppm"])
        loser["score_ppm"] = 0
        scores = {side: [one["score_ppm"] for one in compared[side]["outcomes"]] for side in ("winner", "baseline")}
        compared["baseline"]["score"] = rules().mean(scores["baseline"]).model_dump()
        compared["improvement"] = rules().paired(scores["winner"], scores["baseline"]).model_dump()
        card.update(baseline_score=compared["baseline"]["score"], improvement=compared["improvement"])
        lines[:] = [line for line in lines if line["kind"] != "promotion"]
        rehash(lines, "validation.json")

    path = forged(bundle, better)
    assert verify(path, rules()).faults == ()
    report = await found(path)
    assert len(report.faults) == 1
    assert report.faults[0].what.startswith("baseline on sha256:")
    assert "the recorded answers give 1000000 ppm" in report.faults[0].what


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), other=st.integers(1, 255))
def test_a_flipped_byte_is_reported_with_its_line(bundle: Path, tmp_path: Path, place: float, other: int) -> None:
    data = bytearray(bundle.read_bytes())
    at = int(place * len(data))
    data[at] ^= other
    (tmp_path / "b.jsonl").write_bytes(data)
    report = verify(tmp_path / "b.jsonl", rules())
    assert report.first is not None
    assert report.first.line == bundle.read_bytes()[:at].count(b"\n") + 1


def sign(data: bytes) -> Signature:
    return Signature(scheme="test", public_key="ab" * 32, signature=content_id(b"my key" + data)[7:])


def signed(data: bytes, signature: Signature) -> bool:
    return sign(data) == signature


async def test_a_signed_statement_is_checked(tmp_path: Path) -> None:
    path = await small_bundle(tmp_path, small_spec(tmp_path), Packaging(Guard(), sign=sign))
    report = await found(path, signed=signed)
    assert report.faults == ()
    assert f"the statement, signed by {'ab' * 32}" in report.checked
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    statement = json.loads(of_kind(lines, "statement")[0]["statement"])
    assert statement["predicateType"] == PREDICATE_TYPE
    assert statement["predicate"]["compiled_id"] == value(lines, "manifest.json")["compiled_id"]
    assert any("nothing here can check it" in what for what in verify(path, rules()).unchecked)
    forgery = forged(path, lambda lines: of_kind(lines, "statement")[0]["signatures"][0].update(signature="00"))
    assert [fault.what[:16] for fault in (await found(forgery, signed=signed)).faults] == ["the signature of"]


async def test_a_statement_of_another_run_does_not_hold(tmp_path: Path) -> None:
    path = await small_bundle(tmp_path, small_spec(tmp_path), Packaging(Guard(), sign=sign))

    def other(lines: list[Line]) -> None:
        body = of_kind(lines, "statement")[0]
        statement = json.loads(body["statement"])
        statement["predicate"]["verdict"] = "better than all"
        body["statement"] = canonical_bytes(statement).decode()
        body["signatures"] = [sign(bytes_to_sign(body["statement"].encode())).model_dump()]

    report = await found(forged(path, other), signed=signed)
    assert [fault.what for fault in report.faults] == ["the statement's verdict are not the bundle's"]


async def test_a_bundle_of_hashes_holds_as_far_as_it_tells(tmp_path: Path) -> None:
    path = await small_bundle(tmp_path, small_spec(tmp_path), Packaging(Guard(), kept="hashes"))
    report = await found(path)
    assert report.faults == ()
    assert any("scores, their intervals" in what for what in report.checked)
    assert any("given by their ids alone" in what for what in report.unchecked)


async def test_fields_that_dspy_would_take_for_its_own_are_only_data(bundle: Path) -> None:
    def odd(lines: list[Line]) -> None:
        for sample in of_kind(lines, "data"):
            sample["value"] |= {"base": 1, "self": {"$float": "x"}}

    assert not (await found(forged(bundle, odd))).holds


async def test_a_strangers_program_is_never_imported(bundle: Path) -> None:
    def names_code(lines: list[Line]) -> None:
        body = document(lines, "spec.json")
        spec = json.loads(body["text"])
        spec["program"], spec["metric"] = "antigravity:geohash", "this:s"
        body["text"] = json.dumps(spec)

    report = await found(forged(bundle, names_code))
    assert not {"antigravity", "this"} & sys.modules.keys()
    assert any("is code, which a check does not run" in what for what in report.unchecked)
    types = forged(bundle, lambda lines: document(lines, "spec.json").update(text='{"program":"a: this.s -> b"}'))
    assert not (await found(types)).holds
    assert "this" not in sys.modules
