"""`swarmc identity`: made, kept, shown and backed up from the command line, with nothing secret in sight."""

import json
import os
import pty
import re
import select
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from blocks.identity import Identity, SecureStore
from flows.cli import app
from swarmc.nostr.nip06 import Seed

WORDS = "leader monkey parrot ring guide accident before fence cannon height naive bean"
NSEC = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp"
NPUB = "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu"
PUBKEY = "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917"
PASSWORD = "seven odd herons"
UNSET = ("SWARMC_NOSTR_KEY", "SWARMC_IDENTITY", "SWARMC_PASSPHRASE", "OPENAGENTS_PASSWORD")
REPOSITORY = Path(__file__).parents[2]
SILENCE_LIMIT_S = 60
Cli = Callable[..., Any]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """`swarmc identity` with settings of its own and a password in the environment."""

    def run(*arguments: str, stdin: str = "", **environment: str | None) -> Any:
        usual = dict.fromkeys(UNSET) | {"XDG_CONFIG_HOME": str(tmp_path), "SWARMC_PASSWORD": PASSWORD}
        return CliRunner().invoke(
            app, ["identity", *arguments], input=stdin, env=usual | environment, catch_exceptions=False
        )

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the usual file is."""
    return tmp_path / "swarmc" / "identity.enc"


def test_a_new_identity_is_kept_and_shown_without_its_words(cli: Cli, file: Path) -> None:
    made = cli("new")
    assert made.exit_code == 0
    seed = SecureStore(file).load(PASSWORD)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made.stdout.split() == [
        *("npub", seed.key().npub, "hex", seed.key().pubkey, "path", "m/44'/1237'/0'/0/0", "in", str(file))
    ]
    assert "swarmc identity backup" in made.stderr
    assert seed.words.split()[0] + " " + seed.words.split()[1] not in made.output


def test_new_words_are_shown_when_that_is_asked_for(cli: Cli, file: Path) -> None:
    made = cli("new", "--words", "24", "--show-words", "--account", "work")
    seed = SecureStore(file).load(PASSWORD)
    assert made.stdout.splitlines()[-1] == seed.words
    assert (len(seed.words.split()), seed.account) == (24, 1282789828)
    assert "m/44'/1237'/1282789828'/0/0" in made.stderr


@pytest.mark.attack("D17")
@pytest.mark.parametrize("arguments", [WORDS.upper().split(), [WORDS], []])
def test_imported_words_are_the_same_identity(cli: Cli, arguments: list[str]) -> None:
    imported = cli("import", *arguments, stdin="" if arguments else f"{WORDS}\n")
    assert imported.exit_code == 0
    assert NPUB in imported.stdout
    assert "leader" not in imported.output.lower()
    assert ("history" in imported.stderr) == bool(arguments)
    assert cli("show").stdout == imported.stdout
    assert NPUB in cli("show", SWARMC_NOSTR_KEY=WORDS).stdout
    assert NPUB in cli("show", SWARMC_NOSTR_KEY=NSEC).stdout


def test_a_passphrase_is_kept_with_the_words(cli: Cli, file: Path) -> None:
    cli("import", WORDS, "--passphrase", "--account", "3", SWARMC_PASSPHRASE="hunter2")
    seed = SecureStore(file).load(PASSWORD)
    assert seed == Seed(WORDS, passphrase="hunter2", account=3)
    shown = cli("show")
    assert seed.key().npub in shown.stdout
    saved = cli("backup")
    assert saved.stdout == f"{WORDS}\n"
    assert "There is a passphrase too" in saved.stderr
    assert "hunter2" not in shown.output + saved.output
    assert Seed(WORDS, passphrase="hunter2", account=9).key().npub in cli("show", "--account", "9").stdout


def test_what_is_shown_is_public(cli: Cli, file: Path) -> None:
    cli("import", WORDS)
    shown = cli("show", "--file", str(file))
    assert shown.stdout.split() == ["npub", NPUB, "hex", PUBKEY, "path", "m/44'/1237'/0'/0/0", "in", str(file)]
    assert shown.stderr == ""
    assert "path" not in cli("show", SWARMC_NOSTR_KEY=NSEC).stdout


def test_words_are_shown_for_the_password_alone(cli: Cli) -> None:
    cli("import", WORDS)
    saved = cli("backup")
    assert saved.stdout == f"{WORDS}\n"
    assert "Whoever sees these words can sign and spend as you" in saved.stderr
    refused = cli("backup", SWARMC_PASSWORD="another one, longer")
    assert (refused.exit_code, refused.stdout) == (11, "")
    assert "the password is wrong, or the file was changed" in refused.stderr


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_encrypted_copy_opens_with_the_same_password(cli: Cli, tmp_path: Path, version: str) -> None:
    cli("import", WORDS)
    copy = tmp_path / "copy.enc"
    saved = cli("backup", "--out", str(copy), "--format", version)
    assert saved.exit_code == 0
    assert "leader" not in saved.output
    assert json.loads(copy.read_bytes())["version"] == int(version)
    assert SecureStore(copy).load(PASSWORD) == Seed(WORDS)
    again = cli("backup", "--out", str(copy))
    assert again.exit_code == 11
    assert "not overwritten" in again.stderr
    assert cli("backup", "--out", str(copy), "--force").exit_code == 0


def test_an_identity_is_not_lost_to_another(cli: Cli, file: Path) -> None:
    cli("import", WORDS)
    before = file.read_bytes()
    for command in (["new"], ["import", WORDS], ["new", "--file", str(file)]):
        refused = cli(*command)
        assert refused.exit_code == 11
        assert f"there is an identity file {file} already" in refused.stderr
    assert file.read_bytes() == before
    assert cli("new", "--force").exit_code == 0
    assert SecureStore(file).load(PASSWORD) != Seed(WORDS)


def test_the_identity_of_openagents_is_found_and_not_shadowed(cli: Cli, tmp_path: Path) -> None:
    theirs = tmp_path / "openagents" / "compute" / "identity.enc"
    SecureStore(theirs).save(Seed(WORDS), PASSWORD, version=1)
    shown = cli("show", SWARMC_PASSWORD=None, OPENAGENTS_PASSWORD=PASSWORD)
    assert NPUB in shown.stdout
    assert str(theirs) in shown.stdout
    assert cli("new").exit_code == 11


def test_the_password_can_be_in_a_file(cli: Cli, tmp_path: Path, file: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\r\nnot this\n")
    made = cli("new", "--password-file", str(tmp_path / "password"), SWARMC_PASSWORD="not this one either")
    assert made.exit_code == 0
    SecureStore(file).load(PASSWORD)
    for data, reason in ((b"", "is empty"), (b"\n", "is empty"), (b"hunter2\xff", "is not UTF-8 text")):
        (tmp_path / "password").write_bytes(data)
        refused = cli("show", "--password-file", str(tmp_path / "password"))
        assert refused.exit_code == 11
        assert reason in refused.stderr
        assert "hunter2" not in refused.stderr
    assert "No such file" in cli("show", "--password-file", str(tmp_path / "nowhere")).stderr


@pytest.mark.parametrize(
    ("command", "reason", "code"),
    [
        (["new", "--words", "15"], "a seed has 12 words, or 24", 2),
        (["new", "--account", "2147483648"], "an account is a number from 0", 2),
        (["new", "--account", "9" * 5000], "--account '999", 2),
        (["import", WORDS.replace("bean", "hunter2")], "word 12 of 12 is not in the English BIP-39 list", 11),
        (["import"], "this text has 0", 11),
        (["import", WORDS, "--passphrase"], "the passphrase cannot be asked for without a terminal", 11),
        (["show"], "make one with `swarmc identity new`", 11),
        (["show", "no-such.enc"], "make one with `swarmc identity new`", 11),
        (["show", NSEC], "this looks like a secret itself", 2),
        (["show", "a-name", "--file", "a-file"], "a name, or --file", 2),
        (["backup", "--format", "3", "--out", "x"], "make one with `swarmc identity new`", 11),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_what_cannot_be_is_one_line_without_a_secret(
    cli: Cli, file: Path, command: list[str], reason: str, code: int
) -> None:
    refused = cli(*command)
    assert reason in refused.stderr
    assert (refused.exit_code, refused.stdout, len(refused.stderr.splitlines())) == (code, "", 1)
    assert not any(part in refused.stderr for part in ("hunter2", "monkey", NSEC[:20]))
    assert not file.exists()


def test_a_weak_password_and_a_missing_one_are_refused(cli: Cli, file: Path) -> None:
    weak = cli("new", SWARMC_PASSWORD="Password1234")
    assert "choose another password" in weak.stderr
    missing = cli("new", SWARMC_PASSWORD=None)
    assert "give it by $SWARMC_PASSWORD or --password-file" in missing.stderr
    assert (weak.exit_code, missing.exit_code) == (11, 11)
    assert not file.exists()


def test_help_says_where_things_are_and_what_to_do_first(cli: Cli) -> None:
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", cli("--help").output).split())
    for sentence in ("SWARMC_PASSWORD", "SWARMC_IDENTITY", "Begin with swarmc identity new"):
        assert sentence in shown
    for command in ("new", "import", "show", "backup"):
        assert cli(command, "--help").exit_code == 0


def at_terminal(arguments: list[str], answers: list[str], environment: dict[str, str]) -> tuple[str, int]:
    """Run at a terminal of its own and answer each question; what was on the screen, and the exit code."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        os.execve(sys.executable, [sys.executable, "-m", "flows", "identity", *arguments], environment)
    seen = b""
    try:
        while select.select([terminal], [], [], SILENCE_LIMIT_S)[0]:
            seen += os.read(terminal, 4096)
            if seen.endswith(b": ") and answers:  # The blank comes last, when what is typed is not shown any more.
                os.write(terminal, f"{answers.pop(0)}\n".encode())
        os.kill(child, signal.SIGKILL)
    except OSError:  # Linux tells the end of a terminal so.
        pass
    os.close(terminal)
    return seen.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_at_a_terminal_a_password_is_asked_for_twice_and_stays_unseen(tmp_path: Path, file: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SWARMC_", "OPENAGENTS_"))}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path), "TERM": "dumb"}
    screen, code = at_terminal(["new"], [PASSWORD, "a slip of fingers", PASSWORD, PASSWORD], environment)
    assert (code, screen.count("Repeat for confirmation")) == (0, 2)
    assert PASSWORD not in screen
    assert "a slip" not in screen
    assert SecureStore(file).load(PASSWORD).key().npub in screen


@pytest.mark.attack("D17")
@pytest.mark.usefixtures("on_server")
async def test_a_saved_identity_is_the_same_person(tmp_path: Path, swarmc: Cli) -> None:
    SecureStore(tmp_path / "kept.enc").save(Seed(WORDS, account=5), PASSWORD)
    by_words = Identity(words=SecretStr(WORDS), account=5)
    by_file = Identity(file=tmp_path / "kept.enc", password=SecretStr(PASSWORD))
    for identity, name in ((by_words, "by-words"), (by_file, "by-file")):
        await identity.save(name, overwrite=True)
        shown = swarmc("identity", "show", f"swarmc-identity/{name}")
        assert by_words.npub in shown.stdout
        assert "monkey" not in shown.stdout + shown.stderr
