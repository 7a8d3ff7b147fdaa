"""Opening the socket to a relay: quick to acknowledge, led to no other place, and bounded."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from blocks.relays.addresses import resolved
from swarmc.nostr.messages import MAX_MESSAGE_BYTES

PING_EVERY_S = 20.0
CLOSE_S = 1.0

Dial = Callable[[str, float], Awaitable[AbstractAsyncContextManager[ClientConnection]]]
"""From an address and the seconds that opening may take to a connection that is yet to be entered."""

# Linux alone has it.
QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class _Connection(ClientConnection):
    """Acknowledges at once what it receives.

    A relay whose socket waits for our acknowledgement before it sends the next small segment (Nagle) otherwise
    waits for the 40 ms by which the kernel puts one off. The kernel forgets the option, so it is set every time.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if QUICK_ACK is not None:
            with suppress(OSError):  # It was closed by what it received.
                self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)


class _Connect(connect):
    """Follows no redirect: it would lead past the check of an address, and our proof of who we are names an address."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


def own_dial(*, ping_every_s: float = PING_EVERY_S) -> Dial:
    """How a relay of our own choice is dialled.

    Args:
        ping_every_s: How often it is asked for a sign of life, and how long it has to give one.
    """

    async def dial(url: str, timeout_s: float) -> AbstractAsyncContextManager[ClientConnection]:
        return _opened(url, timeout_s, ping_interval=ping_every_s, ping_timeout=ping_every_s)

    return dial


def guest_dial(*, private: bool) -> Dial:
    """How a relay is dialled that a stranger named: at a public address, which is looked up anew every time."""

    async def dial_guest(url: str, timeout_s: float) -> AbstractAsyncContextManager[ClientConnection]:
        host, port = await resolved(url, private=private, timeout_s=timeout_s)
        # To the address that was checked: a name may stand for another one when it is asked a second time.
        return _opened(url, timeout_s, host=host, port=port, proxy=None, ping_interval=PING_EVERY_S)

    return dial_guest


def _opened(url: str, timeout_s: float, **options: Any) -> AbstractAsyncContextManager[ClientConnection]:
    # asyncio sets TCP_NODELAY itself.
    return _Connect(
        url,
        create_connection=_Connection,
        compression=None,
        open_timeout=timeout_s,
        close_timeout=CLOSE_S,
        max_size=MAX_MESSAGE_BYTES,
        **options,
    )
