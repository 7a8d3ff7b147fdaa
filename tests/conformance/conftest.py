"""The fakes as fixtures."""

from collections.abc import Callable

import pytest

from swarmc.compiler.workbench import Bench
from tests import fakes


@pytest.fixture
def venue_of() -> type[fakes.AnsweringVenue]:
    """A venue that answers from a function."""
    return fakes.AnsweringVenue


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    """Makes a workbench."""
    return fakes.make_bench
