"""HANDS: saved configuration, and the few calls that use it."""
