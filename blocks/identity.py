"""Who signs: a Prefect block that holds a Nostr secret key, or says where it is.

Seed phrases (NIP-06) and encrypted key files are not here yet.
"""

import os
from typing import Self, final

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, model_validator

from swarmc.contracts.errors import SpecError
from swarmc.nostr.keys import SecretKey


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
