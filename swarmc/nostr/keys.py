"""Keys: secret ones that never show themselves, public ones by name, and their NIP-19 words."""

import hashlib
import hmac
import secrets
from functools import lru_cache
from typing import NoReturn, final

import coincurve
from pynostr.bech32 import Encoding, bech32_decode, bech32_encode, convertbits
from pynostr.key import PrivateKey

KEY_BYTES = 32
MOST_SHARED = 4096
"""Others whose shared secret a key remembers; beyond them the oldest is computed anew."""

_LONGEST_WORD = 90  # The longest text that a bech32 checksum protects; a key's word has 63.


@final
class SecretKey:
    """A secret key that signs. Its text forms say only whose it is; `nsec` is the one way to see it."""

    __slots__ = ("_key", "_pubkey", "_shared", "_signer")

    def __init__(self, raw: bytes) -> None:
        """Take 32 bytes.

        Raises:
            ValueError: another length, zero, or beyond the order of the curve.
        """
        try:
            if len(raw) != KEY_BYTES:
                raise ValueError
            self._key = PrivateKey(raw)
            # Kept, because pynostr makes a new one, and with it the public key, for every signature.
            self._signer = coincurve.PrivateKey(raw)
            self._pubkey = self._key.public_key.hex()
            self._shared: dict[str, bytes] = {}
        except ValueError:
            # Without the cause, whose traceback would hold the bytes.
            raise ValueError("a secret key is 32 bytes, not zero and below the order of secp256k1") from None

    @classmethod
    def generate(cls) -> "SecretKey":
        """A new one from the system's randomness."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> "SecretKey":
        """Read an `nsec1...` or 64 hex digits; white space around it is ignored.

        Raises:
            ValueError: it is neither. The message does not repeat it.
        """
        word = text.strip()
        raw = _bech32(word, "nsec") or _hex(word)
        if raw is None:
            raise ValueError("a secret key is written as nsec1... or as 64 hex digits; this text is neither")
        return cls(raw)

    @property
    def pubkey(self) -> str:
        """The public key in hex, as events carry it."""
        return self._pubkey

    @property
    def npub(self) -> str:
        return npub_of(self.pubkey)

    def nsec(self) -> str:
        """The secret itself, as NIP-19 writes it: for the person who keeps it, never for a log."""
        return _word("nsec", bytes(self._key))

    def sign(self, digest: bytes, *, aux: bytes | None = None) -> bytes:
        """A BIP-340 signature of a 32-byte digest; with `aux` in place of fresh randomness it repeats itself."""
        return self._signer.sign_schnorr(digest, b"" if aux is None else aux)

    def derive(self, purpose: str) -> bytes:
        """32 bytes that only the holder of this key can make, another for every purpose."""
        return hmac.new(bytes(self._key), purpose.encode(), hashlib.sha256).digest()

    def shared_x(self, pubkey: str) -> bytes:
        """32 bytes that only the two of us can compute: the x coordinate of our ECDH point, unhashed.

        It is a secret as the key is: what NIP-04 and NIP-44 make their keys of.

        Args:
            pubkey: The other's public key in hex, x-only.

        Raises:
            ValueError: it is no point of the curve.
        """
        known = self._shared.get(pubkey)
        if known is not None:  # Kept, because a job's two sides write to each other four times.
            return known
        raw = _hex(pubkey)
        if raw is None:
            raise ValueError("a shared secret needs the other's public key as 64 hex digits; this text is none")
        try:
            point = coincurve.PublicKey(b"\x02" + raw)
        except ValueError:
            raise ValueError(f"no secret can be shared with {pubkey}: it is no point of secp256k1") from None
        shared = point.multiply(bytes(self._key)).format()[1:]
        if len(self._shared) >= MOST_SHARED:
            del self._shared[next(iter(self._shared))]
        self._shared[pubkey] = shared
        return shared

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and secrets.compare_digest(bytes(self._key), bytes(other._key))

    def __hash__(self) -> int:
        return hash(self.pubkey)

    def __repr__(self) -> str:
        return f"SecretKey(of {self.npub})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled: it would lie about in plain bytes")


def is_signed(pubkey: str, digest: bytes, signature: bytes) -> bool:
    """Whether the holder of `pubkey` (64 hex digits) signed a 32-byte digest. Never raises on what a stranger gives."""
    try:
        return _point(pubkey).verify(signature, digest)
    except ValueError:  # The key is no point of the curve, or a length is wrong.
        return False


@lru_cache(maxsize=4096)
def _point(pubkey: str) -> coincurve.PublicKeyXOnly:
    """The point of the curve: a provider or customer is heard many times."""
    return coincurve.PublicKeyXOnly(bytes.fromhex(pubkey))


def parse_pubkey(text: str) -> str:
    """The public key in hex that an `npub1...` or 64 hex digits names.

    Raises:
        ValueError: it names none. A secret key given by mistake is not repeated.
    """
    word = text.strip()
    raw = _bech32(word, "npub") or _hex(word)
    if raw is None:
        raise ValueError("a public key is written as npub1... or as 64 hex digits; this text is neither")
    return raw.hex()


@lru_cache(maxsize=4096)
def npub_of(pubkey: str) -> str:
    """The NIP-19 word of a public key in hex."""
    return _word("npub", bytes.fromhex(pubkey))


def note_of(event_id: str) -> str:
    """The NIP-19 word of an event's id."""
    return _word("note", bytes.fromhex(event_id))


def _word(prefix: str, raw: bytes) -> str:
    return bech32_encode(prefix, convertbits(raw, 8, 5), Encoding.BECH32)


def _bech32(word: str, prefix: str) -> bytes | None:
    if len(word) > _LONGEST_WORD:
        return None
    found, values, encoding = bech32_decode(word)
    if found != prefix or encoding != Encoding.BECH32 or values is None:
        return None
    raw = convertbits(values, 5, 8, False)
    return bytes(raw) if raw is not None and len(raw) == KEY_BYTES else None


def _hex(word: str) -> bytes | None:
    if len(word) != 2 * KEY_BYTES or not all(letter in "0123456789abcdefABCDEF" for letter in word):
        return None
    return bytes.fromhex(word)
