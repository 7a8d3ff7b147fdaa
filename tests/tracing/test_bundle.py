"""A bundle is one canonical text, every change of which is found and named by its line; it tells no secret."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmc.contracts.bundle import End, Header, Sample, ledger_root, preview
from swarmc.contracts.canonical import canonical_bytes
from swarmc.contracts.errors import BundleError
from swarmc.contracts.money import Receipt
from swarmc.tracing.bundle import BundleWriter, document_of, read_bundle, read_lines
from swarmc.tracing.withholding import Guard
from tasks.package import Packaging
from tests.bundles import Line, bundle, document, forged, of_kind, small_bundle, small_spec

__all__ = ["bundle"]  # fixture

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "bundle.json").read_text(encoding="utf-8"))
SLOWLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SECRETS = ("sk-proj-abcdefghijklmnopqrstuvwx", "hunter2secret", "in-the-environment-only")


def first_fault(data: bytes, tmp_path: Path) -> int:
    path = tmp_path / "changed.jsonl"
    path.write_bytes(data)
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    assert str(caught.value).startswith(f"line {caught.value.line}:")
    return caught.value.line


@SLOWLY
@given(place=st.floats(0, 1, exclude_max=True), other=st.integers(1, 255))
def test_any_flipped_byte_is_found_on_its_line(bundle: Path, tmp_path: Path, place: float, other: int) -> None:
    data = bytearray(bundle.read_bytes())
    at = int(place * len(data))
    data[at] ^= other
    assert first_fault(bytes(data), tmp_path) == bytes(bundle.read_bytes()[:at]).count(b"\n") + 1


@SLOWLY
@given(place=st.floats(0, 1, exclude_max=True), how=st.sampled_from(["drop", "double", "swap", "blank", "cut"]))
def test_any_dropped_added_or_moved_line_is_found(bundle: Path, tmp_path: Path, place: float, how: str) -> None:
    lines = bundle.read_bytes().splitlines(keepends=True)
    at = int(place * (len(lines) - 1))
    changes = {
        "drop": lines[:at] + lines[at + 1 :],
        "double": lines[: at + 1] + lines[at:],
        "swap": [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]],
        "blank": [*lines[:at], b"\n", *lines[at:]],
        "cut": lines[:at],
    }
    found = first_fault(b"".join(changes[how]), tmp_path)
    assert found == at + (2 if how == "double" else 1)


def test_nothing_may_follow_the_end(bundle: Path, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    assert first_fault(data + b"{}\n", tmp_path) == data.count(b"\n") + 1


HOSTILE = [
    b"",
    b"\n",
    b"\xff\xfe\n",
    b"[" * 100_000 + b"\n",
    b'{"a":' * 50_000 + b"\n",
    b"9" * 5_000 + b"\n",
    b'{"body":1,"body":2,"hash":"","kind":"header","number":1}\n',
    b'{"body":NaN,"hash":"","kind":"header","number":1}\n',
    b'{"body":{},"hash":"x","kind":"shell","number":1}\n',
    b'{"body":"\\ud800","hash":"x","kind":"header","number":1}\n',
    b'{"body":{},"hash":"x","kind":["header"],"number":1}\n',
    b'{"body":{},"hash":"x","kind":"header","number":true}\n',
    b"\x1f\x8b\x08\x00",
]


@pytest.mark.parametrize("data", HOSTILE)
def test_a_strangers_first_line_is_refused_with_its_number(data: bytes, tmp_path: Path) -> None:
    assert first_fault(data, tmp_path) == 1


def test_a_body_that_would_exhaust_its_reader_is_refused(bundle: Path) -> None:
    def deep(lines: list[Line]) -> None:
        value = of_kind(lines, "data")[0]["value"]
        for _ in range(120):
            value = {"a": value}
        of_kind(lines, "data")[0]["value"] = value

    with pytest.raises(BundleError, match="more than 100 lists and objects within one another"):
        read_bundle(forged(bundle, deep))


def test_a_missing_file_is_an_error_of_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"reading the bundle nothing\.jsonl"):
        read_bundle(tmp_path / "nothing.jsonl")


def test_kinds_stand_in_one_order(tmp_path: Path) -> None:
    with (tmp_path / "b.jsonl").open("wb") as file:
        writer = BundleWriter(file, Header(run_id="r", created_at=0))
        writer.add("account", document_of("account.json", b"{}", is_canonical=True))
        with pytest.raises(BundleError, match="data line cannot stand after a account line"):
            writer.add("data", Sample(example_id="sha256:" + "a" * 64, split="train", place=0))


@pytest.mark.parametrize("vector", VECTORS["bundles"], ids=lambda vector: vector["name"])
def test_the_form_is_what_it_always_was(vector: dict, tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    with path.open("wb") as file:
        writer = BundleWriter(file, Header.model_validate(vector["header"]))
        for sample in vector["samples"]:
            writer.add("data", Sample.model_validate(sample))
        end = writer.close()
    assert path.read_text(encoding="utf-8").splitlines() == vector["lines"]
    assert end == End(lines=len(vector["lines"]) - 1, root=vector["root"])
    assert [line.kind for line in read_lines(path)] == ["header", *["data"] * len(vector["samples"]), "end"]


def test_the_root_of_receipts_is_what_it_always_was() -> None:
    vector = VECTORS["receipts"]
    assert ledger_root([Receipt.model_validate(receipt) for receipt in vector["receipts"]]) == vector["root"]


async def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    first = await small_bundle(tmp_path, spec, Packaging(Guard()))
    lines = [json.loads(line) for line in first.read_bytes().splitlines()]
    assert lines[0]["body"]["run_id"] == "run-1"
    assert lines[0]["body"]["kept"] == "all"
    assert len(of_kind(lines, "data")) == 50
    assert {call["receipt"]["lane"] for call in of_kind(lines, "completion")} == {"swarm"}
    assert document(lines, "spec.json")["redacted"] == ["dataset.source"]


async def test_no_secret_and_no_place_of_the_machine_is_told(tmp_path: Path) -> None:
    venue = f"http://user:{SECRETS[1]}@127.0.0.1:9/v1?api_key={SECRETS[0]}"
    spec = small_spec(tmp_path, lanes={"swarm": {"venue": venue, "max_tokens": 64}})
    spec = spec.model_copy(
        update={"ledger": f"postgresql://me:{SECRETS[1]}@db/x", "store": str(tmp_path / "artifacts")}
    )
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows[0] = json.dumps({"question": f"why is {SECRETS[2]} wrong label=red", "answer": "red"})
    rows[1] = json.dumps({"question": f"is {SECRETS[0]} a key label=green", "answer": "green"})
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    spec = spec.model_copy(update={"split": spec.split.model_copy(update={"train": 18})})
    path = await small_bundle(tmp_path, spec, Packaging(Guard([SECRETS[2]], [str(tmp_path)])))
    data = path.read_text()
    assert [secret for secret in (*SECRETS, str(tmp_path), "postgresql://") if secret in data] == []
    lines = [json.loads(line) for line in data.splitlines()]
    assert sum(sample["value"] is None for sample in of_kind(lines, "data")) == 2
    assert set(document(lines, "spec.json")["redacted"]) == {"dataset.source", "lanes.swarm.venue"}
    read_bundle(path)


async def test_a_private_run_is_told_in_hashes(tmp_path: Path) -> None:
    path = await small_bundle(tmp_path, small_spec(tmp_path, privacy_mode="no_pii"), Packaging(Guard()))
    data = path.read_text()
    assert "label=" not in data
    assert "Classify" not in data
    found = read_bundle(path)
    assert found.header.kept == "hashes"
    assert all(call.request is None for call in found.calls)


@given(st.text(max_size=6_000))
def test_a_preview_is_short_and_begins_and_ends_as_the_text(text: str) -> None:
    shown = preview(text)
    assert len(shown) <= 2_003
    assert text.startswith(shown[:1_000])
    assert text.endswith(shown[-1_000:])


def test_a_path_in_a_users_own_text_stays() -> None:
    data = canonical_bytes({"demos": [{"fields": {"source": "/etc/hosts"}}], "program": "/srv/app/triage.py:Triage"})
    clean = Guard().document(document_of("compiled.json", data, is_canonical=True))
    assert clean.redacted == ("program",)
    assert clean.value == {"demos": [{"fields": {"source": "/etc/hosts"}}], "program": "[elsewhere]/triage.py:Triage"}
