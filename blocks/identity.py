"""Who signs: a Prefect block that holds a Nostr secret key, or says where it is.

Seed phrases (NIP-06) and encrypted key files are not here yet.
"""

import hashlib
import os
from typing import Self, final

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, model_validator

from swarmc.contracts.bundle import Signature
from swarmc.contracts.errors import SpecError, boundary
from swarmc.nostr.keys import SecretKey, is_signed
from swarmc.tracing.statements import Sign

SCHEME = "bip340-sha256"
"""A Nostr key's Schnorr signature of the SHA-256 of the bytes."""


@final
class Identity(Block):
    """A Nostr identity. Neither its text forms nor its errors show the secret."""

    _block_type_name = "swarmc identity"
    _block_type_slug = "swarmc-identity"

    # Errors would quote what was given, and extra fields would be kept and shown: a misspelt `secret` too.
    model_config = ConfigDict(hide_input_in_errors=True, extra="forbid")

    secret: SecretStr | None = Field(
        default=None, description="The secret key as nsec1... or 64 hex digits. Empty to read it from `variable`."
    )
    variable: str = Field(
        default="SWARMC_NOSTR_KEY",
        description="The environment variable that holds the secret key when `secret` is empty.",
    )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.secret is not None:
            _parsed(self.secret.get_secret_value(), "the saved secret")
        return self

    @classmethod
    def generate(cls) -> Self:
        """A new identity. Save it, or what it signs can never be continued."""
        return cls(secret=SecretStr(SecretKey.generate().nsec()))

    def key(self) -> SecretKey:
        """The key to sign with.

        Raises:
            SpecError: there is none, or it cannot be read.
        """
        if self.secret is not None:
            return _parsed(self.secret.get_secret_value(), "the saved secret")
        found = os.environ.get(self.variable, "")
        if not found:
            raise SpecError(f"this identity has no key: give `secret`, or set ${self.variable} to an nsec1... key")
        return _parsed(found, f"${self.variable}")

    @property
    def pubkey(self) -> str:
        """The public key in hex. Raises as `key`."""
        return self.key().pubkey

    @property
    def npub(self) -> str:
        """The public key as NIP-19 writes it. Raises as `key`."""
        return self.key().npub


def _parsed(text: str, where: str) -> SecretKey:
    try:
        return SecretKey.parse(text)
    except ValueError as error:
        raise SpecError(f"reading {where} as a Nostr key: {error}") from None


async def find_identity(reference: str | None) -> Identity | None:
    """The identity that a person named.

    Args:
        reference: The name of a saved block, alone or as `swarmc-identity/name`; empty for the key in
            $SWARMC_NOSTR_KEY, or nobody where that is not set.

    Raises:
        SpecError: no such block is saved.
    """
    if reference is None:
        return Identity() if os.environ.get("SWARMC_NOSTR_KEY") else None
    name = reference.removeprefix("swarmc-identity/")
    with boundary(SpecError, f"loading the saved identity {name!r}; see `prefect block ls`"):
        found = await Identity.aload(name)
        assert isinstance(found, Identity)
        return found


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
