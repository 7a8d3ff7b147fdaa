"""Limits and second tries around a venue: wrappers with the same port.

The usual order is ``Retried(Limited(Metered(venue)))``: a call that waits to be tried again leaves
its place to others, and every try is reserved and settled by itself.
"""

import asyncio
from collections.abc import Callable
from typing import final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from swarmc.compiler.around import Around
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.errors import VenueError
from swarmc.contracts.ports import Venue

OnFailure = Callable[[CompletionRequest, VenueError, int], None]
"""Told of every failed attempt, the last one included: request, error, number of the attempt from 1."""

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0


@final
class Limited(Around):
    """A venue that is asked by so many at once, and so often a second.

    Starts are spaced evenly: after a pause there is no burst, and a late start is not made up for.
    Callers are served in the order they came.

    Args:
        venue: Who is asked.
        concurrency: Most calls in flight.
        rate_per_s: Most calls started per second; `None` for no limit.
    """

    def __init__(self, venue: Venue, concurrency: int, rate_per_s: float | None = None) -> None:
        if concurrency < 1 or (rate_per_s is not None and rate_per_s <= 0):
            raise ValueError(f"concurrency {concurrency} and rate {rate_per_s} let no call through; give more than 0")
        super().__init__(venue)
        self._places = asyncio.Semaphore(concurrency)
        self._interval_s = None if rate_per_s is None else 1 / rate_per_s
        self._next_start_s = 0.0

    async def complete(self, request: CompletionRequest) -> Completion:
        """Wait for a place and for the time to start, then ask. Errors are the venue's."""
        async with self._places:
            if self._interval_s is not None:
                await self._wait_for_start(self._interval_s)
            return await self._venue.complete(request)

    async def _wait_for_start(self, interval_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        start_s = max(now_s, self._next_start_s)
        self._next_start_s = start_s + interval_s
        if start_s > now_s:
            await asyncio.sleep(start_s - now_s)


@final
class Retried(Around):
    """A venue that is asked again when it failed in a way that may pass.

    Between attempts it waits a random time up to a limit that doubles ("full jitter"), at least as
    long as the venue asked for. A venue that asks for more than `longest_wait_s` is not waited for.

    Args:
        venue: Who is asked.
        attempts: Most attempts of one call.
        on_failure: Told of every failed attempt.
        first_wait_s: Longest wait after the first attempt.
        longest_wait_s: Longest wait of all.
    """

    def __init__(
        self,
        venue: Venue,
        attempts: int,
        *,
        on_failure: OnFailure | None = None,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        super().__init__(venue)
        self._attempts = attempts
        self._on_failure = on_failure
        self._longest_wait_s = longest_wait_s
        self._jitter = wait_random_exponential(multiplier=first_wait_s, max=longest_wait_s)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask, and ask again.

        Raises:
            VenueError: the last attempt's, or the first that is not retryable.
        """
        try:
            return await self._attempt(request, 1)
        except VenueError as error:
            if self._attempts == 1 or not self._may_pass(error):
                raise
            return await self._again(request, error)

    async def _again(self, request: CompletionRequest, first: VenueError) -> Completion:
        """Go on after a first attempt, which most calls end with: the machinery for more is made only here."""
        attempts = 0

        async def attempt() -> Completion:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise first
            return await self._attempt(request, attempts)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._wait_s,
            retry=retry_if_exception(self._may_pass),
            reraise=True,
        )
        return await retrying(attempt)

    async def _attempt(self, request: CompletionRequest, number: int) -> Completion:
        try:
            return await self._venue.complete(request)
        except VenueError as error:
            if self._on_failure is not None:
                self._on_failure(request, error, number)
            raise

    def _may_pass(self, error: BaseException) -> bool:
        return (
            isinstance(error, VenueError)
            and error.retryable
            and (error.retry_after_s is None or error.retry_after_s <= self._longest_wait_s)
        )

    def _wait_s(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.retry_after_s if isinstance(error, VenueError) else None
        return max(asked_s or 0.0, self._jitter(state))
