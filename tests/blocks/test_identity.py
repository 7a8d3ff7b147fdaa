"""Identity: one person by every path, a key that can be used and saved, and shows itself nowhere."""

import pickle
from pathlib import Path

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr, ValidationError

from blocks.identity import Identity, SecureStore, find_identity, signed_by_key, signer
from swarmc.contracts.errors import IdentityError, SpecError
from swarmc.contracts.relay import UnsignedNote
from swarmc.nostr.events import sign_note, verify
from swarmc.nostr.nip06 import Seed

WORDS = "leader monkey parrot ring guide accident before fence cannon height naive bean"
NSEC = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp"
SECRET_HEX = "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a"
NPUB = "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu"
PUBKEY = "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917"
PASSWORD = "seven odd herons"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NOSTR_KEY", "IDENTITY", "PASSWORD"):
        monkeypatch.delenv(f"SWARMC_{name}", raising=False)
    monkeypatch.delenv("OPENAGENTS_PASSWORD", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An encrypted file of the words."""
    SecureStore(tmp_path / "kept.enc").save(Seed(WORDS), PASSWORD)
    return tmp_path / "kept.enc"


@pytest.mark.parametrize("text", [NSEC, SECRET_HEX])
def test_a_saved_key_signs_as_its_owner(text: str) -> None:
    identity = Identity(secret=SecretStr(text))
    assert (identity.npub, identity.pubkey) == (NPUB, PUBKEY)
    event = sign_note(UnsignedNote(kind=1, created_at=5), identity.key())
    assert verify(event)
    assert event.pubkey == PUBKEY


def test_a_key_can_stay_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEY", NSEC)
    assert Identity(variable="OUR_KEY").npub == NPUB
    monkeypatch.setenv("OUR_KEY", NPUB)
    with pytest.raises(IdentityError, match=r"reading \$OUR_KEY as a Nostr key"):
        Identity(variable="OUR_KEY").key()
    monkeypatch.delenv("OUR_KEY")
    with pytest.raises(SpecError, match=r"no key: give `words`, `secret` or `file`, or set \$OUR_KEY"):
        Identity(variable="OUR_KEY").key()


@pytest.mark.attack("D17")
async def test_the_same_words_are_one_identity_by_every_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [
        Identity(words=SecretStr(WORDS)),
        Identity(secret=SecretStr(NSEC)),
        Identity(file=file, password=SecretStr(PASSWORD)),
    ]
    found = [identity.npub for identity in blocks]
    monkeypatch.setenv("SWARMC_NOSTR_KEY", WORDS)
    found += [Identity().npub, await found_npub(None)]
    monkeypatch.delenv("SWARMC_NOSTR_KEY")
    monkeypatch.setenv("SWARMC_PASSWORD", PASSWORD)
    found += [Identity(file=file).npub, await found_npub(str(file))]
    monkeypatch.setenv("SWARMC_IDENTITY", str(file))
    found += [await found_npub(None)]
    assert found == [NPUB] * 8


async def found_npub(reference: str | None) -> str:
    identity = await find_identity(reference)
    assert identity is not None
    return identity.npub


def test_a_passphrase_and_an_account_mean_the_same_in_block_and_file(tmp_path: Path) -> None:
    path, password = tmp_path / "work.enc", SecretStr(PASSWORD)
    extra = SecretStr("hunter2")
    SecureStore(path).save(Seed(WORDS, passphrase="hunter2", account=1282789828), PASSWORD)
    work = Identity(words=SecretStr(WORDS), passphrase=extra, domain="Work")
    assert work.npub == Identity(words=SecretStr(WORDS), passphrase=extra, account=1282789828).npub != NPUB
    assert Identity(file=path, password=password).npub == work.npub
    assert Identity(file=path, password=password, passphrase=SecretStr(""), account=0).npub == NPUB
    home = Identity(words=SecretStr(WORDS), passphrase=extra)
    assert Identity(file=path, password=password, domain="default").npub == home.npub != work.npub


def test_a_domain_picks_an_identity_of_the_words_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMC_NOSTR_KEY", f"  {WORDS.upper()}\n")
    assert Identity(domain="work").npub == Identity(words=SecretStr(WORDS), account=1282789828).npub
    monkeypatch.setenv("SWARMC_NOSTR_KEY", NSEC)
    with pytest.raises(SpecError, match=r"belong to seed words; \$SWARMC_NOSTR_KEY holds a key"):
        Identity(domain="work").key()


@pytest.mark.parametrize("name", ["SWARMC_PASSWORD", "OPENAGENTS_PASSWORD"])
def test_the_password_can_stay_in_the_environment(file: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IdentityError, match=r"there is no password; give `password`, or set \$SWARMC_PASSWORD"):
        Identity(file=file).key()
    monkeypatch.setenv(name, PASSWORD)
    assert Identity(file=file).npub == NPUB
    with pytest.raises(IdentityError, match="the password is wrong, or the file was changed"):
        Identity(file=file, password=SecretStr("another one, longer")).key()


async def test_nobody_is_found_where_nothing_is_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await find_identity(None) is None
    theirs = file.parent / "config" / "openagents" / "compute" / "identity.enc"
    SecureStore(theirs).save(Seed(WORDS), PASSWORD, version=1)
    assert await find_identity(None) is None
    monkeypatch.setenv("OPENAGENTS_PASSWORD", PASSWORD)
    found = await find_identity(None)
    assert found is not None
    assert (found.file, found.npub) == (theirs, NPUB)


async def test_two_identities_in_the_environment_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMC_NOSTR_KEY", NSEC)
    monkeypatch.setenv("SWARMC_IDENTITY", str(file))
    with pytest.raises(SpecError, match="both name an identity: unset one"):
        await find_identity(None)


@pytest.mark.attack("E4")
@pytest.mark.parametrize("secret", [NSEC, f"swarmc-identity/{NSEC}", SECRET_HEX, WORDS, f"./{NSEC}"])
async def test_a_secret_given_as_a_name_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(SpecError, match="this looks like a secret itself") as caught:
        await find_identity(secret)
    assert not any(part in str(caught.value) for part in ("nsec10", SECRET_HEX, "monkey"))


@pytest.mark.parametrize("words", [12, 24])
def test_every_generated_identity_is_another_and_can_be_written_down(words: int) -> None:
    made = [Identity.generate(words) for _ in range(5)]
    assert len({identity.pubkey for identity in made}) == 5
    assert made[0].words is not None
    assert len(made[0].words.get_secret_value().split()) == words


def test_statements_are_signed_by_who_it_is() -> None:
    signature = signer(Identity(words=SecretStr(WORDS)).key())(b"a statement")
    assert signature.public_key == PUBKEY
    assert signed_by_key(b"a statement", signature)
    assert not signed_by_key(b"another", signature)


@pytest.mark.attack("E4")
def test_neither_text_forms_nor_dumps_show_the_secret(file: Path) -> None:
    identities = [
        Identity(secret=SecretStr(NSEC)),
        Identity(words=SecretStr(WORDS), passphrase=SecretStr("hunter2")),
        Identity(file=file, password=SecretStr(PASSWORD)),
    ]
    for identity in identities:
        shown = f"{identity!r} {identity} {identity.model_dump()} {identity.model_dump_json()} {identity.key()}"
        shown += f"{identity.source()!r} {vars(identity)}"
        assert not any(part in shown for part in (NSEC, SECRET_HEX, "monkey", "hunter2", PASSWORD))
        for secret in (identity.key(), identity.source()):
            with pytest.raises(TypeError):
                pickle.dumps(secret)


@pytest.mark.parametrize(
    "settings",
    [
        {"secret": NSEC[:-1] + "q"},
        {"secret": "hunter2"},
        {"secret": ["hunter2"]},
        {"sekret": "hunter2"},
        {"secret": ""},
        {"words": WORDS.replace("bean", "hunter2")},
        {"words": WORDS.replace("bean", "fence")},
        {"words": ""},
        {"words": [WORDS]},
        {"words": WORDS, "passphrase": ["hunter2"]},
        {"words": WORDS, "passphrase": "hunter2\udcff"},
        {"words": WORDS, "account": 2**31},
        {"words": WORDS, "account": -1},
        {"words": WORDS, "domain": "\udcff"},
    ],
    ids=str,
)
def test_what_is_no_identity_is_refused_and_not_repeated(settings: dict) -> None:
    with pytest.raises((IdentityError, ValidationError)) as caught:
        Identity(**settings)
    assert not any(part in str(caught.value) for part in ("hunter2", "monkey", NSEC[:20]))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"words": WORDS, "secret": NSEC}, "this one has words and secret"),
        ({"words": WORDS, "file": "kept.enc"}, "this one has words and file"),
        ({"words": WORDS, "secret": NSEC, "file": "kept.enc"}, "words and secret and file"),
        ({"secret": NSEC, "variable": "OUR_KEY"}, "this one has secret and variable"),
        ({"words": WORDS, "account": 1, "domain": "work"}, "`domain` is a name for an account"),
        ({"secret": NSEC, "account": 1}, "belong to seed words"),
        ({"secret": NSEC, "passphrase": "hunter2"}, "belong to seed words"),
        ({"words": WORDS, "password": "hunter2"}, "`password` opens a file"),
        ({"password": "hunter2"}, "`password` opens a file"),
    ],
    ids=str,
)
def test_an_identity_is_given_in_exactly_one_way(settings: dict, reason: str) -> None:
    with pytest.raises(SpecError, match=reason) as caught:
        Identity(**settings)
    assert not any(part in str(caught.value) for part in ("hunter2", "monkey", NSEC[:20]))


def test_what_a_server_keeps_of_a_secret_is_known_to_it_as_secret() -> None:
    assert issubclass(Identity, Block)
    known = set(Identity.model_json_schema()["secret_fields"])
    assert {"words", "passphrase", "secret", "password"} <= known
