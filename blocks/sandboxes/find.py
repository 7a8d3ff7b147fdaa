"""The sandbox that a person named: a word, or a saved block."""

from blocks.sandboxes.block import SandboxBlock
from blocks.sandboxes.bubblewrap import Bubblewrap
from swarmc.contracts.errors import SandboxError, boundary

WORDS = {"auto": False, "bubblewrap": False, "bubblewrap:unenforced": True}
"""What needs no saved block, and whether a limit may go unenforced then."""


async def find_sandbox(reference: str | None) -> SandboxBlock:
    """Its configuration, not yet opened.

    Args:
        reference: `auto` or nothing for what works here; `bubblewrap`; `bubblewrap:unenforced`, which runs where a
            limit cannot be enforced too; or `slug/name` of a saved block.

    Raises:
        SandboxError: it names no sandbox, or no such block is saved.
    """
    words = (reference or "auto").strip()
    if words in WORDS:
        return Bubblewrap(allow_unenforced=WORDS[words])
    slug, _, name = words.partition("/")
    saved = next((kind for kind in SandboxBlock.__subclasses__() if kind.get_block_type_slug() == slug), None)
    if saved is None:
        raise SandboxError(
            f"{words!r} names no sandbox; give {', '.join(WORDS)}, or a saved block as slug/name "
            f"({Bubblewrap.get_block_type_slug()}/mine)"
        )
    with boundary(SandboxError, f"loading the saved sandbox {words!r}; see `prefect block ls`"):
        return await saved.aload(name)
