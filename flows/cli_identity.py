"""The command line for who we are on Nostr: `swarmc identity new`, `import`, `show`, `backup`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.shell import console, errors, run_command
from swarmc.contracts.errors import IdentityError, SpecError

if TYPE_CHECKING:
    from blocks.identity import Identity
    from blocks.identity.sealing import Version
    from swarmc.nostr.keys import SecretKey
    from swarmc.nostr.nip06 import Seed

identity = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make, keep and show the identity that signs what you publish, buy and sell on Nostr.\n\n"
    "An identity is 12 or 24 seed words. They stay in one file that a password encrypts; whoever has the words *is* "
    "you, and nobody can bring them back. The key is that of NIP-06, so other Nostr programs make the same of them.\n\n"
    "The password is read from `--password-file`, else from `$SWARMC_PASSWORD` (or `$OPENAGENTS_PASSWORD`), else "
    "asked for. The file is `--file`, else `$SWARMC_IDENTITY`, else `~/.config/swarmc/identity.enc`, else that of "
    "OpenAgents' compute provider.",
    epilog="Begin with `swarmc identity new`, then write down what `swarmc identity backup` shows.",
)
"""These commands, to be added to the whole."""

PHRASE_VARIABLE = "SWARMC_PASSPHRASE"
MAX_PASSWORD_FILE_BYTES = 8 * 1024

FileOption = Annotated[Path | None, typer.Option("--file", help="The encrypted file, in place of the usual one.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="A file whose first line is the password of the identity file.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace a file that is there. **The identity in it is lost** without a backup.")
]
Account = Annotated[
    str | None,
    typer.Option(
        "--account",
        metavar="NUMBER|DOMAIN",
        help="Which identity of the same words: a number, or a name such as `work`. Default: the file's, or 0.",
    ),
]


@identity.command()
def new(
    words: Annotated[int, typer.Option("--words", help="How many seed words: 12, or 24.")] = 12,
    file: FileOption = None,
    show_words: Annotated[bool, typer.Option("--show-words", help="Show the words now, to write them down.")] = False,
    account: Account = None,
    password_file: PasswordFile = None,
    force: Force = False,
) -> None:
    """Make a new identity and keep it in an encrypted file.

    The password needs 12 characters or more; several unrelated words are good. Without it the file is worthless,
    so write the seed words down too: `swarmc identity backup` shows them.
    """
    run_command(_new(words, file, show_words, account, password_file, force))


@identity.command("import")
def import_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]...",
            help="The seed words. Better leave them out: they are asked for, or read from standard input, "
            "and stay out of your shell's history.",
        ),
    ] = None,
    file: FileOption = None,
    passphrase: Annotated[
        bool,
        typer.Option("--passphrase", help=f"The words have a BIP-39 passphrase: ask, or read ${PHRASE_VARIABLE}."),
    ] = False,
    account: Account = None,
    password_file: PasswordFile = None,
    force: Force = False,
) -> None:
    """Keep an identity that you have: its seed words go into an encrypted file.

    Compare the `npub` that is shown with yours: another passphrase or account gives another identity, not an error.
    """
    run_command(_import(words, file, passphrase, account, password_file, force))


@identity.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[IDENTITY]", help="A saved block or a file, as in a spec's `identity`."),
    ] = None,
    file: FileOption = None,
    account: Account = None,
    password_file: PasswordFile = None,
) -> None:
    """Show the public key, as npub and in hex, and where it comes from. Never the secret."""
    run_command(_show(name, file, account, password_file))


@identity.command()
def backup(
    file: FileOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write an encrypted copy there, and show nothing secret.")
    ] = None,
    version: Annotated[
        int, typer.Option("--format", help="The form of the copy: 2, or 1 which OpenAgents reads as well.")
    ] = 2,
    password_file: PasswordFile = None,
    force: Force = False,
) -> None:
    """Show the seed words to write them down, or write an encrypted copy of the file.

    **Whoever sees the words can sign and spend as you.** Look around first; keep the paper where no network reaches.
    """
    run_command(_backup(file, out, version, password_file, force))


async def _new(
    words: int, file: Path | None, show_words: bool, account: str | None, password_file: Path | None, force: bool
) -> None:
    if words != 12 and words != 24:
        raise SpecError(f"--words {words}: a seed has 12 words, or 24")
    from swarmc.nostr.nip06 import Seed

    path = _vacant(file, force)
    seed = Seed.generate(words, account=_account(account))
    _keep(seed, path, _new_password(password_file), force)
    if show_words:
        _show_words(seed)
    else:
        _warn("Now write down the seed words, which are the only way back: swarmc identity backup")


async def _import(
    said: list[str] | None,
    file: Path | None,
    passphrase: bool,
    account: str | None,
    password_file: Path | None,
    force: bool,
) -> None:
    from swarmc.nostr.nip06 import Seed

    path = _vacant(file, force)
    words = " ".join(said) if said else _typed("seed words")
    extra = _passphrase() if passphrase else ""
    try:
        seed = Seed(words, passphrase=extra, account=_account(account))
    except ValueError as error:
        raise IdentityError(f"reading the seed words: {error}") from None
    _keep(seed, path, _new_password(password_file), force)
    if said:
        _warn("The words are in your shell's history now: remove them there.")


async def _show(name: str | None, file: Path | None, account: str | None, password_file: Path | None) -> None:
    from pydantic import SecretStr

    from blocks.identity import find_identity
    from swarmc.nostr.nip06 import Seed

    if name is not None and file is not None:
        raise SpecError("show takes one identity: a name, or --file")
    found = (await find_identity(name) if file is None else None) or _of_file(file)
    if found.file is not None and found.password is None:
        found = found.model_copy(update={"password": SecretStr(_password(password_file, found.file))})
    if account is not None:
        found = found.model_copy(update={"account": _account(account), "domain": None})
    source = found.source()
    if not isinstance(source, Seed) and account is not None:
        raise SpecError("--account is for seed words, and this identity is a single secret key")
    where = found.file if found.file is not None else name or f"${found.variable}"
    _present(source, str(where))


async def _backup(file: Path | None, out: Path | None, version: int, password_file: Path | None, force: bool) -> None:
    from blocks.identity import SecureStore

    path = _of_file(file).file
    assert path is not None
    password = _password(password_file, path)
    seed = SecureStore(path).load(password)
    if out is None:
        _show_words(seed)
        return
    copy = SecureStore(out)
    copy.save(seed, password, overwrite=force, version=_version(version))
    if copy.load(password) != seed:
        raise IdentityError(f"the copy {copy.path} does not hold what was written; do not count on it")
    _present(seed, str(copy.path))


def _vacant(file: Path | None, force: bool) -> Path:
    """Where to keep a new identity. Asked before the password, so that nobody types for nothing."""
    from blocks.identity.store import own_path, present_path

    taken = present_path() if file is None else file.expanduser()
    if not force and taken is not None and taken.exists():
        raise IdentityError(
            f"there is an identity file {taken} already; keep another beside it with --file, "
            "or replace it with --force after `swarmc identity backup`"
        )
    return own_path() if file is None else file.expanduser()


def _of_file(file: Path | None) -> "Identity":
    """The identity in a file: this one, or the user's own."""
    from blocks.identity import Identity
    from blocks.identity.store import own_path, present_path

    return Identity(file=file or present_path() or own_path())


def _keep(seed: "Seed", path: Path, password: str, force: bool) -> None:
    from blocks.identity import SecureStore

    SecureStore(path).save(seed, password, overwrite=force)
    _present(seed, str(path))


def _account(said: str | None) -> int:
    from swarmc.nostr.nip06 import MAX_ACCOUNT, account_of

    if said is None:
        return 0
    try:
        account = int(said) if said.isascii() and said.isdecimal() else account_of(said)
    except ValueError as error:
        raise SpecError(f"--account {said!r:.40}: {error}") from None
    if account > MAX_ACCOUNT:
        raise SpecError(f"--account {said}: an account is a number from 0 to {MAX_ACCOUNT}, or a domain")
    return account


def _version(said: int) -> "Version":
    if said == 1:
        return 1
    if said == 2:
        return 2
    raise SpecError(f"--format {said}: identity files have form 1 or 2")


def _new_password(password_file: Path | None) -> str:
    from blocks.identity.passwords import MIN_CHARACTERS

    asked = f"New password, {MIN_CHARACTERS} characters or more"
    return _said_password(password_file) or _ask(asked, "the password", "$SWARMC_PASSWORD or --password-file", 2)


def _password(password_file: Path | None, path: Path) -> str:
    if not path.expanduser().is_file():
        raise IdentityError(f"there is no identity file {path}; make one with `swarmc identity new`")
    asked = f"Password of {path}"
    return _said_password(password_file) or _ask(asked, "the password", "$SWARMC_PASSWORD or --password-file", 1)


def _said_password(password_file: Path | None) -> str | None:
    """The password in the file or the environment. An empty file is an error, not a question."""
    from blocks.identity.passwords import password_from_environment

    if password_file is None:
        return password_from_environment()
    try:
        with password_file.expanduser().open("rb") as file:
            found = file.read(MAX_PASSWORD_FILE_BYTES).decode().splitlines()[:1]
    except OSError as error:
        raise IdentityError(f"reading the password in {password_file}: {error.strerror}") from None
    except UnicodeDecodeError:  # Without the cause, which carries what was read.
        raise IdentityError(f"reading the password in {password_file}: it is not UTF-8 text") from None
    if not found or not found[0]:
        raise IdentityError(f"the first line of {password_file} is empty; a password belongs there")
    return found[0]


def _passphrase() -> str:
    found = os.environ.get(PHRASE_VARIABLE)
    return found or _ask("BIP-39 passphrase", "the passphrase", f"${PHRASE_VARIABLE}", 2)


def _typed(what: str) -> str:
    return _ask(what.capitalize(), what, "standard input", 1) if sys.stdin.isatty() else sys.stdin.read(64 * 1024)


def _ask(question: str, what: str, elsewhere: str, times: int) -> str:
    """Ask at the terminal, unseen; twice for what would be lost by a slip."""
    if not sys.stdin.isatty():
        raise IdentityError(f"{what} cannot be asked for without a terminal; give it by {elsewhere}")
    return typer.prompt(question, hide_input=True, confirmation_prompt=times > 1, err=True)


def _present(source: "Seed | SecretKey", where: str) -> None:
    from swarmc.nostr.nip06 import Seed

    key = source.key() if isinstance(source, Seed) else source
    path = [("path", source.path)] if isinstance(source, Seed) else []
    for name, value in [("npub", key.npub), ("hex", key.pubkey), *path, ("in", where)]:
        _say(f"{name:<5}{value}")


def _show_words(seed: "Seed") -> None:
    _warn("Whoever sees these words can sign and spend as you. Write them on paper, in this order:")
    _say(seed.words)
    if seed.passphrase:
        _warn("There is a passphrase too, not shown here: the words alone give another identity.")
    if seed.account:
        _warn(f"And note the path, which is not the usual one: {seed.path}")


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _warn(line: str) -> None:
    errors.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
