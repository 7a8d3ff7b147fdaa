"""The saved form of a set of relays: a Prefect block that holds their addresses."""

from contextlib import AbstractAsyncContextManager
from typing import Self, final
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, field_validator, model_validator

from blocks.relays.pool import RelayPool
from swarmc.contracts.relay import Relay
from swarmc.nostr.keys import SecretKey

MOST_RELAYS = 20


@final
class Relays(Block):
    """The Nostr relays that events are published to and read from."""

    _block_type_name = "swarmc relays"
    _block_type_slug = "swarmc-relays"

    # An address may be refused because it holds a password, which the error would quote.
    model_config = ConfigDict(hide_input_in_errors=True)

    urls: list[str] = Field(
        title="URLs",
        min_length=1,
        max_length=MOST_RELAYS,
        description="wss://relay.example.org, or ws:// on a network that you trust; without user and password.",
    )
    quorum: int = Field(
        default=1, ge=1, description="How many relays must take an event before it counts as published."
    )
    timeout_s: float = Field(
        default=10.0, gt=0, le=300, description="Seconds that a relay has to answer, to connect included."
    )
    private: bool = Field(
        default=False,
        description="Answer customers also on relays that they name without TLS or on a private network. For a "
        "network of your own only.",
    )

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("ws", "wss") or not parts.hostname or "@" in parts.netloc:
                raise ValueError(
                    f"{parts.hostname or 'this'!r} is no relay's address; write wss://host or ws://host:port"
                )
        return list(dict.fromkeys(url.rstrip("/") for url in urls))

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.quorum > len(self.urls):
            raise ValueError(f"a quorum of {self.quorum} cannot be had of {len(self.urls)} relays")
        return self

    def open(self, key: SecretKey | None = None) -> AbstractAsyncContextManager[Relay]:
        """The relays, to be entered with `async with`. Nothing is connected before there is something to say.

        Args:
            key: Who we are, for relays that ask. Without it their questions stay unanswered.
        """
        return RelayPool(self.urls, quorum=self.quorum, timeout_s=self.timeout_s, key=key, private=self.private)
