"""The relays where nobody says which."""

import os

MARKET = "wss://nexus.openagents.com"
"""Where the market of OpenAgents is."""


def default_relays() -> list[str]:
    """The environment's, or `MARKET` where it names none."""
    return relays_in_environment() or [MARKET]


def relays_in_environment() -> list[str]:
    """The addresses in $SWARMC_RELAYS, separated by commas."""
    return [url.strip() for url in os.environ.get("SWARMC_RELAYS", "").split(",") if url.strip()]
