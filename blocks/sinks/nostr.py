"""Nostr: a run's program runs as signed notes on relays, as far as its privacy mode lets them out."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from time import time
from typing import final

from pydantic import Field

from swarmc.contracts.canonical import Contract
from swarmc.contracts.completions import Stage
from swarmc.contracts.errors import SwarmcError
from swarmc.contracts.events import Event
from swarmc.contracts.graphs import Graph
from swarmc.contracts.manifest import CompiledModuleManifest, PrivacyMode
from swarmc.contracts.relay import Filter, Kind, NostrEvent, Relay, Tags
from swarmc.nostr.events import sign_notes
from swarmc.nostr.keys import SecretKey
from swarmc.tracing.graph import Finished, Graphs
from swarmc.tracing.notes import TRACE_KIND, Telling, graph_to_notes, summary_note
from swarmc.tracing.privacy import Redactor

logger = logging.getLogger(__name__)

PRIVATE = frozenset({PrivacyMode.PRIVATE_REPO_REDACTED, PrivacyMode.PRIVATE_REPO_ALLOWED})
MOST_QUEUED = 200
AT_ONCE = 16
CLOSE_S = 4.0
"""Less than a stream's grace, so that what was not told is counted here and not cut off there."""


class NostrPolicy(Contract):
    """What is told on Nostr, and how.

    Attributes:
        mode: What may leave; the strictest unless said.
        publish_private: Whether runs in a `private_repo_` mode are told at all.
        stages: The parts of a compile whose program runs are told. A search makes thousands.
        most_graphs: How many program runs are told at most; the others are counted.
        summary: Whether each program run is followed by its sums.
        read_back: Whether every event is asked for again after it was taken, and what no relay has is counted.
        kind: Of every note; the trace contract's own is 1, which shows in everybody's feed.
        default_tags: Added to every node's note.
    """

    mode: PrivacyMode = PrivacyMode.PRIVATE_REPO_ALLOWED
    publish_private: bool = False
    stages: tuple[Stage, ...] = ("validate", "verify", "serve", "other")
    most_graphs: int = Field(default=200, ge=0)
    summary: bool = False
    read_back: bool = False
    kind: Kind = TRACE_KIND
    default_tags: Tags = ()


@final
class NostrSink:
    """Publishes every program run that ends. A slow or broken relay never slows the run.

    Args:
        relay: Where to.
        key: Who signs; hashes of withheld values are keyed with it, so that nobody else can try out guesses.
        policy: What is told, and how.
        known: Texts that are secret whatever they look like, e.g. configured API keys.
        now_s: Unix time in seconds.

    Attributes:
        counts: What became of the program runs and events: `graphs published`, `events published`; and what
            was not told: `private`, `other stage`, `over most_graphs`, `queue full`, `failed`, `left behind`,
            `unconfirmed events`.
    """

    def __init__(
        self,
        relay: Relay,
        key: SecretKey,
        policy: NostrPolicy,
        *,
        known: tuple[str, ...] = (),
        now_s: Callable[[], float] = time,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._relay = relay
        self._key = key
        self._policy = policy
        self._redactor = Redactor.of(policy.mode, salt=key.derive("swarmc redaction"), known=(key.nsec(), *known))
        self._now_s = now_s
        self._graphs = Graphs(self._finish)
        self._queue: asyncio.Queue[Finished | None] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._accepted = 0

    @property
    def dropped(self) -> Counter[str]:
        """Program runs that could not be put together, by reason."""
        return self._graphs.dropped

    async def tell(self, event: Event) -> None:
        self._graphs.add(event)

    async def aclose(self) -> None:
        """Publish what waits within `CLOSE_S` seconds, and say what was not told."""
        if self._worker is not None:
            self._queue.put_nowait(None)
            await asyncio.wait([self._worker], timeout=CLOSE_S)
            if not self._worker.done():
                self.counts["left behind"] += self._queue.qsize() - 1  # The sign to end waits there too.
                self._worker.cancel()
                await asyncio.wait([self._worker])
        untold = {why: count for why, count in (self.counts + self.dropped).items() if "published" not in why}
        if untold:
            logger.info("program runs not told on Nostr: %s", ", ".join(f"{why}: {n}" for why, n in untold.items()))

    async def publish(self, graph: Graph, manifest: CompiledModuleManifest | None = None) -> tuple[NostrEvent, ...]:
        """Sign and publish one program run, whatever its stage; nothing where the policy withholds it.

        Args:
            graph: The run, as it was: what may not leave is taken out here.
            manifest: Of the compiled program that ran.

        Returns:
            The events, each taken by a quorum of relays.

        Raises:
            RelayError: the quorum failed for one of them at least. Others may be out: publish again to complete them.
            ValueError: it is no whole graph, or a node fits in no event.
        """
        if self._private:
            self.counts["private"] += 1
            return ()
        telling = Telling(created_at=int(self._now_s()), kind=self._policy.kind, default_tags=self._policy.default_tags)
        notes = graph_to_notes(graph, manifest, self._redactor, telling)
        if self._policy.summary:
            notes += (summary_note(graph, manifest, self._redactor, telling),)
        events = sign_notes(notes, self._key)
        await self._send(events)
        self.counts["graphs published"] += 1
        return events

    @property
    def _private(self) -> bool:
        return self._policy.mode in PRIVATE and not self._policy.publish_private

    def _finish(self, finished: Finished) -> None:
        """Take a program run that ended, or count why not."""
        why = self._withheld(finished.root.stage)
        if why:
            self.counts[why] += 1
            return
        self._accepted += 1
        self._queue.put_nowait(finished)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())

    def _withheld(self, stage: Stage) -> str:
        if self._private:
            return "private"
        if stage not in self._policy.stages:
            return "other stage"
        if self._accepted >= self._policy.most_graphs:
            return "over most_graphs"
        return "queue full" if self._queue.qsize() >= MOST_QUEUED else ""

    async def _work(self) -> None:
        while (finished := await self._queue.get()) is not None:
            try:
                await self.publish(finished.graph)
            except asyncio.CancelledError:
                self.counts["left behind"] += 1
                raise
            except (SwarmcError, ValueError) as error:
                if not self.counts["failed"]:
                    logger.warning("a program run could not be told on Nostr: %s", error)
                self.counts["failed"] += 1

    async def _send(self, events: tuple[NostrEvent, ...]) -> None:
        for start in range(0, len(events), AT_ONCE):
            some = events[start : start + AT_ONCE]
            done = await asyncio.gather(*(self._relay.publish(event) for event in some), return_exceptions=True)
            failed = [error for error in done if isinstance(error, BaseException)]
            self.counts["events published"] += len(done) - len(failed)
            if failed:
                raise failed[0]
        if self._policy.read_back:
            self.counts["unconfirmed events"] += await self._unconfirmed(events)

    async def _unconfirmed(self, events: tuple[NostrEvent, ...]) -> int:
        """How many of these no relay gives back."""
        ids = {event.id for event in events}
        found = await self._relay.fetch([Filter(ids=tuple(sorted(ids)))], limit=len(ids))
        return len(ids - {event.id for event in found.events})
