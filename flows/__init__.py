"""PROMISES: what can be asked for. A flow names blocks, opens them, and calls steps in order."""
