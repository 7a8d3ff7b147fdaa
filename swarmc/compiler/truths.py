"""Truths that ask no model: how near an answer is to the example's own, and whether commands succeed on it."""

import ast
import difflib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from swarmc.compiler.answers import Answered, Opinion, one_line, shown, text_of
from swarmc.compiler.proxies import UNREADABLE, parse, unfenced
from swarmc.contracts.canonical import PPM
from swarmc.contracts.errors import MetricError, boundary
from swarmc.contracts.metrics import CommandJob, CommandPart, CommandResult, DiffPart

Runner = Callable[[CommandJob], Awaitable[Sequence[CommandResult]]]
"""Runs a job's commands where a stranger's text can do no harm, and says how each one that it began ended.

It raises where it could not run them: that is no score. swarmc brings none of its own.
"""

MAX_COMPARED = 250_000
"""Most pairs of characters, words or lines that are compared: difflib may look at each often, half a second in all."""

SHOWN_LINES = 12


def diff(part: DiffPart, answered: Answered) -> Opinion:
    """How near the answer is to the example's own, on average over the fields that are compared.

    Raises:
        MetricError: the example has no answer to compare with.
    """
    opinions = [_one(part, answered, name, gold) for name, gold in _expected(part, answered)]
    total = sum(one.score_ppm for one in opinions)
    score_ppm = (2 * total + len(opinions)) // (2 * len(opinions))
    return Opinion(score_ppm, "; ".join(one.feedback for one in opinions))


def similarity_ppm(method: str, said: str, wanted: str) -> int:
    """How alike two texts are; 1 where they are equal.

    Raises:
        MetricError: `python_ast`, and what is wanted is not Python.
    """
    if said == wanted:
        return PPM
    return _METHODS[method](said, wanted)


async def run_commands(part: CommandPart, answered: Answered, runner: Runner) -> Opinion:
    """Whether all commands end with 0 on the answer.

    Raises:
        MetricError: the sandbox could not run them, or the example lacks a column.
    """
    missing = [source for source in part.files.values() if _source(source, answered) is None]
    if gone := [source for source in missing if source.startswith("example.")]:
        raise MetricError(f"{gone[0]} is asked for as a file of commands, and an example has no such column")
    if missing:
        return Opinion(0, f"nothing was given for {', '.join(one.partition('.')[2] for one in missing)}")
    files = {name: _source(source, answered) or "" for name, source in part.files.items()}
    job = CommandJob(files=files, commands=part.commands, timeout_s=part.timeout_s)
    with boundary(MetricError, f"running {_line(part.commands[0])} on an answer"):
        results = await runner(job)
    for command, result in zip(part.commands, results, strict=False):
        if result.timed_out:
            return Opinion(0, f"{_line(command)} did not end within {part.timeout_s} s{_told(result.output)}")
        if result.exit_code:
            return Opinion(0, f"{_line(command)} ended with {result.exit_code}{_told(result.output)}")
    if len(results) != len(part.commands):
        raise MetricError(f"the sandbox ran {len(results)} of {len(part.commands)} commands, and none of them failed")
    return Opinion(PPM, f"{', '.join(map(_line, part.commands))} ended with 0")


def no_sandbox(part: CommandPart) -> MetricError:
    """What is missing where commands should run and nobody can run them safely."""
    return MetricError(
        f"the metric runs {_line(part.commands[0])} on what a model wrote, which is a stranger's text: that needs a "
        "sandbox, and there is none. Give one, `load_metric(..., runner=...)`, or leave `tests_pass` out"
    )


def _expected(part: DiffPart, answered: Answered) -> list[tuple[str, Any]]:
    if part.field:
        column = part.expected or part.field
        if answered.example.get(column) is None:
            has = ", ".join(answered.example.keys())
            raise MetricError(f"a diff compares {part.field!r} with the column {column!r}; an example has only {has}")
        return [(part.field, answered.example[column])]
    if not answered.labels:
        raise MetricError(
            "a diff compares with the example's own answer, and an example has none among the program's outputs; name "
            "`field` and `expected`"
        )
    return list(answered.labels.items())


def _one(part: DiffPart, answered: Answered, name: str, gold: Any) -> Opinion:
    said, wanted = answered.text(name), text_of(gold) or ""
    if said is None:
        return Opinion(0, f"nothing was given for {name}")
    score_ppm = similarity_ppm(part.method, said, wanted)
    if score_ppm == PPM:
        return Opinion(PPM, f"{name} is as expected")
    return Opinion(score_ppm, f"{name}: expected {shown(wanted)}, and it says {shown(said)}")


def _exact(said: str, wanted: str) -> int:
    return PPM if said == wanted else 0


def _normalised(said: str, wanted: str) -> int:
    return PPM if _normal(said) == _normal(wanted) else 0


def _token_f1(said: str, wanted: str) -> int:
    """The harmonic mean of precision and recall over words, each counted as often as it occurs."""
    ours, theirs = (Counter(re.findall(r"\w+", text.casefold())) for text in (said, wanted))
    if not ours or not theirs:
        return _normalised(said, wanted)
    whole = ours.total() + theirs.total()
    return (4 * (ours & theirs).total() * PPM + whole) // (2 * whole)


def _ratio(said: str, wanted: str) -> int:
    """difflib's ratio: of characters, of words where they are too many, of lines where words are."""
    for cut in (list, str.split, str.splitlines):
        ours, theirs = cut(said), cut(wanted)
        if len(ours) * len(theirs) <= MAX_COMPARED:
            blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
            same, whole = sum(block.size for block in blocks), len(ours) + len(theirs)
            return (4 * same * PPM + whole) // (2 * whole) if whole else PPM
    return 0  # Too long to be told apart from anything in reasonable time.


def _python_ast(said: str, wanted: str) -> int:
    try:
        gold = ast.dump(parse(unfenced(wanted), "python"))
    except UNREADABLE as error:
        raise MetricError(f"a diff reads an example's own answer as Python, which it is not: {error}") from None
    try:
        return PPM if ast.dump(parse(unfenced(said), "python")) == gold else 0
    except UNREADABLE:
        return 0


_METHODS: dict[str, Callable[[str, str], int]] = {
    "exact": _exact,
    "normalised": _normalised,
    "token_f1": _token_f1,
    "ratio": _ratio,
    "python_ast": _python_ast,
}


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _source(source: str, answered: Answered) -> str | None:
    kind, _, name = source.partition(".")
    return answered.text(name) if kind == "answer" else text_of(answered.example.get(name))


def _line(command: Sequence[str]) -> str:
    return f"`{one_line(' '.join(command))}`"


def _told(output: str) -> str:
    lines = [one_line(line) for line in output[-10_000:].splitlines() if line.strip()][-SHOWN_LINES:]
    return ":\n" + "\n".join(lines) if lines else ""
