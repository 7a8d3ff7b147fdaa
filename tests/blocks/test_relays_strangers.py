"""Relays that strangers name: dialled only where that can do no harm, and few of them."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection

from blocks.relays import RelayPool, allowed_relay, safe_urls
from blocks.relays.addresses import MOST_EXTRA, resolved
from blocks.relays.guests import MOST_GUESTS, Guests
from tests.nostr.market_events import an_event
from tests.nostr.relays import LyingRelay, honest, lying_relay

REFUSED = [
    "ws://relay.example.org", "http://relay.example.org", "wss://127.0.0.1", "wss://localhost", "wss://[::1]",
    "wss://10.0.0.1", "wss://192.168.1.1:7447", "wss://172.16.0.1", "wss://169.254.169.254/latest/meta-data",
    "wss://[fe80::1]", "wss://[fd00::1]", "wss://[fec0::1]", "wss://[::ffff:127.0.0.1]", "wss://[64:ff9b::7f00:1]",
    "wss://[2002:7f00:1::]", "wss://0.0.0.0", "wss://224.0.0.1", "wss://100.64.0.1", "wss://255.255.255.255",
    "wss://relay", "wss://relay.local", "wss://db.internal", "wss://x.onion", "wss://printer.lan.",
    "wss://ada:secret@relay.example.org", "wss://@relay.example.org", "wss://", "wss://a:99999", "wss://[::1", "",
    "wss://relay.example.org/#x", "wss://" + "a" * 400 + ".org", "wss://rel\nay.example.org", "wss://relay.örg",
]  # fmt: skip


@pytest.mark.attack("A13")
@pytest.mark.parametrize("url", REFUSED)
def test_a_strangers_relay_that_is_not_public_or_not_secret_is_refused(url: str) -> None:
    assert not allowed_relay(url, private=False)
    assert safe_urls([url]) == ()


@pytest.mark.attack("A13")
@pytest.mark.parametrize("url", ["wss://relay.example.org", "wss://1.1.1.1:7447/nostr", "wss://[2606:4700::1111]"])
def test_a_public_relay_over_tls_is_allowed(url: str) -> None:
    assert allowed_relay(url, private=False)


def test_on_a_network_of_ones_own_everything_that_is_an_address_is_allowed() -> None:
    assert allowed_relay("ws://127.0.0.1:7000", private=True)
    assert not allowed_relay("http://127.0.0.1:7000", private=True)
    assert not allowed_relay("ws://ada:secret@127.0.0.1", private=True)


@given(url=st.text(max_size=40) | st.text(max_size=30).map("wss://{}".format))
def test_no_text_breaks_the_check(url: str) -> None:
    assert allowed_relay(url, private=False) in (True, False)
    assert len(safe_urls([url, url])) <= 1


@pytest.mark.attack("A13")
def test_of_many_relays_that_a_stranger_names_a_few_are_taken() -> None:
    urls = [f"wss://relay{number}.example.org/" for number in range(50)]
    assert safe_urls(["ws://127.0.0.1", *urls[:1], *urls]) == tuple(url[:-1] for url in urls[:MOST_EXTRA])


@pytest.mark.attack("A13")
@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
async def test_a_name_that_stands_for_a_private_address_is_not_dialled(host: str) -> None:
    with pytest.raises(ValueError, match="stranger named this relay"):
        await resolved(f"wss://{host}", private=False, timeout_s=5)


async def test_a_public_address_is_dialled_as_it_is_and_a_private_one_where_that_is_allowed() -> None:
    assert await resolved("wss://1.1.1.1/x", private=False, timeout_s=5) == ("1.1.1.1", 443)
    assert await resolved("ws://127.0.0.1:7000", private=True, timeout_s=5) == ("127.0.0.1", 7000)


@pytest.mark.attack("A13")
async def test_an_event_goes_to_a_strangers_relay_too_but_its_word_counts_for_no_quorum() -> None:
    event = an_event()
    async with (
        lying_relay(honest) as ours,
        lying_relay(honest) as theirs,
        RelayPool([ours.url], private=True) as relays,
    ):
        published = await relays.publish(event, also=[theirs.url, ours.url + "/"])
        assert published.accepted == (ours.url,)
        await _until_heard(theirs)
        assert [health.url for health in relays.health] == [ours.url, theirs.url]
        assert (ours.connections, theirs.connections) == (1, 1)


@pytest.mark.attack("A13")
async def test_a_private_address_that_a_stranger_names_is_never_connected_to() -> None:
    async with lying_relay(honest) as ours, lying_relay(honest) as inside, RelayPool([ours.url]) as relays:
        await relays.publish(an_event(), also=[inside.url, inside.url.replace("127.0.0.1", "2130706433")])
        await asyncio.sleep(0.3)
        assert (inside.connections, len(relays.health)) == (0, 1)


@pytest.mark.attack("A13")
async def test_a_redirect_is_not_followed() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {inside.url}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with lying_relay(honest) as ours, lying_relay(honest) as inside:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server, RelayPool([ours.url], private=True, timeout_s=1) as relays:
            await relays.publish(an_event(), also=[f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
            await asyncio.sleep(0.5)
            assert "302" in relays.health[1].last_reason
        assert inside.connections == 0


@pytest.mark.attack("A13")
async def test_strangers_relays_are_few_at_once_and_closed_when_idle() -> None:
    async def taking(relay: LyingRelay, socket: ServerConnection, message: list) -> None:
        await honest(relay, socket, message)

    guests = Guests(timeout_s=1, key=None, private=True, idle_s=0.2)
    async with lying_relay(taking) as relay:
        for line in guests.lines([relay.url]):
            assert (await line.offer("00", '["EVENT",{"id":"00"}]')).outcome == "accepted"
        for number in range(1, 60):
            guests.lines([f"ws://127.0.0.1:{number}"])
        assert len(guests.health) == MOST_GUESTS
        began = time.monotonic()
        while guests.health or relay.sockets:
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.05)
    await guests.aclose()


async def _until_heard(relay: LyingRelay) -> None:
    began = time.monotonic()
    while not relay.events:
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.02)
