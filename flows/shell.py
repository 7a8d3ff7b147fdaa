"""How every command runs: one console, errors of ours as one line and an exit code, Ctrl-C that loses nothing."""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any

import typer
from pydantic import JsonValue
from rich.console import Console

from swarmc.contracts.errors import SpecError, SwarmcError, first_swarmc_error

console = Console()
errors = Console(stderr=True)

EXIT_INTERRUPTED = 130

RunId = Annotated[str, typer.Argument(help="A run's id, or the first letters of it, as `swarmc runs` shows it.")]
LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", help="Database URL or saved ledger block. Default: the ledger in $SWARMC_HOME."),
]


def usage(message: str) -> typer.Exit:
    """The end of a command that was asked for something that cannot be."""
    complain(SpecError(message))
    return typer.Exit(SpecError.exit_code)


def said_fields(sets: Sequence[str] | None, example: str) -> dict[str, JsonValue]:
    """What `--set FIELD=VALUE` says, by the path of the field. A value is JSON, or else text.

    Raises:
        SpecError: one says no field, or no value; `example` shows how it is written.
    """
    found: dict[str, JsonValue] = {}
    for said in sets or ():
        path, equals, value = said.partition("=")
        if not equals or not path:
            raise SpecError(f"--set {said!r}: write FIELD=VALUE, such as {example}")
        try:
            found[path] = json.loads(value)
        except ValueError:
            found[path] = value
    return found


def put_field(asked: dict[str, object], path: str, value: object) -> dict[str, object]:
    """Put a value under a path such as `shares.test`, and return what it now stands in. What stood there is copied."""
    *names, last = path.split(".")
    at = asked
    for name in names:
        inner = at.get(name)
        deeper: dict[str, object] = dict(inner) if isinstance(inner, dict) else {}
        at[name] = at = deeper
    at[last] = value
    return at


def run_command(work: Coroutine[Any, Any, int | None]) -> None:
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
        complain(known)
        raise typer.Exit(known.exit_code) from None
    raise typer.Exit(code or 0)


def complain(error: SwarmcError) -> None:
    """One line for an error."""
    errors.print(f"[bold red]error[/bold red] ({error.code}): ", end="")
    errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
