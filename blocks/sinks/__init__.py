"""Where a run is told: one file a sink; `find.py` opens those that a person named."""

from blocks.sinks.artifacts import ArtifactSink
from blocks.sinks.terminal import TerminalSink

__all__ = ["ArtifactSink", "TerminalSink"]
