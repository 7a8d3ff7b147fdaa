"""Prompts read back: which predictor asked, with which inputs and text, and what it was answered.

A bundle without events holds completions only. DSPy's adapters write a predictor's fields under
`[[ ## name ## ]]` (chat, JSON) or in `<name>` tags (XML), and a program's `compiled.json` names the fields,
so a program run's steps can be read from its prompts; nothing is executed for it.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from swarmc.contracts.candidates import Candidate, Demo, PredictorChoice
from swarmc.contracts.canonical import unplain
from swarmc.contracts.completions import Message
from swarmc.contracts.manifest import CompiledPredictor, CompiledProgram, FieldSpec

_HEADER = re.compile(r"^[ \t]*\[\[ ## (\w{1,200}) ## \]\][ \t]*", re.MULTILINE)
_FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)
_REMINDERS = (
    "\n\nRespond with the corresponding output fields, starting with the field ",
    "\n\nRespond with a JSON object in the following order of fields: ",
    "\n\nRespond with the corresponding output fields wrapped in XML tags ",
)
"""What DSPy's adapters write after the inputs of the question itself."""

_SYSTEMS_KEPT = 4_096
Shown = tuple[frozenset[tuple[str, str]], ...]
"""Demonstrations as a prompt shows them, in an order of their own: field names with their texts."""


class Step(NamedTuple):
    """A predictor's call. `candidates` are those whose text it had; of several predictors one tells not which."""

    predictor: str
    signature: str
    inputs: dict[str, JsonValue]
    outputs: dict[str, JsonValue]
    candidates: frozenset[str]


class Prompts:
    """Reads the prompts of one program.

    Args:
        program: Its predictors and their fields.
        candidates: Every text it may have worn, by id.
    """

    def __init__(self, program: CompiledProgram, candidates: Mapping[str, Candidate]) -> None:
        self._predictors = program.predictors
        self._texts: dict[str, dict[str, dict[Shown, set[str]]]] = {name: {} for name in program.predictors}
        for candidate_id, candidate in candidates.items():
            for name, choice in candidate.predictors.items():
                if name in self._texts:
                    shown = _shown(choice, self._predictors[name])
                    said = self._texts[name].setdefault(_words(choice.instruction), {})
                    said.setdefault(shown, set()).add(candidate_id)
        self._instructions: dict[tuple[str, str], str | None] = {}

    def read(self, messages: Sequence[Message], answer: str) -> Step | None:
        """The step that a prompt and its answer are; nothing when no predictor of the program asked so."""
        if not messages or messages[-1].role != "user":
            return None
        asked = _without_reminder(messages[-1].content)
        system = messages[0].content if messages[0].role == "system" else ""
        found: list[tuple[int, Step]] = []
        for name, predictor in self._predictors.items():
            inputs, outputs = _values(predictor.inputs, asked), _values(predictor.outputs, answer)
            if len(inputs) == len(predictor.inputs) and len(outputs) == len(predictor.outputs):
                candidates, fits = self._candidates(name, system, messages)
                found.append((fits, Step(name, predictor.signature_name, inputs, outputs, candidates)))
        return max(found, key=lambda one: one[0])[1] if found else None

    def _candidates(self, name: str, system: str, messages: Sequence[Message]) -> tuple[frozenset[str], int]:
        """Whose text the prompt is, and how well it fits the predictor."""
        said = self._instruction(name, system)
        if said is None:
            return frozenset(), 0
        asked = [one.content for one in messages if one.role == "user"][:-1]
        given = [one.content for one in messages if one.role == "assistant"]
        predictor = self._predictors[name]
        shown = _ordered(
            frozenset(_texts((*predictor.inputs, *predictor.outputs), (question, reply)).items())
            for question, reply in zip(asked, given, strict=False)
        )
        return frozenset(self._texts[name][said].get(shown, ())), 1

    def _instruction(self, name: str, system: str) -> str | None:
        key = (name, system)
        if key not in self._instructions:
            if len(self._instructions) >= _SYSTEMS_KEPT:
                self._instructions.clear()
            words = _words(system)
            fitting = [said for said in self._texts[name] if words.endswith(said)]
            self._instructions[key] = max(fitting, key=len, default=None)
        return self._instructions[key]


def text_of(value: JsonValue) -> str:
    """A value as DSPy's adapters write it into a prompt, from `canonical.plain` data."""
    try:
        bare = unplain(value)
    except ValueError:
        bare = value  # A tag that says nothing is a stranger's text.
    return json.dumps(bare, ensure_ascii=False) if isinstance(bare, dict | list) else str(bare).strip()


def _without_reminder(content: str) -> str:
    cut = max(content.rfind(reminder) for reminder in _REMINDERS)
    return content if cut < 0 else content[:cut]


def _shown(choice: PredictorChoice, predictor: CompiledPredictor) -> Shown:
    return _ordered(_demo(demo, predictor) for demo in choice.demos)


def _demo(demo: Demo, predictor: CompiledPredictor) -> frozenset[tuple[str, str]]:
    names = [one.name for one in (*predictor.inputs, *predictor.outputs)]
    return frozenset((name, text_of(demo.fields[name])) for name in names if demo.fields.get(name) is not None)


def _ordered(demos: Iterable[frozenset[tuple[str, str]]]) -> Shown:
    # DSPy shows incomplete demonstrations first, so their order in a prompt is not their order in the program.
    return tuple(sorted(demos, key=sorted))


def _texts(fields: Sequence[FieldSpec], contents: Sequence[str]) -> dict[str, str]:
    """The texts of the fields that these messages hold, without those that are said to be missing."""
    names = [one.name for one in fields]
    said = (pair for content in contents for pair in _sections(names, content).items())
    found = {name: text for name, text in said if not text.startswith("Not supplied for this ")}
    # By their types: a prompt may say `False` and an answer `false`.
    return {one.name: text_of(_typed(found[one.name], one.annotation)) for one in fields if one.name in found}


def _values(fields: Sequence[FieldSpec], content: str) -> dict[str, JsonValue]:
    said = _sections([one.name for one in fields], content)
    return {one.name: _typed(said[one.name], one.annotation) for one in fields if one.name in said}


def _sections(names: Sequence[str], content: str) -> dict[str, str]:
    """Texts by field: under headers, in one JSON object, or in tags."""
    headers = list(_HEADER.finditer(content))
    if headers:
        ends = [one.start() for one in headers[1:]] + [len(content)]
        found: dict[str, str] = {}
        for header, end in zip(headers, ends, strict=True):
            if header[1] in names:
                found.setdefault(header[1], content[header.end() : end].strip())
        return found
    written = _object(content)
    if written is not None:
        return {name: text_of_json(written[name]) for name in names if name in written}
    return {name: text for name in names if (text := _tagged(name, content)) is not None}


def text_of_json(value: JsonValue) -> str:
    """A value of a JSON answer, as the text that it would be under a header."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _object(content: str) -> dict[str, JsonValue] | None:
    text = content.strip()
    fenced = _FENCED.search(text) if text.startswith("```") else None
    try:
        value = json.loads(fenced[1] if fenced else text) if fenced or text.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _tagged(name: str, content: str) -> str | None:
    _, opened, rest = content.partition(f"<{name}>")
    text, closed, _ = rest.partition(f"</{name}>")
    return text.strip() if opened and closed else None


def _typed(text: str, annotation: str) -> JsonValue:
    """A text as its field's type has it; the text itself when it is none of that type."""
    try:
        match annotation:
            case "str":
                return text
            case "bool":
                return {"true": True, "false": False}.get(text.casefold(), text)
            case "int" if len(text) < 100:
                return int(text)
            case "float":
                return float(text)
            case _:
                return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _words(text: str) -> str:
    return " ".join(text.split())
