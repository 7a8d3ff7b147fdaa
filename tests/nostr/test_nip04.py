"""NIP-04, and the one way in and out for both encryptions."""

from contextlib import suppress

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.market import Encryption
from swarmc.nostr import nip04
from swarmc.nostr.encryption import decrypt_any, encrypt_as, encryption_of
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip04 import decrypt, encrypt

OURS, THEIRS = SecretKey(b"\1" * 32), SecretKey(b"\2" * 32)
KEY = OURS.shared_x(THEIRS.pubkey)
IV = b"\3" * 16
SECRET_WORDS = "the wallet's pass phrase"
texts = st.text(min_size=1, max_size=200)


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=200))
def test_another_library_reads_ours_and_we_read_theirs(text: str) -> None:
    ours, theirs = nostr_sdk.Keys.parse(OURS.nsec()), nostr_sdk.Keys.parse(THEIRS.nsec())
    assert decrypt(nostr_sdk.nip04_encrypt(theirs.secret_key(), ours.public_key(), text), KEY) == text
    assert nostr_sdk.nip04_decrypt(theirs.secret_key(), ours.public_key(), encrypt(text, KEY)) == text


@settings(max_examples=40, deadline=None)
@given(text=texts, scheme=st.sampled_from(["nip44", "nip04"]))
def test_what_one_side_encrypts_the_other_reads_and_knows_how_it_came(text: str, scheme: Encryption) -> None:
    payload = encrypt_as(scheme, text, OURS, THEIRS.pubkey)
    assert encryption_of(payload) == scheme
    assert decrypt_any(payload, THEIRS, OURS.pubkey) == (text, scheme)


@pytest.mark.attack("B12")
@settings(max_examples=40, deadline=None)
@given(scheme=st.sampled_from(["nip44", "nip04"]))
def test_an_eavesdropper_with_another_key_reads_nothing_and_no_error_tells(scheme: Encryption) -> None:
    payload = encrypt_as(scheme, SECRET_WORDS, OURS, THEIRS.pubkey)
    assert SECRET_WORDS not in payload
    try:
        read, _ = decrypt_any(payload, SecretKey(b"\4" * 32), OURS.pubkey)
    except ValueError as error:
        read = str(error)
    assert SECRET_WORDS not in read


@settings(max_examples=150)
@given(
    payload=st.one_of(
        st.text(max_size=100),
        st.builds(
            "{}?iv={}".format, st.text("AQg=/+é", max_size=48), st.text("AQg=", max_size=26) | st.just("A" * 22 + "==")
        ),
    )
)
def test_no_text_makes_decryption_fail_other_than_by_a_value_error(payload: str) -> None:
    with suppress(ValueError):
        assert isinstance(decrypt_any(payload, OURS, THEIRS.pubkey)[0], str)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("", "ends with"), ("abc", "ends with"), ("?iv=", "ends with"), ("AAAA?iv=AAAA", "ends with"),
        ("?iv=" + "A" * 22 + "==", "0 bytes"), ("AAAA?iv=" + "A" * 22 + "==", "3 bytes"),
        ("A" * 22 + "==?iv=" + "A" * 24, "not 32 and 18"), ("A" * 22 + "==?iv=" + "é" * 24, "no base64"),
        ("A" * (1 << 20) + "?iv=" + "A" * 22 + "==", "letters"),
    ],
    ids=range(9),
)  # fmt: skip
def test_malformed_payloads_are_refused_for_their_reason(payload: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decrypt(payload, KEY)


def test_wrong_padding_and_no_text_are_refused_in_the_same_words() -> None:
    good, vector = encrypt("x" * 20, KEY, IV).split("?iv=")
    data = bytearray(nip04.base64_bytes(good))
    words = set()
    for place in range(16):  # The first block: it turns into noise, and flips bits of the padding in the second.
        changed = bytearray(data)
        changed[place] ^= 0x80
        with pytest.raises(ValueError, match="cannot be read") as caught:
            decrypt(f"{nip04.base64_text(bytes(changed))}?iv={vector}", KEY)
        words.add(str(caught.value))
    assert len(words) == 1


def test_the_longest_text_is_read_again_and_a_longer_one_is_refused() -> None:
    payload = encrypt("x" * nip04.MAX_TEXT_BYTES, KEY)
    assert len(payload) <= nip04.MAX_PAYLOAD_LETTERS
    assert len(decrypt(payload, KEY)) == nip04.MAX_TEXT_BYTES
    with pytest.raises(ValueError, match="at most"):
        encrypt("x" * (nip04.MAX_TEXT_BYTES + 1), KEY)


def test_half_a_character_is_refused_without_the_text() -> None:
    with pytest.raises(ValueError, match="half a character") as caught:
        encrypt(SECRET_WORDS + "\ud800", KEY)
    assert caught.value.__context__ is None
    assert SECRET_WORDS not in str(caught.value)


def test_an_empty_text_goes_by_nip_04_alone() -> None:
    assert decrypt_any(encrypt_as("nip04", "", OURS, THEIRS.pubkey), THEIRS, OURS.pubkey) == ("", "nip04")
    with pytest.raises(ValueError, match="this one has 0"):
        encrypt_as("nip44", "", OURS, THEIRS.pubkey)


@pytest.mark.parametrize("pubkey", ["", "0" * 64, "f" * 64, "zz" * 32, " " + "1" * 64, OURS.npub])
@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
def test_what_is_no_public_key_is_refused(scheme: Encryption, pubkey: str) -> None:
    with pytest.raises(ValueError, match=r"64 hex digits|no point"):
        encrypt_as(scheme, "a", OURS, pubkey)


@pytest.mark.attack("E4")
def test_a_shared_secret_is_the_same_from_both_sides_and_another_with_everybody() -> None:
    others = [SecretKey((number).to_bytes(32, "big")) for number in range(1, 6)]
    shared = {OURS.shared_x(other.pubkey) for other in others}
    assert len(shared) == len(others)
    assert shared == {other.shared_x(OURS.pubkey) for other in others}
    assert not any(secret.hex() in repr(OURS) for secret in shared)
