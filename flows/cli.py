"""The command line: `swarmc compile` and its kin; what is asked of a run's evidence is in `cli_evidence.py`.

Prefect and DSPy take seconds to import, so each command imports what it needs when it runs, and
`--help` answers at once.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
import typer

from flows.cli_evidence import evidence
from flows.cli_identity import identity
from flows.cli_provider import provider
from flows.shell import LedgerOption, RunId, console, put_field, run_command, said_fields, usage
from swarmc.contracts.errors import SpecError
from swarmc.contracts.spec import HOW_MUCH, CompileSpec

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

SpecFile = Annotated[Path, typer.Argument(help="A JSON file with the `spec` of the `compile-program` flow.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start a new run even if an unfinished one of the same file exists.")
]
Continue = Annotated[
    str | None, typer.Option("--continue", help="Continue this run (its id or first letters) and no other.")
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Show the whole run live: lanes, spend against budget, leaderboard.")
]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="Where artifacts go: a directory or s3://bucket/prefix.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field of the file, by its path: `--set search.auto=medium`, `--set search.calls=500`, "
        "`--set search.budget_msats=20000`, `--set store=s3://bucket/prefix`, `--set 'sinks=[\"hud\"]'`. "
        "May be repeated.",
    ),
]


@app.command("compile")
def compile_(
    file: SpecFile,
    fresh: Fresh = False,
    run: Continue = None,
    ledger: LedgerOption = None,
    changes: Set = None,
    watch: Watch = False,
) -> None:
    """Compile a program and show what it was worth.

    The plan (calls and cost by stage) is shown first and kept to; `swarmc plan` shows it without buying
    anything. An unfinished run of the same file is **continued**: what it paid for is read from the
    ledger. Ctrl-C stops at once and loses nothing; type the same command again to go on.

    Exit codes: 0 done, 2 the request is wrong, 3 a model could not be reached, 4 the budget ran out
    before the result could be measured, 5 the ledger, 6 another process has the run, 7 the store,
    8 a bundle that does not hold, 9 the relays.
    """
    run_command(_compile(read_spec(file, _changed(changes, ledger=ledger)), fresh, run, watch))


@app.command()
def recompile(
    file: SpecFile,
    fresh: Fresh = False,
    run: Continue = None,
    ledger: LedgerOption = None,
    changes: Set = None,
    watch: Watch = False,
) -> None:
    """Compile again, starting from what the last search of this name learned.

    For after a change of data, model or program. The winner takes the place of the promoted program
    only when a paired test shows it better. Everything else is as with `swarmc compile`.
    """
    run_command(_compile(read_spec(file, _changed(changes, ledger=ledger, start="warm")), fresh, run, watch))


@app.command("plan")
def plan_(file: SpecFile, store: StoreOption = None, changes: Set = None) -> None:
    """Show what a compile would ask for and cost, by stage, from and to. Buys nothing."""
    run_command(_plan(read_spec(file, _changed(changes, store=store))))


@app.command()
def setup() -> None:
    """Register blocks, install crash recovery and deploy `prefect.yaml` on your Prefect server. Safe to repeat."""
    run_command(_setup())


@app.command()
def runs(ledger: LedgerOption = None) -> None:
    """List the runs in the ledger, newest first."""
    run_command(_runs(ledger))


@app.command()
def show(run: RunId, ledger: LedgerOption = None) -> None:
    """Show what a run was worth: scores with intervals, verdict, files."""
    run_command(_show(run, ledger))


@app.command()
def cost(run: RunId, ledger: LedgerOption = None) -> None:
    """Show a run's bill: calls, tokens, msats and dollars by stage and lane, beside the premium lane alone."""
    run_command(_cost(run, ledger))


app.add_typer(evidence)
app.add_typer(identity, name="identity")
app.add_typer(provider, name="provider")


def main() -> None:
    """Entry point of the `swarmc` command."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if home := os.environ.get("PREFECT_HOME"):
        Path(home).parent.mkdir(parents=True, exist_ok=True)  # Prefect makes no parents of its home.
    sys.path.insert(0, str(Path.cwd()))  # Programs are named relative to where the command is typed.
    app()


def read_spec(file: Path, changes: Mapping[str, Any]) -> CompileSpec:
    """The spec in a JSON file, with what the command line changes.

    Args:
        file: The file.
        changes: Values by the path of their field, such as `search.calls`.

    Raises:
        SpecError: with the file, the field and the value that is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
        asked = pydantic.TypeAdapter(dict[str, Any]).validate_json(text)
        for path, value in changes.items():
            _put(asked, path, value)
        return CompileSpec.model_validate(asked)
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"cannot read {file}: {error}") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        shown = f" (it is {first['input']!r:.80})" if first["loc"] and first["type"] != "missing" else ""
        raise usage(f"{file}: {where}: {first['msg']}{shown}") from None


def _changed(sets: Sequence[str] | None, **options: str | None) -> dict[str, Any]:
    """What `--set` and the other options change, by the path of the field."""
    try:
        said = said_fields(sets, "search.calls=500")
    except SpecError as error:
        raise usage(str(error)) from None
    return {name: value for name, value in options.items() if value is not None} | said


def _put(asked: dict[str, Any], path: str, value: Any) -> None:
    """Change one field. Of the sizes of which a search takes one, the file's gives way."""
    at = put_field(asked, path, value)
    where, _, changed = path.rpartition(".")
    if where == "search" and changed in HOW_MUCH:
        for name in set(HOW_MUCH) - {changed}:
            at.pop(name, None)


async def _compile(spec: CompileSpec, fresh: bool, run: str | None, watched: bool) -> int:
    from prefect.settings import PREFECT_API_URL

    from blocks.sinks import TerminalSink
    from blocks.sinks.find import find_sink
    from blocks.sinks.telemetry import Telemetry
    from blocks.sinks.watch import watch
    from flows.compile import watchers
    from flows.present import present_result
    from flows.resume import run_or_continue

    if not PREFECT_API_URL.value():
        console.print("starting a temporary Prefect server, which takes about 15 seconds", style="dim")
    for reference in spec.sinks:
        if isinstance(found := await find_sink(reference), Telemetry):
            found.show_prefect()
    watchers.set((watch(console, spec.name) if watched else TerminalSink(console),))
    recorded, account = await run_or_continue(spec, fresh=fresh, run=run)
    return present_result(console, recorded, account)


async def _plan(spec: CompileSpec) -> None:
    from flows.present import present_plan
    from flows.preview import preview

    plan, sentences = await preview(spec)
    present_plan(console, plan, sentences)


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
    from flows.bills import bill_again
    from flows.present import present_account, present_bill

    async with find_ledger(ledger_url) as ledger:
        record = await ledger.find_run(prefix)
        present_account(console, await ledger.account(record.run_id))
        bill, why = await bill_again(ledger, record)
    present_bill(console, bill, why)
