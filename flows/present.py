"""What the command line shows of runs, scores and costs."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from blocks.sinks.terminal import plan_lines
from swarmc.compiler import billing
from swarmc.contracts.bill import Bill
from swarmc.contracts.candidates import Score
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.manifest import CompiledModuleManifest
from swarmc.contracts.money import Account, RunRecord, Tally
from swarmc.contracts.plan import Plan
from tasks.record import Recorded


def present_result(console: Console, recorded: Recorded, account: Account) -> int:
    """The end of a compile: before and after, cost, files. Returns the exit code."""
    console.print()
    _present(console, recorded.manifest, recorded.address)
    if recorded.promotion is not None:
        said = f"{recorded.promotion.decision}: {recorded.promotion.reason}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    console.print()
    present_account(console, account)
    if recorded.bill is not None:
        present_bill(console, recorded.bill)
    again = f"{_command()} cost {recorded.manifest.run_id[:8]}"
    console.print(f"\nthe account again: {again}", highlight=False, soft_wrap=True)
    return 0 if recorded.manifest.scorecard.truth_score else BudgetExhausted.exit_code


def present_manifest(console: Console, data: bytes, address: str) -> None:
    """A stored manifest."""
    _present(console, CompiledModuleManifest.model_validate_json(data), address)


def present_plan(console: Console, plan: Plan, sentences: Mapping[Lane, str]) -> None:
    """What a compile would ask for, by stage, from and to, and where its calls would run."""
    for lane, sentence in sentences.items():
        console.print(f"lane {lane}: {sentence}", markup=False, highlight=False, soft_wrap=True)
    for line in (*plan_lines(plan), *_by_lane(plan)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    said = f"{plan.runs:,} program runs over {plan.combinations:,} combinations; nothing was bought"
    console.print(said, highlight=False, soft_wrap=True)


def present_runs(console: Console, records: Sequence[RunRecord]) -> None:
    """One line a run."""
    if not records:
        console.print("no runs yet; begin with: swarmc compile examples/ticket_routing/compile.json", highlight=False)
        return
    table = Table("run", "name", "state", "begun", "opened", box=None, pad_edge=False)
    for record in records:
        begun = record.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(record.run_id[:8], record.name, record.state, begun, f"{record.epoch}x")
    console.print(table)


def present_account(console: Console, account: Account) -> None:
    """Calls, tokens and msats by stage and lane."""
    heads = ("calls bought", "already paid for", "failed", "lost", "tokens in", "tokens out", "msats")
    rows = [(line.stage, line.lane, *_numbers(line.tally)) for line in account.lines]
    _print_by_lane(console, heads, [*rows, ("all", "", *_numbers(account.total))])


def _print_by_lane(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of numbers by stage and lane; its last row is the total."""
    table = Table(box=None, pad_edge=False)
    for head in ("stage", "lane"):
        table.add_column(head, no_wrap=True)  # Numbers' heads wrap: a lane that is cut short names none.
    for head in heads:
        table.add_column(head, justify="right")
    *lines, total = rows
    for line in lines:
        table.add_row(*line)
    table.add_row(*total, style="bold")
    console.print(table)


def present_bill(console: Console, bill: Bill, why: str = "") -> None:
    """What was paid by stage and lane in msats and dollars, beside the reference lane alone; `why` nothing is there.

    A run that cost nothing, and is compared with nothing, has no bill to show.
    """
    if not (bill.msats or bill.lost or bill.reference or why):
        return
    console.print()
    _print_by_lane(console, billing.headings(bill)[2:], billing.rows(bill))
    for sentence in (*billing.sentences(bill), *([why] if why else [])):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _present(console: Console, manifest: CompiledModuleManifest, address: str) -> None:
    card = manifest.scorecard
    table = Table("", "score", "95 % interval", "examples", box=None, pad_edge=False)
    rows = (("before", card.baseline_score), ("after", card.truth_score), ("paired difference", card.improvement))
    for name, score in rows:
        table.add_row(name, *_score(score))
    console.print(f"[bold]{manifest.program}[/bold]: [bold]{manifest.verdict}[/bold]", highlight=False)
    console.print(table)
    for line in _verified(manifest):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"compiled id  {manifest.compiled_id}", highlight=False, soft_wrap=True)
    console.print(f"manifest     {address}", highlight=False, soft_wrap=True)


def _by_lane(plan: Plan) -> Iterator[str]:
    """A line for every lane, where there are several: what all stages together ask of it at most."""
    lanes = list(dict.fromkeys(line.lane for line in plan.stages))
    for lane in lanes if len(lanes) > 1 else ():
        own = [line for line in plan.stages if line.lane == lane]
        calls, msats = sum(line.calls_high for line in own), sum(line.msats_high for line in own)
        stages = ", ".join(dict.fromkeys(line.stage for line in own))
        yield f"lane {lane}: at most {calls:,} calls and {msats:,} msats ({stages})"


def _verified(manifest: CompiledModuleManifest) -> Iterator[str]:
    """How far the scores are verified, who said otherwise, and where the search ran."""
    if (counts := manifest.scorecard.verification) is not None:
        yield f"verified     {counts}"
    for name, title in (("dissent", "dissent      "), ("transfer", "search lane  "), ("climb", "climb        ")):
        if name in manifest.details:
            yield f"{title}{manifest.details[name]}"


def _command() -> str:
    """The command as it was typed, with the home it was given: another home has another ledger."""
    home = os.environ.get("SWARMC_HOME")
    typed = Path(sys.argv[0])
    program = os.path.relpath(typed) if typed.name == "swarmc" else "python -m flows"
    return f"SWARMC_HOME={home} {program}" if home else program


def _score(score: Score | None) -> tuple[str, str, str]:
    if score is None:
        return "not measured", "", ""
    return f"{score.mean:.3f}", f"{score.low_ppm / 1e6:.3f} to {score.high_ppm / 1e6:.3f}", str(score.count)


def _numbers(tally: Tally) -> list[str]:
    return [
        f"{number:,}"
        for number in (
            tally.calls,
            tally.reused,
            tally.failed,
            tally.lost,
            tally.prompt_tokens,
            tally.completion_tokens,
            tally.msats + tally.lost_msats,
        )
    ]
