"""Evidence becomes datasets that a compile reads back as they were written, the same bytes every time."""

import asyncio
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flows.evidence import bundle_run
from flows.extract import extract_here, extract_training_data, present_extracted, selection_of, selection_said
from swarmc.compiler.datasets import dataset_ref, example_id, load_examples, split_examples
from swarmc.contracts.errors import DatasetError, SpecError
from swarmc.contracts.manifest import PrivacyMode
from swarmc.contracts.spec import DatasetSpec, SplitSpec
from swarmc.contracts.training import PlanningExample, Selection, TrainingManifest
from swarmc.tracing.extraction import Found
from swarmc.tracing.privacy import Redactor
from swarmc.tracing.training import TrainingWriter, read_manifest, success_of
from tasks.extract import Extraction, extracted_to, load_training, report_of
from tests.bundles import bundle

__all__ = ["bundle"]  # fixture

SECRET = "sk-" + "a1B2" * 8
EVERYTHING = Selection(only_successful=False)


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(one.relative_to(directory)): one.read_bytes() for one in sorted(directory.rglob("*")) if one.is_file()}


def planned(count: int, path: Path, verdict: str = "PASS", issue: str = "issue") -> Path:
    """A log of sessions, each with a plan and a verdict."""
    rows = []
    for number in range(count):
        at = {"timestamp": "2026-01-02T03:04:05Z", "session_id": f"s{number}"}
        asked = {"repository_summary": "r", "issue_description": f"{issue} {number}", "relevant_files": ""}
        said = {"analysis": "a", "files_to_modify": ["f.py"], "implementation_steps": ["Fix"], "test_strategy": "t"}
        rows += [
            at | {"phase": "planning", "event_type": "phase_start", "data": asked},
            at | {"phase": "planning", "event_type": "result", "data": said},
            at | {"phase": "verification", "event_type": "result", "data": {"verdict": verdict}},
        ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


async def test_a_bundles_datasets_are_read_back_by_a_compile(bundle: Path, tmp_path: Path) -> None:
    extracted = await extract_here([str(bundle)], str(tmp_path / "out"), EVERYTHING)
    (one,) = extracted.manifest.datasets
    assert (one.signature, one.inputs, one.outputs) == ("question -> answer", ("question",), ("answer",))
    met: set[str] = set()
    for name, file in one.splits.items():
        spec = DatasetSpec(source=str(tmp_path / "out" / file.path), inputs=one.inputs)
        examples = load_examples(spec, ())
        by_id = {example_id(example): example for example in examples}
        assert dataset_ref("train", list(by_id), by_id).dataset_id == file.dataset_id
        assert (len(by_id), len(examples)) == (file.count, file.count)
        assert met.isdisjoint(example.question for example in examples)
        met |= {example.question for example in examples}
        loaded = load_training(tmp_path / "out", "question -> answer", name)
        assert [(example_id(example), set(example.inputs())) for example, _ in loaded] == [
            (label.example_id, {"question"}) for _, label in loaded
        ]
    train = load_examples(DatasetSpec(source=str(tmp_path / "out" / one.splits["train"].path)), one.inputs)
    assert split_examples(train, SplitSpec(), seed=0).duplicates == 0


async def test_the_same_sources_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    log = planned(20, tmp_path / "log.jsonl")
    for name in ("a", "b"):
        await extract_here([str(bundle), str(log), str(log)], str(tmp_path / name), Selection())
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")
    before = files_in(tmp_path / "a")
    await extract_here([str(bundle), str(log)], str(tmp_path / "a"), Selection())
    assert files_in(tmp_path / "a") == before
    assert [name for name in files_in(tmp_path) if name.startswith(".")] == []


async def test_a_selection_says_what_is_taken(bundle: Path, tmp_path: Path) -> None:
    async def taken(**asked: Any) -> tuple[list[Any], TrainingManifest]:
        extracted = await extract_here([str(bundle)], str(tmp_path / "out"), Selection(**asked))
        splits = extracted.manifest.datasets[0].splits
        loaded = [one for name in splits for one in load_training(tmp_path / "out", "question -> answer", name)]
        return [label for _, label in loaded], extracted.manifest

    right, manifest = await taken()
    assert all(label.success and label.score_ppm == 1_000_000 for label in right)
    assert sum(manifest.dropped.values()) + manifest.count == 100
    best, manifest = await taken(only_best=True, only_successful=False)
    assert {label.is_best for label in best} == {True}
    assert manifest.dropped["not of the best candidate"] > 0
    searched, _ = await taken(phases=("search",), min_score=0.5)
    assert {(label.phase, label.score_ppm, label.cost.msats) for label in searched} == {("search", 1_000_000, 3)}
    with pytest.raises(DatasetError, match=r"100 examples were found in .*100 another signature; ask for more"):
        await taken(signatures=("Other",))


async def test_a_sessions_records_are_written_in_both_forms(tmp_path: Path) -> None:
    log = planned(12, tmp_path / "log.jsonl")
    shares = {"train": 1, "validation": 0, "test": 0}
    extracted = await extract_here([str(log)], str(tmp_path / "out"), selection_of({"shares": shares}))
    plans = next(one for one in extracted.manifest.datasets if one.signature == "PlanningSignature")
    file = plans.splits["train"]
    assert file.seed is not None
    seeds = [PlanningExample.model_validate_json(line) for line in (tmp_path / "out" / file.seed).open()]
    rows = [dict(example) for example, _ in load_training(tmp_path / "out", "PlanningSignature")]
    assert rows == [{**seed.fields().inputs, **seed.fields().outputs} for seed in seeds]
    assert (len(rows), list(rows[0])[3:5]) == (12, ["analysis", "files_to_modify"])


async def test_no_secret_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = planned(5, tmp_path / "log.jsonl", issue=f"mail ada@example.org, key {SECRET}, hunter-two-hunter")
    job = Extraction((log,), tmp_path / "out", selection_of({"privacy_mode": "no_pii"}), ("hunter-two-hunter",))
    extracted = await extracted_to(job)
    everything = b"".join(files_in(tmp_path / "out").values()).decode() + extracted.model_dump_json()
    assert "issue" not in everything.replace("issue_description", "")
    assert [word for word in (SECRET, "ada@example.org", "hunter-two") if word in everything] == []
    assert "mail [email], key [secret], [secret]" in everything
    assert capsys.readouterr().out == ""


async def test_what_cannot_be_done_is_said(tmp_path: Path, bundle: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "notes.jsonl").write_text('{"a": 1}\n{"b"\n')
    for sources, said in (
        ([str(tmp_path / "none.jsonl")], "no such file or directory: .*none.jsonl"),
        ([str(empty)], r"has no file that ends in \.jsonl or \.json"),
        ([], "name at least one file"),
        ([str(tmp_path / "notes.jsonl")], "looked for bundles .* 1 unknown line; line 2 of notes.jsonl: no JSON"),
        ([str(planned(3, tmp_path / "log.jsonl", "FAIL"))], "6 examples were found .* 3 no success"),
    ):
        with pytest.raises(DatasetError, match=said):
            await extract_here(sources, str(tmp_path / "out"), selection_of({"phases": ["planning"]}))
    (empty / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"holds 'mine\.txt', which no extraction wrote"):
        await extract_here([str(bundle)], str(empty), Selection())
    assert list(files_in(tmp_path)) == ["empty/mine.txt", "log.jsonl", "notes.jsonl"]


def test_a_wrong_selection_is_said() -> None:
    assert selection_of({"shares.test": 3, "shares.train": 1}).shares.test == 3
    said = selection_said(['phases=["search"]', "privacy_mode=no_pii"], everything=True, min_score=0.5)
    assert (said.phases, said.privacy_mode, said.only_successful) == (("search",), PrivacyMode.NO_PII, False)
    with pytest.raises(SpecError, match="write FIELD=VALUE"):
        selection_said(["phases"])
    for wrong, said in (
        ({"shares.test": -1}, "shares.test: "),
        ({"min_scor": 1}, "min_scor: "),
        ({"shares": 3}, "shares: "),
        ({"privacy_mode": PrivacyMode.PRIVATE_REPO_ALLOWED}, "leaves hashes alone"),
    ):
        with pytest.raises(SpecError, match=said):
            selection_of(wrong)


async def test_changed_files_are_not_read_back(tmp_path: Path) -> None:
    extracted = await extract_here([str(planned(9, tmp_path / "log.jsonl"))], str(tmp_path / "out"), Selection())
    path = tmp_path / "out" / extracted.manifest.datasets[0].splits["train"].path
    path.write_bytes(path.read_bytes().replace(b"issue", b"other"))
    with pytest.raises(DatasetError, match="was changed after it was written"):
        load_training(tmp_path / "out", "PlanningSignature")
    with pytest.raises(DatasetError, match="no dataset of the signature 'Other'"):
        load_training(tmp_path / "out", "Other")


async def test_what_is_shown_commands_no_terminal_and_breaks_no_table(tmp_path: Path) -> None:
    event = {"trace_id": "1", "span_id": "2", "status": {"code": 1}}
    told = {"dsrs.node_type": "predict", "dsrs.inputs": '{"a":1}', "dsrs.outputs": '{"b":2}'}
    rows = [event | {"attributes": told | {"dsrs.signature_name": "\x1b[2J|<b>`[red]"}}]
    (tmp_path / "spans.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"\x1b')
    screen = StringIO()
    extracted = await extract_here([str(tmp_path / "spans.jsonl")], str(tmp_path / "out"), EVERYTHING)
    present_extracted(Console(file=screen, width=120), extracted)
    report = report_of(extracted.manifest)
    assert "\x1b" not in screen.getvalue() + report
    assert " [2J\\|&lt;b>'[red] |" in report
    assert extracted.manifest.problem_count == 1


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.integers())
fields = st.dictionaries(st.sampled_from(["a", "b", "$float", "self", "é"]), values, min_size=1, max_size=2)
drawn = st.builds(
    Found,
    line=st.integers(1, 9),
    signature=st.sampled_from(["S", "s", "a -> b", "../.."]),
    inputs=fields,
    outputs=st.dictionaries(st.sampled_from(["x", "y", "base", "dspy_x"]), values, max_size=2),
    score_ppm=st.none() | st.integers(0, 1_000_000),
    success=st.none() | st.booleans(),
)


@given(st.lists(drawn, max_size=12))
def test_every_example_is_written_once_in_the_split_of_its_inputs(tmp_path_factory, found: list[Found]) -> None:
    out = tmp_path_factory.mktemp("out")
    with TrainingWriter(out, Selection(), Redactor.of(PrivacyMode.PUBLIC_OK)) as writer:
        taken = sum(writer.add(one, "sha256:" + "0" * 64) for one in found)
        again = [writer.add(one, "sha256:" + "0" * 64) for one in found]
        sets = writer.sets()
    assert not any(again)
    assert taken + sum(writer.dropped.values()) == 2 * len(found)
    assert sum(one.count for one in sets) == taken <= sum(success_of(one, Selection()) is True for one in found)
    split_of: dict[str, str] = {}
    for one in sets:
        ids = set()
        for name, file in one.splits.items():
            examples = load_examples(DatasetSpec(source=str(out / file.path)), one.inputs)
            by_id = {example_id(example): example for example in examples}
            assert dataset_ref("train", list(by_id), by_id).dataset_id == file.dataset_id
            assert ids.isdisjoint(by_id)
            ids |= by_id.keys()
            for example in examples:
                inputs = example_id(example.inputs())
                assert split_of.setdefault(inputs, name) == name
    assert all(out in path.parents for path in out.rglob("*"))


@pytest.mark.slow
@pytest.mark.xdist_group("prefect, a second server")
async def test_a_real_compiles_evidence_is_extracted_as_a_flow_and_compiled_again(
    swarmc, on_server, manifest_of, counting_server, write_spec, tmp_path
):
    port = counting_server()
    manifest = manifest_of(swarmc("compile", str(write_spec(port))))
    ledger = f"sqlite:///{swarmc.home / 'ledger.db'}"
    await bundle_run(manifest["run_id"], ledger=ledger, out=tmp_path / "run.jsonl")
    selection = selection_of({"shares": {"train": 1, "validation": 0, "test": 0}})
    extracted = await extract_training_data([str(tmp_path / "run.jsonl")], str(tmp_path / "out"), selection)
    assert read_manifest(tmp_path / "out") == extracted.manifest
    (one,) = extracted.manifest.datasets
    source = str(tmp_path / "out" / one.splits["train"].path)
    parts = {"train": 5, "search": 5, "validation": 5, "test": 5}
    again = write_spec(port, dataset={"source": source}, split=parts, name="again")
    done = await asyncio.to_thread(swarmc, "compile", str(again))
    assert done.returncode == 0, done.stdout + done.stderr
