"""NIP-04: the old encryption between two keys, only for peers that know no NIP-44.

It is unauthenticated: whoever carries it can alter it, and its length shows. The signature of the event around it
is all that vouches for it, so that must hold before anything is decrypted. New texts go by `swarmc.nostr.nip44`.
"""

import secrets

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from swarmc.nostr.events import MAX_EVENT_BYTES
from swarmc.nostr.plaintext import base64_bytes, base64_text, text_of, utf8

MARK = "?iv="
"""What every payload of NIP-04 has, and none of NIP-44: it stands between ciphertext and start vector."""

MAX_PAYLOAD_LETTERS = MAX_EVENT_BYTES
"""Of ciphertext, mark and vector together: an event holds no more."""

MAX_TEXT_BYTES = 786_399
"""Of the text in UTF-8: the longest whose payload is within `MAX_PAYLOAD_LETTERS`."""

_KEY_BYTES = 32
_BLOCK_BYTES = 16
_VECTOR_LETTERS = 24


def encrypt(text: str, key: bytes, iv: bytes | None = None) -> str:
    """Encrypt a text: ``base64(ciphertext)?iv=base64(iv)``.

    Args:
        text: At most `MAX_TEXT_BYTES` bytes in UTF-8; an empty one too.
        key: `SecretKey.shared_x` with the other.
        iv: 16 bytes in place of fresh randomness, for tests.

    Raises:
        ValueError: the text is too long or half a character, or a length is wrong. The text is not repeated.
    """
    data = utf8(text)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"NIP-04 encrypts texts of at most {MAX_TEXT_BYTES} bytes; this one has {len(data)}")
    iv = secrets.token_bytes(_BLOCK_BYTES) if iv is None else iv
    filler = PKCS7(8 * _BLOCK_BYTES).padder()
    cipher = _cipher(key, iv).encryptor()
    hidden = cipher.update(filler.update(data) + filler.finalize()) + cipher.finalize()
    return f"{base64_text(hidden)}{MARK}{base64_text(iv)}"


def decrypt(payload: str, key: bytes) -> str:
    """Read what a stranger encrypted. The event that carries it must be verified before.

    Args:
        payload: Ciphertext and start vector in base64, `MARK` between them.
        key: `SecretKey.shared_x` with the other.

    Raises:
        ValueError: it is malformed, or no text under this key.
    """
    if len(payload) > MAX_PAYLOAD_LETTERS:
        raise ValueError(f"a NIP-04 text has {len(payload)} letters; it may have {MAX_PAYLOAD_LETTERS}")
    first, mark, last = payload.partition(MARK)
    if not mark or len(last) != _VECTOR_LETTERS:
        raise ValueError(f"a NIP-04 text ends with {MARK} and {_VECTOR_LETTERS} letters of base64; this one does not")
    hidden = base64_bytes(first)
    if not hidden or len(hidden) % _BLOCK_BYTES:
        raise ValueError(f"a NIP-04 text is of blocks of {_BLOCK_BYTES} bytes; this one has {len(hidden)} bytes")
    cipher = _cipher(key, base64_bytes(last)).decryptor()
    return _text(cipher.update(hidden) + cipher.finalize())


def _cipher(key: bytes, iv: bytes) -> Cipher[CBC]:
    if len(key) != _KEY_BYTES or len(iv) != _BLOCK_BYTES:
        raise ValueError(f"NIP-04 takes a key of 32 bytes and a start vector of 16, not {len(key)} and {len(iv)}")
    return Cipher(AES256(key), CBC(iv))


def _text(filled: bytes) -> str:
    remover = PKCS7(8 * _BLOCK_BYTES).unpadder()
    try:
        return text_of(remover.update(filled) + remover.finalize())
    except ValueError:
        # One sentence for wrong padding and for no UTF-8: who may ask often must not learn which of the two it was.
        raise ValueError("a NIP-04 text cannot be read: another key, or it was altered") from None
