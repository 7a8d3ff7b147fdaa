"""The bytes of an identity file: a seed under a password, by Argon2id and AES-256-GCM.

The file is JSON, indented by two blanks:

    {
      "ciphertext": standard base64, the 16-byte tag at its end,
      "nonce": standard base64 of 12 bytes,
      "salt": base64 without padding of 16 bytes, as PHC strings write it,
      "version": 1 or 2,
      "argon2_params": {"m_cost": 19456 (KiB), "t_cost": 2, "p_cost": 1}
    }

Version 1 is OpenAgents' `SecureStore`: the plaintext is the words, and nothing but the ciphertext is
authenticated. Version 2 is ours: the canonical JSON of `argon2_params` and `version` is bound to the
ciphertext as associated data, and the plaintext is the canonical JSON of `account`, `passphrase` and `words`,
so that the file alone brings the same identity back.
"""

import base64
import binascii
import json
import secrets
from typing import Annotated, Literal

import pydantic
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from pydantic import Field

from blocks.identity.passwords import password_bytes
from swarmc.contracts.canonical import canonical_bytes
from swarmc.nostr.nip06 import Seed

Version = Literal[1, 2]
NEWEST: Version = 2
MAX_FILE_BYTES = 64 * 1024
_SALT_BYTES = 16
_NONCE_BYTES = 12
_KEY_BYTES = 32
_MOST_TEXT = 16 * 1024


class _Record(pydantic.BaseModel):
    # Strict, so that one file has one meaning; without the input, which is secret in `_Plain`.
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Cost(_Record):
    """What a guess at the password costs. The bounds keep a planted file from taking the machine.

    Attributes:
        m_cost: Memory in KiB, at most 1 GiB.
        t_cost: Passes over it.
        p_cost: Lanes.
    """

    m_cost: Annotated[int, Field(ge=8, le=1024 * 1024)]
    t_cost: Annotated[int, Field(ge=1, le=20)]
    p_cost: Annotated[int, Field(ge=1, le=16)]


USUAL_COST = Cost(m_cost=19_456, t_cost=2, p_cost=1)


class _Sealed(_Record):
    ciphertext: Annotated[str, Field(max_length=_MOST_TEXT)]
    nonce: Annotated[str, Field(max_length=_MOST_TEXT)]
    salt: Annotated[str, Field(max_length=_MOST_TEXT)]
    version: Version
    argon2_params: Cost | None = None


class _Plain(_Record):
    account: int
    passphrase: str
    words: str


def seal(seed: Seed, password: str, *, version: Version = NEWEST, cost: Cost = USUAL_COST) -> bytes:
    """The bytes of a file that opens with `password`. Salt and nonce are new each time.

    Raises:
        ValueError: the password is not valid text, or version 1 cannot hold this seed.
    """
    if version == 1 and (seed.passphrase or seed.account):
        raise ValueError("a file of version 1 holds words alone, and this identity has a passphrase or an account")
    plain = _Plain(account=seed.account, passphrase=seed.passphrase, words=seed.words)
    text = seed.words.encode() if version == 1 else canonical_bytes(plain.model_dump())
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    ciphertext = AESGCM(_key(password, salt, cost)).encrypt(nonce, text, _bound(version, cost))
    fields = {
        "ciphertext": base64.b64encode(ciphertext).decode(),
        "nonce": base64.b64encode(nonce).decode(),
        "salt": base64.b64encode(salt).decode().rstrip("="),
        "version": version,
        "argon2_params": cost.model_dump(),
    }
    return json.dumps(fields, indent=2).encode()


def unseal(data: bytes, password: str) -> Seed:
    """The seed in the bytes of a file of either version.

    Raises:
        ValueError: it is no such file, asks for more than the bounds of `Cost`, or does not open. A wrong
            password and a changed file look the same. Nothing of what is inside is repeated.
    """
    sealed = _parsed(data)
    cost = sealed.argon2_params or USUAL_COST
    salt = _decoded(sealed.salt + "==", "salt", _SALT_BYTES)
    nonce = _decoded(sealed.nonce, "nonce", _NONCE_BYTES)
    ciphertext = _decoded(sealed.ciphertext, "ciphertext")
    try:
        text = AESGCM(_key(password, salt, cost)).decrypt(nonce, ciphertext, _bound(sealed.version, cost))
    except InvalidTag:
        raise ValueError("the password is wrong, or the file was changed") from None
    return _seed_in(text, sealed.version)


def _parsed(data: bytes) -> _Sealed:
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it is over {MAX_FILE_BYTES} bytes, and no identity file is")
    try:
        sealed = _Sealed.model_validate_json(data)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"it is no identity file that can be opened ({where}: {first['msg']})") from None
    if sealed.version != 1 and sealed.argon2_params is None:
        raise ValueError("it is no identity file that can be opened (argon2_params: Field required)")
    return sealed


def _decoded(text: str, name: str, size: int | None = None) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    # The last letter has bits to spare: bytes that are written otherwise than we write them were changed.
    if base64.b64encode(raw).decode() != text or (size is not None and len(raw) != size):
        raise ValueError(f"its {name} is damaged")
    return raw


def _seed_in(text: bytes, version: Version) -> Seed:
    try:
        if version == 1:
            return Seed(text.decode())
        plain = _Plain.model_validate_json(text)
        return Seed(plain.words, passphrase=plain.passphrase, account=plain.account)
    except ValueError:  # Without the cause, which may quote the words.
        raise ValueError("it opens, but holds no seed words that can be read") from None


def _key(password: str, salt: bytes, cost: Cost) -> bytes:
    secret = password_bytes(password)
    try:
        return Argon2id(
            salt=salt, length=_KEY_BYTES, iterations=cost.t_cost, lanes=cost.p_cost, memory_cost=cost.m_cost
        ).derive(secret)
    except (ValueError, MemoryError) as error:
        raise ValueError(f"its argon2_params cannot be used here ({error or 'not enough memory'})") from None


def _bound(version: Version, cost: Cost) -> bytes | None:
    """What else the tag vouches for."""
    return None if version == 1 else canonical_bytes({"argon2_params": cost.model_dump(), "version": version})
