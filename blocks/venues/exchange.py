"""JSON over HTTP with a model server: one pooled session, and failures translated once.

The session is made to cost little CPU: no cookies, no redirects, no compression, bytes in and out.
"""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, final

import aiohttp
import orjson
from yarl import URL

from swarmc.contracts.errors import VenueError, boundary

MAX_ANSWER_BYTES = 32 * 1024 * 1024
CONNECT_LIMIT_S = 10.0
KEEP_ALIVE_S = 4.0
"""Less than the 5 s after which common servers close an idle connection, so that none is used as it closes."""

RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
OF_THE_PLACE = frozenset({401, 402, 403, 404, 405, 407})
TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context|context (length|size|window)"
    r"|(prompt|input|request)[^.]{0,40} (is )?too (long|large)|too many (input )?tokens",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Place:
    """A server, as errors speak of it.

    Attributes:
        title: What and where: ``the model server at http://127.0.0.1:8080/v1``.
        priced: Whether a call may cost something, so that one whose end is unknown may have been billed.
        secret: The key, taken out of whatever a server says.
        key_setting: Where a person sets the key.
    """

    title: str
    priced: bool = False
    secret: str = field(default="", repr=False)
    key_setting: str = "`api_key` of the venue's block"

    def excerpt(self, body: bytes, most: int = 300) -> str:
        """The beginning of what a server said, on one line, without the key."""
        text = body[: 4 * most].decode("utf-8", "replace")
        if self.secret:
            text = text.replace(self.secret, "***")
        return " ".join(text.split())[:most]


@final
class Exchange:
    """A session with one server, open from `__aenter__` to `aclose`. Closing twice is harmless."""

    def __init__(self, base_url: str, place: Place, *, timeout_s: float) -> None:
        self.place = place
        self._base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        with boundary(VenueError, f"reading the address {self._base_url!r}", ValueError):
            if URL(self._base_url).scheme not in ("http", "https") or not URL(self._base_url).host:
                raise VenueError(f"{self._base_url!r} is no address; give one such as http://127.0.0.1:8080/v1")
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.place.secret:
            headers["Authorization"] = f"Bearer {self.place.secret}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=min(self._timeout_s, CONNECT_LIMIT_S)),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send `body` as JSON; the JSON object that comes back.

        Raises:
            VenueError: refused, broken off, too late, or answered with something else.
        """
        status, headers, answer = await self._exchange("POST", path, self._encoded(body))
        if status != 200:
            raise refusal(self.place, status, headers, answer)
        return parsed(self.place, answer)

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`.

        Raises:
            VenueError: as `post`.
        """
        status, headers, answer = await self._exchange("GET", path, None)
        if status != 200:
            raise refusal(self.place, status, headers, answer)
        return parsed(self.place, answer)

    async def _exchange(self, method: str, path: str, data: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None or self._session.closed:
            raise VenueError(f"{self.place.title} was asked outside its `async with`; keep it open while calls run")
        url = self._urls.get(path) or self._urls.setdefault(path, URL(self._base_url + path))
        try:
            async with self._session.request(method, url, data=data, allow_redirects=False) as response:
                return response.status, response.headers, await _read(response, self.place)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._broken(error) from error

    def _encoded(self, body: Mapping[str, Any]) -> bytes:
        try:
            return orjson.dumps(body)
        except TypeError as error:
            raise VenueError(f"the request cannot be written as JSON: {error}", fault="request") from error

    def _broken(self, error: Exception) -> VenueError:
        """A failure of the connection. Where nothing was sent, nothing can have been billed."""
        title = self.place.title
        match error:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                return VenueError(f"{title} has no certificate that is trusted here: {error}; correct the address")
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                return VenueError(f"{title} cannot be reached: {error}; is it running?", retryable=True)
            case TimeoutError():
                message = f"{title} did not answer within {self._timeout_s:g} s; raise `timeout_s` if it needs longer"
                return VenueError(message, retryable=True, paid_unknown=self.place.priced)
            case aiohttp.InvalidURL():
                return VenueError(f"{title} is no address: {error}; correct `base_url`")
            case _:
                message = f"{title} broke the connection off: {type(error).__name__}: {error}"
                return VenueError(message, retryable=True, paid_unknown=self.place.priced)


async def _read(response: aiohttp.ClientResponse, place: Place) -> bytes:
    """The whole body, if it is of a size that an answer can have."""
    length = response.content_length
    if length is not None and length <= MAX_ANSWER_BYTES and "Content-Encoding" not in response.headers:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_chunked(65_536):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise VenueError(
                f"{place.title} answered with more than {MAX_ANSWER_BYTES:,} bytes", paid_unknown=place.priced
            )
    return b"".join(parts)


def parsed(place: Place, body: bytes) -> dict[str, Any]:
    """`body` as a JSON object.

    Raises:
        VenueError: it is something else; retryable, for gateways say such things while they restart.
    """
    try:
        value = orjson.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise unreadable(place, body)
    return value


def unreadable(place: Place, body: bytes) -> VenueError:
    """An answer that is none."""
    return VenueError(
        f"{place.title} answered with what is no completion ({place.excerpt(body)}); is `base_url` right?",
        retryable=True,
        paid_unknown=place.priced,
    )


def refusal(place: Place, status: int, headers: Mapping[str, str], body: bytes) -> VenueError:
    """What an HTTP status other than 200 means for the asker.

    401, 402, 403, 404 and redirects are the place's configuration; other 4xx, this request's fault;
    a prompt that does not fit has the fault `context`. 504 may hide a call that was carried out.
    """
    said = f"HTTP {status}: {place.excerpt(body)}"
    if status in (401, 403):
        return VenueError(f"{place.title} refused the key ({said}); set {place.key_setting}")
    if status in OF_THE_PLACE or status < 400:
        return VenueError(f"{place.title} does not serve this ({said}); check the address, the model and the account")
    if status == 429 and b"insufficient_quota" in body:
        return VenueError(f"{place.title} says that the account is used up ({said}); add credit")
    if status in RETRYABLE:
        return VenueError(
            f"{place.title} failed ({said})",
            retryable=True,
            paid_unknown=place.priced and status == 504,
            retry_after_s=retry_after_s(headers),
        )
    if status < 500:
        fault = "context" if TOO_LONG.search(body.decode("utf-8", "replace")) else "request"
        return VenueError(f"{place.title} refused the request ({said}); shorten or correct it", fault=fault)
    return VenueError(f"{place.title} failed ({said})", retryable=True, paid_unknown=place.priced)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date."""
    said = {name.lower(): value for name, value in headers.items()}
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return _finite(float(said[name]) * unit_s)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError):
        return None


def _finite(wait_s: float) -> float:
    if not math.isfinite(wait_s):
        raise ValueError(wait_s)
    return max(0.0, wait_s)
