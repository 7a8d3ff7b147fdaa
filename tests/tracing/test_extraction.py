"""Examples are found in sessions, replays, events, spans, OTLP exports and bundles; a stranger's bytes only count."""

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from blocks.sinks.otlp import readable, resource
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.programs import load_program
from swarmc.contracts.bundle import MAX_LINE_BYTES
from swarmc.contracts.candidates import Candidate, Demo, PredictorChoice
from swarmc.contracts.completions import Message
from swarmc.contracts.training import (
    ExecutionExample,
    PlanningExample,
    Selection,
    Shares,
    VerificationExample,
)
from swarmc.tracing.bundle import read_bundle
from swarmc.tracing.bundled import bundles
from swarmc.tracing.evidence import evidence_of
from swarmc.tracing.extraction import MOST_REASONS, Found, Notes, read_examples
from swarmc.tracing.graph import Graphs
from swarmc.tracing.prompts import Prompts
from swarmc.tracing.runs import EVENTS, SPANS
from swarmc.tracing.sessions import REPLAYS, SESSIONS
from swarmc.tracing.spans import TraceContract
from swarmc.tracing.training import split_of, success_of
from tasks.extract import rescored
from tests.bundles import bundle, forged, of_kind
from tests.tracing.program_runs import RUN, two_steps

__all__ = ["bundle"]  # fixture

SECRET = "sk-" + "a1B2" * 8
KINDS = (bundles(rescored), EVENTS, SPANS, SESSIONS, REPLAYS)
PLAN = {
    "analysis": "the parser drops the last line",
    "files_to_modify": ["src/parse.py"],
    "implementation_steps": ["Add a test", "Fix the loop"],
    "test_strategy": "run the parser's tests",
}
ISSUE = {"repository_summary": "a parser", "issue_description": "last line is lost", "relevant_files": "src/parse.py"}
SOLVED = {"requirements": ["no line is lost", "tests pass"], "solution_summary": "loop fixed", "code_changes": "+1 -1"}


def read(path: Path) -> tuple[list[Found], Notes]:
    notes = Notes(path.name)
    return list(read_examples(path, KINDS, notes)), notes


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def entry(phase: str, event: str, session: str = "s1", **data: Any) -> dict[str, Any]:
    when = "2026-01-02T03:04:05+01:00"
    return {"timestamp": when, "session_id": session, "phase": phase, "event_type": event, "data": data}


def session(verdict: str = "PASS", name: str = "s1") -> list[dict[str, Any]]:
    return [
        entry("planning", "phase_start", name, **ISSUE),
        entry("planning", "result", name, **PLAN),
        entry("execution", "phase_start", name, current_step="Fix the loop", file_state="for line in lines[:-1]"),
        entry("execution", "tool_use", name, tool="read", input={"path": "src/parse.py"}),
        entry("execution", "tool_result", name, tool="read", result="for line in lines[:-1]"),
        entry("execution", "assistant", name, text="The slice is wrong."),
        entry("execution", "tool_use", name, tool="edit", input={"path": "src/parse.py", "at": 0.5}),
        entry("verification", "phase_start", name, **SOLVED),
        entry("verification", "tool_result", name, tool="cargo build", result="built"),
        entry("verification", "tool_result", name, tool="cargo test", result="2 passed"),
        entry("verification", "result", name, verdict=verdict, explanation="both tests pass"),
    ]


def test_a_session_gives_the_seeds_records_and_their_signatures_fields(tmp_path: Path) -> None:
    found, notes = read(written(tmp_path / "s.jsonl", session()))
    plan, first, second, verified = [one.seed for one in found]
    assert plan == PlanningExample(
        **ISSUE,
        expected_analysis=PLAN["analysis"],
        expected_files=("src/parse.py",),
        expected_steps=("Add a test", "Fix the loop"),
        expected_test_strategy="run the parser's tests",
    )
    assert isinstance(first, ExecutionExample)
    assert (first.expected_action, first.expected_reasoning, first.execution_history) == ("READ", "", "[]")
    assert isinstance(second, ExecutionExample)
    assert (second.expected_reasoning, second.execution_history) == ("The slice is wrong.", '["read"]')
    assert isinstance(verified, VerificationExample)
    assert (verified.build_output, verified.test_output) == ("built", "2 passed")
    assert found[0].outputs["files_to_modify"] == '["src/parse.py"]'
    assert found[2].outputs["action_params"] == '{"path":"src/parse.py","at":0.5}'
    assert found[3].inputs["requirements"] == "no line is lost; tests pass"
    assert [one.success for one in found] == [True] * 4
    assert (notes.problem_count, notes.ignored) == (0, {})


def test_a_session_that_failed_labels_its_plans_and_steps_so(tmp_path: Path) -> None:
    rows = [*session("FAIL"), *session("PASS", "s2"), entry("planning", "phase_start", "s3", **ISSUE)]
    rows += [entry("planning", "result", "s3", **PLAN), entry("planning", "error", "s3", error="no network")]
    found, _ = read(written(tmp_path / "s.jsonl", rows))
    by_session = {name: [one.success for one in found if one.run_id == name] for name in ("s1", "s2", "s3")}
    # A verification that says FAIL did its own work.
    assert by_session == {"s1": [False, False, False, True], "s2": [True] * 4, "s3": [False]}


def test_the_seeds_own_entry_is_read(tmp_path: Path) -> None:
    row = entry("planning", "PlanningComplete") | {
        "success": True,
        "context": {"repo_summary": "a parser", "issue": "last line is lost"},
        "output": {"analysis": "slice", "files": ["a.py"], "steps": ["Fix it"]},
    }
    (found,), _ = read(written(tmp_path / "s.jsonl", [row]))
    assert (found.success, found.inputs["issue_description"]) == (True, "last line is lost")
    assert found.outputs["implementation_steps"] == '["Fix it"]'


def test_a_replays_calls_carry_their_results(tmp_path: Path) -> None:
    at = {"t": "2026-01-02T03:04:05Z"}
    call = {"event": "ToolCall", **at, "tool": "bash", "params": {"command": "ls"}, "params_hash": "x", "step_id": "1"}
    result = {"event": "ToolResult", **at, "output_hash": "y", "latency_ms": 7}
    rows = [
        {"event": "ReplayHeader", "replay_version": 1, "producer": "adjutant"},
        {"event": "SessionStart", **at, "session_id": "s9"},
        call | {"id": "a"},
        result | {"id": "a", "exit_code": 0, "step_utility": 0.5},
        call | {"id": "b"},
        result | {"id": "b", "exit_code": 1, "step_utility": 7},
        result | {"id": "nobody's"},
        {"event": "Payment", **at},
        {"event": "SessionEnd", **at, "status": "Success"},
    ]
    (good, bad), notes = read(written(tmp_path / "r.jsonl", rows))
    assert (good.success, good.score_ppm, good.run_id, good.cost.latency_ms) == (True, 750_000, "s9", 7)
    assert (bad.success, bad.failure, bad.score_ppm, bad.line) == (False, "exit code 1", None, 5)
    assert good.inputs["execution_history"] == "[]"
    assert bad.inputs["execution_history"] == '["bash"]'
    assert [(one.line, "no ToolCall" in one.what) for one in notes.problems] == [(7, True)]
    assert notes.ignored["unknown event (Payment)"] == 1


def told(found: list[Found]) -> list[tuple[Any, ...]]:
    return [(one.signature, one.inputs, one.outputs, one.score_ppm, one.run_id, one.phase, one.cost) for one in found]


def test_events_spans_and_otlp_tell_the_same_examples(tmp_path: Path) -> None:
    graphs = Graphs()
    for event in two_steps():
        graphs.add(event)
    spans = TraceContract.graph_to_spans(graphs.finished()[0].graph)
    events = written(tmp_path / "e.jsonl", [event.model_dump(mode="json") for event in two_steps()])
    # The root last: a score may stand after what it scores.
    lines = written(tmp_path / "p.jsonl", [span.model_dump(mode="json") for span in spans[::-1]])
    batch = MessageToDict(encode_spans([readable(span, resource("tests")) for span in spans]))
    whole = tmp_path / "o.json"
    whole.write_text(json.dumps(batch, indent=2))
    first, second = read(events)[0]
    assert (first.signature, first.outputs, first.score_ppm) == ("Step1", {"answer": "secret answer"}, 500_000)
    assert (second.run_id, second.phase, second.cost.msats) == (RUN, "search", 5)
    of_spans = sorted(read(lines)[0], key=lambda one: one.signature)
    assert [one[:-1] for one in told(of_spans)] == [one[:-1] for one in told([first, second])]
    for path in (written(tmp_path / "o.jsonl", [batch]), whole):
        assert told(read(path)[0]) == told(of_spans[:2])


def test_spans_without_content_are_counted(tmp_path: Path) -> None:
    graphs = Graphs()
    for event in two_steps():
        graphs.add(event)
    spans = TraceContract.graph_to_spans(graphs.finished()[0].graph, include_content=False)
    found, notes = read(written(tmp_path / "p.jsonl", [span.model_dump(mode="json") for span in spans]))
    assert (found, notes.ignored["predictor's call without content"]) == ([], 2)


def test_a_bundles_completions_become_examples_with_the_scores_that_were_recorded(bundle: Path) -> None:
    found, notes = read(bundle)
    assert notes.problem_count == 0
    evaluations = evidence_of(read_bundle(bundle)).evaluations().values()
    right = {(one.candidate_id, out.example_id): out.score_ppm for one in evaluations for out in one.outcomes}
    recorded = [one for one in found if not one.scored_again]
    assert {(one.candidate_id, one.run_example_id): one.score_ppm for one in recorded} == right
    assert len(found) == 100
    assert all(one.score_ppm is not None for one in found)
    winner = evidence_of(read_bundle(bundle)).evaluations()["winner"].candidate_id
    assert {one.candidate_id for one in found if one.is_best} == {winner}
    # What we score again is what the compile had scored.
    gold = {one.example_id: one.value for one in read_bundle(bundle).samples}
    for one in recorded:
        expected = gold[one.run_example_id or ""]
        assert expected is not None
        assert rescored("exact_match", expected, one.outputs) == one.score_ppm


def test_a_bundle_with_events_is_read_from_them_and_knows_their_examples(bundle: Path) -> None:
    winner = evidence_of(read_bundle(bundle)).evaluations()["winner"].candidate_id
    sample = read_bundle(bundle).samples[0]
    first = {"candidate_id": winner, "example_id": sample.example_id}
    events = [event.model_dump(mode="json") for event in two_steps()]
    events[0] |= first

    def tell(lines: list[dict[str, Any]]) -> None:
        place = next(i for i, line in enumerate(lines) if line["kind"] == "account")
        lines[place:place] = [{"kind": "event", "body": event} for event in events]

    found, notes = read(forged(bundle, tell))
    assert notes.problem_count == 0
    assert [(one.signature, one.score_ppm, one.is_best, one.run_split) for one in found] == [
        ("Step1", 500_000, True, sample.split),
        ("Step2", 500_000, True, sample.split),
    ]


def test_what_is_counted_grows_with_no_strangers_words(tmp_path: Path) -> None:
    rows = [{"event": f"{'x' * (i % 40)}{i // 40 * '_'}y"} for i in range(400)] + [{"event": SECRET}] * 3
    _, notes = read(written(tmp_path / "r.jsonl", rows))
    assert len(notes.ignored) <= MOST_REASONS + 1
    assert notes.ignored.total() == 403
    assert SECRET not in str(notes.ignored)


def test_a_bundles_changed_line_is_left_out_and_the_rest_is_read(bundle: Path, tmp_path: Path) -> None:
    lines = bundle.read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if b'"kind":"completion"' in line)
    lines[place] = lines[place].replace(b"pink", b"blue").replace(b"red", b"blue")
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:-1]) + lines[-1][:50])
    found, notes = read(cut)
    assert len(found) == 99
    assert [one.line for one in notes.problems] == [place + 1, len(lines), len(lines)]
    assert "its hash is wrong" in notes.problems[0].what
    assert "may have been cut" in notes.problems[1].what


def test_a_forged_bundle_whose_records_are_of_wrong_types_is_counted(bundle: Path) -> None:
    def wrong(lines: list[dict[str, Any]]) -> None:
        for body in of_kind(lines, "completion")[:3]:
            body["request"] = {"messages": 7}
        for body in of_kind(lines, "data"):
            body["value"] = {"question": {"$float": "no number"}, "answer": 1}

    found, notes = read(forged(bundle, wrong))
    assert (len(found), notes.problem_count) == (97, 3)


@pytest.mark.parametrize("kind", ["chat", "json", "xml"])
def test_what_an_adapter_writes_is_read_back(kind: str) -> None:
    program = load_program("question: str, size: int -> answer: str, sure: bool")
    demo = {"question": "a?\nb?", "size": 3, "answer": "c", "sure": False}
    text = PredictorChoice(instruction="Say it.\n\nBriefly.", demos=(Demo(fields=demo),))
    worn = Candidate(predictors={"self": text})
    other = Candidate(predictors={"self": PredictorChoice(instruction="Say it.\n\nBriefly.")})
    module, adapter = program.dressed(worn), make_adapter(kind, json_fallback=False)
    ((_, predictor),) = module.named_predictors()
    signature: Any = predictor.signature
    asked = adapter.format(signature, predictor.demos, {"question": "x\n\ny", "size": 7})
    answer = adapter.format_assistant_message_content(signature, {"answer": "z", "sure": True})
    prompts = Prompts(program.describe(), {one.content_id: one for one in (worn, other)})
    step = prompts.read([Message(role=one["role"], content=one["content"]) for one in asked], answer)
    assert step is not None
    assert step.inputs == {"question": "x\n\ny", "size": 7}
    assert step.outputs == {"answer": "z", "sure": True}
    assert step.candidates == {worn.content_id}
    assert prompts.read([Message(role="user", content="something else")], answer) is None


HOSTILE = [
    b"\xff\xfe\x00",
    b'{"event": ' * 200_000,
    b'{"event_type": 1e999, "a": ' + b"[" * 900 + b"]" * 900 + b"}",
    b"[1, 2]",
    b'{"event": "ToolCall", "id": ["x"], "tool": {}}',
    b'{"event_type": "result", "session_id": {}, "phase": ["planning"], "data": {}}',
    b'{"event_type": "result", "phase": "planning", "data": [1]}',
    b'{"event_type": "PlanningComplete", "context": 3}',
    b'{"trace_id": 1, "span_id": [], "attributes": {}}',
    b'{"resourceSpans": [{"scopeSpans": {"spans": 1}}, 7, {"scopeSpans": [{"spans": [{"attributes": [1]}]}]}]}',
    b'{"body": 1.5, "hash": [], "kind": {}, "number": "1"}',
    b'{"body": null, "hash": "", "kind": "completion", "number": true}',
    b'{"kind": "program_ended", "run_id": 3}',
    b'{"n": ' + b"9" * 5000 + b"}",
    b"null",
    b'{"cut": "he',
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line[:30].decode("ascii", "replace"))
def test_a_hostile_line_costs_nothing_but_itself(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    good = "".join(json.dumps(row) + "\n" for row in session()).encode()
    path.write_bytes(good + line + b"\n" + good.replace(b'"s1"', b'"s2"'))
    found, notes = read(path)
    assert len([one for one in found if one.run_id in ("s1", "s2")]) == 8
    assert notes.problem_count + notes.ignored.total() + (b"span" in line.lower()) >= 1
    assert all(one.line == 12 for one in notes.problems if "cut" not in one.what)


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "h.jsonl", session())
    with path.open("ab") as file:
        file.write(b"x" * (MAX_LINE_BYTES + 10) + b"\n" + json.dumps(entry("planning", "nothing")).encode())
    found, notes = read(path)
    assert (len(found), notes.lines) == (4, 13)
    assert [(one.line, "bytes and is not read" in one.what) for one in notes.problems] == [(12, True)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "event event_type phase data session_id id tool step_id params trace_id span_id attributes resourceSpans kind "
    "run_id body hash number context output status"
)
WORDS = (
    "ToolCall ToolResult SessionEnd SessionStart result phase_start tool_use tool_result PlanningComplete planning "
    "execution verification completion program_started header data"
)
names = st.sampled_from(NAMES.split())
words = st.sampled_from(WORDS.split())
rows = st.dictionaries(names, words | json_values, max_size=6)


@given(st.lists(rows | json_values, max_size=6), st.binary(max_size=20))
def test_no_line_whatever_it_holds_ends_the_reading(tmp_path_factory, found: list[Any], rest: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_bytes("".join(json.dumps(row) + "\n" for row in found).encode() + rest)
    examples, notes = read(path)
    assert all(1 <= one.line <= notes.lines for one in examples)
    assert all(one.line <= notes.lines for one in notes.problems)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.floats(), max_size=3))
def test_where_an_example_belongs_is_decided_by_its_inputs_alone(inputs: dict[str, Any]) -> None:
    turned = dict(reversed(inputs.items()))
    assert split_of(inputs, Shares()) == split_of(turned, Shares())
    assert split_of(inputs, Shares(train=0, validation=0, test=1)) == "test"


OUTCOMES: list[tuple[dict[str, Any], bool | None]] = [
    ({}, None),
    ({"score_ppm": 1_000_000}, True),
    ({"score_ppm": 999_999}, False),
    ({"success": True, "score_ppm": 10}, True),
    ({"success": True, "failure": "ValueError: no"}, False),
]


@pytest.mark.parametrize(("told", "success"), OUTCOMES)
def test_the_evidence_says_more_of_success_than_a_score(told: dict[str, Any], success: bool | None) -> None:
    found = Found(line=1, signature="S", inputs={"a": 1}, outputs={"b": 2}, **told)
    assert success_of(found, Selection()) is success


def test_an_example_of_dspys_own_class_takes_every_seed_record(tmp_path: Path) -> None:
    for one in read(written(tmp_path / "s.jsonl", session()))[0]:
        example = dspy.Example(**one.inputs, **one.outputs).with_inputs(*one.inputs)
        assert dict(example.inputs()) == one.inputs
        assert dict(example.labels()) == one.outputs
