"""Who we are on Nostr: a saved identity, the encrypted file of its seed words, and what it signs."""

from blocks.identity.block import VARIABLE, Identity
from blocks.identity.find import find_identity
from blocks.identity.signing import SCHEME, signed_by_key, signer
from blocks.identity.store import SecureStore

__all__ = ["SCHEME", "VARIABLE", "Identity", "SecureStore", "find_identity", "signed_by_key", "signer"]
