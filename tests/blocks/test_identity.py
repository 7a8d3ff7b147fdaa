"""Identity: a key that can be used and saved, and shows itself nowhere."""

import pickle

import pytest
from pydantic import SecretStr, ValidationError

from blocks.identity import Identity
from swarmc.contracts.errors import SpecError
from swarmc.contracts.relay import UnsignedNote
from swarmc.nostr.events import sign_note, verify

NSEC = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp"
SECRET_HEX = "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a"
NPUB = "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu"
PUBKEY = "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917"


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
    with pytest.raises(SpecError, match=r"reading \$OUR_KEY as a Nostr key"):
        Identity(variable="OUR_KEY").key()
    monkeypatch.delenv("OUR_KEY")
    with pytest.raises(SpecError, match=r"no key: give `secret`, or set \$OUR_KEY"):
        Identity(variable="OUR_KEY").key()


def test_every_generated_identity_is_another() -> None:
    assert len({Identity.generate().pubkey for _ in range(5)}) == 5


def test_neither_text_forms_nor_dumps_show_the_secret() -> None:
    identity = Identity(secret=SecretStr(NSEC))
    shown = f"{identity!r} {identity} {identity.model_dump()} {identity.model_dump_json()} {identity.key()}"
    assert NSEC not in shown
    assert SECRET_HEX not in shown
    with pytest.raises(TypeError):
        pickle.dumps(identity.key())


@pytest.mark.parametrize(
    "settings",
    [
        {"secret": NSEC[:-1] + "q"},
        {"secret": "hunter2"},
        {"secret": ["hunter2"]},
        {"sekret": "hunter2"},
        {"secret": ""},
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(settings: dict) -> None:
    with pytest.raises((SpecError, ValidationError)) as caught:
        Identity(**settings)
    assert "hunter2" not in str(caught.value)
    assert NSEC[:20] not in str(caught.value)
