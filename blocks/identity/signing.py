"""What an identity signs besides Nostr events: statements, by the hash of their bytes."""

import hashlib

from swarmc.contracts.bundle import Signature
from swarmc.nostr.keys import SecretKey, is_signed
from swarmc.tracing.statements import Sign

SCHEME = "bip340-sha256"
"""A Nostr key's Schnorr signature of the SHA-256 of the bytes."""


def signer(key: SecretKey) -> Sign:
    """Signs statements with a Nostr key."""

    def sign(data: bytes) -> Signature:
        signature = key.sign(hashlib.sha256(data).digest())
        return Signature(scheme=SCHEME, public_key=key.pubkey, signature=signature.hex())

    return sign


def signed_by_key(data: bytes, signature: Signature) -> bool | None:
    """Whether the holder of the signature's public key signed `data`."""
    if signature.scheme != SCHEME:
        return None
    try:
        given = bytes.fromhex(signature.signature)
    except ValueError:
        return False
    return is_signed(signature.public_key, hashlib.sha256(data).digest(), given)
