"""Which identity a person means: a saved block, an encrypted file, the environment, or nobody."""

import os
import re
from pathlib import Path

from blocks.identity.block import VARIABLE, Identity
from blocks.identity.passwords import password_from_environment
from blocks.identity.store import VARIABLE as FILE_VARIABLE
from blocks.identity.store import present_path
from swarmc.contracts.errors import SpecError, boundary

_PREFIX = "swarmc-identity/"
_SECRET = re.compile(r"nsec1|^[0-9a-f]{64}$|(\S+\s+){11}", re.IGNORECASE)
_FILE = re.compile(r"[/\\.~]")  # Prefect's names of blocks have none of these.


async def find_identity(reference: str | None) -> Identity | None:
    """The identity that a person named.

    Args:
        reference: The name of a saved block, alone or as `swarmc-identity/name`; or the path of an encrypted
            file (`./prod.enc`). None asks the environment: $SWARMC_NOSTR_KEY; or the file in
            $SWARMC_IDENTITY; or the user's own file when a password is set too; or else nobody.

    Raises:
        SpecError: no such block is saved, the environment names two, or the reference is itself a secret.
    """
    if reference is None:
        return _in_environment()
    name = reference.removeprefix(_PREFIX)
    if _SECRET.search(name):
        # Not repeated: errors are logged.
        raise SpecError(
            "an identity is named by a saved block or a file, and this looks like a secret itself: save it in a "
            "block or with `swarmc identity import`, and treat it as seen by others"
        )
    if name == reference and _FILE.search(name):
        return Identity(file=Path(name))
    with boundary(SpecError, f"loading the saved identity {name!r}; see `prefect block ls`"):
        found = await Identity.aload(name)
        assert isinstance(found, Identity)
        return found


def _in_environment() -> Identity | None:
    key, file = os.environ.get(VARIABLE), os.environ.get(FILE_VARIABLE)
    if key and file:
        raise SpecError(f"${VARIABLE} and ${FILE_VARIABLE} both name an identity: unset one of them")
    if key:
        return Identity()
    path = present_path()
    # A file that merely lies there and cannot be opened must not stop a run that asked for no identity.
    if path is None or not (file or password_from_environment()):
        return None
    return Identity(file=path)
