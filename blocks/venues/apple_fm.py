"""Apple's on-device model, through the bridge that gives it OpenAI's chat API. Only on a Mac."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import final

import aiohttp
from pydantic import Field

from blocks.venues.block import VenueBlock
from blocks.venues.openai_compatible import OpenAIVenue
from swarmc.compiler.around import Around
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.errors import VenueError
from swarmc.contracts.ports import Venue

NAME = "apple-fm"
BASE_URL = "http://localhost:11435"
MODEL = "apple-foundation-model"
TIMEOUT_S = 120.0


def bridge_url(environ: Mapping[str, str]) -> str:
    """Where the bridge listens: `FM_BRIDGE_URL`, or its usual address."""
    return (environ.get("FM_BRIDGE_URL") or BASE_URL).strip().rstrip("/").removesuffix("/v1")


def no_bridge(base_url: str) -> str:
    """What to do where no bridge answers."""
    return (
        f"no bridge to Apple's foundation model answers at {base_url}; it runs only on a Mac with Apple silicon, "
        "macOS 26 and Apple Intelligence switched on: start the bridge there, or set FM_BRIDGE_URL"
    )


@final
class AppleFmVenue(Around):
    """A bridge under way. Free.

    Args:
        inside: The bridge, as the OpenAI-compatible server that it is.
        base_url: Its address, without `/v1`.
    """

    def __init__(self, inside: OpenAIVenue, base_url: str) -> None:
        super().__init__(inside)
        self._base_url = base_url
        self.aclose = inside.aclose

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask once.

        Raises:
            VenueError: as an OpenAI-compatible server's; where nothing listens it says what to start.
        """
        try:
            return await self._venue.complete(request)
        except VenueError as error:
            if isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                raise VenueError(no_bridge(self._base_url), retryable=True) from error
            raise


@final
class AppleFm(VenueBlock):
    """The model that Apple puts on its machines, behind a bridge on this one."""

    _block_type_name = "swarmc Apple foundation model venue"
    _block_type_slug = "swarmc-apple-fm"
    _description = "Runs completions on Apple's on-device model, through a bridge with OpenAI's chat API."

    base_url: str | None = Field(
        default=None, title="Base URL", description=f"The bridge's address; empty: FM_BRIDGE_URL, or {BASE_URL}"
    )
    model: str = Field(default=MODEL, min_length=1, description="The model, as the bridge names it")
    timeout_s: float = Field(default=TIMEOUT_S, gt=0, description="Longest wait for one answer, in seconds")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue. The bridge is first spoken to by the first call.

        Raises:
            VenueError: `base_url` is no address.
        """
        base_url = bridge_url({"FM_BRIDGE_URL": self.base_url} if self.base_url else os.environ)
        async with OpenAIVenue(f"{base_url}/v1", self.model, timeout_s=self.timeout_s, name=NAME) as inside:
            yield AppleFmVenue(inside, base_url)
