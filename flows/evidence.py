"""Evidence at the command line: make a bundle of a run, check one, compare two, ask many."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from blocks.identity import signed_by_key
from blocks.ledger.find import find_ledger
from blocks.stores import open_store
from blocks.stores.addresses import root_of
from flows.extract import secrets_of_this_machine
from flows.replay import Replayed
from swarmc.compiler.intervals import mean_score, paired_difference
from swarmc.compiler.promoting import decide
from swarmc.contracts.bundle import Finding, Kept, Report, Signature, preview
from swarmc.contracts.candidates import Validation
from swarmc.contracts.errors import BundleError, SpecError, boundary
from swarmc.tracing.bundle import read_bundle
from swarmc.tracing.diff import Difference, compare, load_side, markdown, rows_of
from swarmc.tracing.evidence import evidence_of
from swarmc.tracing.findings import Rules
from swarmc.tracing.query import QUESTIONS, TABLES, Answer
from swarmc.tracing.statements import Sign
from swarmc.tracing.verify import check
from swarmc.tracing.withholding import Guard
from tasks.package import Packaged, Packaging, package
from tasks.rescore import rescore

Signed = Callable[[bytes, Signature], bool | None]
"""Whether a signature is one of these bytes; `None` for a scheme that is not known."""

MOST_SHOWN = 20
MOST_ROWS = 200


async def bundle_run(
    run: str, *, ledger: str | None, out: Path | None = None, kept: Kept | None = None, sign: Sign | None = None
) -> Packaged:
    """Write the bundle of a run.

    Args:
        run: The run's id, or the first letters of it.
        ledger: As `find_ledger` takes it.
        out: The file to write; else `<first letters of the run's id>.bundle.jsonl` here.
        kept: `all` or `hashes`; nothing for what the run's privacy mode allows.
        sign: Signs the statement.

    Raises:
        SpecError: the run has no manifest yet.
        LedgerError, StoreError, BundleError: it cannot be read or written.
    """
    async with find_ledger(ledger) as books:
        record = await books.find_run(run)
        if record.manifest_uri is None:
            raise SpecError(
                f"run {record.run_id} is {record.state} and has no manifest yet, so there is nothing to bundle"
            )
        path = out or Path(f"{record.run_id[:8]}.bundle.jsonl")
        async with open_store(root_of(record.manifest_uri)) as store:
            packaging = Packaging(guard_of_this_machine(), kept, sign)
            return await package(record, books.purchases(record.run_id), store, path, packaging)


async def verify_bundle(path: Path, signed: Signed | None = signed_by_key, root: str | None = None) -> Report:
    """Check a bundle; see `swarmc.tracing.verify`. Scores are made anew where that runs no stranger's code.

    Args:
        path: The file.
        signed: Checks signatures; with nothing they are reported as unchecked.
        root: What the bundle's root must be, where it was learned in another way.
    """
    try:
        bundle = read_bundle(path)
    except BundleError as error:
        return Report(faults=(Finding(line=error.line, what=str(error)),))
    report = check(bundle, rules(signed), await rescore(evidence_of(bundle)))
    if root is None or report.root == root:
        return report
    other = Finding(line=report.lines, what=f"the root is {report.root}, not {root}: it is another bundle")
    return report.model_copy(update={"faults": (*report.faults, other)})


def rules(signed: Signed | None = None) -> Rules:
    """The compiler's own arithmetic, for a check."""

    def decided(validation: Validation, search_examples: int, unchanged: bool) -> tuple[bool, str]:
        decision = decide(validation, search_examples, unchanged=unchanged)
        return decision.promote, decision.reason

    return Rules(mean=mean_score, paired=paired_difference, decide=decided, signed=signed)


def guard_of_this_machine() -> Guard:
    """Knows the values of environment variables that hold keys, and this machine's directories."""
    places = [str(Path.home()), str(Path.cwd()), tempfile.gettempdir(), os.environ.get("SWARMC_HOME", "")]
    return Guard(secrets_of_this_machine(), places)


def diff_files(
    before: Path, after: Path, *, of_before: str | None = None, of_after: str = "winner", report: Path | None = None
) -> Difference:
    """Compare two bundles or compiled programs, or two candidates of one bundle.

    Args:
        before: A bundle, or a `compiled.json`.
        after: Another, or the same.
        of_before: Which candidate of `before`; else its winner, or the baseline where both files are one.
        of_after: Which candidate of `after`.
        report: Where a Markdown report is written.

    Raises:
        BundleError: a file that is no such thing, or has no such candidate; or the report cannot be written.
    """
    which = of_before or ("baseline" if before == after else "winner")
    difference = compare(load_side(before, which), load_side(after, of_after), paired_difference)
    if report is not None:
        with boundary(BundleError, f"writing the report {report}", OSError):
            report.write_text(markdown(difference), encoding="utf-8")
    return difference


def present_packaged(console: Console, packaged: Packaged) -> None:
    """Where a bundle is, and what it does not tell."""
    _say(console, f"bundle {packaged.path}: {packaged.size_bytes:,} bytes, {packaged.end.lines + 1:,} lines")
    _say(console, f"root   {packaged.end.root}")
    for note in packaged.notes:
        _say(console, f"  {note}")


def present_report(console: Console, report: Report) -> int:
    """What a check found. Returns the exit code."""
    if report.holds:
        _say(console, f"holds: {report.lines:,} lines of run {report.run_id}, root {report.root}")
    for place, fault in enumerate(report.faults[:MOST_SHOWN]):
        where = "" if fault.what.startswith("line ") else f"line {fault.line}: "
        _say(console, f"{'  and' if place else 'DOES NOT HOLD:'} {where}{fault.what}")
    if len(report.faults) > MOST_SHOWN:
        _say(console, f"  and {len(report.faults) - MOST_SHOWN} more")
    for head, sentences in (("checked", report.checked), ("unchecked", report.unchecked)):
        for sentence in sentences:
            _say(console, f"  {head:<10} {sentence}")
    return 0 if report.holds else BundleError.exit_code


def present_replayed(console: Console, replayed: Replayed) -> int:
    """Whether a replay came to the same. Returns the exit code."""
    if replayed.is_same:
        _say(
            console, f"the same: {replayed.calls:,} recorded answers give {replayed.compiled_id} again, without a model"
        )
        return 0
    parted = replayed.parted
    if parted is not None:
        _say(console, f"PARTED in {parted.stage}: {parted.what}")
        told = (("request", parted.request_id), ("instruction", parted.candidate), ("it asks", parted.request))
        for head, text in told:
            if text:
                _say(console, f"  {head:<12} {text}")
    return BundleError.exit_code


def present_difference(console: Console, difference: Difference) -> None:
    """Two sides in a table, and how their texts differ."""
    table = Table("", box=None, pad_edge=False)
    for side in (difference.before, difference.after):
        table.add_column(_plain(side.label))
    for row in rows_of(difference):
        table.add_row(*map(_plain, row))
    console.print(table)
    for text in difference.texts:
        _say(
            console,
            f"\npredictor {text.predictor}: {len(text.demos_added)} demonstrations added, "
            f"{len(text.demos_removed)} removed",
        )
        _say(console, preview("\n".join(text.instruction)))
    if not difference.texts:
        _say(console, "\nboth say the same")


def present_answer(console: Console, answer: Answer) -> None:
    """The rows of a question."""
    table = Table(box=None, pad_edge=False)
    for column in answer.columns:
        table.add_column(_plain(column))
    for row in answer.rows[:MOST_ROWS]:
        table.add_row(*(_plain("" if value is None else preview(str(value))) for value in row))
    console.print(table)
    if len(answer.rows) > MOST_ROWS:
        _say(console, f"... and {len(answer.rows) - MOST_ROWS:,} rows more; add a LIMIT or a condition")


def question_of(
    words: Sequence[str], *, which_instruction_won: bool, cost_per_point: bool
) -> tuple[str, Sequence[Path]]:
    """What is asked, and of which bundles.

    Args:
        words: SQL and bundles; only bundles, where the question is one of those below.
        which_instruction_won: Ask that.
        cost_per_point: Ask that.

    Raises:
        SpecError: no question, or several, or no bundle.
    """
    named = {"which-instruction-won": which_instruction_won, "cost-per-point": cost_per_point}
    asked = [QUESTIONS[name] for name, chosen in named.items() if chosen]
    sql, bundles = (asked, words) if asked else (words[:1], words[1:])
    if len(sql) != 1 or not bundles:
        options = " or ".join(f"--{name}" for name in named)
        raise SpecError(f"ask one question of one bundle or more: SQL over {', '.join(TABLES)}, or {options}")
    return sql[0], [Path(name) for name in bundles]


def _say(console: Console, text: str) -> None:
    console.print(_shown(text), markup=False, highlight=False, soft_wrap=True)


def _plain(text: str) -> Text:
    """A cell that is shown as it is written."""
    return Text(_shown(text))


def _shown(text: str) -> str:
    """A stranger's text without the characters that command a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
