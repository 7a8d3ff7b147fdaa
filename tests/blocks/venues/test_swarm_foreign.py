"""Providers that are not ours: nostr-sdk reads our requests, announces, quotes and answers, over a strict relay."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import nostr_sdk
import pytest
from websockets.asyncio.client import ClientConnection, connect

from blocks.wallets.ledger_account import LedgerAccount
from tests.market import Market, asking, open_market
from tests.nostr.relays import real_relay


class Foreigner:
    """A provider made of nostr-sdk alone, the way others write them: a price by request, plain text, no extensions."""

    def __init__(self, socket: ClientConnection, wallet: LedgerAccount) -> None:
        self.keys = nostr_sdk.Keys.generate()
        self.socket = socket
        self.wallet = wallet
        self.prompts: list[str] = []

    async def say(self, kind: int, content: str, *tags: list[str]) -> None:
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(kind), content).tags([nostr_sdk.Tag.parse(tag) for tag in tags])
        await self.socket.send(f'["EVENT",{builder.finalize(self.keys).as_json()}]')

    async def serve(self) -> None:
        about = json.dumps({"name": "abroad", "about": "text", "amount": "70"})
        await self.say(31990, about, ["d", "abroad"], ["k", "5050"], ["price", "70", "per-request", "sats"])
        wanted = {"kinds": [5050], "#p": [self.keys.public_key().to_hex()]}
        await self.socket.send(json.dumps(["REQ", "jobs", wanted]))
        async for raw in self.socket:
            match json.loads(raw):
                case ["EVENT", "jobs", value]:
                    await self.fulfil(nostr_sdk.Event.from_json(json.dumps(value)))

    async def fulfil(self, request: nostr_sdk.Event) -> None:
        assert request.verify()
        tags = [tag.to_vec() for tag in request.tags()]
        self.prompts += [tag[1] for tag in tags if tag[0] == "i"]
        names = ["e", request.id().to_hex()], ["p", request.author().to_hex()]
        invoice = await self.wallet.create_invoice(70, memo="", expiry_s=60)
        await self.say(7000, "", ["status", "payment-required"], *names, ["amount", "70", invoice.bolt11])
        while await self.wallet.find_settlement(invoice.payment_hash) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self.say(7000, "", ["status", "processing"], *names)
        await self.say(6050, "Lima", *names, ["request", request.as_json()], ["amount", "70"])


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    async with real_relay() as url, open_market(url, tmp_path) as market:
        yield market


@asynccontextmanager
async def foreigner(market: Market) -> AsyncIterator[Foreigner]:
    async with connect(market.url) as socket:
        provider = Foreigner(socket, await market.wallet("abroad"))
        task = asyncio.create_task(provider.serve())
        try:
            yield provider
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_foreign_provider_reads_our_request_is_paid_and_answers(market: Market) -> None:
    async with foreigner(market) as provider:
        venue = await market.venue(encryption=None)
        completion = await venue.complete(asking())
        assert completion.text == "Lima"
        assert completion.usage.cost_msats == 70 == await provider.wallet.balance_msats()
        assert completion.usage.estimated, "it counts no tokens, so they are ours"
        assert provider.prompts == ["System: Be brief.\n\nUser: What is the capital of Peru?"]


async def test_a_provider_that_cannot_decrypt_is_not_sent_what_must_be_hidden(market: Market) -> None:
    async with foreigner(market) as provider:
        with pytest.raises(Exception, match="cannot read jobs encrypted by nip44"):
            await (await market.venue(patience_s=1.0)).complete(asking())
        assert provider.prompts == []
