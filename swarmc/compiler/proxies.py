"""Proxies: what can be said of an answer at once and for nothing, from its form alone.

Answers are strangers' texts. They are bounded before anything reads them, and read by parsers that neither
run, fetch nor expand what they find.
"""

import ast
import itertools
import json
import tomllib
import warnings
from collections.abc import Callable
from typing import Any, assert_never
from xml.parsers import expat

import jsonschema
import pydantic
import regex
import yaml
from jsonschema import exceptions, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from swarmc.compiler.answers import PREFERRED, Answered, Opinion, one_line, shown
from swarmc.contracts.canonical import PPM, unplain
from swarmc.contracts.errors import MetricError
from swarmc.contracts.metrics import FormatPart, KeywordsPart, Language, LengthPart, SyntaxPart, schema_of

Form = FormatPart | KeywordsPart | LengthPart | SyntaxPart
Proxy = Callable[[Answered], Opinion]

MAX_READ_BYTES: dict[str, int] = {
    "python": 200_000,
    "json": 1_000_000,
    "toml": 10_000,
    "yaml": 20_000,
    "xml": 1_000_000,
}
"""Longest text that a parser is given. Those of TOML and YAML take more than linear time: up to half a second here."""

MAX_MATCHED_CHARS = 100_000
PATTERN_LIMIT_S = 2.0
MAX_YAML_DEPTH = 100
UNREADABLE = (ValueError, SyntaxError, RecursionError, MemoryError, yaml.YAMLError, expat.ExpatError)


def make_proxy(part: Form) -> Proxy:
    """The function that looks at an answer.

    Raises:
        MetricError: a pattern or a schema that is none.
    """
    match part:
        case FormatPart():
            return _Format(part)
        case KeywordsPart():
            return lambda answered: _keywords(part, answered)
        case LengthPart():
            return lambda answered: _length(part, answered)
        case SyntaxPart():
            return lambda answered: _syntax(part, answered)
        case _:
            assert_never(part)


def parse(text: str, language: Language) -> Any:
    """What a real parser makes of a text: an `ast.Module`, JSON or TOML data, YAML's nodes, nothing of XML.

    Raises:
        ValueError, SyntaxError, RecursionError, MemoryError, yaml.YAMLError, expat.ExpatError: `UNREADABLE`; it is
            none, or too long or too deep to tell.
    """
    size, most = len(text.encode("utf-8", "replace")), MAX_READ_BYTES[language]
    if size > most:
        raise ValueError(f"it has {size:,} bytes, and at most {most:,} are read")
    return _PARSERS[language](text)


def unfenced(text: str) -> str:
    """The text without the ``` fence that is around the whole of it, as models like to write it."""
    lines = text.strip().splitlines()
    fenced = len(lines) > 1 and lines[0].startswith("```") and lines[-1].strip() == "```"
    return "\n".join(lines[1:-1]) if fenced else text


class _Format:
    """Form: not blank, outputs that are there, JSON, a pattern, a schema; the first that is wrong is told."""

    def __init__(self, part: FormatPart) -> None:
        self._part = part
        self._pattern = None if part.pattern is None else _pattern(part.pattern)
        self._schema = None if part.json_schema is None else _schema(part.json_schema)

    def __call__(self, answered: Answered) -> Opinion:
        wrong = self._wrong(answered)
        return Opinion(0, wrong) if wrong else Opinion(PPM, "the form is right")

    def _wrong(self, answered: Answered) -> str:
        part = self._part
        if missing := [name for name in part.required if not (answered.text(name) or "").strip()]:
            return f"nothing was given for {', '.join(missing)}"
        texts = list(answered.texts(part.field))
        if not any(text.strip() for _, text in texts):
            return f"{part.field or 'the answer'} is blank"
        for name, text in texts:
            if wrong := self._wrong_text(name, text) or self._wrong_value(name, answered.value(name), text):
                return wrong
        return ""

    def _wrong_text(self, name: str, text: str) -> str:
        if self._part.parses_json and text.lstrip()[:1] in ("{", "["):
            try:
                parse(text, "json")
            except UNREADABLE as error:
                return f"{name} begins like JSON and is none: {_why(error)}"
        if self._pattern is None:
            return ""
        if len(text) > MAX_MATCHED_CHARS:
            return f"{name} has {len(text):,} characters, too many to be matched"
        if _matches(self._pattern, text, whole=True):
            return ""
        return f"{name} is {shown(text)}, which the pattern {self._part.pattern!r} does not match"

    def _wrong_value(self, name: str, value: Any, text: str) -> str:
        if self._schema is None:
            return ""
        try:
            data = parse(unfenced(text), "json") if isinstance(value, str) else _data(value)
            fault = exceptions.best_match(self._schema.iter_errors(data))
        except UNREADABLE as error:
            return f"{name} is no JSON: {_why(error)}"
        except Unresolvable as error:
            raise MetricError(f"the JSON schema of a format refers to {error.ref!r}, which is not in it") from None
        if fault is None:
            return ""
        return f"{name} does not meet the schema: at {fault.json_path}, {one_line(fault.message)}"


def _keywords(part: KeywordsPart, answered: Answered) -> Opinion:
    text = "\n".join(text for _, text in answered.texts(part.field)).casefold()
    if found := [word for word in part.forbidden if word.casefold() in text]:
        return Opinion(0, f"it must not say {', '.join(map(repr, found))}")
    missing = [word for word in part.required if word.casefold() not in text]
    if not missing:
        return Opinion(PPM, "it says what it must, and nothing that it must not")
    have, wanted = len(part.required) - len(missing), len(part.required)
    return Opinion(_share(have, wanted), f"it lacks {', '.join(map(repr, missing))}")


def _length(part: LengthPart, answered: Answered) -> Opinion:
    size = sum(len(text.encode("utf-8", "replace")) for _, text in answered.texts(part.field))
    what = part.field or "the answer"
    if size < part.min_bytes:
        return Opinion(0, f"{what} has {size:,} bytes and needs at least {part.min_bytes:,}")
    if part.max_bytes is not None and size > part.max_bytes:
        return Opinion(0, f"{what} has {size:,} bytes and may have at most {part.max_bytes:,}")
    return Opinion(PPM, f"{what} has {size:,} bytes, as it may")


def _syntax(part: SyntaxPart, answered: Answered) -> Opinion:
    texts = dict(answered.texts(part.field))
    name = next((one for one in (part.field, *PREFERRED, *texts) if one in texts), part.field or "the answer")
    text = unfenced(texts.get(name, ""))
    if not text.strip():
        return Opinion(0, f"{name} is blank")
    try:
        parse(text, part.language)
    except UNREADABLE as error:
        return Opinion(0, f"{name} is not valid {part.language}: {_why(error)}")
    return Opinion(PPM, f"{name} is valid {part.language}")


def _python(text: str) -> ast.Module:
    with warnings.catch_warnings():  # Of doubtful escapes and comparisons, of which the answer's reader knows nothing.
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _json(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _yaml(text: str) -> list[yaml.Node]:
    # Brackets are looked ahead for at every level, which takes seconds where there are hundreds.
    depths = itertools.accumulate((char in "[{") - (char in "]}") for char in text)
    if max(depths, default=0) > MAX_YAML_DEPTH:
        raise RecursionError
    # Nodes only: values would be made of tags and merges, which may grow without bound. In Python, whose
    # recursion is limited; libyaml's is not.
    nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    if not any(isinstance(node, yaml.CollectionNode) for node in nodes):
        raise ValueError("it is one plain text, neither a mapping nor a list")
    return nodes


def _xml(text: str) -> None:
    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.Parse(text.encode(), True)


def _refuse_doctype(*_: Any) -> None:
    raise ValueError("it has a DOCTYPE, which could declare entities, and none is read")


_PARSERS: dict[str, Callable[[str], Any]] = {
    "python": _python,
    "json": _json,
    "toml": tomllib.loads,
    "yaml": _yaml,
    "xml": _xml,
}


def _pattern(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, MemoryError) as error:
        raise MetricError(f"the pattern {pattern!r} is no regular expression: {error}") from None


def _matches(pattern: Any, text: str, *, whole: bool) -> bool:
    try:
        return (pattern.fullmatch if whole else pattern.search)(text, timeout=PATTERN_LIMIT_S) is not None
    except TimeoutError:
        # No score: another machine, or this one at another time, might have found one.
        raise MetricError(
            f"the pattern {pattern.pattern!r} took over {PATTERN_LIMIT_S:g} s on a text of {len(text):,} characters; "
            "write it without repetitions inside repetitions"
        ) from None


def _schema(text: str) -> Any:
    """A validator that fetches nothing and whose patterns are limited in time."""
    schema: Any = unplain(schema_of(text))
    kind = validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern_keyword})
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise MetricError(f"the JSON schema of a format is none: at {error.json_path}, {error.message}") from None
    if _uses(schema, "patternProperties"):
        raise MetricError("the JSON schema of a format has `patternProperties`, whose patterns have no limit of time")
    return kind(schema, registry=Registry())


def _pattern_keyword(_validator: Any, pattern: str, value: Any, _schema: Any) -> Any:
    if isinstance(value, str):
        if len(value) > MAX_MATCHED_CHARS:
            yield jsonschema.ValidationError(f"a text of {len(value):,} characters is too long to be matched")
        elif not _matches(_pattern(pattern), value, whole=False):
            yield jsonschema.ValidationError(f"{shown(value)} does not match {pattern!r}")


def _uses(schema: Any, keyword: str) -> bool:
    match schema:
        case dict():
            return keyword in schema or any(_uses(item, keyword) for item in schema.values())
        case list():
            return any(_uses(item, keyword) for item in schema)
        case _:
            return False


def _data(value: Any) -> Any:
    """An output that is no text, as the JSON data that a schema describes."""
    return pydantic.TypeAdapter(Any).dump_python(value, mode="json")


def _why(error: BaseException) -> str:
    if isinstance(error, RecursionError | MemoryError):
        return "it is nested too deeply"
    return one_line(str(error)) or type(error).__name__


def _share(part: int, whole: int) -> int:
    return (2 * part * PPM + whole) // (2 * whole)
