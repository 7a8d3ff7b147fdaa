"""A place of one's own first, and a paid one where that place is down: never where the request is at fault."""

import logging
import time
from collections.abc import Callable
from typing import final

from swarmc.compiler.around import price_msats
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.errors import SpecError, VenueError
from swarmc.contracts.ports import Venue

FIRST_REST_S = 5.0
LONGEST_REST_S = 60.0

_log = logging.getLogger("swarmc.venues")


@final
class Breaker:
    """Leaves a place alone for a while after it failed, so that not every call waits for what is dead.

    After the rest one call goes there to see; the others wait for its outcome elsewhere. Each failure in a row
    doubles the rest.

    Args:
        clock: Seconds that only grow.
        first_rest_s: How long it is left alone after a first failure.
        longest_rest_s: The same after many.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        first_rest_s: float = FIRST_REST_S,
        longest_rest_s: float = LONGEST_REST_S,
    ) -> None:
        self._clock = clock
        self._first_rest_s = first_rest_s
        self._longest_rest_s = longest_rest_s
        self._rest_s = 0.0
        self._until_s: float | None = None
        self._looking = False

    def enters(self) -> bool:
        """Whether a call may go there. Who was let in says how it went: `worked`, `failed` or `left`."""
        if self._until_s is None:
            return True
        if self._looking or self._clock() < self._until_s:
            return False
        self._looking = True
        return True

    def worked(self) -> None:
        """It answered."""
        self._until_s, self._rest_s, self._looking = None, 0.0, False

    def failed(self, asked_s: float | None = None) -> None:
        """It is down, or asked for a pause of `asked_s` seconds. Calls that fail together are one failure."""
        if self._until_s is not None and not self._looking:
            return
        doubled_s = min(2 * self._rest_s or self._first_rest_s, self._longest_rest_s)
        self._rest_s = max(doubled_s, min(asked_s or 0.0, self._longest_rest_s))
        self._until_s, self._looking = self._clock() + self._rest_s, False

    def left(self) -> None:
        """The call ended without saying anything of the place: it was cancelled."""
        self._looking = False


@final
class HybridVenue:
    """Two venues for one model: the local one, and the swarm where that is down.

    Only the place's own failures that may pass (nothing listens, too late, overloaded) send a call to the swarm.
    A refused request, a missing model, a wrong key or an exhausted budget do not: the swarm would be paid for a
    mistake that somebody has to correct. Nor does a call that may have been billed already.

    Args:
        local: Asked first.
        swarm: Asked where `local` is down, with the same request, the model's name included. Both must mean the
            same by it: what is answered is remembered under that name, whoever answered.
        tell: Told each time that the swarm is asked, in a sentence.
        breaker: When `local` is left alone.

    Raises:
        SpecError: the two have different models.
    """

    name = "pylon:hybrid"

    def __init__(
        self,
        local: Venue,
        swarm: Venue,
        tell: Callable[[str], None] = _log.warning,
        *,
        breaker: Breaker | None = None,
    ) -> None:
        if local.model != swarm.model:
            raise SpecError(
                f"the local venue runs {local.model!r} and the swarm is asked for {swarm.model!r}; a hybrid needs one "
                "model, because answers are remembered under its name"
            )
        self.model = local.model
        self._local = local
        self._swarm = swarm
        self._tell = tell
        self._breaker = breaker or Breaker()

    def quote(self, request: CompletionRequest) -> int:
        """The larger of the two quotes in msats, because either may answer.

        Raises:
            VenueError: one of them can give no upper bound.
        """
        return max(self._local.quote(request), self._swarm.quote(request))

    def price_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int | None:
        """In msats, where both charge the same; unknown otherwise, because either may answer."""
        local, swarm = (price_msats(one, prompt_tokens, completion_tokens, calls) for one in (self._local, self._swarm))
        return local if local == swarm else None

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the local venue, and the swarm if that is down. The completion's `venue` says who answered.

        Raises:
            VenueError: of the local venue, where the swarm is not asked; else of the swarm, naming both.
        """
        if not self._breaker.enters():
            return await self._from_swarm(request, None)
        try:
            completion = await self._local.complete(request)
        except VenueError as error:
            if not _is_down(error):
                self._breaker.worked()  # It can say no, so it is there.
                raise
            self._breaker.failed(error.retry_after_s)
            failure = error
        except BaseException:
            self._breaker.left()
            raise
        else:
            self._breaker.worked()
            return completion
        return await self._from_swarm(request, failure)

    async def _from_swarm(self, request: CompletionRequest, failure: VenueError | None) -> Completion:
        reason = failure or f"{self._local.name} was down a moment ago and is left alone for a while"
        self._tell(f"{request.model} is asked of {self._swarm.name}, because: {reason}")
        try:
            return await self._swarm.complete(request)
        except VenueError as error:
            error.add_note(f"the swarm was asked because {reason}")
            raise


def _is_down(error: VenueError) -> bool:
    return error.fault == "venue" and error.retryable and not error.paid_unknown
