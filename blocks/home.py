"""The folder of ledger, play money and event logs where nobody names another."""

import os
from pathlib import Path


def swarmc_home() -> Path:
    """`$SWARMC_HOME`, or `~/.swarmc` where that is not set."""
    return Path(os.environ.get("SWARMC_HOME") or "~/.swarmc").expanduser()
