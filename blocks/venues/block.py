"""The saved form that every venue's block shares."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from prefect.blocks.core import Block

from swarmc.contracts.completions import CompletionRequest
from swarmc.contracts.errors import VenueError
from swarmc.contracts.ports import Venue


class VenueBlock(Block, ABC):
    """Configuration of a place where completions run. Opening it gives the port."""

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Venue]:
        """The venue, to be entered with `async with`; what it holds (connections, processes) ends with the context.

        Raises:
            VenueError: on entering, when no venue can be made of this configuration.
        """


def check_model(venue: Venue, request: CompletionRequest) -> None:
    """Refuse a request for another model: an answer is remembered under the model that was asked for.

    Raises:
        VenueError: `request.model` is not the venue's.
    """
    if request.model != venue.model:
        raise VenueError(
            f"the request names the model {request.model!r}, but this {venue.name} venue asks {venue.model!r}; "
            "make requests with the venue's own `model`",
            fault="request",
        )
