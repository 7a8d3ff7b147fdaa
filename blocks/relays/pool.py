"""Several relays behind one door: a quorum to publish, the union of what they have to read."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self, final

from pydantic import JsonValue

from blocks.relays.line import Line, Take, Took
from swarmc.contracts.errors import RelayError
from swarmc.contracts.relay import Fetched, Filter, NostrEvent, Published, RelayAnswer, RelayHealth
from swarmc.nostr.events import check_event
from swarmc.nostr.messages import matches

MOST_UNFIT = 100
"""Messages in one fetch that are no events that were asked for, after which a relay is not listened to."""


@final
class RelayPool:
    """A `Relay` port over WebSockets, to be entered with `async with`.

    Args:
        urls: Where they are, each once.
        quorum: How many must take an event.
        timeout_s: Seconds that each has to answer a question, to connect included.
    """

    def __init__(self, urls: Sequence[str], *, quorum: int = 1, timeout_s: float = 10.0) -> None:
        self._urls = tuple(urls)
        self._quorum = quorum
        self._timeout_s = timeout_s
        self._lines: tuple[Line, ...] = ()

    async def __aenter__(self) -> Self:
        self._lines = tuple(Line(url, timeout_s=self._timeout_s) for url in self._urls)
        for line in self._lines:
            line.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(line.aclose() for line in self._lines))

    @property
    def health(self) -> tuple[RelayHealth, ...]:
        return tuple(line.health for line in self._lines)

    async def publish(self, event: NostrEvent) -> Published:
        """Return as soon as a quorum took it; the other relays go on being offered it. See `Relay`."""
        lines = {line.publish(event): line for line in self._lines}
        pending = set(lines)
        answers: list[RelayAnswer] = []
        while (taken := _taken(answers)) < self._quorum <= taken + len(pending):
            # To wait does not cancel them, so one caller who gives up takes nothing from another.
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            answers += [_answer(task, lines[task].url) for task in done]
        if taken < self._quorum:
            raise RelayError(
                f"publishing event {event.id[:16]} (kind {event.kind}): {taken} of {len(self._lines)} relays took it, "
                f"{self._quorum} must; {_told(answers)}",
                answers,
                retryable=any(answer.outcome == "unanswered" for answer in answers),
            )
        return Published(event_id=event.id, answers=tuple(answers))

    async def fetch(self, filters: Sequence[Filter], *, limit: int = 500) -> Fetched:
        """Ask every relay and wait for all, each for `timeout_s` at most. See `Relay`."""
        asked = [one if one.limit else one.model_copy(update={"limit": limit}) for one in filters]
        found: dict[str, NostrEvent] = {}
        answers = await asyncio.gather(*(line.fetch(asked, _taker(found, asked, limit)) for line in self._lines))
        if not any(answer.outcome == "accepted" for answer in answers) and not found:
            raise RelayError(
                f"reading events back from {len(self._lines)} relays: none answered; {_told(answers)}",
                answers,
                retryable=True,
            )
        newest = sorted(found.values(), key=lambda event: (event.created_at, event.id))[-limit:]
        return Fetched(events=tuple(newest), answers=tuple(answers))


def _taker(found: dict[str, NostrEvent], filters: Sequence[Filter], limit: int) -> Take:
    """Takes one relay's events into `found`, verified once however many relays have them."""
    mine: set[str] = set()
    unfit = 0

    def take(value: JsonValue) -> Took:
        nonlocal unfit
        claimed = value.get("id") if isinstance(value, dict) else None
        known = found.get(claimed) if isinstance(claimed, str) else None
        event = known or check_event(value)
        if not isinstance(event, NostrEvent) or event.id in mine or not any(matches(event, one) for one in filters):
            unfit += 1
            return "unfit" if unfit < MOST_UNFIT else "flood"
        mine.add(event.id)
        found.setdefault(event.id, event)
        return "kept" if len(mine) < limit else "full"

    return take


def _answer(task: asyncio.Task[RelayAnswer], url: str) -> RelayAnswer:
    # Tasks are cancelled when the pool is closed, which must not look to its user as if he were.
    return RelayAnswer(url=url, outcome="unanswered", reason="we hung up") if task.cancelled() else task.result()


def _taken(answers: Sequence[RelayAnswer]) -> int:
    return sum(answer.outcome == "accepted" for answer in answers)


def _told(answers: Sequence[RelayAnswer]) -> str:
    return "; ".join(f"{answer.url}: {answer.outcome} {answer.reason}".rstrip() for answer in answers)
