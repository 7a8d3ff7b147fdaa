"""Keys: BIP-340's vectors, NIP-19's words, and a secret that shows itself nowhere."""

import copy
import json
import pickle
from pathlib import Path

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.nostr.keys import SecretKey, is_signed, note_of, npub_of, parse_pubkey

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "bip340.json").read_text())
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SECRET_HEX = "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a"
NSEC = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp"
PUBKEY = "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917"
NPUB = "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu"
keys = st.integers(1, ORDER - 1).map(lambda number: SecretKey(number.to_bytes(32, "big")))


@pytest.mark.parametrize(("secret", "pubkey", "aux", "digest", "signature", "holds"), VECTORS)
def test_the_vectors_of_bip_340_hold(
    secret: str, pubkey: str, aux: str, digest: str, signature: str, holds: bool
) -> None:
    assert is_signed(pubkey.lower(), bytes.fromhex(digest), bytes.fromhex(signature)) is holds
    if secret:
        key = SecretKey.parse(secret)
        assert key.pubkey == pubkey.lower()
        assert key.sign(bytes.fromhex(digest), aux=bytes.fromhex(aux)).hex() == signature.lower()


def test_the_vector_of_nip_06_reads_and_writes_the_same_words() -> None:
    for text in (NSEC, SECRET_HEX, SECRET_HEX.upper(), f"  {NSEC}\n"):
        key = SecretKey.parse(text)
        assert (key.pubkey, key.npub, key.nsec()) == (PUBKEY, NPUB, NSEC)
    assert parse_pubkey(NPUB) == parse_pubkey(PUBKEY) == PUBKEY


@settings(max_examples=30)
@given(key=keys)
def test_another_library_reads_our_words_the_same(key: SecretKey) -> None:
    theirs = nostr_sdk.Keys.parse(key.nsec())
    assert theirs.public_key().to_hex() == key.pubkey
    assert theirs.public_key().to_bech32() == key.npub
    assert nostr_sdk.EventId.parse(key.pubkey).to_bech32() == note_of(key.pubkey)
    assert SecretKey.parse(key.nsec()) == key


@given(text=st.one_of(st.text(), st.text("0123456789abcdef", min_size=60, max_size=66), st.just(NPUB), st.just("")))
def test_what_is_no_secret_key_is_refused_and_not_repeated(text: str) -> None:
    refusal = ""
    try:
        assert SecretKey.parse(text).pubkey
    except ValueError as error:
        refusal = str(error)
    assert refusal or len(text.strip()) == 64
    assert len(text) < 8 or text not in refusal


@pytest.mark.parametrize("raw", [b"", b"\0" * 32, b"\xff" * 32, ORDER.to_bytes(32, "big"), b"\1" * 31, b"\1" * 33])
def test_a_number_that_is_no_key_of_the_curve_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SecretKey(raw)


@pytest.mark.parametrize(
    "text",
    [
        NSEC,
        NPUB[:-1] + "q",
        NPUB.replace("npub1", "nsec1"),
        "npub1",
        "npub" * 40,
        NPUB[:20] + NPUB[20:].upper(),
        "é" * 63,
    ],
)
def test_what_is_no_public_key_is_refused_a_secret_one_too(text: str) -> None:
    with pytest.raises(ValueError, match="public key is written as") as caught:
        parse_pubkey(text)
    assert len(text) < 8 or text not in str(caught.value)


def test_no_text_form_copy_or_pickle_of_a_key_shows_the_secret() -> None:
    key = SecretKey.parse(NSEC)
    shown = f"{key} {key!r} {key!s} {[key]} { ({'key': key}) } {vars(type(key))} {hash(key)}"
    assert SECRET_HEX not in shown
    assert NSEC not in shown
    assert NPUB in repr(key)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            way(key)


def test_what_is_derived_depends_on_the_key_and_the_purpose() -> None:
    one, other = SecretKey.parse(NSEC), SecretKey.generate()
    derived = {one.derive("a"), one.derive("b"), other.derive("a")}
    assert len(derived) == 3
    assert one.derive("a") == SecretKey.parse(NSEC).derive("a")
    assert npub_of(one.pubkey) == NPUB
