"""JSON over HTTP with an LNbits server: one pooled session, failures translated once, and which of them may have paid.

An LNbits says 520 for "no", with a word for the payment's state; `pending`, other 5xx and silence leave its end open.
"""

from types import TracebackType
from typing import Any, Self, TypeVar, final

import aiohttp
import orjson
from yarl import URL

from blocks.wallets.paying import Unsent
from swarmc.contracts.errors import WalletError

MAX_ANSWER_BYTES = 4 << 20
CONNECT_LIMIT_S = 10.0
KEEP_ALIVE_S = 4.0
"""Less than the 5 s after which the server closes an idle connection, so that none is used as it closes."""

REFUSED = 520
CLEAR = ("failed", "success")
"""What a 520 says of the payment where it is sure; `success` is that of an earlier request."""

Value = TypeVar("Value", dict[str, Any], list[Any])


@final
class LnbitsRest:
    """A session with one server, to be entered with `async with`.

    Args:
        base_url: Where it is: ``http://127.0.0.1:5000``.
        secrets: The keys, taken out of whatever the server says.
        timeout_s: Seconds for each answer.
    """

    def __init__(self, base_url: str, secrets: tuple[str, ...], *, timeout_s: float) -> None:
        self.title = f"the LNbits at {base_url}"
        self._base_url = base_url.rstrip("/")
        self._secrets = secrets
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=min(self._timeout_s, CONNECT_LIMIT_S)),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, key: str) -> dict[str, Any] | None:
        """The JSON object at `path`; nothing where the server has none (404).

        Raises:
            WalletError: refused, broken off, too late, or answered with something else.
        """
        status, body = await self._exchange("GET", path, key, None, spends=False)
        return None if status == 404 else self._value(status, body, dict, spends=False)

    async def rows(self, path: str, key: str) -> list[Any]:
        """The JSON list at `path`. Raises as `get`."""
        status, body = await self._exchange("GET", path, key, None, spends=False)
        return self._value(status, body, list, spends=False)

    async def post(self, path: str, key: str, body: dict[str, Any], *, spends: bool = False) -> dict[str, Any]:
        """Send `body`; the JSON object that comes back.

        Args:
            path: Below the base address.
            key: The wallet's key for this.
            body: The request.
            spends: Whether money moves, so that an answer that does not come leaves its end unknown.

        Raises:
            WalletError: as `get`; `Unsent` where the server cannot be reached.
        """
        status, answer = await self._exchange("POST", path, key, orjson.dumps(body), spends=spends)
        return self._value(status, answer, dict, spends=spends)

    async def _exchange(
        self, method: str, path: str, key: str, data: bytes | None, *, spends: bool
    ) -> tuple[int, bytes]:
        if self._session is None or self._session.closed:
            raise Unsent(f"{self.title} was asked outside its `async with`; keep it open while it is used")
        url, headers = URL(self._base_url + path, encoded=True), {"X-Api-Key": key}
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                return response.status, await _bounded(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise Unsent(f"{self.title} cannot be reached: {error}; is it running?", retryable=True) from error
        except TimeoutError as error:
            message = f"{self.title} did not answer within {self._timeout_s:g} s"
            raise WalletError(message, retryable=True, unknown=spends) from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"{self.title} broke the connection off: {type(error).__name__}: {error}"
            raise WalletError(message, retryable=True, unknown=spends) from error

    def _value(self, status: int, body: bytes, kind: type[Value], *, spends: bool) -> Value:
        try:
            value = orjson.loads(body)
        except ValueError:
            value = None
        if status in (200, 201) and isinstance(value, kind):
            return value
        said = value if isinstance(value, dict) else {}
        reason = f"HTTP {status}: {self._excerpt(str(said.get('detail') or body[:1000].decode('utf-8', 'replace')))}"
        if status in (401, 403, 404):
            raise WalletError(f"{self.title} refused the key ({reason}); see `admin_key` and `invoice_key`")
        if 300 <= status < 500 or (status == REFUSED and said.get("status") in CLEAR):
            raise WalletError(f"{self.title} refused ({reason})", retryable=status == 429)
        raise WalletError(f"{self.title} gave no clear answer ({reason})", retryable=True, unknown=spends)

    def _excerpt(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return "".join(letter if letter.isprintable() else " " for letter in text)[:300]


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts, size_bytes = [], 0
    async for part in response.content.iter_chunked(65_536):
        parts.append(part)
        size_bytes += len(part)
        if size_bytes > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes")
    return b"".join(parts)
