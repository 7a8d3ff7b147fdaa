"""What every wrapper of a venue passes on unchanged."""

from swarmc.contracts.completions import CompletionRequest
from swarmc.contracts.ports import Priced, Venue


class Around:
    """The name, the model and the prices of the venue inside. A wrapper adds its own `complete`, and overrides nothing.

    Args:
        venue: The venue inside, itself a wrapper maybe.
    """

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    @property
    def name(self) -> str:
        return self._venue.name

    @property
    def model(self) -> str:
        return self._venue.model

    def quote(self, request: CompletionRequest) -> int:
        return self._venue.quote(request)

    def price_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int | None:
        return price_msats(self._venue, prompt_tokens, completion_tokens, calls)


def price_msats(venue: Venue, prompt_tokens: int, completion_tokens: int, calls: int) -> int | None:
    """What `venue` charges for calls with so many tokens together, in msats; `None` where it cannot say."""
    return venue.price_msats(prompt_tokens, completion_tokens, calls) if isinstance(venue, Priced) else None
