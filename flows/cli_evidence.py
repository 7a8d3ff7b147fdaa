"""The command line for evidence: `swarmc bundle`, `verify`, `replay`, `diff`, `query`, `extract`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.shell import LedgerOption, RunId, console, run_command

evidence = typer.Typer()
"""These commands, to be added to the whole."""

BundleFile = Annotated[Path, typer.Argument(help="A bundle, as `swarmc bundle` writes it.")]


@evidence.command()
def bundle(
    run: RunId,
    out: Annotated[Path | None, typer.Option("--out", help="The file. Default: `<run>.bundle.jsonl` here.")] = None,
    hashes_only: Annotated[
        bool | None,
        typer.Option(
            "--hashes-only/--full",
            help="Tell examples, prompts and answers by their hashes alone, or in full. "
            "Default: in full where the run's privacy mode is `public_ok`.",
        ),
    ] = None,
    sign: Annotated[bool, typer.Option("--sign", help="Sign it anew with the environment's identity.")] = False,
    ledger: LedgerOption = None,
) -> None:
    """Put all evidence of a run into one file that a stranger can check, replay, compare and ask."""
    run_command(_bundle(run, out, hashes_only, sign, ledger))


@evidence.command()
def verify(
    file: BundleFile,
    root: Annotated[str | None, typer.Option("--root", help="The root that it must have, learned elsewhere.")] = None,
) -> None:
    """Check a bundle: hashes, ids, scores, intervals, account, promotion, signatures. No network, no trust.

    Names the first line that does not hold, and says what could not be checked. Exit code 8 when it does not hold.
    """
    run_command(_verify(file, root))


@evidence.command()
def replay(
    file: BundleFile,
    program: Annotated[str | None, typer.Option("--program", help="Where the program is here, as in a spec.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Where the metric is here.")] = None,
    as_named: Annotated[
        bool,
        typer.Option("--as-named", help="Import the program and metric that the bundle names. **This runs code.**"),
    ] = False,
) -> None:
    """Compile a bundle again without a model. Exit code 8, and the first difference, when it comes out otherwise."""
    run_command(_replay(file, program, metric, as_named))


@evidence.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A bundle, or a `compiled.json`.")],
    after: Annotated[Path, typer.Argument(help="Another; or the same bundle, for its baseline against its winner.")],
    of_before: Annotated[
        str | None, typer.Option("--of-before", help="`winner`, `baseline`, `incumbent` or a candidate's id.")
    ] = None,
    of_after: Annotated[str, typer.Option("--of-after", help="The same, of AFTER.")] = "winner",
    report: Annotated[Path | None, typer.Option("--report", help="Write a Markdown report too.")] = None,
) -> None:
    """Compare two programs: instructions, demonstrations, scores example by example, cost."""
    run_command(_diff(before, after, of_before, of_after, report))


@evidence.command()
def query(
    words: Annotated[list[str], typer.Argument(metavar="[SQL] BUNDLE...", help="One SELECT, then bundles.")],
    which_instruction_won: Annotated[bool, typer.Option("--which-instruction-won")] = False,
    cost_per_point: Annotated[bool, typer.Option("--cost-per-point")] = False,
) -> None:
    """Ask bundles in SQL: tables `runs, examples, candidates, outcomes, calls, receipts`."""
    run_command(_query(words, which_instruction_won, cost_per_point))


@evidence.command()
def extract(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Bundles, session logs, spans, OTLP files, or directories of them."),
    ],
    out: Annotated[str, typer.Option("--out", help="The directory to write; an earlier extraction's is replaced.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Take what is not known to have succeeded as well.")
    ] = False,
    best: Annotated[bool, typer.Option("--best", help="Only runs of the best candidate.")] = False,
    min_score: Annotated[float | None, typer.Option("--min-score", min=0, max=1, help="The least score.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help='Change what is taken: `--set phases=["search"]`, `--set signatures=["Classify"]`, '
            "`--set shares.test=2`, `--set privacy_mode=no_pii`. May be repeated.",
        ),
    ] = None,
) -> None:
    """Turn evidence into datasets, one for each signature, that `swarmc compile` reads."""
    run_command(_extract(sources, out, everything, best, min_score, changes))


async def _bundle(run: str, out: Path | None, hashes_only: bool | None, sign: bool, ledger: str | None) -> None:
    from blocks.identity import Identity, find_identity, signer
    from flows.evidence import bundle_run, present_packaged

    kept = None if hashes_only is None else "hashes" if hashes_only else "all"
    # Without one in the environment the block's own error says what to set.
    key = signer((await find_identity(None) or Identity()).key()) if sign else None
    present_packaged(console, await bundle_run(run, ledger=ledger, out=out, kept=kept, sign=key))


async def _verify(file: Path, root: str | None) -> int:
    from flows.evidence import present_report, verify_bundle

    return present_report(console, await verify_bundle(file, root=root))


async def _replay(file: Path, program: str | None, metric: str | None, as_named: bool) -> int:
    from flows.evidence import present_replayed
    from flows.replay import replay_bundle

    return present_replayed(console, await replay_bundle(file, program=program, metric=metric, as_named=as_named))


async def _diff(before: Path, after: Path, of_before: str | None, of_after: str, report: Path | None) -> None:
    from flows.evidence import diff_files, present_difference

    present_difference(console, diff_files(before, after, of_before=of_before, of_after=of_after, report=report))


async def _query(words: list[str], which_instruction_won: bool, cost_per_point: bool) -> None:
    from flows.evidence import present_answer, question_of
    from swarmc.tracing.query import ask

    sql, paths = question_of(words, which_instruction_won=which_instruction_won, cost_per_point=cost_per_point)
    present_answer(console, ask(sql, paths))


async def _extract(
    sources: list[str], out: str, everything: bool, best: bool, min_score: float | None, changes: list[str] | None
) -> None:
    from flows.extract import extract_here, present_extracted, selection_said

    selection = selection_said(changes, everything=everything, best=best, min_score=min_score)
    present_extracted(console, await extract_here(sources, out, selection, console))
