"""The peer: a client and a provider as an engineer writes them in an afternoon, of pynostr's objects over `websockets`.

Nothing is verified, decided, counted or kept: no signature, no bid, no budget, no state that outlives the process.
Whoever answers first is believed. With a wallet the client pays what it is asked for.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
from pynostr.event import Event
from pynostr.key import PrivateKey
from websockets.asyncio.client import ClientConnection, connect

from swarmc.contracts.wallet import Wallet
from swarmc.nostr.invoices import decode_invoice

REQUEST, RESULT, FEEDBACK = 5050, 6050, 7000
PRICE_MSATS = 100

Messages = list[dict[str, str]]
Ask = Callable[[Messages], Awaitable[str]]


class BareClient:
    """Asks and waits."""

    def __init__(self, socket: ClientConnection, wallet: Wallet | None) -> None:
        self._socket = socket
        self._wallet = wallet
        self._key = PrivateKey()
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Hear whatever names us, until the socket closes."""
        kinds = {"kinds": [RESULT, FEEDBACK], "#p": [self._key.public_key.hex()]}
        await self._socket.send(json.dumps(["REQ", "answers", kinds]))
        async for raw in self._socket:
            message = json.loads(raw)
            if message[0] == "EVENT":
                self._hear(Event.from_dict(message[2]))

    async def ask(self, messages: Messages) -> str:
        """The answer's text."""
        event = _signed(self._key, REQUEST, "", [["i", json.dumps(messages), "text"], ["salt", secrets.token_hex(8)]])
        assert event.id is not None
        self._waiting[event.id] = asyncio.get_running_loop().create_future()
        await self._socket.send(event.to_message())
        try:
            return await self._waiting[event.id]
        finally:
            del self._waiting[event.id]

    def _hear(self, event: Event) -> None:
        tags = {tag[0]: tag for tag in event.tags}
        waiting = self._waiting.get(tags["e"][1])
        if waiting is None or waiting.done():
            return
        if event.kind == RESULT:
            waiting.set_result(event.content or "")
        elif tags["status"][1] == "payment-required" and self._wallet is not None:
            task = asyncio.create_task(self._pay(self._wallet, tags["amount"][2]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pay(self, wallet: Wallet, bolt11: str) -> None:
        await wallet.pay(decode_invoice(bolt11), max_fee_msats=0)


class BareProvider:
    """Answers what it hears; with a wallet once it was paid."""

    def __init__(self, socket: ClientConnection, base_url: str, wallet: Wallet | None) -> None:
        self._socket = socket
        self._base_url = base_url
        self._wallet = wallet
        self._key = PrivateKey()
        self._unpaid: dict[str, Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, session: aiohttp.ClientSession) -> None:
        """Serve until the socket closes."""
        if self._wallet is not None:
            self._begin(self._hear_money(self._wallet, session))
        await self._socket.send(json.dumps(["REQ", "jobs", {"kinds": [REQUEST], "limit": 0}]))
        async for raw in self._socket:
            message = json.loads(raw)
            if message[0] == "EVENT":
                job = Event.from_dict(message[2])
                self._begin(self._work(job, session) if self._wallet is None else self._quote(job, self._wallet))

    def stop(self) -> None:
        """Leave what is under way."""
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quote(self, job: Event, wallet: Wallet) -> None:
        invoice = await wallet.create_invoice(PRICE_MSATS, memo="a job", expiry_s=600)
        self._unpaid[invoice.payment_hash] = job
        tags = [["status", "payment-required"], *_about(job), ["amount", str(PRICE_MSATS), invoice.bolt11]]
        await self._socket.send(_signed(self._key, FEEDBACK, "", tags).to_message())

    async def _hear_money(self, wallet: Wallet, session: aiohttp.ClientSession) -> None:
        async for payment_hash in wallet.settlements():
            job = self._unpaid.pop(payment_hash, None)
            if job is not None:
                self._begin(self._work(job, session))

    async def _work(self, job: Event, session: aiohttp.ClientSession) -> None:
        (asked,) = (tag[1] for tag in job.tags if tag[0] == "i")
        body = {"model": "counting", "messages": json.loads(asked), "max_tokens": 64}
        async with session.post(f"{self._base_url}/chat/completions", json=body) as response:
            said = (await response.json())["choices"][0]["message"]["content"]
        await self._socket.send(_signed(self._key, RESULT, said, _about(job)).to_message())


@contextlib.asynccontextmanager
async def bare_client(relay_url: str, wallet: Wallet | None) -> AsyncIterator[Ask]:
    """A client that listens."""
    async with connect(relay_url, max_size=1 << 24) as socket:
        client = BareClient(socket, wallet)
        listening = asyncio.create_task(client.listen())
        yield client.ask
        listening.cancel()


@contextlib.asynccontextmanager
async def bare_provider(relay_url: str, base_url: str, wallet: Wallet | None) -> AsyncIterator[None]:
    """A provider that serves."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, connect(relay_url, max_size=1 << 24) as socket:
        provider = BareProvider(socket, base_url, wallet)
        serving = asyncio.create_task(provider.serve(session))
        yield
        serving.cancel()
        provider.stop()


def _signed(key: PrivateKey, kind: int, content: str, tags: list[list[str]]) -> Event:
    event = Event(content=content, kind=kind, tags=tags, pubkey=key.public_key.hex())
    event.sign(key.hex())
    return event


def _about(job: Event) -> list[list[str]]:
    return [["e", str(job.id)], ["p", str(job.pubkey)]]
