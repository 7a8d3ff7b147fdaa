"""One relay's part in a standing subscription: asked again after every break, from where it left off."""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import JsonValue

from blocks.relays.hearing import Hearing
from blocks.relays.line import Line
from blocks.relays.questions import Once, Took
from swarmc.contracts.relay import Filter
from swarmc.nostr.messages import request_message

OVERLAP_S = 120
"""How much older than the newest event of a relay one may be that it gives late: authors' clocks differ."""

PATIENCE_S = 0.3
"""How long a relay is waited for that was asked and says nothing, not even that it has nothing."""

MOST_ASKED_AGAIN = 5
"""How often one that closes the subscription is asked again on the same connection."""

FIRST_PAUSE_S = 1.0
RATE_LIMITED_TIMES = 5
FULL_PAGE = 20
"""So many stored events may be all that a relay gives at once, and not all it has."""

PAGE_LIMIT = 5000
"""Relays that give few unless they are asked for more may give so many: there may be more in one second than a few."""

MOST_PAGES = 100
MOST_REPEATS = 1000
"""Events on one connection that the relay gave before, beyond those that an overlap explains."""

State = Literal["waiting", "asked", "unreachable", "deaf"]


class _Page:
    """What a page held, and from where the next one goes back."""

    def __init__(self, until: int) -> None:
        self.until = until
        self._oldest_s: int | None = None
        self._new = 0

    def add(self, created_at: object, *, new: bool) -> None:
        self._new += new
        if type(created_at) is int and created_at >= 0:
            self._oldest_s = created_at if self._oldest_s is None else min(self._oldest_s, created_at)

    def older(self) -> int | None:
        """The end of the page before this one; nothing when it was the first."""
        if self._oldest_s is None:
            return None
        if self._oldest_s < self.until:
            # Nothing new in more than one second: here begins what the relay gave before.
            return self._oldest_s if self._new else None
        # A second that fills a page: what it holds beyond that cannot be asked for, what is older can.
        return self.until - 1 if self.until else None


class Standing:
    """Of one relay.

    Args:
        line: To which relay.
        hearing: Who hears.
        giver: The relay's bit in `Hearing.take`.
        since: Of filters that say none.
        pause_s: Before a relay that closed the subscription is asked again; each time longer.
    """

    def __init__(self, line: Line, hearing: Hearing, giver: int, since: int, pause_s: float) -> None:
        self.subscription = secrets.token_hex(8)
        self.state: State = "waiting"
        self.reason = ""
        self._line = line
        self._hearing = hearing
        self._giver = giver
        self._first_since = since
        self._first_pause_s = pause_s
        self._newest_s = 0
        self._reached_s = 0
        self._oldest_s: int | None = None
        self._caught_up = False
        self._limited = any(one.limit for one in hearing.filters)
        self._stored = 0
        self._pages = 0
        self._page: Once | None = None
        self._repeats_left = MOST_REPEATS
        self._refusals = 0
        self._timer: asyncio.TimerHandle | None = None

    def message(self) -> str:
        return request_message(self.subscription, self._filters())

    def asked(self) -> None:
        self._stop_page()
        self._caught_up, self._pages, self._stored = False, 0, 0
        self._repeats_left = self._hearing.seen + MOST_REPEATS
        if self.state != "asked":
            self._call_later(PATIENCE_S, self._settle)

    def broke(self) -> None:
        self._stop_page()
        self._stop_timer()
        self._refusals = 0
        self._move("unreachable")

    def event(self, value: JsonValue, size_bytes: int) -> Took:
        took, new = self._take(value, size_bytes)
        if new and not self._caught_up and self._page is None:
            self._stored += 1
        if self.state != "asked":
            self._settle()
        return took

    def sent_all(self) -> None:
        self._settle()
        if self._caught_up or self._page is not None:
            return
        if self._stored < FULL_PAGE or self._limited or self._oldest_s is None:
            self._catch_up()
        else:
            self._next_page(self._oldest_s)

    def closed(self, reason: str) -> None:
        """Ask again later, unless it said no too often or for good."""
        self._stop_page()
        self.reason = reason
        self._refusals += 1
        if self._refusals > MOST_ASKED_AGAIN or reason.startswith("auth-required:"):
            self._move("deaf")
            return
        slower = RATE_LIMITED_TIMES if reason.startswith("rate-limited:") else 1
        pause_s = slower * self._first_pause_s * 2 ** (self._refusals - 1) * (0.5 + random.random())
        self._call_later(pause_s, lambda: self._line.questions.ask(self))
        self._move("unreachable")

    def hang_up(self) -> None:
        self.reason = "we hung up"
        self._move("deaf")

    def drop(self) -> None:
        """Nobody hears any more."""
        self._stop_page()
        self._stop_timer()
        self._line.questions.drop(self)

    def _filters(self, *, until: int | None = None) -> Sequence[Filter]:
        last_s = self._reached_s - OVERLAP_S
        found = []
        for one in self._hearing.filters:
            since = max(self._first_since if one.since is None else one.since, last_s)
            update: dict[str, int] = {"since": since}
            if until is not None:
                update |= {"until": until if one.until is None else min(until, one.until), "limit": PAGE_LIMIT}
            found.append(one.model_copy(update=update))
        return found

    def _take(self, value: JsonValue, size_bytes: int) -> tuple[Took, bool]:
        """What became of it, and whether it is the first time that this relay gives it."""
        took, again = self._hearing.take(value, size_bytes, self._giver)
        if took == "unfit":
            return took, False
        if again:
            self._repeats_left -= 1
            return ("known" if self._repeats_left >= 0 else "unfit"), False
        if isinstance(value, dict):
            self._mark(value.get("created_at"))
        return took, True

    def _mark(self, created_at: object) -> None:
        """Remember how far the relay has come. An event of tomorrow must not make us deaf today."""
        if type(created_at) is not int or created_at < 0:
            return
        self._oldest_s = created_at if self._oldest_s is None else min(self._oldest_s, created_at)
        self._newest_s = max(self._newest_s, min(created_at, int(time.time())))
        # Stored events come newest first: until all have come, what is older is still owed.
        if self._caught_up:
            self._reached_s = self._newest_s

    def _catch_up(self) -> None:
        self._caught_up, self._reached_s, self._oldest_s = True, self._newest_s, None

    def _next_page(self, until: int) -> None:
        """Ask for what is older than the page that came, in a question of its own."""
        self._pages += 1
        counted = _Page(until)

        def take(value: JsonValue, size_bytes: int) -> Took:
            took, new = self._take(value, size_bytes)
            if took != "unfit" and isinstance(value, dict):
                counted.add(value.get("created_at"), new=new)
            return took

        page = self._page = Once(self._line.url, self._filters(until=until), take)
        page.ended.add_done_callback(lambda _: self._paged(page, counted))
        self._line.questions.ask(page)

    def _paged(self, page: Once, counted: _Page) -> None:
        if page is not self._page:
            return
        self._stop_page()
        until = counted.older()
        if until == counted.until - 1:
            self._line.tally.last_reason = "it has more events of one second than it gives; some may be missing"
        if until is None or page.ended.result().outcome != "accepted" or self._pages >= MOST_PAGES:
            self._catch_up()
        else:
            self._next_page(until)

    def _stop_page(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            self._line.questions.drop(page)

    def _settle(self) -> None:
        self._stop_timer()
        self._move("asked")

    def _move(self, state: State) -> None:
        self.state = state
        self._hearing.stir()

    def _call_later(self, pause_s: float, what: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(pause_s, what)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
