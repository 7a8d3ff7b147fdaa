"""Events that relays keep, lose and pretend to keep; a persistent relay that is killed and comes back."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection

from blocks.relays import RelayError, RelayPool
from swarmc.contracts.relay import Filter
from tests.nostr.market_events import an_event, wire
from tests.nostr.persistent_relay import persistent_relay
from tests.nostr.relays import LyingRelay, honest, lying_relay, real_relay, refusing, send

NOBODY = "ws://127.0.0.1:1"
JOBS = [Filter(kinds=(5050,))]


async def forgetful(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
    """Says OK to everything and keeps what it is given the second time."""
    if message[0] == "EVENT" and sum(one[0] == "EVENT" for one in relay.heard) == 1:
        relay.events.clear()
    await honest(relay, socket, message)


async def keeping_nothing(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
    relay.events.clear()
    await honest(relay, socket, message)


@pytest.mark.attack("A6")
async def test_an_event_that_a_relay_took_and_dropped_is_offered_again_until_it_gives_it_back() -> None:
    event = an_event()
    async with lying_relay(forgetful) as liar, RelayPool([liar.url]) as relays:
        assert (await relays.publish(event)).accepted == (liar.url,)
        assert (await relays.fetch(JOBS)).events == ()
        assert (await relays.confirm(event)).accepted == (liar.url,)
        assert (await relays.fetch(JOBS)).events == (event,)


@pytest.mark.attack("A6")
async def test_an_ok_that_no_quorum_can_prove_is_an_error_that_names_the_liar() -> None:
    event = an_event()
    async with lying_relay(keeping_nothing) as liar, real_relay() as good:
        async with RelayPool([liar.url, good], quorum=2) as relays:
            assert len((await relays.publish(event)).accepted) == 2
            with pytest.raises(RelayError, match=r"1 of 2 relays have it, 2 must; .*does not give back") as caught:
                await relays.confirm(event)
            assert [answer.outcome for answer in caught.value.answers] == ["refused", "accepted"]
        async with RelayPool([liar.url, good]) as relays:
            assert (await relays.confirm(event)).accepted == (good,)


@pytest.mark.attack("A6")
async def test_an_event_that_a_relay_gives_back_rewritten_is_not_confirmed() -> None:
    event = an_event()

    async def rewriting(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if message[0] == "REQ":
            await send(socket, "EVENT", message[1], {**wire(event), "content": "cheaper"})
        await honest(relay, socket, message)

    async with lying_relay(rewriting) as liar, RelayPool([liar.url]) as relays:
        await relays.publish(event)
        with pytest.raises(RelayError, match="0 of 1 relays have it"):
            await relays.confirm(event)


@pytest.mark.attack("A7")
async def test_every_refusal_has_a_path_of_its_own() -> None:
    paths = {"duplicate: have it": "", "blocked: you": "refused blocked: you", "pow: 20 bits": "refused pow: 20 bits"}
    paths |= {"auth-required: who": "refused auth-required: who", "rate-limited: slow": "nothing within"}
    for reason, said in paths.items():
        async with lying_relay(refusing(reason)) as relay, RelayPool([relay.url], timeout_s=1) as relays:
            if not said:
                assert (await relays.publish(an_event(reason))).accepted == (relay.url,)
                continue
            with pytest.raises(RelayError, match=said) as caught:
                await relays.publish(an_event(reason))
            assert caught.value.retryable == reason.startswith("rate-limited:")


async def test_the_quickest_relay_is_offered_an_event_first_and_health_says_how_quick_it_is() -> None:
    order: list[str] = []

    async def slow(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        order.append("slow")
        await asyncio.sleep(0.15)
        await honest(relay, socket, message)

    async def quick(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        order.append("quick")
        await honest(relay, socket, message)

    async with lying_relay(slow) as one, lying_relay(quick) as two, RelayPool([one.url, two.url], quorum=2) as relays:
        for number in range(3):
            await relays.publish(an_event(str(number)))
        assert [len(order), order[-2]] == [6, "quick"]
        first, second = (health.latency_ms for health in relays.health)
        assert first is not None
        assert second is not None
        assert first > 100 > second


@pytest.mark.attack("A8")
async def test_a_relay_that_is_away_is_not_waited_for_once_another_has_answered() -> None:
    event = an_event()
    async with real_relay() as good, RelayPool([good, NOBODY], timeout_s=20) as relays:
        await relays.publish(event)
        began_s = time.monotonic()
        found = await relays.fetch(JOBS)
        assert found.events == (event,)
        assert [answer.outcome for answer in found.answers] == ["accepted", "unanswered"]
        assert "ConnectionRefused" in found.answers[1].reason
        assert time.monotonic() - began_s < 5


@pytest.mark.slow
@pytest.mark.attack("A5")
@pytest.mark.attack("A8")
async def test_a_persistent_relay_that_is_killed_and_comes_back_gives_each_event_once(tmp_path: Path) -> None:
    before, meanwhile, after = an_event("before"), an_event("meanwhile"), an_event("after")
    async with (
        persistent_relay(tmp_path) as kept,
        RelayPool([kept.url], timeout_s=30) as seller,
        seller.subscribe([Filter(kinds=(5050,), since=int(time.time()) - 60)]) as events,
    ):
        async with RelayPool([kept.url]) as buyer:
            await buyer.publish(before)
        assert await anext(events) == before
        kept.kill()
        await kept.start()
        async with RelayPool([kept.url], timeout_s=30) as buyer:
            # Known to the relay before the seller's line is up again, or told to it live: heard either way.
            await buyer.publish(meanwhile)
            assert await anext(events) == meanwhile
            await buyer.publish(after)
            assert await anext(events) == after
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                raise AssertionError(f"again: {await anext(events)}")


@pytest.mark.slow
@pytest.mark.attack("A5")
@pytest.mark.attack("A8")
async def test_what_is_published_elsewhere_while_one_relay_is_down_arrives_once(tmp_path: Path) -> None:
    sent = [an_event(str(number)) for number in range(6)]
    async with (
        real_relay() as other,
        persistent_relay(tmp_path) as kept,
        RelayPool([kept.url, other], timeout_s=30) as seller,
        seller.subscribe(JOBS) as events,
    ):
        async with RelayPool([kept.url, other], quorum=2) as buyer:
            for event in sent[:2]:
                await buyer.publish(event)
        kept.kill()
        async with RelayPool([other]) as buyer:
            for event in sent[2:4]:
                await buyer.publish(event)
        await kept.start()
        async with RelayPool([kept.url, other], quorum=2, timeout_s=30) as buyer:
            for event in sent:
                await buyer.publish(event)
        found = []
        with suppress(TimeoutError):
            async with asyncio.timeout(4):
                async for event in events:
                    found.append(event)
        assert sorted(event.content for event in found) == ["0", "1", "2", "3", "4", "5"]
        assert all(health.connected for health in seller.health)


@pytest.mark.slow
async def test_a_persistent_relay_takes_duplicates_confirms_and_refuses_without_a_name(tmp_path: Path) -> None:
    event, ancient = an_event(), an_event(ago_s=3 * 365 * 86_400)
    async with persistent_relay(tmp_path) as kept:
        for _ in range(2):  # The second pool does not know that the relay has it: OK false "duplicate:".
            async with RelayPool([kept.url]) as relays:
                assert (await relays.publish(event)).accepted == (kept.url,)
                assert (await relays.confirm(event)).accepted == (kept.url,)
        async with RelayPool([kept.url]) as relays:
            with pytest.raises(RelayError, match="refused"):
                await relays.publish(ancient)
