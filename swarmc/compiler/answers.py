"""Answers as the parts of a metric read them, and what a part thinks of one."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import dspy
import pydantic

from swarmc.contracts.canonical import plain, unplain

PREFERRED = ("code", "output", "result", "content")
"""Outputs that are taken for code where none is named."""

MAX_SHOWN_CHARS = 160


@dataclass(frozen=True, slots=True)
class Opinion:
    """A score in parts per million, and why, in a sentence that a writer of instructions can use."""

    score_ppm: int
    feedback: str


@dataclass(frozen=True)
class Answered:
    """An example and what a program made of it.

    Attributes:
        example: The example, inputs and labels.
        prediction: What the program returned.
        outputs: The program's output fields; empty: those that the prediction has.
    """

    example: dspy.Example
    prediction: Any
    outputs: Collection[str] = ()

    def value(self, field: str) -> Any:
        """An output's value; `None` where the program gave none."""
        return getattr(self.prediction, field, None)

    def text(self, field: str) -> str | None:
        """An output as text; `None` where the program gave none."""
        return text_of(self.value(field))

    @property
    def names(self) -> list[str]:
        """The outputs that may be looked at when none is named."""
        given = list(self.prediction.keys()) if isinstance(self.prediction, dspy.Prediction) else []
        return [name for name in self.outputs if not given or name in given] if self.outputs else given

    def texts(self, field: str = "") -> Iterator[tuple[str, str]]:
        """The named output with its text, or every one that was given."""
        for name in [field] if field else self.names:
            if (text := self.text(name)) is not None:
                yield name, text

    @property
    def labels(self) -> dict[str, object]:
        """The example's own answer, as far as the program could give it."""
        labels = dict(self.example.labels())
        return {name: value for name, value in labels.items() if not self.outputs or name in self.outputs}


def text_of(value: Any) -> str | None:
    """A value as text: text as it is, records and lists as JSON, `None` as nothing."""
    match value:
        case None | str():
            return value
        case dspy.Code():
            return value.code
        case pydantic.BaseModel():
            return value.model_dump_json()
        case dict() | list() | tuple():
            return json.dumps(unplain(plain(value)), ensure_ascii=False)
        case _:
            return str(value)


def shown(text: str) -> str:
    """A stranger's text for a sentence: in quotes, on one line, and short."""
    flat = " ".join(text[: 2 * MAX_SHOWN_CHARS].split())
    return repr(flat if len(flat) <= MAX_SHOWN_CHARS else flat[:MAX_SHOWN_CHARS] + "...")


def one_line(text: str) -> str:
    """A sentence of another library, without its line breaks and its length."""
    flat = " ".join(text[: 8 * MAX_SHOWN_CHARS].split())
    return flat if len(flat) <= 2 * MAX_SHOWN_CHARS else flat[: 2 * MAX_SHOWN_CHARS] + "..."
