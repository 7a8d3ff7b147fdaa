"""SecureStore: a file that OpenAgents reads, that nobody can change unseen, and that no crash breaks."""

import base64
import json
import os
import resource
import signal
import stat
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from blocks.identity.passwords import check_new_password
from blocks.identity.sealing import Cost, Version, seal, unseal
from blocks.identity.store import SecureStore, own_path, present_path, write_whole
from swarmc.contracts.errors import IdentityError
from swarmc.nostr.nip06 import MAX_ACCOUNT, Seed

WORDS = "leader monkey parrot ring guide accident before fence cannon height naive bean"
PASSWORD = "seven odd herons"
CHEAP = Cost(m_cost=8, t_cost=1, p_cost=1)
SEED = Seed(WORDS)
PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def theirs(**changes: object) -> bytes:
    """A file as OpenAgents' compute provider writes it, made without our code."""
    salt, nonce = bytes(range(16)), bytes(range(12))
    key = Argon2id(salt=salt, length=32, iterations=2, lanes=1, memory_cost=19_456).derive(PASSWORD.encode())
    fields = {
        "ciphertext": base64.b64encode(AESGCM(key).encrypt(nonce, WORDS.encode(), None)).decode(),
        "nonce": base64.b64encode(nonce).decode(),
        "salt": base64.b64encode(salt).decode().rstrip("="),
        "version": 1,
        "argon2_params": {"m_cost": 19_456, "t_cost": 2, "p_cost": 1},
    }
    kept = {name: value for name, value in (fields | changes).items() if value != "absent"}
    return json.dumps(kept, indent=2).encode()


@pytest.mark.parametrize("changes", [{}, {"argon2_params": "absent"}, {"argon2_params": None}])
def test_a_file_that_openagents_wrote_opens(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "identity.enc").write_bytes(theirs(**changes))
    assert SecureStore(tmp_path / "identity.enc").load(PASSWORD) == SEED


def test_a_file_of_version_1_is_what_openagents_reads(tmp_path: Path) -> None:
    store = SecureStore(tmp_path / "identity.enc")
    store.save(SEED, PASSWORD, version=1)
    text = store.path.read_text()
    found = json.loads(text)
    salt, nonce = base64.b64decode(found["salt"] + "=="), base64.b64decode(found["nonce"])
    key = Argon2id(salt=salt, length=32, iterations=2, lanes=1, memory_cost=19_456).derive(PASSWORD.encode())
    assert AESGCM(key).decrypt(nonce, base64.b64decode(found["ciphertext"]), None).decode() == WORDS
    assert (len(salt), len(nonce), len(found["salt"]), found["version"]) == (16, 12, 22, 1)
    assert list(found) == ["ciphertext", "nonce", "salt", "version", "argon2_params"]
    assert text == json.dumps(found, indent=2)


@pytest.mark.attack("E2")
def test_version_2_binds_version_and_cost_to_what_it_holds() -> None:
    found = json.loads(seal(Seed(WORDS, passphrase="x", account=7), PASSWORD, cost=CHEAP))
    salt, nonce, sealed = (base64.b64decode(found[name] + "==") for name in ("salt", "nonce", "ciphertext"))
    box = AESGCM(Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=8).derive(PASSWORD.encode()))
    bound = b'{"argon2_params":{"m_cost":8,"p_cost":1,"t_cost":1},"version":2}'
    assert box.decrypt(nonce, sealed, bound) == b'{"account":7,"passphrase":"x","words":"%b"}' % WORDS.encode()
    for other in (None, bound.replace(b"2}", b"3}"), bound.replace(b'"m_cost":8', b'"m_cost":9')):
        with pytest.raises(InvalidTag):
            box.decrypt(nonce, sealed, other)


def test_a_new_file_is_of_version_2_and_holds_the_whole_identity(tmp_path: Path) -> None:
    store = SecureStore(tmp_path / "new" / "identity.enc")
    seed = Seed(WORDS, passphrase="another", account=7)
    store.save(seed, PASSWORD)
    assert json.loads(store.path.read_bytes())["version"] == 2
    assert store.load(PASSWORD) == seed


@given(st.binary(min_size=16, max_size=16), PLAIN_TEXT, st.integers(0, MAX_ACCOUNT), PLAIN_TEXT)
def test_what_is_sealed_is_what_opens(entropy: bytes, passphrase: str, account: int, password: str) -> None:
    seed = Seed(Mnemonic("english").to_mnemonic(entropy), passphrase=passphrase, account=account)
    assert unseal(seal(seed, password, cost=CHEAP), password) == seed
    plain = Seed(seed.words)
    assert unseal(seal(plain, password, cost=CHEAP, version=1), password) == plain


def test_version_1_refuses_what_it_would_lose() -> None:
    for seed in (Seed(WORDS, passphrase="x"), Seed(WORDS, account=1)):
        with pytest.raises(ValueError, match="version 1 holds words alone"):
            seal(seed, PASSWORD, version=1, cost=CHEAP)


def test_the_same_seed_is_never_sealed_twice_alike() -> None:
    one, other = (json.loads(seal(SEED, PASSWORD, cost=CHEAP)) for _ in range(2))
    assert all(one[name] != other[name] for name in ("ciphertext", "nonce", "salt"))


def refused(path: Path, data: bytes, password: str = PASSWORD) -> str:
    """What opening these bytes is refused with: one kind of error, one line, nothing secret."""
    path.write_bytes(data)
    with pytest.raises(IdentityError) as caught:
        SecureStore(path).load(password)
    said = str(caught.value)
    assert said.startswith(f"opening the identity file {path}: ")
    assert "\n" not in said
    assert not any(word in said for word in ("leader", "monkey", password))
    return said


@pytest.mark.attack("E2")
@pytest.mark.parametrize("version", [1, 2])
def test_a_flip_in_any_byte_is_refused(tmp_path: Path, version: Version) -> None:
    whole = seal(SEED, PASSWORD, version=version, cost=CHEAP)
    for place in range(len(whole)):
        for bit in (0, 2, 6):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            refused(tmp_path / "identity.enc", bytes(changed))


@pytest.mark.attack("E2")
@pytest.mark.parametrize(
    "changes",
    [
        *({name: "absent"} for name in ("ciphertext", "nonce", "salt", "version", "argon2_params")),
        *({name: value} for name in ("ciphertext", "nonce", "salt") for value in (None, 5, "", "AAAA", "é", [])),
        *({"version": value} for value in (0, 1, 3, True, "2", 2.5, None)),
        *({"argon2_params": value} for value in (None, {}, {"m_cost": 8}, [8, 1, 1])),
        {"argon2_params": {"m_cost": 9, "t_cost": 1, "p_cost": 1}},
        {"argon2_params": {"m_cost": 8, "t_cost": 2, "p_cost": 1}},
        {"argon2_params": {"m_cost": 8, "t_cost": 1, "p_cost": 2}},
        {"comment": "harmless"},
    ],
    ids=str,
)
def test_a_changed_field_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    fields = json.loads(seal(SEED, PASSWORD, cost=CHEAP)) | changes
    kept = {name: value for name, value in fields.items() if value != "absent"}
    refused(tmp_path / "identity.enc", json.dumps(kept).encode())


@pytest.mark.attack("E2")
def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = seal(SEED, PASSWORD, cost=CHEAP)
    for length in range(len(whole)):
        refused(tmp_path / "identity.enc", whole[:length])


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 60_000, b"x" * 100_000, b'{"version": 1e999}', b"null"])
def test_what_is_no_identity_file_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path / "identity.enc", data)


@pytest.mark.attack("E3")
@pytest.mark.parametrize(
    "cost",
    [
        {"m_cost": 2**20 + 1, "t_cost": 2, "p_cost": 1},
        {"m_cost": 2**32 - 1, "t_cost": 2, "p_cost": 1},
        {"m_cost": 19_456, "t_cost": 21, "p_cost": 1},
        {"m_cost": 19_456, "t_cost": 2, "p_cost": 17},
        {"m_cost": 0, "t_cost": 0, "p_cost": 0},
        {"m_cost": 8, "t_cost": 1, "p_cost": 16},
        {"m_cost": 10**400, "t_cost": 1, "p_cost": 1},
    ],
)
def test_a_planted_file_cannot_take_the_machine(tmp_path: Path, cost: dict[str, int]) -> None:
    began_s = time.process_time()
    assert "argon2_params" in refused(tmp_path / "identity.enc", theirs(argon2_params=cost))
    refused(tmp_path / "identity.enc", theirs(version=2, argon2_params=cost))
    assert time.process_time() - began_s < 1


def test_a_wrong_password_and_a_changed_file_look_the_same(tmp_path: Path) -> None:
    path, whole = tmp_path / "identity.enc", seal(SEED, PASSWORD, cost=CHEAP)
    changed = json.loads(whole)
    changed["nonce"] = base64.b64encode(bytes(12)).decode()
    wrong = refused(path, whole, "another one, longer")
    assert wrong == refused(path, json.dumps(changed).encode())
    assert wrong.endswith("the password is wrong, or the file was changed")


def test_a_file_that_opens_and_holds_no_seed_is_refused_without_its_text(tmp_path: Path) -> None:
    salt, nonce = bytes(16), bytes(12)
    key = Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=8).derive(PASSWORD.encode())
    for text in (b"leader monkey", b"\xff"):
        sealed = base64.b64encode(AESGCM(key).encrypt(nonce, text, None)).decode()
        cost = CHEAP.model_dump()
        said = refused(
            tmp_path / "identity.enc", theirs(ciphertext=sealed, nonce="A" * 16, salt="A" * 22, argon2_params=cost)
        )
        assert said.endswith("it opens, but holds no seed words that can be read")


def test_a_file_that_is_missing_or_a_directory_is_said_to_be(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.enc", tmp_path):
        with pytest.raises(IdentityError, match=r"there is no identity file .* make one with `swarmc identity new`"):
            SecureStore(path).load(PASSWORD)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "it has 0 characters"),
        ("seven heron", "it has 11 characters; at least 12"),
        ("aaaaaaaaaaaaaaaa", "it repeats itself"),
        ("herons" * 3, "it repeats itself"),
        ("Heron heron HERON 1", "it repeats itself"),
        ("abababababab!", "it repeats itself"),
        ("Password12345!", "among the first that are tried"),
        ("P@ssword!!2026", "among the first that are tried"),
        ("qwertyuiopasdf", "among the first that are tried"),
        ("4321abcdefgh!", "among the first that are tried"),
        ("123456789012", "among the first that are tried"),
        ("24-12-1987-06:30", "among the first that are tried"),
        ("Correct Horse Battery Staple", "among the first that are tried"),
        ("OpenAgents-2026", "among the first that are tried"),
    ],
)
def test_a_password_that_would_be_guessed_is_refused_when_a_file_is_made(
    tmp_path: Path, password: str, reason: str
) -> None:
    with pytest.raises(IdentityError, match=reason) as caught:
        SecureStore(tmp_path / "identity.enc", cost=CHEAP).save(SEED, password)
    assert not password or password not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("password", [PASSWORD, "fK3#q9!tLx2z", "84#!?+93$%&-", "äöü ßéè 漢字漢字 x"])
def test_other_passwords_are_taken(password: str) -> None:
    check_new_password(password)


def test_a_weak_password_of_an_old_file_still_opens_it(tmp_path: Path) -> None:
    (tmp_path / "identity.enc").write_bytes(seal(SEED, "hunter2", version=1, cost=CHEAP))
    assert SecureStore(tmp_path / "identity.enc").load("hunter2") == SEED


def test_a_password_that_is_no_text_is_refused_and_not_repeated(tmp_path: Path) -> None:
    store = SecureStore(tmp_path / "identity.enc", cost=CHEAP)
    with pytest.raises(IdentityError, match="not valid text") as caught:
        store.save(SEED, f"{PASSWORD}\udcff")
    assert PASSWORD not in str(caught.value)
    assert "not valid text" in refused(store.path, seal(SEED, PASSWORD, cost=CHEAP), f"{PASSWORD}\udcff")


@pytest.mark.attack("E5")
def test_files_are_for_this_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SecureStore(tmp_path / "deep" / "identity.enc", cost=CHEAP)
        store.save(SEED, PASSWORD)
        store.path.chmod(0o644)
        store.save(SEED, PASSWORD, overwrite=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in store.path.parent.iterdir()] == ["identity.enc"]


def test_a_file_is_not_replaced_unless_that_is_asked_for(tmp_path: Path) -> None:
    store = SecureStore(tmp_path / "identity.enc", cost=CHEAP)
    store.save(SEED, PASSWORD)
    before = store.path.read_bytes()
    with pytest.raises(IdentityError, match="not overwritten"):
        store.save(Seed.generate(), PASSWORD)
    assert store.path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    other = Seed.generate(24)
    store.save(other, PASSWORD, overwrite=True)
    assert store.load(PASSWORD) == other


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    link = tmp_path / "identity.enc"
    link.symlink_to(tmp_path / "vault" / "kept.enc")
    SecureStore(link, cost=CHEAP).save(SEED, PASSWORD)
    assert link.is_symlink()
    assert SecureStore(tmp_path / "vault" / "kept.enc").load(PASSWORD) == SEED


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IdentityError, match="writing the identity file"):
        SecureStore(tmp_path / "file" / "identity.enc", cost=CHEAP).save(SEED, PASSWORD)


def killed_at(limit: int, path: Path, data: bytes) -> int:
    """Write in a process that the kernel kills when it writes past `limit` bytes; how that process ended."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        write_whole(path, data, overwrite=True)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.attack("E5")
def test_a_write_killed_at_any_byte_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "identity.enc"
    old, new = (seal(Seed.generate(), PASSWORD, cost=CHEAP) for _ in range(2))
    path.write_bytes(old)
    for limit in (*range(0, len(new), 7), len(new) - 1):
        assert os.WTERMSIG(killed_at(limit, path, new)) == signal.SIGXFSZ
        assert path.read_bytes() == old
    assert killed_at(len(new), path, new) == 0
    assert path.read_bytes() == new


@pytest.mark.attack("E5")
def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "identity.enc"
    files = [seal(Seed.generate(), PASSWORD, cost=CHEAP) for _ in range(2)]
    write_whole(path, files[0], overwrite=False)
    for wait_ms in range(12):
        child = os.fork()
        while child == 0:
            for data in files:
                write_whole(path, data, overwrite=True)
        time.sleep(wait_ms / 1000)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert path.read_bytes() in files


def test_the_file_is_ours_or_else_that_of_openagents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWARMC_IDENTITY", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert present_path() is None
    ours, their = (tmp_path / ".config" / name for name in ("swarmc/identity.enc", "openagents/compute/identity.enc"))
    for path in (their, ours):
        path.parent.mkdir(parents=True)
        path.touch()
        assert present_path() == path
    assert own_path() == ours
    monkeypatch.setenv("SWARMC_IDENTITY", "~/other.enc")
    assert own_path() == present_path() == tmp_path / "other.enc"
