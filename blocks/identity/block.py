"""The saved form of an identity: seed words, a secret key, or where either is."""

import os
from pathlib import Path
from typing import Literal, Self, final

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, model_validator

from blocks.identity.passwords import VARIABLES, password_from_environment
from blocks.identity.store import SecureStore
from swarmc.contracts.errors import IdentityError, SpecError
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip06 import MAX_ACCOUNT, Seed, account_of

VARIABLE = "SWARMC_NOSTR_KEY"
"""The environment variable of an identity that names nothing else."""
_WAYS = ("words", "secret", "file")


@final
class Identity(Block):
    """A Nostr identity. Neither its text forms nor its errors show the secret.

    It is given in exactly one way: `words`, `secret`, `file`, or, when none of them is given, `variable`.
    """

    _block_type_name = "swarmc identity"
    _block_type_slug = "swarmc-identity"

    # Errors would quote what was given, and extra fields would be kept and shown: a misspelt `secret` too.
    model_config = ConfigDict(hide_input_in_errors=True, extra="forbid")

    words: SecretStr | None = Field(default=None, description="12 or 24 seed words (BIP-39), for a NIP-06 key.")
    passphrase: SecretStr | None = Field(
        default=None, description="What BIP-39 adds to the seed words. Another one gives another identity."
    )
    account: int | None = Field(
        default=None, ge=0, le=MAX_ACCOUNT, description="Which identity of the seed words. Empty: the file's own, or 0."
    )
    domain: str | None = Field(default=None, description="A name in place of the account's number, such as `work`.")
    secret: SecretStr | None = Field(default=None, description="The secret key as nsec1... or 64 hex digits.")
    file: Path | None = Field(
        default=None, description="An encrypted file of seed words, as `swarmc identity new` writes it."
    )
    password: SecretStr | None = Field(
        default=None, description=f"What opens `file`. Empty to read it from ${' or $'.join(VARIABLES)}."
    )
    variable: str = Field(
        default=VARIABLE,
        description="The environment variable that holds seed words or a secret key when nothing above does.",
    )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self._check_one_way()
        if self.words is not None or self.secret is not None:
            self.source()
        return self

    def _check_one_way(self) -> None:
        ways = [name for name in _WAYS if getattr(self, name) is not None]
        if ways and self.variable != VARIABLE:
            ways.append("variable")
        if len(ways) > 1:
            raise SpecError(f"an identity is given in one way, and this one has {' and '.join(ways)}: keep one of them")
        if self.account is not None and self.domain is not None:
            raise SpecError("`domain` is a name for an account, and this identity has both: keep one of them")
        if self.secret is not None and self._derives():
            raise SpecError("`passphrase`, `account` and `domain` belong to seed words; this identity has a secret key")
        if self.password is not None and self.file is None:
            raise SpecError("`password` opens a file, and this identity has none: give `file`")

    @classmethod
    def generate(cls, words: Literal[12, 24] = 12) -> Self:
        """A new identity of new seed words. Save it, or what it signs can never be continued."""
        return cls(words=SecretStr(Seed.generate(words).words))

    def source(self) -> Seed | SecretKey:
        """What the key is made from, or the key where there is nothing more. Opening a file takes 0.1 s.

        Raises:
            SpecError: there is none.
            IdentityError: it cannot be read or unlocked.
        """
        if self.words is not None:
            return self._seed(self.words.get_secret_value(), "the saved words")
        if self.secret is not None:
            return _parsed(self.secret.get_secret_value(), "the saved secret")
        if self.file is not None:
            return self._opened(self.file)
        return self._of_variable()

    def key(self) -> SecretKey:
        """The key to sign with: keep it, it takes milliseconds to make. Raises as `source`."""
        found = self.source()
        return found.key() if isinstance(found, Seed) else found

    @property
    def pubkey(self) -> str:
        """The public key in hex. Raises as `source`."""
        return self.key().pubkey

    @property
    def npub(self) -> str:
        """The public key as NIP-19 writes it. Raises as `source`."""
        return self.key().npub

    def _derives(self) -> bool:
        return any(part is not None for part in (self.passphrase, self.account, self.domain))

    def _seed(self, words: str, where: str, passphrase: str = "", account: int = 0) -> Seed:
        """The seed of these words, with what the block says in place of what was found beside them."""
        if self.passphrase is not None:
            passphrase = self.passphrase.get_secret_value()
        try:
            if self.domain is not None:
                account = account_of(self.domain)
            elif self.account is not None:
                account = self.account
            return Seed(words, passphrase=passphrase, account=account)
        except ValueError as error:
            raise IdentityError(f"reading {where} as seed words: {error}") from None

    def _opened(self, file: Path) -> Seed:
        password = self.password.get_secret_value() if self.password else password_from_environment()
        if not password:
            raise IdentityError(
                f"opening the identity file {file}: there is no password; give `password`, or set ${VARIABLES[0]}"
            )
        found = SecureStore(file).load(password)
        return self._seed(found.words, str(file), found.passphrase, found.account)

    def _of_variable(self) -> Seed | SecretKey:
        found = os.environ.get(self.variable, "")
        if not found.strip():
            raise SpecError(
                "this identity has no key: give `words`, `secret` or `file`, "
                f"or set ${self.variable} to seed words or an nsec1... key"
            )
        if len(found.split()) > 1:
            return self._seed(found, f"${self.variable}")
        if self._derives():
            raise SpecError(f"`passphrase`, `account` and `domain` belong to seed words; ${self.variable} holds a key")
        return _parsed(found, f"${self.variable}")


def _parsed(text: str, where: str) -> SecretKey:
    try:
        return SecretKey.parse(text)
    except ValueError as error:
        raise IdentityError(f"reading {where} as a Nostr key: {error}") from None
