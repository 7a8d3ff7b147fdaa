"""Where the ledger is when nobody says."""

import os
from pathlib import Path

from sqlalchemy import URL


def default_ledger_url() -> str:
    """`sqlite:///$SWARMC_HOME/ledger.db`; SWARMC_HOME is `~/.swarmc` unless set. Opening creates it."""
    home = Path(os.environ.get("SWARMC_HOME") or "~/.swarmc").expanduser().absolute()
    return URL.create("sqlite", database=str(home / "ledger.db")).render_as_string()
