"""The command line for selling: `swarmc provider start`, `status`, `jobs`, `earnings`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.shell import LedgerOption, console, put_field, run_command, said_fields
from swarmc.contracts.errors import SpecError

if TYPE_CHECKING:
    from swarmc.contracts.provider import ProviderSpec

provider = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Sell a model's answers on Nostr (NIP-90 jobs of kind 5050), for Lightning payments or for nothing.\n\n"
    "A provider needs an identity (`swarmc identity new`), relays, a wallet and a model. Every job is kept at every "
    "step, so a provider that is killed goes on where it was: what is paid for is done, nothing twice.",
    epilog="Begin with play money: `swarmc provider start --set require_payment=true --set wallet=ledger:seller`. "
    "Then `swarmc provider jobs` and `swarmc provider earnings` show what came of it.",
)
"""These commands, to be added to the whole."""

IdentityOption = Annotated[
    str | None,
    typer.Option("--identity", help="Whose: a saved identity or a file. Default: everybody's in the ledger."),
]


@provider.command()
def start(
    file: Annotated[
        Path | None, typer.Argument(metavar="[SPEC.json]", help="A JSON file with the `spec` of `serve-market`.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field, by its path: `--set venue.venue=ollama`, `--set min_price_msats=2000`, "
            "`--set 'relays=[\"wss://relay.example.org\"]'`, `--set limits.unpaid=100`. May be repeated.",
        ),
    ] = None,
    ledger: LedgerOption = None,
    for_s: Annotated[float | None, typer.Option("--for", help="Serve so many seconds, then stop.")] = None,
) -> None:
    """Announce the offer and serve until Ctrl-C. Prints the offer, then a line for everything that happens to a job.

    Ctrl-C takes nothing new, takes the offer back and finishes what is paid for within `grace_s` seconds; what is
    left is taken up by the next start. Exit codes: 2 the spec is wrong, 3 the model, 5 the ledger, 6 another process
    serves with this identity, 9 the relays, 10 the wallet, 11 the identity.
    """
    run_command(_start(file, changes, ledger, for_s))


@provider.command()
def status(
    file: Annotated[Path | None, typer.Argument(metavar="[SPEC.json]", help="As with `start`.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="As with `start`.")] = None,
    ledger: LedgerOption = None,
) -> None:
    """Show whether the offer stands on the relays, how relays and wallet are, and what became of all jobs."""
    run_command(_status(file, changes, ledger))


@provider.command()
def jobs(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many of the newest.")] = 20,
    identity: IdentityOption = None,
    ledger: LedgerOption = None,
) -> None:
    """List jobs, those that changed last first: who asked, how far it is, what it brought."""
    run_command(_jobs(limit, identity, ledger))


@provider.command()
def earnings(identity: IdentityOption = None, ledger: LedgerOption = None) -> None:
    """Show what settled jobs brought, each counted once, and what is owed back. Play money is shown apart."""
    run_command(_earnings(identity, ledger))


def read_provider_spec(file: Path | None, sets: list[str] | None, ledger: str | None) -> "ProviderSpec":
    """The spec in a file, or the default one, with what the command line changes; its relays may be $SWARMC_RELAYS.

    Raises:
        SpecError: with the field that is wrong.
    """
    import pydantic

    from blocks.relays.default import relays_in_environment
    from swarmc.contracts.provider import ProviderSpec

    try:
        text = "{}" if file is None else file.read_text(encoding="utf-8")
        asked = pydantic.TypeAdapter(dict[str, object]).validate_json(text)
        for path, value in (({"ledger": ledger} if ledger else {}) | said_fields(sets, "capacity=4")).items():
            put_field(asked, path, value)
        if named := relays_in_environment():
            asked.setdefault("relays", named)
        return ProviderSpec.model_validate(asked)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {file}: {error}") from None
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or str(file or "the spec")
        raise SpecError(f"{where}: {wrong['msg']}") from None


async def _start(file: Path | None, sets: list[str] | None, ledger: str | None, for_s: float | None) -> None:
    from flows.present_provider import present_front, present_move, present_served, present_trouble
    from flows.serve import Voice, serve_here

    spec = read_provider_spec(file, sets, ledger)
    voice = Voice(
        opened=lambda front: present_front(console, front),
        job=lambda sale, said: present_move(console, sale, said),
        trouble=lambda sentence: present_trouble(console, sentence),
    )
    present_served(console, await serve_here(spec, for_s, voice))


async def _status(file: Path | None, sets: list[str] | None, ledger: str | None) -> None:
    from blocks.ledger.find import find_job_book
    from blocks.relays import Relays
    from blocks.wallets.find import find_wallet
    from flows.present_provider import present_earnings, present_status
    from flows.storefront import provider_key
    from swarmc.contracts.market import HANDLER
    from swarmc.contracts.relay import Filter
    from swarmc.nostr.nip89 import newest_offers

    spec = read_provider_spec(file, sets, ledger)
    key = await provider_key(spec.identity)
    async with (
        (await find_wallet(spec.wallet)).open() as wallet,
        find_job_book(spec.ledger) as book,
        Relays(urls=list(spec.relays), quorum=spec.quorum).open(key) as relay,
    ):
        found = await relay.fetch([Filter(kinds=(HANDLER,), authors=(key.pubkey,))])
        offers = newest_offers(found.events)
        await present_status(console, key.npub, offers, found.answers, wallet)
        present_earnings(console, await book.totals("sold", key.pubkey))


async def _jobs(limit: int, identity: str | None, ledger: str | None) -> None:
    from time import time

    from blocks.ledger.find import find_job_book
    from flows.present_provider import present_jobs

    owner = await _owner(identity)
    async with find_job_book(ledger) as book:
        present_jobs(console, await book.recent("sold", owner, limit=limit), time())


async def _earnings(identity: str | None, ledger: str | None) -> None:
    from blocks.ledger.find import find_job_book
    from flows.present_provider import present_earnings

    owner = await _owner(identity)
    async with find_job_book(ledger) as book:
        present_earnings(console, await book.totals("sold", owner))


async def _owner(identity: str | None) -> str | None:
    """The public key that an identity names; everybody's jobs when none is named."""
    if identity is None:
        return None
    from flows.storefront import provider_key

    return (await provider_key(identity)).pubkey
