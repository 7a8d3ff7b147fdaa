"""The fakes as fixtures."""

from tests.compiler.conftest import make_bench, venue_of

__all__ = ["make_bench", "venue_of"]
