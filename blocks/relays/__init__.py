"""Nostr relays: the only WebSocket of the house."""

from blocks.relays.addresses import allowed_relay, safe_urls
from blocks.relays.block import Relays
from blocks.relays.pool import RelayError, RelayPool

__all__ = ["RelayError", "RelayPool", "Relays", "allowed_relay", "safe_urls"]
