"""The command line: `swarmc compile`, `setup`, `runs`, `show`, `cost`.

Prefect and DSPy take seconds to import, so each command imports what it needs when it runs, and
`--help` answers at once.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
import typer
from rich.console import Console

from swarmc.contracts.errors import SpecError, SwarmcError, first_swarmc_error
from swarmc.contracts.spec import CompileSpec

if TYPE_CHECKING:
    from swarmc.contracts.money import RunRecord

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Compile DSPy programs on metered models. Killed at any moment, a compile continues "
    "without paying for any call twice.",
    epilog="Begin with `swarmc compile examples/ticket_routing/compile.json`: it needs no key and no server.",
)
console = Console()
errors = Console(stderr=True)

EXIT_INTERRUPTED = 130
PREFECT_DEFAULTS = {
    # A cold start of the temporary server takes 20 s and more on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Our own lines say what happens; Prefect's go to the run's page, not between them.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

RunId = Annotated[str, typer.Argument(help="A run's id, or the first letters of it, as `swarmc runs` shows it.")]
LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", help="Database URL or saved ledger block. Default: the ledger in $SWARMC_HOME."),
]


@app.command("compile")
def compile_(
    file: Annotated[Path, typer.Argument(help="A JSON file with the parameters of the `compile-program` flow.")],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start a new run even if an unfinished one of the same file exists.")
    ] = False,
    run: Annotated[
        str | None, typer.Option("--continue", help="Continue this run (its id or first letters) and no other.")
    ] = None,
    ledger: LedgerOption = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Where artifacts go: a directory or s3://bucket/prefix.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed than the file's.")] = None,
) -> None:
    """Compile a program and show what it was worth.

    An unfinished run of the same file is **continued**: what it paid for is read from the ledger.
    Ctrl-C stops at once and loses nothing; type the same command again to go on.

    Exit codes: 0 done, 2 the request is wrong, 3 a model could not be reached, 4 the budget ran out
    before the result could be measured, 5 the ledger, 6 another process has the run, 7 the store.
    """
    spec = read_spec(file, {"ledger": ledger, "store": store, "seed": seed})
    _run(_compile(spec, fresh, run))


@app.command()
def setup() -> None:
    """Register blocks, install crash recovery and deploy `prefect.yaml` on your Prefect server. Safe to repeat."""
    _run(_setup())


@app.command()
def runs(ledger: LedgerOption = None) -> None:
    """List the runs in the ledger, newest first."""
    _run(_runs(ledger))


@app.command()
def show(run: RunId, ledger: LedgerOption = None) -> None:
    """Show what a run was worth: scores with intervals, verdict, files."""
    _run(_show(run, ledger))


@app.command()
def cost(run: RunId, ledger: LedgerOption = None) -> None:
    """Show what a run bought: calls, tokens and msats by stage and lane."""
    _run(_cost(run, ledger))


def main() -> None:
    """Entry point of the `swarmc` command."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if home := os.environ.get("PREFECT_HOME"):
        Path(home).parent.mkdir(parents=True, exist_ok=True)  # Prefect makes no parents of its home.
    sys.path.insert(0, str(Path.cwd()))  # Programs are named relative to where the command is typed.
    app()


def read_spec(file: Path, changes: dict[str, Any]) -> CompileSpec:
    """The spec in a JSON file, with what the command line changes.

    Raises:
        SpecError: with the file, the field and the value that is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
        asked = pydantic.TypeAdapter(dict[str, Any]).validate_json(text)
        return CompileSpec.model_validate({**asked, **{k: v for k, v in changes.items() if v is not None}})
    except (OSError, UnicodeDecodeError) as error:
        raise _usage(f"cannot read {file}: {error}") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        shown = f" (it is {first['input']!r:.80})" if first["loc"] and first["type"] != "missing" else ""
        raise _usage(f"{file}: {where}: {first['msg']}{shown}") from None


def _usage(message: str) -> typer.Exit:
    _complain(SpecError(message))
    return typer.Exit(SpecError.exit_code)


def _run(work: Coroutine[Any, Any, int | None]) -> None:
    """Run a command; our own errors become one line and an exit code, others keep their traceback."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        errors.print("\nstopped. What was paid for is kept; type the same command to continue.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Exception as error:
        known = first_swarmc_error(error)
        if known is None:
            raise
        _complain(known)
        raise typer.Exit(known.exit_code) from None
    raise typer.Exit(code or 0)


def _complain(error: SwarmcError) -> None:
    errors.print(f"[bold red]error[/bold red] ({error.code}): ", end="")
    errors.print(str(error), markup=False, highlight=False, soft_wrap=True)


async def _compile(spec: CompileSpec, fresh: bool, run: str | None) -> int:
    from prefect.settings import PREFECT_API_URL

    from blocks.sinks import TerminalSink
    from flows.compile import watchers
    from flows.present import present_result
    from flows.resume import run_or_continue

    if not PREFECT_API_URL.value():
        console.print("starting a temporary Prefect server, which takes about 15 seconds", style="dim")
    watchers.set((TerminalSink(console),))
    recorded, account = await run_or_continue(spec, fresh=fresh, run=run)
    return present_result(console, recorded, account)


async def _setup() -> None:
    from flows.setup import setup as set_up

    for sentence in await set_up():
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


async def _runs(ledger_url: str | None) -> None:
    from blocks.ledger.find import find_ledger
    from flows.present import present_runs

    async with find_ledger(ledger_url) as ledger:
        present_runs(console, await ledger.runs())


async def _show(prefix: str, ledger_url: str | None) -> None:
    from blocks.ledger.find import find_ledger
    from blocks.stores import read_uri
    from blocks.stores.addresses import root_of
    from flows.present import present_manifest

    async with find_ledger(ledger_url) as ledger:
        record: RunRecord = await ledger.find_run(prefix)
    if record.manifest_uri is None:
        raise SpecError(f"run {record.run_id} is {record.state} and has no manifest yet; see `swarmc cost {prefix}`")
    address = f"{root_of(record.manifest_uri).removeprefix('file://')}/runs/{record.run_id}/manifest.json"
    present_manifest(console, await read_uri(record.manifest_uri), address)


async def _cost(prefix: str, ledger_url: str | None) -> None:
    from blocks.ledger.find import find_ledger
    from flows.present import present_account

    async with find_ledger(ledger_url) as ledger:
        record = await ledger.find_run(prefix)
        present_account(console, await ledger.account(record.run_id))
