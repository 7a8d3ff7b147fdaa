"""Limits and second tries around venues that fail on purpose, with the clock of the event loop."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.compiler.lanes import Limited, Retried
from swarmc.contracts.completions import Completion, CompletionRequest, Message
from swarmc.contracts.errors import BudgetExhausted, VenueError

REQUEST = CompletionRequest(lane="swarm", model="m", messages=(Message(role="user", content="x"),))
BUSY = VenueError("busy", retryable=True)
BAD = VenueError("bad", fault="request")


class FailingVenue:
    """Raises what its list says, one a call, and then answers. Notes when each call began."""

    name = "failing"
    model = "m"

    def __init__(self, *errors: BaseException, latency_s: float = 0.0) -> None:
        self.errors = list(errors)
        self.begun_s: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._latency_s = latency_s

    def quote(self, request: CompletionRequest) -> int:
        return 17

    async def complete(self, request: CompletionRequest) -> Completion:
        self.begun_s.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._latency_s)
            if self.errors:
                raise self.errors.pop(0)
            return Completion(text="yes", model="m")
        finally:
            self.in_flight -= 1


def quick(venue, attempts: int = 4, **settings) -> Retried:
    return Retried(venue, attempts, **{"first_wait_s": 0.001, "longest_wait_s": 1} | settings)


async def test_the_port_stays_the_same_through_both_wrappers():
    venue = quick(Limited(FailingVenue(), 1))
    assert (venue.name, venue.model, venue.quote(REQUEST)) == ("failing", "m", 17)
    assert (await venue.complete(REQUEST)).text == "yes"


async def test_what_may_pass_is_tried_again_and_every_failure_is_told():
    told: list[tuple[str, int]] = []
    inner = FailingVenue(BUSY, VenueError("hung", retryable=True, paid_unknown=True))
    venue = quick(inner, on_failure=lambda request, error, attempt: told.append((str(error), attempt)))
    assert (await venue.complete(REQUEST)).text == "yes"
    assert told == [("busy", 1), ("hung", 2)]


async def test_after_the_last_attempt_its_own_error_is_raised():
    told: list[int] = []
    inner = FailingVenue(*[VenueError(f"busy {i}", retryable=True) for i in range(9)])
    venue = quick(inner, 3, on_failure=lambda request, error, attempt: told.append(attempt))
    with pytest.raises(VenueError, match="busy 2") as caught:
        await venue.complete(REQUEST)
    assert caught.value.retryable
    assert told == [1, 2, 3]


@pytest.mark.parametrize("error", [BAD, BudgetExhausted("spent", scope="run"), RuntimeError("bug")], ids=repr)
async def test_what_will_not_pass_is_raised_at_once(error):
    inner = FailingVenue(error)
    with pytest.raises(type(error)):
        await quick(inner).complete(REQUEST)
    assert len(inner.begun_s) == 1


async def test_a_final_failure_is_told_too():
    told: list[int] = []
    with pytest.raises(VenueError):
        await quick(FailingVenue(BAD), on_failure=lambda *what: told.append(what[2])).complete(REQUEST)
    assert told == [1]


async def test_a_venue_that_asks_for_a_pause_gets_it():
    inner = FailingVenue(VenueError("slow down", retryable=True, retry_after_s=0.15))
    await quick(inner).complete(REQUEST)
    assert inner.begun_s[1] - inner.begun_s[0] >= 0.15


async def test_a_pause_longer_than_we_wait_ends_the_tries():
    inner = FailingVenue(VenueError("tomorrow", retryable=True, retry_after_s=86_400))
    with pytest.raises(VenueError, match="tomorrow"):
        await quick(inner).complete(REQUEST)
    assert len(inner.begun_s) == 1


async def test_waits_differ_from_call_to_call_and_stay_under_their_doubling_limit():
    first_waits = []
    for _ in range(30):
        inner = FailingVenue(BUSY)
        await quick(inner, first_wait_s=0.04).complete(REQUEST)
        first_waits.append(inner.begun_s[1] - inner.begun_s[0])
    assert max(first_waits) - min(first_waits) > 0.005
    assert sorted(first_waits)[15] < 0.06


@pytest.mark.parametrize("wrap", [quick, lambda venue: Limited(venue, 1, 1000), lambda venue: quick(Limited(venue, 1))])
async def test_cancelling_passes_through_at_once_and_leaves_the_place_free(wrap: Callable):
    inner = FailingVenue(latency_s=0.05)
    venue = wrap(inner)
    call = asyncio.create_task(venue.complete(REQUEST))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(inner.begun_s) == 1
    assert (await asyncio.wait_for(venue.complete(REQUEST), 1)).text == "yes"


async def test_cancelling_ends_a_wait_between_attempts():
    inner = FailingVenue(VenueError("later", retryable=True, retry_after_s=30))
    call = asyncio.create_task(quick(inner, longest_wait_s=60).complete(REQUEST))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 1)


@settings(max_examples=20)
@given(concurrency=st.integers(1, 6), calls=st.integers(1, 25), failures=st.integers(0, 5))
def test_no_more_are_in_flight_than_the_limit_and_all_get_through(concurrency, calls, failures):
    async def run() -> FailingVenue:
        inner = FailingVenue(*[BUSY] * failures, latency_s=0.001)
        venue = quick(Limited(inner, concurrency), 9)
        answers = await asyncio.gather(*(venue.complete(REQUEST) for _ in range(calls)))
        assert [answer.text for answer in answers] == ["yes"] * calls
        return inner

    inner = asyncio.run(run())
    assert inner.most_in_flight <= concurrency
    assert inner.most_in_flight == min(concurrency, calls)
    assert len(inner.begun_s) == calls + failures


async def test_a_waiting_retry_leaves_its_place_to_others():
    inner = FailingVenue(VenueError("slow down", retryable=True, retry_after_s=0.3))
    venue = quick(Limited(inner, 1))
    waiting = asyncio.create_task(venue.complete(REQUEST))
    await asyncio.sleep(0.02)
    await asyncio.wait_for(venue.complete(REQUEST), 0.2)
    assert not waiting.done()
    await waiting


async def test_starts_are_spaced_evenly_with_no_burst_at_first_or_after_a_pause():
    inner = FailingVenue()
    venue = Limited(inner, 100, rate_per_s=50)
    await asyncio.gather(*(venue.complete(REQUEST) for _ in range(6)))
    await asyncio.sleep(0.1)
    await asyncio.gather(*(venue.complete(REQUEST) for _ in range(6)))
    gaps = [later - earlier for earlier, later in zip(inner.begun_s, inner.begun_s[1:], strict=False)]
    assert sum(gaps[:5]) >= 5 * 0.02 - 0.002
    assert sum(gaps[6:]) >= 5 * 0.02 - 0.002


async def test_a_fast_rate_is_kept_over_many_calls():
    inner = FailingVenue()
    venue = Limited(inner, 1_000, rate_per_s=2_000)
    await asyncio.gather(*(venue.complete(REQUEST) for _ in range(400)))
    assert inner.begun_s[-1] - inner.begun_s[0] >= 0.19


@pytest.mark.parametrize(("concurrency", "rate"), [(0, None), (-1, None), (1, 0), (1, -2.0)])
def test_a_limit_that_lets_nothing_through_is_refused(concurrency, rate):
    with pytest.raises(ValueError, match="no call through"):
        Limited(FailingVenue(), concurrency, rate)
