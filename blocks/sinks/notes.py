"""The saved form of telling a run on Nostr: which relays, who signs, and what may be told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field

from blocks.identity import Identity
from blocks.relays import Relays
from blocks.sinks.nostr import NostrPolicy, NostrSink
from swarmc.contracts.completions import Stage
from swarmc.contracts.manifest import PrivacyMode
from swarmc.tracing.notes import TRACE_KIND


@final
class NostrNotes(Block):
    """Publishes a run's program runs as signed notes. What may leave is the compile's privacy mode to say."""

    _block_type_name = "swarmc Nostr notes"
    _block_type_slug = "swarmc-nostr-notes"

    model_config = ConfigDict(hide_input_in_errors=True, extra="forbid")

    relays: Relays = Field(description="Where they are published")
    identity: Identity = Field(description="Who signs them")
    publish_private: bool = Field(
        default=False,
        title="Publish private",
        description="Also tell runs in a `private_repo_` mode, as far as that mode lets out (hashes and lengths only)",
    )
    stages: list[Stage] = Field(
        default=["validate", "verify", "serve", "other"],
        description="The parts of a compile whose program runs are told; a search makes thousands",
    )
    most_graphs: int = Field(default=200, ge=0, title="Most program runs", description="More are counted, not told")
    summary: bool = Field(default=True, description="Follow each program run by its sums")
    kind: int = Field(
        default=TRACE_KIND, ge=0, le=65_535, description="Of every note; 1 would show in everybody's feed"
    )

    @asynccontextmanager
    async def open(self, mode: PrivacyMode) -> AsyncIterator[NostrSink]:
        """The sink, connected when there is something to tell. The stream closes it.

        Args:
            mode: What may leave the machine.

        Raises:
            SpecError: the identity has no key.
        """
        policy = NostrPolicy(
            mode=mode,
            publish_private=self.publish_private,
            stages=tuple(self.stages),
            most_graphs=self.most_graphs,
            summary=self.summary,
            kind=self.kind,
        )
        async with self.relays.open() as relay:
            yield NostrSink(relay, self.identity.key(), policy)
