"""The password of an encrypted identity: where it is when nobody types it, and what makes one good enough."""

import os
import re

VARIABLES = ("SWARMC_PASSWORD", "OPENAGENTS_PASSWORD")
"""Environment variables that hold the password of an unattended start, the first that is set."""
MIN_CHARACTERS = 12
MAX_CHARACTERS = 1_000
MIN_DISTINCT = 5

_COMMON_WORDS = (
    "password passwort passw0rd p@ssword p@ssw0rd pass letmein welcome admin administrator root user login master "
    "secret default changeme changeit test guest qwerty qwertyuiop qwertz azerty asdfgh asdfghjkl zxcvbnm iloveyou "
    "sunshine princess dragon monkey football baseball superman batman shadow trustno trustno1 hello freedom whatever "
    "starwars michael jordan bitcoin satoshi lightning nostr crypto wallet swarm swarmc openagents compute provider "
    "identity mypassword thisismypassword passwordpassword correcthorsebatterystaple"
)
_RUNS = ("01234567890" * 4, "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm", "1q2w3e4r5t6y7u8i9o0p")

_LEAST_RUN = 6
_GUESSED_DIGITS = 20


def password_from_environment() -> str | None:
    """The password of an unattended start, if there is one."""
    return next((found for name in VARIABLES if (found := os.environ.get(name))), None)


def check_new_password(password: str) -> None:
    """Refuse a password that would be guessed. For new files only: whoever has an old one must get in.

    Raises:
        ValueError: why it is refused; the password is not repeated.
    """
    if len(password) < MIN_CHARACTERS:
        raise ValueError(f"it has {len(password)} characters; at least {MIN_CHARACTERS} are needed")
    lower = password.lower()
    if _is_repeated(lower) or len(set(lower)) < MIN_DISTINCT:
        raise ValueError("it repeats itself; several unrelated words are better")
    if _is_common(lower):
        raise ValueError("it is among the first that are tried; several unrelated words are better")


def password_bytes(password: str) -> bytes:
    """The bytes that the key is derived from.

    Raises:
        ValueError: it cannot be written as UTF-8, or is longer than any password.
    """
    if len(password) > MAX_CHARACTERS:
        raise ValueError(f"a password has at most {MAX_CHARACTERS} characters; this one has {len(password)}")
    try:
        return password.encode()
    except UnicodeEncodeError:  # Without the cause, which carries the password.
        raise ValueError("the password is not valid text: it holds half of a character") from None


def _is_repeated(text: str) -> bool:
    """Whether it is one piece again and again, with or without something between or a number at the end."""
    letters = re.sub(r"[\W_]|\d+$", "", text)
    return any(piece and piece in (piece + piece)[1:-1] for piece in (text, letters))


def _is_common(text: str) -> bool:
    """Whether it is a common word dressed up with digits and signs, a row of keys, or a number such as a date."""
    core = text.strip("0123456789!?.,-_*#$%&@+ ")
    bare = re.sub(r"[\W_]", "", text)
    runs = (*_RUNS, *(run[::-1] for run in _RUNS))
    in_a_row = any(len(part) >= _LEAST_RUN and part in run for part in (core, bare) for run in runs)
    common = not {core, text, bare}.isdisjoint(_COMMON_WORDS.split())
    is_date = len(bare) < _GUESSED_DIGITS and re.fullmatch(r"[\d .:/_-]+", text) is not None
    return common or in_a_row or is_date
