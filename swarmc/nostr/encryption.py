"""Which encryption a text has, and one way in and out for both: NIP-44, and NIP-04 for those who know no other."""

from swarmc.contracts.market import Encryption
from swarmc.nostr import nip04, nip44
from swarmc.nostr.keys import SecretKey


def encryption_of(payload: str) -> Encryption:
    """How a payload says that it is encrypted; base64 alone, which NIP-44 is, has no question mark."""
    return "nip04" if nip04.MARK in payload else "nip44"


def encrypt_as(scheme: Encryption, text: str, key: SecretKey, pubkey: str) -> str:
    """Encrypt a text from the holder of `key` to that of `pubkey` (64 hex digits).

    An answer goes by the scheme that was received; what nobody asked for goes by NIP-44.

    Raises:
        ValueError: `pubkey` is no key, or the text's length cannot be (NIP-44: not empty). It is not repeated.
    """
    if scheme == "nip04":
        return nip04.encrypt(text, key.shared_x(pubkey))
    return nip44.encrypt(text, nip44.conversation_key(key, pubkey))


def decrypt_any(payload: str, key: SecretKey, pubkey: str) -> tuple[str, Encryption]:
    """Read what the holder of `pubkey` (64 hex digits) encrypted to that of `key`, and by which scheme.

    Raises:
        ValueError: it cannot be read: malformed, altered, of another version, or between other keys.
    """
    if encryption_of(payload) == "nip04":
        return nip04.decrypt(payload, key.shared_x(pubkey)), "nip04"
    return nip44.decrypt(payload, nip44.conversation_key(key, pubkey)), "nip44"
