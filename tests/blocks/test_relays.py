"""Relays: real ones, and every way in which one may lie, drop, flood or fall silent."""

import asyncio
import json
import time

import pytest
from pydantic import ValidationError
from websockets.asyncio.server import ServerConnection

from blocks.relays import RelayError, RelayPool, Relays
from blocks.relays.backoff import BackOff
from swarmc.contracts.relay import Filter, NostrEvent, UnsignedNote
from swarmc.nostr.events import sign_note
from swarmc.nostr.keys import SecretKey
from tests.nostr.relays import LyingRelay, honest, lying_relay, mute, real_relay, refusing, send

KEY = SecretKey.generate()
NOWHERE = "ws://127.0.0.1:9"


def an_event(content: str = "", *, key: SecretKey = KEY, tags: tuple = (("t", "run"),), at: int = 0) -> NostrEvent:
    return sign_note(UnsignedNote(kind=78, created_at=at or int(time.time()), tags=tags, content=content), key)


def without_sigs(events: tuple[NostrEvent, ...]) -> set[str]:
    return {event.id for event in events}


async def test_what_is_published_is_read_back_from_a_real_relay() -> None:
    events = [an_event(f"{number} é\x01\u2028😀", at=1_700_000_000 + number) for number in range(5)]
    async with real_relay() as url, RelayPool([url]) as relays:
        for event in reversed(events):
            assert (await relays.publish(event)).accepted == (url,)
        found = await relays.fetch([Filter(tags={"t": ("run",)}, authors=(KEY.pubkey,))])
        assert found.events == tuple(events)
        assert (await relays.fetch([Filter(ids=(events[2].id,))])).events == (events[2],)
        assert (await relays.fetch([Filter(kinds=(1,))])).events == ()
        assert (await relays.fetch([Filter(kinds=(78,))], limit=2)).events == tuple(events[-2:])


async def test_many_publish_at_once_and_each_is_answered() -> None:
    events = [an_event(str(number)) for number in range(60)]
    async with real_relay() as one, real_relay() as other, RelayPool([one, other], quorum=2) as relays:
        done = await asyncio.gather(*(relays.publish(event) for event in events))
        assert [len(published.accepted) for published in done] == [2] * 60
        found = await relays.fetch([Filter(kinds=(78,))])
        assert without_sigs(found.events) == {event.id for event in events}
        assert [health.accepted for health in relays.health] == [60, 60]


async def test_an_event_that_was_taken_is_not_sent_again() -> None:
    event = an_event()
    async with lying_relay(honest) as relay, RelayPool([relay.url]) as relays:
        await asyncio.gather(*(relays.publish(event) for _ in range(5)))
        await relays.publish(event)
        assert len([message for message in relay.heard if message[0] == "EVENT"]) == 1


async def test_a_quorum_is_enough_and_less_is_an_error_that_names_each_relay() -> None:
    async with lying_relay(honest) as good, lying_relay(refusing("blocked: not you")) as bad:
        async with RelayPool([good.url, bad.url, NOWHERE], quorum=1, timeout_s=2) as relays:
            assert (await relays.publish(an_event())).accepted == (good.url,)
        async with RelayPool([good.url, bad.url, NOWHERE], quorum=2, timeout_s=0.6) as relays:
            event = an_event("two")
            with pytest.raises(RelayError) as caught:
                await relays.publish(event)
    said = str(caught.value)
    assert f"{event.id[:16]} (kind 78): 1 of 3 relays took it, 2 must" in said
    assert f"{bad.url}: refused blocked: not you" in said
    assert "unanswered nothing within 0.6 s: " in said
    assert caught.value.retryable
    assert caught.value.code == "relay"


async def test_a_refusal_by_all_is_known_at_once_and_not_worth_a_retry() -> None:
    async with lying_relay(refusing("invalid: no")) as bad, RelayPool([bad.url], timeout_s=30) as relays:
        began = time.monotonic()
        with pytest.raises(RelayError, match="refused invalid: no") as caught:
            await relays.publish(an_event())
        assert time.monotonic() - began < 5
        assert not caught.value.retryable
        assert relays.health[0].refused == 1


@pytest.mark.parametrize(("reason", "event_id", "taken"), [("duplicate: have it", None, True), ("blocked:", "", False)])
async def test_a_duplicate_is_a_success_and_a_refusal_without_an_id_is_understood(
    reason: str, event_id: str | None, taken: bool
) -> None:
    async with lying_relay(refusing(reason, event_id=event_id)) as relay, RelayPool([relay.url], timeout_s=5) as relays:
        if taken:
            assert (await relays.publish(an_event())).accepted == (relay.url,)
            return
        with pytest.raises(RelayError, match="refused blocked:"):
            await relays.publish(an_event())


async def test_a_relay_that_limits_the_rate_is_asked_again() -> None:
    async def limiting(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        first = sum(heard[0] == "EVENT" for heard in relay.heard) == 1
        await (refusing("rate-limited: slow down") if first else honest)(relay, socket, message)

    async with lying_relay(limiting) as relay, RelayPool([relay.url], timeout_s=10) as relays:
        assert (await relays.publish(an_event())).accepted == (relay.url,)


async def test_a_relay_that_never_answers_costs_its_time_and_no_more() -> None:
    async with lying_relay(mute) as relay, RelayPool([relay.url], timeout_s=0.3) as relays:
        began = time.monotonic()
        for _ in range(4):
            with pytest.raises(RelayError, match=r"nothing within 0\.3 s: "):
                await relays.publish(an_event())
        with pytest.raises(RelayError, match="reading events back from 1 relays: none answered"):
            await relays.fetch([Filter()])
        assert time.monotonic() - began < 4
        assert relays.health[0].unanswered == 5
        assert relay.connections > 1  # A connection that is mute is given up.


async def test_an_event_survives_a_relay_that_drops_the_connection() -> None:
    async def dropping(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if relay.connections < 3:
            await socket.close()
        else:
            await honest(relay, socket, message)

    async with lying_relay(dropping) as relay, RelayPool([relay.url], timeout_s=10) as relays:
        event = an_event()
        assert (await relays.publish(event)).accepted == (relay.url,)
        assert (await relays.fetch([Filter()])).events == (event,)
        assert relay.connections == 3


async def test_a_relay_that_comes_up_late_gets_what_waited_for_it() -> None:
    async with lying_relay(honest) as relay:
        relay.silent = True
        async with RelayPool([relay.url], timeout_s=10) as relays:
            waiting = asyncio.create_task(relays.publish(an_event()))
            await asyncio.sleep(0.3)
            relay.silent = False
            assert (await waiting).accepted == (relay.url,)


async def test_who_waits_does_not_sit_out_a_long_pause_except_after_a_flood() -> None:
    began = time.monotonic()
    backoff = BackOff(first_s=60, hurried_s=0.05, flood_s=0.5)
    resting = asyncio.create_task(backoff.rest(waited_for=False))
    await asyncio.sleep(0.1)
    assert not resting.done()
    backoff.hurry()
    await resting
    await backoff.rest(waited_for=True)
    assert time.monotonic() - began < 5
    flooded = BackOff(first_s=0.01, hurried_s=0.01, flood_s=0.5)
    flooded.flooded()
    flooded.hurry()
    began = time.monotonic()
    await flooded.rest(waited_for=True)
    assert time.monotonic() - began > 0.2


async def test_pauses_grow_to_a_bound_and_start_again_after_a_success() -> None:
    backoff = BackOff(first_s=0.01, longest_s=0.08)
    for _ in range(6):
        await backoff.rest(waited_for=False)
    began = time.monotonic()
    await backoff.rest(waited_for=False)
    assert 0.03 < time.monotonic() - began < 0.5
    backoff.worked()
    began = time.monotonic()
    await backoff.rest(waited_for=False)
    assert time.monotonic() - began < 0.03


async def test_events_that_are_rewritten_forged_or_not_asked_for_are_left_out() -> None:
    true, other = an_event("true"), an_event("other", tags=(("t", "else"),))

    async def lying(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if message[0] == "REQ":
            fields = json.loads(true.model_dump_json())
            for lie in ({"content": "x"}, {"sig": "0" * 128}, {"id": "0" * 64}, {"kind": "78"}, {"tags": [None]}):
                await send(socket, "EVENT", message[1], {**fields, **lie})
            for value in (None, [], "x", {}, json.loads(other.model_dump_json()), fields, fields):
                await send(socket, "EVENT", message[1], value)
            await send(socket, "EVENT", "another", fields)
            await socket.send("[" * 5000)
        await honest(relay, socket, message)

    async with lying_relay(lying) as relay, RelayPool([relay.url], timeout_s=5) as relays:
        found = await relays.fetch([Filter(tags={"t": ("run",)})])
        assert found.events == (true,)
        assert (relays.health[0].unfit, relays.health[0].received) == (13, 1)


async def test_the_same_event_from_three_relays_comes_once_and_in_one_order() -> None:
    events = [an_event(str(number), at=1_700_000_000 + number % 2) for number in range(6)]
    async with lying_relay(honest) as one, lying_relay(honest) as two, lying_relay(honest) as three:
        for relay, order in ((one, events), (two, events[::-1]), (three, events[3:] + events[:2])):
            relay.events = {event.id: json.loads(event.model_dump_json()) for event in order}
        async with RelayPool([one.url, two.url, three.url]) as relays:
            found = (await relays.fetch([Filter(kinds=(78,))])).events
    assert found == tuple(sorted(events, key=lambda event: (event.created_at, event.id)))


async def test_a_flood_ends_that_relay_and_not_the_reader() -> None:
    async def flooding(_: LyingRelay, socket: ServerConnection, message: list) -> None:
        for number in range(50_000):
            await send(socket, "EVENT", message[1], {"id": str(number)})

    event = an_event()
    async with lying_relay(flooding) as bad, lying_relay(honest) as good:
        good.events = {event.id: json.loads(event.model_dump_json())}
        async with RelayPool([bad.url, good.url], timeout_s=5) as relays:
            found = await relays.fetch([Filter()])
            assert found.events == (event,)
            assert [answer.outcome for answer in found.answers] == ["refused", "accepted"]


async def test_noise_and_giant_frames_break_only_the_line_they_come_over() -> None:
    async def noisy(_: LyingRelay, socket: ServerConnection, __: list) -> None:
        for _number in range(2000):
            await send(socket, "NOTICE", "hear me")

    async def giant(_: LyingRelay, socket: ServerConnection, __: list) -> None:
        await socket.send('["NOTICE","' + "x" * (8 << 20) + '"]')

    async with (
        lying_relay(noisy) as one,
        lying_relay(giant) as two,
        lying_relay(honest) as good,
        RelayPool([one.url, two.url, good.url], timeout_s=2) as relays,
    ):
        event = an_event()
        await relays.publish(event)
        found = await relays.fetch([Filter()])
        assert found.events == (event,)
        assert "nobody asked for" in found.answers[0].reason
        assert "1009" in found.answers[1].reason


async def test_a_reader_waits_for_no_end_that_never_comes_and_says_who_was_silent() -> None:
    event = an_event()

    async def endless(_: LyingRelay, socket: ServerConnection, message: list) -> None:
        await send(socket, "EVENT", message[1], json.loads(event.model_dump_json()))

    async def closing(_: LyingRelay, socket: ServerConnection, message: list) -> None:
        await send(socket, "CLOSED", message[1], "auth-required: who are you")

    async with (
        lying_relay(endless) as one,
        lying_relay(closing) as two,
        RelayPool([one.url, two.url, NOWHERE], timeout_s=0.5) as relays,
    ):
        found = await relays.fetch([Filter()])
    assert found.events == (event,)
    assert [answer.outcome for answer in found.answers] == ["unanswered", "refused", "unanswered"]
    assert found.answers[1].reason == "auth-required: who are you"


async def test_a_relay_that_gives_more_than_the_limit_is_stopped() -> None:
    events = [an_event(str(number), at=1_700_000_000 + number) for number in range(30)]
    async with lying_relay(honest) as relay, RelayPool([relay.url]) as relays:
        relay.events = {event.id: json.loads(event.model_dump_json()) for event in events}
        assert len((await relays.fetch([Filter()], limit=10)).events) == 10
        assert relay.heard[0][2] == {"limit": 10}


async def test_closing_ends_everything_soon_and_says_so_to_those_who_wait() -> None:
    async with lying_relay(mute) as relay:
        began = time.monotonic()
        async with RelayPool([relay.url, NOWHERE], timeout_s=60) as relays:
            publishing = asyncio.create_task(relays.publish(an_event()))
            fetching = asyncio.create_task(relays.fetch([Filter()]))
            await asyncio.sleep(0.2)
        for waiting in (publishing, fetching):
            with pytest.raises(RelayError, match="we hung up"):
                await waiting
        assert time.monotonic() - began < 6


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"urls": []}, "at least 1"), ({"urls": [f"wss://a{number}" for number in range(21)]}, "at most 20"),
        ({"urls": ["http://relay.example.org"]}, "is no relay's address"), ({"urls": ["wss://"]}, "'this' is no relay"),
        ({"urls": ["wss://ada:hunter2@host"]}, "'host' is no relay's address"),
        ({"urls": ["wss://a"], "quorum": 2}, "quorum of 2 cannot be had of 1"),
        ({"urls": ["wss://a", "wss://a/"], "quorum": 2}, "quorum of 2 cannot be had of 1"),
        ({"urls": ["wss://a"], "quorum": 0}, "greater than or equal"),
        ({"urls": ["wss://a"], "timeout_s": 0}, "greater than 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_without_telling_a_password(settings: dict, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as caught:
        Relays(**settings)
    assert "hunter2" not in str(caught.value)


async def test_the_saved_block_opens_the_same_relays() -> None:
    async with real_relay() as url, Relays(urls=[url + "/"], quorum=1, timeout_s=5).open() as relays:
        assert (await relays.publish(an_event())).accepted == (url,)
