"""A standing subscription at several relays, to be entered with `async with`."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from blocks.relays.hearing import MOST_QUEUED, Hearing
from blocks.relays.line import Line
from blocks.relays.standing import FIRST_PAUSE_S, OVERLAP_S, Standing
from swarmc.contracts.errors import RelayError
from swarmc.contracts.relay import Filter, NostrEvent, RelayAnswer


class Subscription:
    """See `Relay.subscribe`.

    Args:
        lines: To which relays.
        filters: What is wanted.
        timeout_s: Seconds that the relays have to be asked.
        most_queued: How many events wait for the reader at most.
        pause_s: Before a relay that closed the subscription is asked again; each time longer.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        filters: Sequence[Filter],
        *,
        timeout_s: float,
        most_queued: int = MOST_QUEUED,
        pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._lines = tuple(lines)
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._hearing = Hearing(filters, most_queued=most_queued)
        self._standing: tuple[Standing, ...] = ()

    async def __aenter__(self) -> AsyncIterator[NostrEvent]:
        since = int(time.time()) - OVERLAP_S
        self._standing = tuple(
            Standing(line, self._hearing, 1 << place, since, self._pause_s) for place, line in enumerate(self._lines)
        )
        for standing, line in zip(self._standing, self._lines, strict=True):
            line.questions.ask(standing)
            line.backoff.hurry()
            if line.failing:
                # It is waited for only where no other can be reached.
                standing.state = "unreachable"
        self._hearing.on_stir = self._look
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self._entered():
                    await self._hearing.moved()
        except TimeoutError:
            if not self._asked():
                self._drop()
                raise self._unheard("asking relays to tell of events: none could be reached") from None
        except BaseException:
            self._drop()
            raise
        return self._hearing

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._drop()

    def _asked(self) -> bool:
        return any(standing.state == "asked" for standing in self._standing)

    def _entered(self) -> bool:
        states = {standing.state for standing in self._standing}
        return states == {"deaf"} or ("asked" in states and "waiting" not in states)

    def _look(self) -> None:
        if all(standing.state == "deaf" for standing in self._standing):
            self._hearing.fail(self._unheard("hearing events from relays: none of them tells us any more"))

    def _unheard(self, what: str) -> RelayError:
        answers = [
            RelayAnswer(
                url=line.url,
                outcome="refused" if standing.state == "deaf" else "unanswered",
                reason=standing.reason or line.tally.last_reason,
            )
            for standing, line in zip(self._standing, self._lines, strict=True)
        ]
        told = "; ".join(f"{answer.url}: {answer.outcome} {answer.reason}".rstrip() for answer in answers)
        return RelayError(f"{what}; {told}", answers, retryable=True)

    def _drop(self) -> None:
        self._hearing.on_stir = lambda: None
        for standing in self._standing:
            standing.drop()
