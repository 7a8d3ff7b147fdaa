"""What a weighed metric is made of: cheap proxies, dear truths, their weights, and when the truth is not asked.

The kinds, tiers and defaults are those of the seeds' evaluation; fractions are parts per million, so that
the same metric has the same hash everywhere.
"""

import json
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from swarmc.contracts.canonical import PPM, CanonicalText, Contract, Ppm, canonical_bytes, plain
from swarmc.contracts.sandbox import FILE_NAME

Tier = Literal["proxy", "truth"]
"""Proxies are cheap and asked first; truths are definitive, and asked where every proxy reached its threshold."""

Language = Literal["python", "json", "toml", "yaml", "xml"]
"""What an answer can be parsed as; each by a real parser."""

DiffMethod = Literal["exact", "normalised", "token_f1", "ratio", "python_ast"]

MAX_PARTS = 32


def _schema_text(value: object) -> object:
    return canonical_bytes(plain(value)).decode() if isinstance(value, dict | bool) else value


SchemaText = Annotated[
    CanonicalText, BeforeValidator(_schema_text, json_schema_input_type=dict[str, object] | bool | str)
]
"""A JSON schema as canonical text of `canonical.plain` data; an object becomes that text."""


class _Part(Contract):
    """One thing that is looked at."""

    name: str = Field(default="", max_length=60, description="What it is called in feedback; empty: its kind")
    weight_ppm: Ppm = Field(
        default=PPM, description="Its weight in the score; 0 for a proxy that only decides whether the truth is asked"
    )


class _Proxy(_Part):
    threshold_ppm: Ppm | None = Field(
        default=None, description="Below this score the truth is not asked; empty: the metric's `proxy_threshold_ppm`"
    )


class FormatPart(_Proxy):
    """The answer has the form that is asked for: 1 or 0. Without options: it is not blank."""

    kind: Literal["format"] = Field(default="format", description="Which check this is")
    field: str = Field(default="", description="Which output; empty: all of them")
    required: tuple[str, ...] = Field(default=(), description="Outputs that must be there and not blank")
    parses_json: bool = Field(default=False, description="Text that begins with { or [ must be JSON")
    pattern: str | None = Field(
        default=None, max_length=2_000, description="A regular expression that the whole text must match"
    )
    json_schema: SchemaText | None = Field(default=None, description="A JSON schema that the value, or its JSON, meets")


class KeywordsPart(_Proxy):
    """The share of required words that occur, in any case; 0 where a forbidden one does."""

    kind: Literal["keywords"] = Field(default="keywords", description="Which check this is")
    field: str = Field(default="", description="Which output; empty: all of them")
    required: tuple[str, ...] = Field(default=(), description="Texts that must occur")
    forbidden: tuple[str, ...] = Field(default=(), description="Texts that must not occur")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.required + self.forbidden or not all(word.strip() for word in self.required + self.forbidden):
            raise ValueError("name words in `required` or `forbidden`, and no blank ones")
        return self


class LengthPart(_Proxy):
    """The answer's length in bytes of UTF-8 is within bounds: 1 or 0."""

    kind: Literal["length"] = Field(default="length", description="Which check this is")
    field: str = Field(default="", description="Which output; empty: all of them together")
    min_bytes: int = Field(default=0, ge=0, description="Least")
    max_bytes: int | None = Field(default=None, ge=0, description="Most; empty: no limit")

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if not self.min_bytes and self.max_bytes is None:
            raise ValueError("give `min_bytes`, `max_bytes` or both")
        if self.max_bytes is not None and self.max_bytes < self.min_bytes:
            raise ValueError(f"no text has at least {self.min_bytes} and at most {self.max_bytes} bytes")
        return self


class SyntaxPart(_Proxy):
    """The answer can be parsed: 1 or 0. A fence around the whole of it is left out."""

    kind: Literal["syntax"] = Field(default="syntax", description="Which check this is")
    field: str = Field(
        default="", description="Which output; empty: `code`, `output`, `result` or `content`, else the first text"
    )
    language: Language = Field(description="Whose parser reads it")


class DiffPart(_Part):
    """How near the answer is to the example's own."""

    kind: Literal["diff"] = Field(default="diff", description="Which check this is")
    field: str = Field(default="", description="Which output; empty: every label that the program gives, on average")
    expected: str = Field(default="", description="The example's field to compare with; empty: of the same name")
    method: DiffMethod = Field(
        default="normalised",
        description="`exact` text; `normalised` ignores case and white space; `token_f1` counts common words; `ratio` "
        "is difflib's; `python_ast` parses both as Python",
    )

    @model_validator(mode="after")
    def _compares_one_field(self) -> Self:
        if self.expected and not self.field:
            raise ValueError("`expected` says what one output is compared with, so name it in `field`")
        return self


class JudgePart(_Part):
    """A model in the `judge` lane says how good the answer is, `rollouts` times."""

    kind: Literal["llm_judge"] = Field(default="llm_judge", description="Which check this is")
    criteria: tuple[str, ...] = Field(
        default=("Correctness", "Completeness"), min_length=1, description="What is looked at"
    )
    shown: tuple[str, ...] = Field(default=(), description="Outputs that are shown; empty: all of them")
    shows_expected: bool = Field(default=True, description="Whether the example's own answer is shown beside it")


class CommandPart(_Part):
    """Commands that all end with 0 when they are run, in a sandbox, on files made of the answer: 1 or 0."""

    kind: Literal["tests_pass"] = Field(default="tests_pass", description="Which check this is")
    commands: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = Field(
        min_length=1, description="Each a program and its arguments, run in order until one fails"
    )
    files: dict[Annotated[str, Field(pattern=FILE_NAME)], Annotated[str, Field(pattern=r"^(answer|example)\.\w+$")]] = (
        Field(description="By file name what it holds: `answer.code` (an output) or `example.tests` (a column)")
    )
    timeout_s: int = Field(default=60, ge=1, le=3_600, description="Most seconds for all commands together")

    @model_validator(mode="after")
    def _looks_at_the_answer(self) -> Self:
        if not any(source.startswith("answer.") for source in self.files.values()):
            raise ValueError("no file holds a part of the answer, so the tests would not look at it")
        return self


class FunctionPart(_Part):
    """A metric that is known by its name: `exact_match`, `contains`, or a function."""

    kind: Literal["function"] = Field(default="function", description="Which check this is")
    metric: str = Field(description="`exact_match`, `contains`, `module:function` or `path/to/file.py:function`")
    tier: Tier = Field(default="truth", description="A `proxy` is asked first")
    threshold_ppm: Ppm | None = Field(default=None, description="As a proxy: below this score the truth is not asked")


Part = Annotated[
    FormatPart | KeywordsPart | LengthPart | SyntaxPart | DiffPart | JudgePart | CommandPart | FunctionPart,
    Field(discriminator="kind"),
]


class TrimmedMean(Contract):
    """The mean without the lowest and the highest: so many percent of them at each end, rounded down."""

    trimmed_mean: int = Field(ge=0, le=50, description="Percent left out at each end")


Aggregation = Literal["median", "mean", "min", "max"] | TrimmedMean


class MetricSpec(Contract):
    """A weighed metric: what is looked at, and how one score comes of it.

    The score is the weighted mean of the parts. Where a proxy stays below its threshold no truth is asked, and
    the truths count as 0: otherwise to fail a proxy would hide a bad answer from the truth.
    """

    parts: tuple[Part, ...] = Field(min_length=1, max_length=MAX_PARTS, description="What is looked at")
    rollouts: int = Field(default=3, ge=1, le=32, description="How often a judge is asked about one answer")
    aggregation: Aggregation = Field(
        default="median", description="One score of a judge's several; also {'trimmed_mean': percent}"
    )
    proxy_threshold_ppm: Ppm = Field(default=PPM // 2, description="Below this score of any proxy no truth is asked")

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if not any(part.weight_ppm for part in self.parts):
            raise ValueError("every part has weight 0, so every score would be 0; give one a `weight_ppm`")
        return self

    @property
    def judges(self) -> tuple[JudgePart, ...]:
        """The parts that ask a model."""
        return tuple(part for part in self.parts if isinstance(part, JudgePart))

    @property
    def judge_calls(self) -> int:
        """Completions that the score of one answer takes at most."""
        return self.rollouts * len(self.judges)

    @property
    def title(self) -> str:
        """Its parts in a line, for people."""
        return " + ".join(label(part) for part in self.parts)

    @property
    def functions(self) -> tuple[str, ...]:
        """The metrics it asks by name: a user's code, but for the built-in ones."""
        return tuple(part.metric for part in self.parts if isinstance(part, FunctionPart))

    @property
    def commands(self) -> tuple[CommandPart, ...]:
        """The parts that run commands."""
        return tuple(part for part in self.parts if isinstance(part, CommandPart))


def tier_of(part: Part) -> Tier:
    """Whether a part is asked first, or only when the proxies are satisfied."""
    if isinstance(part, FunctionPart):
        return part.tier
    return "proxy" if isinstance(part, _Proxy) else "truth"


def label(part: Part) -> str:
    """What a part is called in feedback."""
    return part.name or (part.metric if isinstance(part, FunctionPart) else part.kind)


def schema_of(text: str) -> JsonValue:
    """The tagged data of a `SchemaText`; `canonical.unplain` makes the schema of it."""
    return json.loads(text)
