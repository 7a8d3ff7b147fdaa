"""Nostr relays: the only WebSocket of the house."""

from blocks.relays.block import Relays
from blocks.relays.pool import RelayError, RelayPool

__all__ = ["RelayError", "RelayPool", "Relays"]
