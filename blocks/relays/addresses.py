"""Which relays we let a stranger send us to: public ones, over TLS, and few."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

MOST_EXTRA = 3
"""Relays of a stranger's choice for one event."""

LONGEST_URL = 300
_PORTS = {"wss": 443, "ws": 80}
_INSIDE = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "onion", "arpa", "test", "invalid")
"""Last words of names that mean something only inside a network."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def allowed_relay(url: str, *, private: bool) -> bool:
    """Whether we may dial a relay that a stranger named, as far as the address itself tells.

    A name may still stand for an address that is not public: `resolved` decides on that when it is dialled.

    Args:
        url: Any text.
        private: Take `ws://` and private addresses too, as on a closed network of one's own.
    """
    parts = _parts(url)
    if parts is None:
        return False
    if private:
        return True
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "wss":
        return False
    try:
        return _is_public(ipaddress.ip_address(host))
    except ValueError:  # A name, then.
        return "." in host and host.rpartition(".")[2] not in _INSIDE


def safe_urls(urls: Iterable[str], *, private: bool = False, most: int = MOST_EXTRA) -> tuple[str, ...]:
    """The first `most` of these addresses that we may dial, each once, in the form of `Relays.urls`."""
    found: dict[str, None] = {}
    for url in urls:
        if len(found) >= most:
            break
        if allowed_relay(url, private=private):
            found[url.strip().rstrip("/")] = None
    return tuple(found)


async def resolved(url: str, *, private: bool, timeout_s: float) -> tuple[str, int]:
    """The address and port to dial for a relay that a stranger named.

    Raises:
        ValueError: it may not be dialled: by its form, or because one of its addresses is not public.
        OSError: the name stands for no address, or none was found in time.
    """
    parts = _parts(url)
    if parts is None or not allowed_relay(url, private=private):
        raise ValueError("a stranger named this relay, and it is no public one: wss:// and a public host are needed")
    port = parts.port or _PORTS[parts.scheme]
    async with asyncio.timeout(timeout_s):
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(one[4][0]) for one in found]
    # One private address among public ones is how a name is made to lead inside.
    if not private and not all(_is_public(ipaddress.ip_address(address)) for address in addresses):
        raise ValueError("a stranger named this relay, and its name stands for an address that is not public")
    return addresses[0], port


def _parts(url: str) -> SplitResult | None:
    """A relay's address in its parts; nothing where it is none."""
    if len(url) > LONGEST_URL or not url.isascii() or not url.strip().isprintable():
        return None
    try:
        parts = urlsplit(url.strip())
        fits = parts.scheme in _PORTS and parts.hostname and "@" not in parts.netloc and not parts.fragment
        return parts if fits and parts.port != 0 else None
    except ValueError:  # A port that is no number, half an IPv6 address.
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address.is_site_local or not all(_is_public(one) for one in inner if one is not None):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
