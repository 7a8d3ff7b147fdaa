"""Truths that ask no model: how near an answer is to the example's own, and whether commands succeed on it."""

import ast
import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from swarmc.compiler.answers import Answered, Opinion, one_line, shown, text_of
from swarmc.compiler.proxies import UNREADABLE, parse, unfenced
from swarmc.contracts.canonical import PPM
from swarmc.contracts.errors import MetricError, boundary
from swarmc.contracts.metrics import CommandPart, DiffPart
from swarmc.contracts.ports import Sandbox
from swarmc.contracts.sandbox import CommandJob, Over

MAX_COMPARED = 250_000
"""Most pairs of characters, words or lines that are compared: difflib may look at each often, half a second in all."""

SHOWN_LINES = 12

WENT_OVER: dict[Over, str] = {
    "time": "did not end within {} s",
    "memory": "was ended because it took more memory than it may",
    "output": "was ended because it wrote more output than it may",
    "disk": "was ended because it wrote more files than it may",
}
"""By the limit what is said of a command that went over it; the time is that of all commands together."""


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


async def run_commands(part: CommandPart, answered: Answered, sandbox: Sandbox) -> Opinion:
    """Whether all commands end with 0 on the answer.

    Raises:
        SandboxError: they could not be run: that is no score.
        MetricError: what cannot be run was asked for, or the example lacks a column.
    """
    _check_columns(part, answered)
    if missing := [source for source in part.files.values() if _source(source, answered) is None]:
        return Opinion(0, f"nothing was given for {', '.join(one.partition('.')[2] for one in missing)}")
    with boundary(MetricError, f"running {_line(part.commands[0])} on an answer"):
        results = await sandbox.run(_job(part, answered, part.commands))
    for command, result in zip(part.commands, results, strict=False):
        if result.over:
            said = WENT_OVER[result.over].format(part.timeout_s)
            return Opinion(0, f"{_line(command)} {said}{_told(result.output)}")
        if result.exit_code:
            return Opinion(0, f"{_line(command)} ended with {result.exit_code}{_told(result.output)}")
    if len(results) != len(part.commands):
        raise MetricError(f"the sandbox ran {len(results)} of {len(part.commands)} commands, and none of them failed")
    return Opinion(PPM, f"{', '.join(map(_line, part.commands))} ended with 0")


async def try_commands(part: CommandPart, answered: Answered, sandbox: Sandbox) -> None:
    """Begin every command once, on the example's own answer or on nothing, so that one that is not there is found.

    How they end is not looked at: an example's own answer need not be in a form that they accept. Raises as
    `run_commands`.
    """
    _check_columns(part, answered)
    for command in part.commands:
        with boundary(MetricError, f"trying {_line(command)}"):
            await sandbox.run(_job(part, answered, (command,)))


def no_sandbox(part: CommandPart) -> MetricError:
    """What is missing where commands should run and nobody can run them safely."""
    return MetricError(
        f"the metric runs {_line(part.commands[0])} on what a model wrote, which is a stranger's text: that needs a "
        "sandbox, and there is none here. A compile opens one; from Python give one, `load_metric(..., sandbox=...)`"
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


def _check_columns(part: CommandPart, answered: Answered) -> None:
    """Raises MetricError where a file is made of a column that the example lacks."""
    for source in part.files.values():
        if source.startswith("example.") and _source(source, answered) is None:
            raise MetricError(f"{source} is asked for as a file of commands, and an example has no such column")


def _job(part: CommandPart, answered: Answered, commands: tuple[tuple[str, ...], ...]) -> CommandJob:
    files = {name: _source(source, answered) or "" for name, source in part.files.items()}
    return CommandJob(files=files, commands=commands, timeout_s=part.timeout_s)


def _line(command: Sequence[str]) -> str:
    return f"`{one_line(' '.join(command))}`"


def _told(output: str) -> str:
    lines = [one_line(line) for line in output[-10_000:].splitlines() if line.strip()][-SHOWN_LINES:]
    return ":\n" + "\n".join(lines) if lines else ""
