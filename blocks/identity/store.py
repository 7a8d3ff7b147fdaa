"""SecureStore: seed words in one encrypted file of this user's, whole at any moment."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from blocks.identity.passwords import check_new_password
from blocks.identity.sealing import MAX_FILE_BYTES, NEWEST, USUAL_COST, Cost, Version, seal, unseal
from swarmc.contracts.errors import IdentityError, boundary
from swarmc.nostr.nip06 import Seed

VARIABLE = "SWARMC_IDENTITY"
"""The environment variable that names the file."""
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


@final
class SecureStore:
    """An encrypted identity file. What it holds is in memory only while a call lasts.

    Args:
        path: The file; `~` is the user's home.
        cost: What opening a file that this store writes shall cost.
    """

    def __init__(self, path: Path, *, cost: Cost = USUAL_COST) -> None:
        self.path = path.expanduser()
        self._cost = cost

    def save(self, seed: Seed, password: str, *, overwrite: bool = False, version: Version = NEWEST) -> None:
        """Write the file, readable by this user alone. A crash leaves the old one or the new one, whole.

        Args:
            seed: What to keep.
            password: At least 12 characters that are not easily guessed.
            overwrite: Replace a file that is there; the identity in it is then gone.
            version: 1 for a file that OpenAgents reads too.

        Raises:
            IdentityError: the password is too weak, the file is there, or it cannot be written.
        """
        try:
            check_new_password(password)
        except ValueError as error:
            raise IdentityError(f"choose another password for {self.path}: {error}") from None
        with _told(f"writing the identity file {self.path}"):
            write_whole(self.path, seal(seed, password, version=version, cost=self._cost), overwrite=overwrite)

    def load(self, password: str) -> Seed:
        """Open the file. Takes what its cost says, usually a tenth of a second and 19 MiB.

        Raises:
            IdentityError: it is not there, no identity file, or does not open with this password.
        """
        with _told(f"opening the identity file {self.path}"):
            if not self.path.is_file():
                raise IdentityError(f"there is no identity file {self.path}; make one with `swarmc identity new`")
            with self.path.open("rb") as file:
                return unseal(file.read(MAX_FILE_BYTES + 1), password)


def own_path() -> Path:
    """Where a new identity is kept: $SWARMC_IDENTITY, or our file among the user's settings."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else _settings() / "swarmc" / "identity.enc"


def present_path() -> Path | None:
    """The file that is there: ours, or else that of OpenAgents' compute provider.

    $SWARMC_IDENTITY counts whether its file is there or not: who names one means that one.

    Raises:
        IdentityError: the settings cannot be looked into.
    """
    if os.environ.get(VARIABLE):
        return own_path()
    theirs = _settings() / "openagents" / "compute" / "identity.enc"
    with _told("looking for an identity file among this user's settings"):
        return next((path for path in (own_path(), theirs) if path.is_file()), None)


def write_whole(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Put a file in place in one step, mode 0600, on the disk before it returns.

    Raises:
        IdentityError: a file is there and `overwrite` is false.
        OSError: the file system refuses.
    """
    path = path.resolve()  # Of a symbolic link the target is replaced, not the link.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _into_place(draft, path, overwrite=overwrite)
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _into_place(draft: Path, path: Path, *, overwrite: bool) -> None:
    if not overwrite:
        try:
            path.hardlink_to(draft)  # Refuses in one step when somebody was faster.
            return
        except FileExistsError:
            raise _taken(path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        if path.exists():
            raise _taken(path)
    draft.replace(path)


def _taken(path: Path) -> IdentityError:
    return IdentityError(f"there is a file {path} already, and it is not overwritten: an identity in it would be lost")


def _settings() -> Path:
    named = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".config"


@contextmanager
def _told(doing: str) -> Iterator[None]:
    try:
        with boundary(IdentityError, doing, OSError):
            yield
    except ValueError as error:
        raise IdentityError(f"{doing}: {error}") from None
