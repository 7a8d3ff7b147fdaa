"""Two wallets on one network, for the laws of the wallet port: one entry for every registered wallet.

To add a wallet: a function that opens a pair, and a line in `PAIRS`. It may ask `request` for fixtures (a server
that is started once, from a conftest.py) and skip, with the reason, where the machine lacks what it needs.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks.wallets import LedgerWallet, Nwc
from swarmc.contracts.wallet import Wallet
from tests.blocks.wallets.lnbits_server import lnbits_server
from tests.blocks.wallets.nwc_service import Manners, nwc_service
from tests.nostr.relays import real_relay

FUNDS_MSATS = 1_000_000
"""What the payer has; the payee has nothing."""


@dataclass(frozen=True)
class Pair:
    """A payer with `FUNDS_MSATS`, and a payee with nothing."""

    payer: Wallet
    payee: Wallet


@asynccontextmanager
async def ledger_pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    path: Path = request.getfixturevalue("tmp_path") / "wallet.db"
    async with (
        LedgerWallet(path=path, account="payer", start_msats=FUNDS_MSATS).open() as payer,
        LedgerWallet(path=path, account="payee").open() as payee,
    ):
        yield Pair(payer, payee)
        await payer.audit()


@asynccontextmanager
async def lnbits_pair(_: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    server = lnbits_server()
    payer, payee = server.account(FUNDS_MSATS // 1000), server.account()
    async with payer.block().open() as paying, payee.block(admin_key=None).open() as paid:
        yield Pair(paying, paid)


@asynccontextmanager
async def nwc_pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with (
        real_relay() as url,
        ledger_pair(request) as behind,
        nwc_service(behind.payer, url) as payer,
        nwc_service(behind.payee, url, Manners(notifies=True)) as payee,
        Nwc(uri=SecretStr(payer.uri), simulated=True).open() as paying,
        Nwc(uri=SecretStr(payee.uri), simulated=True).open() as paid,
    ):
        yield Pair(paying, paid)


PAIRS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Pair]]] = {
    "ledger": ledger_pair,
    "lnbits": lnbits_pair,
    "nwc": nwc_pair,
}
"""By the word under which `WALLETS` knows the wallet."""
