"""NIP-44: the official vectors, another library both ways, and payloads that were tampered with."""

import hashlib
import json
from pathlib import Path

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.nostr import nip44
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip44 import conversation_key, decrypt, encrypt, message_keys, padded_length

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "nip44.json").read_text())
VALID, INVALID = VECTORS["valid"], VECTORS["invalid"]
OURS, THEIRS = SecretKey(b"\1" * 32), SecretKey(b"\2" * 32)
KEY = conversation_key(OURS, THEIRS.pubkey)
NONCE = b"\3" * 32
SECRET_WORDS = "the wallet's pass phrase"
texts = st.text(min_size=1, max_size=400)


@pytest.mark.parametrize("case", VALID["get_conversation_key"])
def test_conversation_keys_are_those_of_the_vectors(case: dict) -> None:
    assert conversation_key(SecretKey.parse(case["sec1"]), case["pub2"]).hex() == case["conversation_key"]


def test_message_keys_are_those_of_the_vectors() -> None:
    (case,) = VALID["get_message_keys"]
    for keys in case["keys"]:
        drawn = message_keys(bytes.fromhex(case["conversation_key"]), bytes.fromhex(keys["nonce"]))
        assert [part.hex() for part in drawn] == [keys["chacha_key"], keys["chacha_nonce"], keys["hmac_key"]]


@pytest.mark.parametrize(("length", "padded"), VALID["calc_padded_len"])
def test_padded_lengths_are_those_of_the_vectors(length: int, padded: int) -> None:
    assert padded_length(length) == padded


@pytest.mark.parametrize("case", VALID["encrypt_decrypt"])
def test_both_sides_of_the_vectors_conversations_encrypt_and_read(case: dict) -> None:
    one, two = SecretKey.parse(case["sec1"]), SecretKey.parse(case["sec2"])
    key = conversation_key(one, two.pubkey)
    assert key == conversation_key(two, one.pubkey) == bytes.fromhex(case["conversation_key"])
    assert encrypt(case["plaintext"], key, bytes.fromhex(case["nonce"])) == case["payload"]
    assert decrypt(case["payload"], key) == case["plaintext"]


@pytest.mark.parametrize("case", VALID["encrypt_decrypt_long_msg"])
def test_long_texts_of_the_vectors_encrypt_with_the_prefix_that_their_length_asks_for(case: dict) -> None:
    text, key = case["pattern"] * case["repeat"], bytes.fromhex(case["conversation_key"])
    assert hashlib.sha256(text.encode()).hexdigest() == case["plaintext_sha256"]
    payload = encrypt(text, key, bytes.fromhex(case["nonce"]))
    assert hashlib.sha256(payload.encode()).hexdigest() == case["payload_sha256"]
    assert decrypt(payload, key) == text


@pytest.mark.parametrize("case", INVALID["get_conversation_key"])
def test_keys_that_the_vectors_call_invalid_are_refused(case: dict) -> None:
    with pytest.raises(ValueError, match=r"secret key is 32 bytes|no point of secp256k1"):
        conversation_key(SecretKey.parse(case["sec1"]), case["pub2"])


@pytest.mark.parametrize("case", INVALID["decrypt"])
def test_payloads_that_the_vectors_call_invalid_are_refused_for_their_reason(case: dict) -> None:
    words = {
        "unknown encryption version": "not supported",
        "invalid MAC": "wrong authentication code",
        "invalid padding": "wrongly padded",
        "invalid base64": "no base64",
        "invalid payload length": "has [0-9]+ letters",
    }
    reason = next(reason for note, reason in words.items() if case["note"].startswith(note))
    with pytest.raises(ValueError, match=reason):
        decrypt(case["payload"], bytes.fromhex(case["conversation_key"]))


@pytest.mark.parametrize("length", [*INVALID["encrypt_msg_lengths"], nip44.MAX_TEXT_BYTES + 1])
def test_texts_that_are_empty_or_fit_no_event_are_refused_and_not_repeated(length: int) -> None:
    with pytest.raises(ValueError, match=f"this one has {length}") as caught:
        encrypt("q" * length, KEY)
    assert "qq" not in str(caught.value)


def test_the_longest_text_is_read_again_and_its_payload_is_within_the_bound() -> None:
    payload = encrypt("x" * nip44.MAX_TEXT_BYTES, KEY)
    assert len(payload) <= nip44.MAX_PAYLOAD_LETTERS
    assert len(decrypt(payload, KEY)) == nip44.MAX_TEXT_BYTES


@settings(max_examples=60, deadline=None)
@given(text=texts, nonce=st.binary(min_size=32, max_size=32))
def test_what_is_encrypted_is_read_again_by_the_other_side_alone(text: str, nonce: bytes) -> None:
    payload = encrypt(text, KEY, nonce)
    assert payload == encrypt(text, KEY, nonce)
    assert decrypt(payload, conversation_key(THEIRS, OURS.pubkey)) == text
    with pytest.raises(ValueError, match="authentication code"):
        decrypt(payload, conversation_key(THEIRS, THEIRS.pubkey))


@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_another_library_reads_ours_and_we_read_theirs(text: str) -> None:
    ours, theirs = nostr_sdk.Keys.parse(OURS.nsec()), nostr_sdk.Keys.parse(THEIRS.nsec())
    payload = nostr_sdk.nip44_encrypt(theirs.secret_key(), ours.public_key(), text, nostr_sdk.Nip44Version.V2)
    assert decrypt(payload, KEY) == text
    assert nostr_sdk.nip44_decrypt(theirs.secret_key(), ours.public_key(), encrypt(text, KEY)) == text


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 98), bit=st.integers(0, 7))
def test_no_single_bit_of_a_payload_can_be_altered(place: int, bit: int) -> None:
    data = bytearray(nip44.base64_bytes(encrypt("a", KEY, NONCE)))
    data[place] ^= 1 << bit
    with pytest.raises(ValueError, match=r"authentication code|version"):
        decrypt(nip44.base64_text(bytes(data)), KEY)


@settings(max_examples=150)
@given(payload=st.one_of(st.text(max_size=200), st.text("Ag+/=#\ud800", min_size=130, max_size=200)))
def test_no_text_makes_decryption_fail_other_than_by_a_value_error(payload: str) -> None:
    with pytest.raises(ValueError, match=r"NIP-44|base64"):
        decrypt(payload, KEY)


@given(padded=st.binary(max_size=64) | st.binary(max_size=6).map(lambda data: b"\0\0" + data))
def test_padding_that_a_peer_with_the_key_made_up_is_refused_or_read_as_it_says(padded: bytes) -> None:
    cipher_key, cipher_nonce, mac_key = message_keys(KEY, NONCE)
    hidden = nip44._chacha20(cipher_key, cipher_nonce, padded)
    mac = nip44.hmac.digest(mac_key, NONCE + hidden, "sha256")
    try:
        text = decrypt(nip44.base64_text(b"\2" + NONCE + hidden + mac), KEY)
    except ValueError:
        return
    assert len(text.encode()) == int.from_bytes(padded[:2], "big")


def test_no_error_repeats_or_is_chained_to_the_text() -> None:
    half = SECRET_WORDS + "\ud800"
    with pytest.raises(ValueError, match="half a character") as refused:
        encrypt(half, KEY)
    hidden = b"\0\x19" + SECRET_WORDS.encode() + b"\xff" + bytes(7)
    cipher_key, cipher_nonce, mac_key = message_keys(KEY, NONCE)
    data = nip44._chacha20(cipher_key, cipher_nonce, hidden)
    payload = nip44.base64_text(b"\2" + NONCE + data + nip44.hmac.digest(mac_key, NONCE + data, "sha256"))
    with pytest.raises(ValueError, match="no UTF-8") as unread:
        decrypt(payload, KEY)
    for error in (refused.value, unread.value):
        assert SECRET_WORDS not in str(error)
        assert error.__context__ is None


def test_a_payload_larger_than_an_event_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ValueError, match="letters"):
        decrypt("A" * (nip44.MAX_PAYLOAD_LETTERS + 1), KEY)


@pytest.mark.parametrize(("key", "nonce"), [(b"\1" * 31, NONCE), (KEY, b"\1" * 33), (b"", b"")])
def test_keys_and_nonces_of_another_length_are_refused(key: bytes, nonce: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        encrypt("a", key, nonce)


def test_two_encryptions_of_one_text_differ() -> None:
    assert encrypt("a", KEY) != encrypt("a", KEY)
