"""Where the ledger is when nobody says."""

from sqlalchemy import URL

from blocks.home import swarmc_home


def default_ledger_url() -> str:
    """`sqlite:///$SWARMC_HOME/ledger.db`; SWARMC_HOME is `~/.swarmc` unless set. Opening creates it."""
    return URL.create("sqlite", database=str(swarmc_home().absolute() / "ledger.db")).render_as_string()
