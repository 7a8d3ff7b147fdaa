"""Where commands run on strangers' texts: one file a sandbox, and the register of them all."""

from blocks.sandboxes.block import SandboxBlock
from blocks.sandboxes.bubblewrap import Bubblewrap
from blocks.sandboxes.find import find_sandbox

__all__ = ["SANDBOXES", "Bubblewrap", "SandboxBlock", "find_sandbox"]

SANDBOXES: dict[str, type[SandboxBlock]] = {"bubblewrap": Bubblewrap}
"""Every sandbox's saved configuration, by the word that names it."""
