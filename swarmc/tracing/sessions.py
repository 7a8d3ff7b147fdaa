"""Sessions of a coding agent as examples: the phase log and the REPLAY events (`seeds/001`, phase 6).

A session's examples wait until its outcome is known, then carry it. Nothing is made up: where the log
has no reasoning, the example's is empty; where nobody says whether it went well, nobody does here.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from swarmc.contracts.candidates import RunCost
from swarmc.contracts.canonical import PPM
from swarmc.contracts.training import ExecutionExample, PlanningExample, SeedExample, VerificationExample
from swarmc.tracing.extraction import Found, Kind, Notes, Row, text_at, texts_at

MOST_SESSIONS = 1_024
MOST_WAITING = 10_000
MOST_HISTORY = 50
"""Tools of a step's history that an example shows: the last ones."""

PASSED = frozenset({"PASS", "PASSED", "SUCCESS", "APPROVE", "APPROVED"})
COMPLETE = "PlanningComplete"
"""The seed's own entry: inputs, outputs and success in one line."""


def example_of(phase: str, line: int, seed: SeedExample) -> Found:
    """A seed's record as an example of its signature."""
    signature, inputs, outputs = seed.fields()
    return Found(line=line, signature=signature, inputs=inputs, outputs=outputs, phase=phase, seed=seed)


@dataclass
class _Session:
    """A session that has not ended. `told` are the fields of each phase; `tools` the current step's."""

    id: str
    told: dict[str, Row] = field(default_factory=dict)
    waiting: list[Found] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    said: str = ""
    success: bool | None = None
    has_failed: bool = False

    @property
    def outcome(self) -> bool | None:
        """A verdict counts more than an error on the way."""
        return self.success if self.success is not None else (False if self.has_failed else None)

    def history(self) -> str:
        """The tools that the step has used so far, as JSON."""
        return json.dumps(self.tools[-MOST_HISTORY:], ensure_ascii=False)


class _Sessions:
    """Open sessions, and the examples that wait in them."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self._open: OrderedDict[str, _Session] = OrderedDict()
        self._waiting = 0

    def get(self, session_id: str) -> _Session:
        """A session by its id, begun when it is new."""
        return self._open.setdefault(session_id, _Session(session_id))

    def wait(self, session: _Session, found: Found) -> Iterator[Found]:
        """Keep an example until its session's outcome is known."""
        session.waiting.append(found)
        self._waiting += 1
        yield from self.crowded()

    def crowded(self) -> Iterator[Found]:
        """Close the oldest sessions while there are too many to hold."""
        while self._waiting > MOST_WAITING or len(self._open) > MOST_SESSIONS:
            self.notes.ignore("session cut off before its end")
            yield from self.close(next(iter(self._open)))

    def close(self, session_id: str) -> Iterator[Found]:
        """The session's examples with its outcome."""
        session = self._open.pop(session_id, None)
        if session is None:
            return
        for found in session.waiting:
            self._waiting -= 1
            yield found if found.success is not None else replace(found, success=session.outcome)

    def end(self) -> Iterator[Found]:
        """All that still wait."""
        for session_id in list(self._open):
            yield from self.close(session_id)


class SessionLog:
    """Lines `{timestamp, session_id, phase, event_type, data}`."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._sessions = _Sessions(notes)
        self._phases: dict[str, Callable[[int, _Session, Row, str], SeedExample | None]] = {
            "planning": self._planning,
            "execution": self._execution,
            "verification": self._verification,
        }

    def look(self, line: int, row: Row) -> None:
        """Lines come in their order, so nothing needs to be known before."""

    def take(self, line: int, row: Row) -> Iterator[Found]:
        yield from self._sessions.crowded()
        data, event = row.get("data"), str(row["event_type"])
        session = self._sessions.get(str(row.get("session_id") or ""))
        if event == COMPLETE:
            yield from self._complete(line, row, session)
            return
        phase = text_at(row, "phase") or ""
        if not isinstance(data, dict):
            self._notes.problem(line, f"`data` is a {type(data).__name__} instead of an object")
        elif event == "error":
            session.has_failed = True
        elif phase in self._phases:
            seed = self._phases[phase](line, session, data, event)
            if seed is not None:
                # A verification that says FAIL did its work; the session's outcome is not its own.
                own = True if isinstance(seed, VerificationExample) else None
                found = replace(example_of(phase, line, seed), success=own, run_id=session.id)
                yield from self._sessions.wait(session, found)
        else:
            self._notes.ignore("session event of no known phase", event)

    def end(self) -> Iterator[Found]:
        yield from self._sessions.end()

    def _planning(self, line: int, session: _Session, data: Row, event: str) -> PlanningExample | None:
        told = _merged(session, "planning", data, event)
        if event != "result":
            return None
        issue, steps = text_at(told, "issue_description"), texts_at(told, "implementation_steps")
        if issue is None or not steps:
            self._notes.problem(line, "a plan without issue_description or implementation_steps is no example")
            return None
        session.told.pop("planning", None)
        return PlanningExample(
            repository_summary=_text(told, "repository_summary"),
            issue_description=issue,
            relevant_files=_text(told, "relevant_files"),
            expected_analysis=_text(told, "analysis"),
            expected_files=texts_at(told, "files_to_modify") or (),
            expected_steps=steps,
            expected_test_strategy=_text(told, "test_strategy"),
        )

    def _execution(self, line: int, session: _Session, data: Row, event: str) -> ExecutionExample | None:
        if event == "phase_start":
            session.tools, session.said = [], ""
        told = _merged(session, "execution", data, event)
        if event == "assistant":
            session.said = text_at(data, "text", "content", "message") or session.said
        if event != "tool_use":
            return None
        tool, step = text_at(data, "tool"), text_at(told, "current_step")
        if tool is None or step is None:
            self._notes.problem(line, "a tool_use without `tool`, or outside of a current_step, is no example")
            return None
        example = ExecutionExample(
            plan_step=step,
            current_file_state=_text(told, "file_state"),
            execution_history=session.history(),
            expected_action=tool.upper(),
            expected_params=data.get("input"),
            expected_reasoning=session.said,
        )
        session.tools = [*session.tools[-MOST_HISTORY:], tool]
        session.said = ""
        return example

    def _verification(self, line: int, session: _Session, data: Row, event: str) -> VerificationExample | None:
        told = _merged(session, "verification", data, event)
        if event == "tool_result":
            _output(told, data)
        if event != "result":
            return None
        verdict = text_at(told, "verdict")
        if verdict is None:
            self._notes.problem(line, "a verification's result without `verdict` is no example")
            return None
        session.success = verdict.strip().upper() in PASSED
        session.told.pop("verification", None)
        return VerificationExample(
            requirements=texts_at(told, "requirements") or (),
            solution_summary=_text(told, "solution_summary"),
            code_changes=_text(told, "code_changes"),
            build_output=_text(told, "build_output"),
            test_output=_text(told, "test_output"),
            expected_verdict=verdict,
            expected_explanation=_text(told, "explanation"),
        )

    def _complete(self, line: int, row: Row, session: _Session) -> Iterator[Found]:
        asked, said = row.get("context"), row.get("output")
        told = row.get("data") if isinstance(row.get("data"), dict) else row
        assert isinstance(told, dict)
        asked, said = told.get("context", asked), told.get("output", said)
        if not isinstance(asked, dict) or not isinstance(said, dict):
            self._notes.problem(line, f"a {COMPLETE} without the objects `context` and `output` is no example")
            return
        success = told.get("success", row.get("success"))
        seed = PlanningExample(
            repository_summary=_text(asked, "repo_summary") or _text(asked, "repository_summary"),
            issue_description=_text(asked, "issue") or _text(asked, "issue_description"),
            relevant_files=_text(asked, "relevant_files"),
            expected_analysis=_text(said, "analysis"),
            expected_files=texts_at(said, "files") or (),
            expected_steps=texts_at(said, "steps") or (),
            expected_test_strategy=_text(said, "test_strategy"),
        )
        told_success = success if isinstance(success, bool) else None
        yield replace(example_of("planning", line, seed), success=told_success, run_id=session.id)


class ReplayLog:
    """REPLAY.jsonl events: a tool's call and its result become one example of an execution."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._sessions = _Sessions(notes)
        self._at = ""
        self._calls: OrderedDict[str, tuple[int, ExecutionExample]] = OrderedDict()

    def look(self, line: int, row: Row) -> None:
        """Events come in their order, so nothing needs to be known before."""

    def take(self, line: int, row: Row) -> Iterator[Found]:
        yield from self._sessions.crowded()
        session = self._sessions.get(self._at)
        match row["event"]:
            case "SessionStart":
                yield from self._sessions.close(self._at)
                self._calls.clear()
                self._at = text_at(row, "session_id") or f"line {line}"
            case "ToolCall":
                self._call(line, row, session)
            case "ToolResult":
                yield from self._result(line, row, session)
            case "StepComplete":
                session.tools = []
            case "SessionEnd":
                session.success = row.get("status") == "Success"
                yield from self._sessions.close(self._at)
            case "ReplayHeader" | "PlanStart" | "Verification":
                self._notes.ignore("event that holds no example", row["event"])
            case other:
                self._notes.ignore("unknown event", other)

    def end(self) -> Iterator[Found]:
        if self._calls:
            self._notes.ignored["ToolCall without a result"] += len(self._calls)
        yield from self._sessions.end()

    def _call(self, line: int, row: Row, session: _Session) -> None:
        call, tool, step = text_at(row, "id"), text_at(row, "tool"), text_at(row, "step_id")
        if call is None or tool is None or step is None:
            self._notes.problem(line, "a ToolCall needs the texts `id`, `tool` and `step_id`")
            return
        self._calls[call] = (
            line,
            ExecutionExample(
                plan_step=text_at(row, "step_description") or step,
                current_file_state="",
                execution_history=session.history(),
                expected_action=tool.upper(),
                expected_params=row.get("params"),
                expected_reasoning="",
            ),
        )
        session.tools = [*session.tools[-MOST_HISTORY:], tool]
        if len(self._calls) > MOST_WAITING:
            self._calls.popitem(last=False)
            self._notes.ignore("ToolCall without a result")

    def _result(self, line: int, row: Row, session: _Session) -> Iterator[Found]:
        called = self._calls.pop(text_at(row, "id") or "", None)
        if called is None:
            self._notes.problem(line, "a ToolResult whose `id` no ToolCall before it has")
            return
        has_failed = row.get("exit_code") not in (None, 0)
        found = replace(
            example_of("execution", *called),
            success=False if has_failed else None,
            failure=f"exit code {row.get('exit_code')}"[:80] if has_failed else None,
            score_ppm=_utility(row.get("step_utility")),
            cost=RunCost(calls=1, latency_ms=_count(row.get("latency_ms"))),
            run_id=self._at,
        )
        yield from self._sessions.wait(session, found)


def _merged(session: _Session, phase: str, data: Row, event: str) -> Row:
    """What a phase has told so far. A tool's or a person's words are not the phase's own fields."""
    told = session.told.setdefault(phase, {})
    if event in ("phase_start", "result"):
        told |= data
    return told


def _output(told: Row, data: Row) -> None:
    tool, result = (text_at(data, "tool") or "").casefold(), text_at(data, "result")
    if result is None:
        return
    if "test" in tool:
        told["test_output"] = result
    elif "build" in tool or "cargo" in tool:
        told["build_output"] = result


def _text(told: Mapping[str, JsonValue], name: str) -> str:
    """A text; of a list of texts its lines; empty when it is neither."""
    value = told.get(name)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "\n".join(str(one) for one in value)
    return value if isinstance(value, str) else ""


def _utility(value: JsonValue) -> int | None:
    """A step's utility, -1 to 1, as a score."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        return None
    return round((value + 1) / 2 * PPM)


def _count(value: JsonValue) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


SESSIONS = Kind("session", lambda row: isinstance(row.get("event_type"), str), SessionLog)
REPLAYS = Kind("replay", lambda row: isinstance(row.get("event"), str), ReplayLog)
