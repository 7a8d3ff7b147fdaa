"""HOW it speaks: the protocol of Nostr as data and pure functions; no socket, no clock."""
