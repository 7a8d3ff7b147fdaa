"""The line to a wallet behind Nostr Wallet Connect: asks, and hears the wallet's own answers alone."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, final

from pydantic import JsonValue

from blocks.relays.pool import RelayPool
from swarmc.contracts.errors import RelayError, WalletError
from swarmc.contracts.relay import Filter, NostrEvent
from swarmc.nostr import nip47
from swarmc.nostr.events import sign_note
from swarmc.nostr.nip47 import Method, Notification, Response, ServiceInfo, WalletUri

logger = logging.getLogger(__name__)

REST_S = 1.0
"""Seconds before the relays are asked again to give what the wallet says, after they all failed."""


@final
class NwcLine:
    """Requests and answers over relays, to be entered with `async with`.

    Args:
        uri: Whom to ask, and as whom.
        timeout_s: Seconds for each answer. The wallet is told not to act on a request that is older.
        told: Called with what the wallet tells unasked.

    Attributes:
        info: What the wallet says of itself.
    """

    def __init__(self, uri: WalletUri, *, timeout_s: float, told: Callable[[Notification], None]) -> None:
        self.info = ServiceInfo(methods=(), schemes=("nip04",))
        self._uri = uri
        self._timeout_s = timeout_s
        self._told = told
        self._relays = RelayPool(uri.relays, timeout_s=timeout_s)
        self._waiting: dict[str, asyncio.Future[Response]] = {}
        self._stack = AsyncExitStack()

    @property
    def title(self) -> str:
        """The wallet, as errors speak of it."""
        return f"the wallet {self._uri.service[:16]} at {', '.join(self._uri.relays)}"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._relays)
            self.info = await self._read_info()
            listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            listener = asyncio.create_task(self._listen(listening))
            stack.push_async_callback(_ended, listener)
            await listening
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def ask(self, method: Method, params: dict[str, JsonValue], *, spends: bool = False) -> Response:
        """Ask once, and wait for the wallet's answer to this very request.

        Args:
            method: One that the wallet offers.
            params: As NIP-47 names them.
            spends: Whether money moves, so that an answer that does not come leaves its end unknown.

        Raises:
            WalletError: no answer came, or none that can be read.
        """
        now_s = time.time()
        until_s = math.ceil(now_s + self._timeout_s)
        scheme = self.info.schemes[0]
        note = nip47.request_note(self._uri, method, params, scheme=scheme, now_s=int(now_s), until_s=until_s)
        event = sign_note(note, self._uri.key)
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[event.id] = answer
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._delivered(event, answer)
        except TimeoutError:
            message = f"{self.title} did not answer {method} within {self._timeout_s:g} s"
            raise WalletError(message, retryable=True, unknown=spends) from None
        except RelayError as error:
            # A relay that says no may have passed it on all the same.
            raise WalletError(f"asking {self.title}: {error}", retryable=True, unknown=spends) from error
        except ValueError as error:
            raise WalletError(f"{self.title} answered {method} unreadably: {error}", unknown=spends) from None
        finally:
            del self._waiting[event.id]
        if response.method != method:
            raise WalletError(f"{self.title} was asked {method} and answered another question", unknown=spends)
        return response

    async def _delivered(self, event: NostrEvent, answer: asyncio.Future[Response]) -> Response:
        """Publish, and wait; an answer may come before the relay says that it took the question."""
        publishing = asyncio.create_task(self._relays.publish(event))
        publishing.add_done_callback(_read)
        try:
            await asyncio.wait((publishing, answer), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await publishing
            return await answer
        finally:
            publishing.cancel()

    async def _read_info(self) -> ServiceInfo:
        wanted = Filter(authors=(self._uri.service,), kinds=(nip47.INFO,))
        try:
            fetched = await self._relays.fetch([wanted])
        except RelayError as error:
            raise WalletError(f"asking who {self.title} is: {error}", retryable=True) from error
        if not fetched.events:
            raise WalletError(f"{self.title} says nothing of itself there (kind 13194); is it running?", retryable=True)
        info = nip47.read_info(fetched.events[-1], self._uri.service)
        if info is None:
            raise WalletError(f"{self.title} speaks neither NIP-44 nor NIP-04, which we do; use another wallet")
        if "lookup_invoice" not in info.methods:
            raise WalletError(f"{self.title} does not offer lookup_invoice; without it no payment can be checked")
        return info

    async def _listen(self, listening: asyncio.Future[None]) -> None:
        """Hear what the wallet says until cancelled; `listening` is set when the relays were asked first."""
        kinds = (nip47.RESPONSE, nip47.NOTIFICATION[self.info.schemes[0]])
        ours = Filter(authors=(self._uri.service,), kinds=kinds, tags={"p": (self._uri.key.pubkey,)})
        while True:
            try:
                async with self._relays.subscribe([ours]) as events:
                    if not listening.done():
                        listening.set_result(None)
                    async for event in events:
                        self._hear(event)
            except RelayError as error:
                logger.debug("listening to %s: %s", self.title, error)
                if not listening.done():
                    told = WalletError(f"listening to {self.title}: {error}", retryable=True)
                    listening.set_exception(told)
                    return
            await asyncio.sleep(REST_S)

    def _hear(self, event: NostrEvent) -> None:
        asked = nip47.answered_request(event, self._uri)
        answer = None if asked is None else self._waiting.get(asked)
        if answer is not None and not answer.done():
            try:
                answer.set_result(nip47.read_response(event, self._uri))
            except ValueError as error:
                answer.set_exception(error)
        elif asked is None and (told := nip47.read_notification(event, self._uri)) is not None:
            self._told(told)


def _read(task: asyncio.Task[object]) -> None:
    if not task.cancelled():
        task.exception()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
