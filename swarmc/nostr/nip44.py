"""NIP-44 version 2: encryption between two keys, authenticated, of padded texts.

Source: NIP-44 (with the longer length prefix of June 2026), RFC 5869 (HKDF), RFC 8439 (ChaCha20).
"""

import hmac
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from swarmc.nostr.events import MAX_EVENT_BYTES
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.plaintext import base64_bytes, base64_text, text_of, utf8

VERSION = 2

MAX_PAYLOAD_LETTERS = MAX_EVENT_BYTES
"""Of the base64 text: an event holds no more."""

MAX_TEXT_BYTES = 5 << 17
"""Of the text in UTF-8: the longest whose payload, padded and in base64, is within `MAX_PAYLOAD_LETTERS`."""

LONG_BYTES = 1 << 16
"""From this length on a text has the longer prefix, which peers older than June 2026 refuse."""

_SALT = b"nip44-v2"
_KEY_BYTES = _NONCE_BYTES = _MAC_BYTES = 32
_LEAST_LETTERS = 132
_LEAST_BYTES = 99
_LEAST_PADDED_BYTES = 32


def conversation_key(secret: SecretKey, pubkey: str) -> bytes:
    """The 32 bytes under which two keys talk, the same from both sides. Whoever talks more than once keeps it.

    Args:
        secret: Ours.
        pubkey: The other's, in hex.

    Raises:
        ValueError: `pubkey` is no point of the curve.
    """
    return hmac.digest(_SALT, secret.shared_x(pubkey), "sha256")


def message_keys(key: bytes, nonce: bytes) -> tuple[bytes, bytes, bytes]:
    """ChaCha20's key (32 bytes) and nonce (12), and HMAC's key (32), of one message.

    Args:
        key: The `conversation_key`.
        nonce: 32 bytes, of this message alone.

    Raises:
        ValueError: one of them has another length.
    """
    if len(key) != _KEY_BYTES or len(nonce) != _NONCE_BYTES:
        raise ValueError(f"NIP-44 takes a conversation key and a nonce of 32 bytes, not {len(key)} and {len(nonce)}")
    drawn = HKDFExpand(SHA256(), 76, nonce).derive(key)
    return drawn[:32], drawn[32:44], drawn[44:]


def padded_length(length: int) -> int:
    """To how many bytes a text of `length` bytes (at least 1) is filled up, its prefix not counted."""
    if length <= _LEAST_PADDED_BYTES:
        return _LEAST_PADDED_BYTES
    chunk = max(_LEAST_PADDED_BYTES, (1 << (length - 1).bit_length()) // 8)
    return chunk * ((length - 1) // chunk + 1)


def encrypt(text: str, key: bytes, nonce: bytes | None = None) -> str:
    """Encrypt a text.

    Args:
        text: 1 to `MAX_TEXT_BYTES` bytes in UTF-8. From `LONG_BYTES` on, older peers cannot read it.
        key: The `conversation_key`.
        nonce: 32 bytes in place of fresh randomness, for tests: the same twice gives both texts away.

    Raises:
        ValueError: the text, the key or the nonce has a length that cannot be. The text is not repeated.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES) if nonce is None else nonce
    cipher_key, cipher_nonce, mac_key = message_keys(key, nonce)
    hidden = _chacha20(cipher_key, cipher_nonce, _padded(utf8(text)))
    mac = hmac.digest(mac_key, nonce + hidden, "sha256")
    return base64_text(b"".join((bytes([VERSION]), nonce, hidden, mac)))


def decrypt(payload: str, key: bytes) -> str:
    """Read what a stranger encrypted. The event that carries it must be verified before.

    Args:
        payload: Base64 of version, nonce, ciphertext and authentication code.
        key: The `conversation_key`.

    Raises:
        ValueError: it is of another version, malformed, not from whoever shares the key, or wrongly padded.
    """
    nonce, hidden, mac = _parts(payload)
    cipher_key, cipher_nonce, mac_key = message_keys(key, nonce)
    if not hmac.compare_digest(hmac.digest(mac_key, nonce + hidden, "sha256"), mac):
        raise ValueError("a NIP-44 text has a wrong authentication code: another key, or it was altered")
    return text_of(_unpadded(_chacha20(cipher_key, cipher_nonce, hidden)))


def _parts(payload: str) -> tuple[bytes, bytes, bytes]:
    """Nonce, ciphertext and authentication code."""
    if payload.startswith("#"):
        raise ValueError("a NIP-44 text has a version that is not supported here (no base64)")
    if not _LEAST_LETTERS <= len(payload) <= MAX_PAYLOAD_LETTERS:
        raise ValueError(
            f"a NIP-44 text has {len(payload)} letters; it may have {_LEAST_LETTERS} to {MAX_PAYLOAD_LETTERS}"
        )
    data = base64_bytes(payload)
    if len(data) < _LEAST_BYTES:
        raise ValueError(f"a NIP-44 text has {len(data)} bytes; the least is {_LEAST_BYTES}")
    if data[0] != VERSION:
        raise ValueError(f"a NIP-44 text has version {data[0]}, which is not supported here; {VERSION} is")
    return data[1 : 1 + _NONCE_BYTES], data[1 + _NONCE_BYTES : -_MAC_BYTES], data[-_MAC_BYTES:]


def _padded(data: bytes) -> bytes:
    length = len(data)
    if not 0 < length <= MAX_TEXT_BYTES:
        raise ValueError(f"NIP-44 encrypts texts of 1 to {MAX_TEXT_BYTES} bytes; this one has {length}")
    prefix = length.to_bytes(2, "big") if length < LONG_BYTES else length.to_bytes(6, "big")
    return prefix + data + bytes(padded_length(length) - length)


def _unpadded(padded: bytes) -> bytes:
    start, length = 2, int.from_bytes(padded[:2], "big")
    if length == 0:
        start, length = 6, int.from_bytes(padded[2:6], "big")
        if length < LONG_BYTES:
            raise ValueError("a NIP-44 text is wrongly padded: its length is 0, or written too long")
    if len(padded) != start + padded_length(length):
        raise ValueError("a NIP-44 text is wrongly padded: its length is not the one that it names")
    return padded[start : start + length]


def _chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    # The library's nonce begins with the block counter, which starts at 0.
    return Cipher(ChaCha20(key, bytes(4) + nonce), mode=None).encryptor().update(data)
