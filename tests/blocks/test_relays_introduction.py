"""NIP-42: telling relays who we are, and no more than that."""

import asyncio
import time

import pytest
from websockets.asyncio.server import ServerConnection

from blocks.relays import RelayError, RelayPool
from blocks.relays.introduction import MOST_CHALLENGES
from swarmc.contracts.relay import Filter, NostrEvent
from swarmc.nostr.events import check_event
from tests.nostr.market_events import KEY, an_event
from tests.nostr.relays import LyingRelay, honest, lying_relay, mute, real_relay, send, until

JOBS = [Filter(kinds=(5050,))]


class Doorman:
    """Lets in who signs the newest of its challenges; `answers` says whether it says so."""

    def __init__(self, *, answers: bool = True, welcome: bool = True) -> None:
        self.challenges: list[str] = []
        self.proofs: list[dict] = []
        self.inside: set[ServerConnection] = set()
        self._answers = answers
        self._welcome = welcome

    async def __call__(self, relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if message[0] == "AUTH":
            await self._judge(socket, message[1])
        elif socket in self.inside:
            await honest(relay, socket, message)
        elif message[0] == "EVENT":
            relay.events.clear()
            await send(socket, "OK", message[1]["id"], False, "auth-required: who are you")
            await self.challenge(socket)
        elif message[0] == "REQ":
            await self.challenge(socket)
            await send(socket, "CLOSED", message[1], "auth-required: who are you")

    async def challenge(self, socket: ServerConnection) -> None:
        self.challenges.append(f"challenge {len(self.challenges)}")
        await send(socket, "AUTH", self.challenges[-1])

    async def _judge(self, socket: ServerConnection, proof: dict) -> None:
        self.proofs.append(proof)
        right = self._welcome and ["challenge", self.challenges[-1]] in proof["tags"]
        if right:
            self.inside.add(socket)
        if self._answers:
            await send(socket, "OK", proof["id"], right, "" if right else "restricted: not on the list")


async def test_a_real_relay_that_asks_is_told_and_then_takes_and_gives() -> None:
    event, live = an_event("stored"), an_event("live")
    async with (
        real_relay(introduced=True) as url,
        RelayPool([url], key=KEY) as relays,
        relays.subscribe(JOBS) as events,
    ):
        assert (await relays.publish(event)).accepted == (url,)
        assert await anext(events) == event
        assert (await relays.fetch(JOBS)).events == (event,)
        await relays.publish(live)
        assert await anext(events) == live


async def test_without_a_key_a_relay_that_asks_refuses_and_health_says_what_to_do() -> None:
    async with lying_relay(Doorman()) as relay, RelayPool([relay.url], timeout_s=3) as relays:
        with pytest.raises(RelayError, match="refused auth-required: who are you"):
            await relays.publish(an_event())
        await asyncio.sleep(0.1)
        assert "give the relays a key" in relays.health[0].last_reason
        with pytest.raises(RelayError, match=r"none of them tells us any more; .*auth-required"):
            async with relays.subscribe(JOBS) as events:
                await anext(events)


@pytest.mark.attack("A9")
@pytest.mark.parametrize("answers", [True, False])
async def test_what_was_refused_before_we_were_known_is_sent_again(answers: bool) -> None:
    doorman, sent = Doorman(answers=answers), [an_event(str(number)) for number in range(3)]
    async with (
        lying_relay(doorman) as relay,
        RelayPool([relay.url], key=KEY, timeout_s=5) as relays,
        relays.subscribe(JOBS),
    ):
        done = await asyncio.gather(*(relays.publish(event) for event in sent))
        assert [one.accepted for one in done] == [(relay.url,)] * 3
        await until(lambda: len(relay.requests()) == 2)
        assert len((await relays.fetch(JOBS)).events) == 3


@pytest.mark.attack("A9")
async def test_what_is_signed_names_the_url_that_was_dialled_the_newest_challenge_and_nothing_else() -> None:
    doorman = Doorman()
    async with lying_relay(doorman) as relay, RelayPool([relay.url], key=KEY) as relays:
        await relays.publish(an_event())
    for proof, challenge in zip(doorman.proofs, doorman.challenges, strict=False):
        event = check_event(proof)
        assert isinstance(event, NostrEvent)
        assert (event.kind, event.content, event.pubkey) == (22_242, "", KEY.pubkey)
        assert event.tags == (("relay", relay.url), ("challenge", challenge))
        assert abs(event.created_at - time.time()) < 60


@pytest.mark.attack("A9")
async def test_a_relay_that_does_not_want_us_is_a_refusal_at_once() -> None:
    async with lying_relay(Doorman(welcome=False)) as relay, RelayPool([relay.url], key=KEY, timeout_s=30) as relays:
        began = time.monotonic()
        with pytest.raises(RelayError, match="it does not want us: restricted: not on the list"):
            await relays.publish(an_event())
        assert time.monotonic() - began < 5


@pytest.mark.attack("A9")
async def test_a_flood_of_challenges_is_answered_a_few_times_and_then_hung_up_on() -> None:
    async def curious(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        if message[0] == "REQ":
            for number in range(3000):
                await send(socket, "AUTH", f"challenge {number}")

    async with (
        lying_relay(curious) as bad,
        lying_relay(mute) as other,
        RelayPool([bad.url, other.url], key=KEY, timeout_s=2) as relays,
    ):
        with pytest.raises(RelayError, match="none answered"):
            await relays.fetch(JOBS)
        assert "nobody asked for" in relays.health[0].last_reason
    assert sum(message[0] == "AUTH" for message in bad.heard) <= MOST_CHALLENGES * bad.connections


@pytest.mark.attack("A9")
@pytest.mark.parametrize("challenge", ["", "x" * 5000, None, 7, ["x"]])
async def test_a_challenge_that_is_none_is_not_signed(challenge: object) -> None:
    async def odd(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        await send(socket, "AUTH", challenge)
        await honest(relay, socket, message)

    async with lying_relay(odd) as relay, RelayPool([relay.url], key=KEY) as relays:
        await relays.publish(an_event())
        assert all(message[0] != "AUTH" for message in relay.heard)
