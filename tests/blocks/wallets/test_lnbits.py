"""The LNbits wallet against a real LNbits."""

import asyncio
import time

import pytest
from pydantic import SecretStr, ValidationError

from blocks.wallets.lnbits import Lnbits, LnbitsWallet
from swarmc.contracts.errors import WalletError
from tests.blocks.wallets.lnbits_server import LnbitsServer, called, lnbits_server

pytestmark = [pytest.mark.xdist_group("lnbits"), pytest.mark.slow]


@pytest.fixture(scope="session")
def server() -> LnbitsServer:
    return lnbits_server()


async def test_money_moves_once_and_is_marked_as_simulated(server):
    payer, payee = server.account(1000), server.account()
    async with payer.block().open() as paying, payee.block(admin_key=None).open() as paid:
        invoice = await paid.create_invoice(21_000, memo="a job", expiry_s=600)
        first = await paying.pay(invoice, max_fee_msats=0)
        second = await paying.pay(invoice, max_fee_msats=0)
        settled = await paid.find_settlement(invoice.payment_hash)
        balances = await paying.balance_msats(), await paid.balance_msats()
    assert first == second
    assert (first.amount_msats, first.fee_msats, first.simulated) == (21_000, 0, True)
    assert settled is not None
    assert (settled.amount_msats, settled.preimage, settled.simulated) == (21_000, first.preimage, True)
    assert abs(settled.settled_at - time.time()) < 60
    assert balances == (979_000, 21_000)


async def test_a_wallet_opened_anew_gives_the_payment_that_was_made_before(server):
    payer, payee = server.account(1000), server.account()
    async with payee.block().open() as paid, payer.block().open() as paying:
        invoice = await paid.create_invoice(5_000, memo="", expiry_s=600)
        first = await paying.pay(invoice, max_fee_msats=0)
    async with payer.block().open() as again:
        assert await again.pay(invoice, max_fee_msats=0) == first
        assert await again.balance_msats() == 995_000


@pytest.mark.attack("C2")
@pytest.mark.parametrize("amount_msats", [1, 500, 999, 1_500, 1_999])
async def test_a_part_of_a_satoshi_is_refused_and_never_dropped(server, amount_msats):
    async with server.account().block().open() as wallet:
        with pytest.raises(WalletError, match=f"whole satoshis only.*{amount_msats} msats"):
            await wallet.create_invoice(amount_msats, memo="", expiry_s=600)


@pytest.mark.attack("C4")
async def test_an_expired_invoice_is_not_paid_though_the_server_would(server):
    payer, payee = server.account(100), server.account()
    async with payer.block().open() as paying, payee.block().open() as paid:
        invoice = await paid.create_invoice(3_000, memo="", expiry_s=1)
        await asyncio.sleep(invoice.expires_at - time.time() + 0.1)
        with pytest.raises(WalletError, match="expired") as caught:
            await paying.pay(invoice, max_fee_msats=0)
        assert not caught.value.unknown
        assert await paying.balance_msats() == 100_000
    asked = {"out": True, "bolt11": invoice.bolt11}
    told = called("POST", f"{server.base_url}/api/v1/payments", asked, {"X-Api-Key": payer.admin_key})
    assert told["status"] == "success"


@pytest.mark.attack("C5")
async def test_an_invoice_counts_as_paid_only_when_the_server_says_so(server):
    """A hint of any kind, as a webhook gives it, changes nothing; an unpaid invoice's preimage is not handed on."""
    async with server.account().block().open() as wallet:
        assert isinstance(wallet, LnbitsWallet)
        invoice = await wallet.create_invoice(7_000, memo="", expiry_s=600)
        hints = wallet.settlements()
        hearing = asyncio.ensure_future(anext(hints))
        await asyncio.sleep(0)
        wallet._hints.tell(invoice.payment_hash)
        assert await hearing == invoice.payment_hash
        assert await wallet.find_settlement(invoice.payment_hash) is None


@pytest.mark.attack("C11")
async def test_fake_money_is_never_taken_for_real(server):
    payer, payee = server.account(100), server.account()
    async with payee.block(simulated=False).open() as wallet:
        with pytest.raises(WalletError, match="FakeWallet"):
            await wallet.create_invoice(1_000, memo="", expiry_s=600)
    async with payee.block().open() as paid, payer.block(simulated=False).open() as paying:
        invoice = await paid.create_invoice(1_000, memo="", expiry_s=600)
        with pytest.raises(WalletError, match="FakeWallet"):
            await paying.pay(invoice, max_fee_msats=0)
        assert await paying.balance_msats() == 100_000


async def test_a_wrong_key_is_refused_on_entering_and_never_shown(server):
    account = server.account()
    wrong = account.block(invoice_key=SecretStr("f" * 32))
    with pytest.raises(WalletError, match="invoice_key") as caught:
        async with wrong.open():
            pass
    assert "f" * 32 not in str(caught.value)
    assert account.invoice_key not in repr(account.block())


async def test_a_wallet_that_pays_itself_knows_both_sides(server):
    async with server.account(100).block().open() as wallet:
        invoice = await wallet.create_invoice(2_000, memo="", expiry_s=600)
        payment = await wallet.pay(invoice, max_fee_msats=0)
        assert (await wallet.find_payment(invoice.payment_hash)).payment == payment
        settled = await wallet.find_settlement(invoice.payment_hash)
        assert settled is not None
        assert await wallet.balance_msats() == 100_000


async def test_without_an_admin_key_nothing_is_paid(server):
    async with server.account(100).block(admin_key=None).open() as wallet, server.account().block().open() as paid:
        invoice = await paid.create_invoice(1_000, memo="", expiry_s=600)
        with pytest.raises(WalletError, match="admin_key") as caught:
            await wallet.pay(invoice, max_fee_msats=0)
    assert not caught.value.unknown


@pytest.mark.parametrize("base_url", ["", "ftp://x", "127.0.0.1:5000", "http://user:secret-word@127.0.0.1", "http://"])
def test_what_is_no_address_is_refused_and_not_repeated(base_url):
    with pytest.raises(ValidationError) as caught:
        Lnbits(base_url=base_url, invoice_key=SecretStr("k"))
    assert "secret-word" not in str(caught.value)
