"""Standing subscriptions: nothing lost, nothing twice, nothing untrue, whatever relays do."""

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.server import ServerConnection

from blocks.relays import RelayError, RelayPool, standing
from blocks.relays.dialling import own_dial
from blocks.relays.line import Line
from blocks.relays.subscription import Subscription
from swarmc.contracts.relay import Filter, NostrEvent
from tests.nostr.market_events import KEY, an_event, wire
from tests.nostr.relays import LyingRelay, fitting, honest, lying_relay, mute, real_relay, send, slow_wire, until

JOBS = [Filter(kinds=(5050,))]
NOWHERE = "ws://127.0.0.1:9"


async def heard(events: AsyncIterator[NostrEvent], *, quiet_s: float = 0.4) -> list[NostrEvent]:
    """All that comes until nothing comes any more."""
    found = []
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(quiet_s):
                found.append(await anext(events))
    return found


@asynccontextmanager
async def impatient(relay: LyingRelay) -> AsyncIterator[AsyncIterator[NostrEvent]]:
    """A subscription that asks again very soon."""
    line = Line(relay.url, timeout_s=5)
    line.start()
    try:
        async with Subscription([line], JOBS, timeout_s=5, pause_s=0.01) as events:
            yield events
    finally:
        await line.aclose()


async def test_what_is_published_after_entering_is_heard_once_over_three_real_relays() -> None:
    async with (
        real_relay() as one,
        real_relay() as two,
        real_relay() as three,
        RelayPool([one, two, three], quorum=3) as buyer,
        RelayPool([one, two, three]) as seller,
        seller.subscribe(JOBS) as events,
    ):
        sent = [an_event(str(number)) for number in range(40)]
        await asyncio.gather(*(buyer.publish(event) for event in (*sent, an_event("else", kind=5051))))
        found = await heard(events)
    assert sorted(event.content for event in found) == sorted(event.content for event in sent)


async def test_an_answer_that_comes_before_the_publishing_ends_is_not_lost() -> None:
    answer = an_event("early", kind=6050)

    async def hasty(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if message[0] == "EVENT":
            await relay.tell(wire(answer))
            await asyncio.sleep(0.2)
        await honest(relay, socket, message)

    async with (
        lying_relay(hasty) as relay,
        RelayPool([relay.url]) as relays,
        relays.subscribe([Filter(kinds=(6050,))]) as events,
    ):
        publishing = asyncio.create_task(relays.publish(an_event()))
        assert await anext(events) == answer
        assert not publishing.done()
        await publishing


@pytest.mark.attack("A1")
@pytest.mark.attack("A11")
@pytest.mark.parametrize("lie", [{"id": "0" * 64}, {"content": "rewritten"}, {"kind": 6050}, {"sig": "0" * 128}])
async def test_an_event_that_a_relay_rewrote_is_dropped_counted_and_does_not_hide_the_true_one(lie: dict) -> None:
    event = an_event("true")
    async with (
        lying_relay(honest) as liar,
        lying_relay(honest) as good,
        RelayPool([liar.url, good.url]) as relays,
        relays.subscribe(JOBS) as events,
    ):
        await liar.tell({**wire(event), **lie})
        await until(lambda: relays.health[0].unfit == 1)
        await good.tell(wire(event))
        await liar.tell({**wire(event), "content": "rewritten after the true one came"})
        assert await heard(events) == [event]


@pytest.mark.attack("A2")
@pytest.mark.attack("A3")
async def test_no_malformed_event_breaks_the_line_or_deafens_it() -> None:
    fields = wire(an_event("bad"))
    bad = [
        None, 7, [], "x", {}, {**fields, "kind": "5050"}, {**fields, "created_at": 1.5}, {**fields, "tags": ["t"]},
        {**fields, "tags": [[1]]}, {**fields, "id": "x" * 64}, {**fields, "sig": fields["sig"][:-2]},
        {**fields, "pubkey": "f" * 64}, {**fields, "pubkey": fields["pubkey"].upper()}, {**fields, "content": "\ud800"},
        {name: value for name, value in fields.items() if name != "tags"}, {**fields, "id": ["x"]},
    ]  # fmt: skip
    odd = an_event("odd", tags=((), ("e",), ("t", "run")))
    async with (
        lying_relay(honest) as relay,
        RelayPool([relay.url]) as relays,
        relays.subscribe([Filter(kinds=(5050,), tags={"t": ("run",)})]) as events,
    ):
        await relay.tell(*bad, wire(odd))
        assert await heard(events) == [odd]
        assert (relays.health[0].unfit, relay.connections) == (len(bad), 1)


@pytest.mark.attack("A4")
async def test_events_that_nobody_asked_for_are_ignored_and_counted() -> None:
    wanted = Filter(kinds=(5050,), authors=(KEY.pubkey,), tags={"e": ("ab",)}, since=int(time.time()) - 60)
    other_key = type(KEY).generate()
    event = an_event("asked for", tags=(("e", "ab"),))
    strangers = [
        an_event(kind=6050, tags=(("e", "ab"),)), an_event(key=other_key, tags=(("e", "ab"),)),
        an_event(tags=(("e", "cd"),)), an_event(tags=(("e", "ab"),), ago_s=90),
    ]  # fmt: skip
    async with lying_relay(honest) as relay, RelayPool([relay.url]) as relays, relays.subscribe([wanted]) as events:
        await relay.tell(*map(wire, strangers), wire(event))
        assert await heard(events) == [event]
        assert relays.health[0].unfit == len(strangers)


@pytest.mark.attack("A5")
async def test_the_same_event_over_relays_and_reconnects_comes_once() -> None:
    event = an_event("once")
    async with lying_relay(honest) as one, lying_relay(honest) as two, lying_relay(honest) as three:
        relays_ = (one, two, three)
        async with RelayPool([relay.url for relay in relays_]) as relays, relays.subscribe(JOBS) as events:
            for relay in relays_:
                relay.events[event.id] = wire(event)
                await relay.tell(wire(event), wire(event))
                relay.drop()
            await until(lambda: all(relay.connections == 2 and relay.open for relay in relays_))
            assert await heard(events) == [event]


@pytest.mark.attack("A8")
async def test_after_a_break_a_relay_is_asked_from_its_newest_event_less_an_overlap() -> None:
    now_s = int(time.time())
    first, missed = an_event("first", ago_s=5), an_event("missed", ago_s=100)
    tomorrow = an_event("tomorrow", ago_s=-86_400)
    async with (
        lying_relay(fitting) as relay,
        RelayPool([relay.url]) as relays,
        relays.subscribe([Filter(kinds=(5050,), since=now_s - 9000)]) as events,
    ):
        await relay.tell(wire(first), wire(tomorrow))
        assert await heard(events) == [first, tomorrow]
        relay.events = {event.id: wire(event) for event in (first, missed)}
        relay.drop()
        assert await anext(events) == missed
        asked = [request[2]["since"] for request in relay.requests()]
        assert asked[0] == now_s - 9000
        assert now_s - standing.OVERLAP_S - 10 < asked[1] <= int(time.time()) - standing.OVERLAP_S


@pytest.mark.attack("A8")
async def test_what_a_relay_gives_in_pages_is_read_to_the_end_before_the_past_is_left_behind() -> None:
    events_ = [an_event(str(number), ago_s=max(number - 30, 0)) for number in range(130)]
    async with lying_relay(fitting) as relay, RelayPool([relay.url]) as relays:
        relay.events = {event.id: wire(event) for event in events_}
        async with relays.subscribe([Filter(kinds=(5050,), since=1)]) as events:
            assert {event.id for event in await heard(events)} == {event.id for event in events_}
            live = an_event("live")
            await relay.tell(wire(live))
            assert await anext(events) == live
            assert len(relay.open) == 1  # The pages are taken back; the ear stays.


@pytest.mark.attack("A8")
async def test_a_break_in_the_middle_of_what_is_stored_loses_nothing() -> None:
    stored = [an_event(str(number), ago_s=number * 100) for number in range(10)]

    async def breaking(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if relay.connections > 1:
            return await fitting(relay, socket, message)
        for event in stored[:3]:
            await send(socket, "EVENT", message[1], wire(event))
        return socket.transport.abort()

    async with lying_relay(breaking) as relay, RelayPool([relay.url]) as relays:
        relay.events = {event.id: wire(event) for event in stored}
        async with relays.subscribe([Filter(kinds=(5050,), since=1)]) as events:
            assert {event.id for event in await heard(events, quiet_s=1.5)} == {event.id for event in stored}


@pytest.mark.attack("A8")
async def test_a_relay_that_never_says_that_it_has_no_more_is_heard_all_the_same() -> None:
    event = an_event()
    async with lying_relay(mute) as relay, RelayPool([relay.url, NOWHERE]) as relays:
        began = time.monotonic()
        async with relays.subscribe(JOBS) as events:
            assert time.monotonic() - began < 2
            await relay.tell(wire(event))
            assert await anext(events) == event


@pytest.mark.attack("A8")
@pytest.mark.parametrize("drip_bytes", [0, 1])
async def test_a_socket_that_is_half_open_or_drips_is_given_up_and_the_subscription_restored(drip_bytes: int) -> None:
    event = an_event("x" * 5000)
    async with lying_relay(honest) as relay, slow_wire(relay) as wire_:
        line = Line(wire_.url, timeout_s=5, dial_with=own_dial(ping_every_s=0.2))
        line.start()
        async with Subscription([line], JOBS, timeout_s=5) as events:
            wire_.drip_bytes = drip_bytes
            relay.events[event.id] = wire(event)
            await relay.tell(wire(event))
            await until(lambda: relay.connections == 2)
            assert await anext(events) == event
        assert "1011" in line.health.last_reason
        await line.aclose()


async def test_a_relay_that_comes_back_is_asked_and_heard() -> None:
    event = an_event()
    async with lying_relay(honest) as late, lying_relay(honest) as good:
        late.silent = True
        async with RelayPool([late.url, good.url]) as relays, relays.subscribe(JOBS) as events:
            late.silent = False
            await until(lambda: late.open)
            await late.tell(wire(event))
            assert await anext(events) == event


async def test_entering_where_no_relay_can_be_reached_is_an_error_that_says_why() -> None:
    async with RelayPool([NOWHERE], timeout_s=0.5) as relays:
        with pytest.raises(
            RelayError, match=r"none could be reached; ws://127\.0\.0\.1:9: unanswered .*Refused"
        ) as caught:
            async with relays.subscribe(JOBS):
                pass
    assert caught.value.retryable


async def test_a_reader_that_is_too_slow_gets_what_came_and_then_an_error() -> None:
    events_ = [an_event(str(number)) for number in range(8)]
    async with (
        lying_relay(honest) as relay,
        RelayPool([relay.url], most_queued=5) as relays,
        relays.subscribe(JOBS) as events,
    ):
        await relay.tell(*map(wire, events_))
        await until(lambda: relays.health[0].received == 8)
        assert [await anext(events) for _ in range(5)] == events_[:5]
        with pytest.raises(RelayError, match="the reader is too slow, 5 events"):
            await anext(events)


@pytest.mark.attack("A9")
@pytest.mark.parametrize("reason", ["error: shutting down", "rate-limited: later", "blocked:"])
async def test_a_relay_that_closes_the_subscription_is_asked_again(reason: str) -> None:
    event = an_event()

    async def closing(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if message[0] == "REQ" and len(relay.requests()) < 3:
            await send(socket, "CLOSED", message[1], reason)
        else:
            await honest(relay, socket, message)

    async with lying_relay(closing) as relay:
        relay.events[event.id] = wire(event)
        async with impatient(relay) as events:
            assert await anext(events) == event
    assert (len(relay.requests()), relay.connections) == (3, 1)


@pytest.mark.attack("A9")
async def test_a_relay_that_closes_it_again_and_again_is_given_up_and_the_reader_told() -> None:
    async def closing(_: LyingRelay, socket: ServerConnection, message: list) -> None:
        await send(socket, "CLOSED", message[1], "restricted: not you")

    async with lying_relay(closing) as relay, impatient(relay) as events:
        with pytest.raises(RelayError, match=r"none of them tells us any more; .*refused restricted: not you"):
            await anext(events)
    assert len(relay.requests()) == 1 + standing.MOST_ASKED_AGAIN


@pytest.mark.attack("A9")
async def test_a_flood_of_untrue_events_ends_that_line_and_the_other_is_heard_on() -> None:
    event = an_event()
    async with (
        lying_relay(honest) as bad,
        lying_relay(honest) as good,
        RelayPool([bad.url, good.url]) as relays,
        relays.subscribe(JOBS) as events,
    ):
        with suppress(Exception):
            await bad.tell(*({"id": str(number)} for number in range(3000)))
        await good.tell(wire(event))
        assert await anext(events) == event
        await until(lambda: "nobody asked for" in relays.health[0].last_reason)
        assert not relays.health[0].connected
        assert relays.health[0].unfit <= 1100


@pytest.mark.attack("A9")
async def test_a_relay_that_repeats_itself_without_end_is_hung_up_on() -> None:
    event = wire(an_event())
    async with lying_relay(honest) as relay, RelayPool([relay.url]) as relays, relays.subscribe(JOBS) as events:
        with suppress(Exception):
            for _ in range(100):
                await relay.tell(*([event] * 50))
        assert len(await heard(events)) == 1
        await until(lambda: relays.health[0].unfit > 900)


@pytest.mark.attack("A10")
async def test_a_hundred_events_of_ten_megabytes_close_that_line_only_and_memory_stays_bounded() -> None:
    giant = '["EVENT","x",{"content":"' + "x" * (10 << 20) + '"}]'

    async def giving(_: LyingRelay, socket: ServerConnection, message: list) -> None:
        for _number in range(100):
            await socket.send(giant)

    event = an_event()
    async with lying_relay(giving) as bad, lying_relay(honest) as good:
        tracemalloc.start()
        try:
            async with RelayPool([bad.url, good.url]) as relays, relays.subscribe(JOBS) as events:
                await good.tell(wire(event))
                assert await anext(events) == event
                await until(lambda: "1009" in relays.health[0].last_reason)
            assert tracemalloc.get_traced_memory()[1] < 60 << 20  # Both sides, and the relay's own copies.
        finally:
            tracemalloc.stop()


@pytest.mark.attack("A12")
async def test_relays_that_disagree_on_the_order_give_the_same_events() -> None:
    events_ = [an_event(str(number), ago_s=number % 7) for number in range(30)]
    async with (
        lying_relay(honest) as one,
        lying_relay(honest) as two,
        RelayPool([one.url, two.url]) as relays,
        relays.subscribe(JOBS) as first,
        relays.subscribe(JOBS) as second,
    ):
        await one.tell(*map(wire, events_))
        await two.tell(*map(wire, reversed(events_)))
        found = [await heard(first), await heard(second)]
    assert [sorted(event.content for event in some) for some in found] == [sorted(e.content for e in events_)] * 2


async def test_closing_the_relays_ends_the_reading_with_an_error() -> None:
    async with lying_relay(honest) as relay, RelayPool([relay.url]) as relays, relays.subscribe(JOBS) as events:
        await relays.__aexit__(None, None, None)
        with pytest.raises(RelayError, match="we hung up"):
            await anext(events)
