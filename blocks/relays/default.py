"""The relays where nobody says which."""

import os

MARKET = "wss://nexus.openagents.com"
"""Where the market of OpenAgents is."""


def default_relays() -> list[str]:
    """The addresses in $SWARMC_RELAYS, separated by commas; `MARKET` where it is not set."""
    named = [url.strip() for url in os.environ.get("SWARMC_RELAYS", "").split(",") if url.strip()]
    return named or [MARKET]
