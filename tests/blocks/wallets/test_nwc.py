"""The Nostr Wallet Connect wallet against a service that speaks over a real relay, rightly and wrongly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import nostr_sdk
import pytest
from pydantic import SecretStr, ValidationError

from blocks.wallets import LedgerWallet
from blocks.wallets.find import find_wallet
from blocks.wallets.nwc import Nwc, NwcWallet
from swarmc.contracts.errors import WalletError
from swarmc.contracts.wallet import Invoice, Wallet
from swarmc.nostr.nip47 import parse_uri
from tests.blocks.wallets.nwc_service import METHODS, Manners, NwcService, nwc_service
from tests.nostr.relays import real_relay

FUNDS_MSATS = 1_000_000


@dataclass
class Rig:
    """A wallet over a service, the service, and somebody to pay."""

    wallet: NwcWallet
    service: NwcService
    payee: Wallet

    async def invoice(self, amount_msats: int = 21_500, expiry_s: int = 600) -> Invoice:
        return await self.payee.create_invoice(amount_msats, memo="a job", expiry_s=expiry_s)


@asynccontextmanager
async def rig(tmp_path: Path, *, timeout_s: float = 5, grace_s: float = 5, **manners) -> AsyncIterator[Rig]:
    file = tmp_path / "wallet.db"
    async with (
        real_relay() as url,
        LedgerWallet(path=file, account="service", start_msats=FUNDS_MSATS).open() as behind,
        LedgerWallet(path=file, account="payee").open() as payee,
        nwc_service(behind, url, Manners(**manners)) as service,
        NwcWallet(parse_uri(service.uri), timeout_s=timeout_s, grace_s=grace_s, simulated=True) as wallet,
    ):
        yield Rig(wallet, service, payee)


@pytest.mark.parametrize("schemes", [("nip44", "nip04"), ("nip44",), ("nip04",)])
async def test_money_moves_once_by_the_best_encryption_that_is_offered(tmp_path, schemes):
    async with rig(tmp_path, schemes=schemes) as it:
        invoice = await it.invoice()
        first = await it.wallet.pay(invoice, max_fee_msats=0)
        second = await it.wallet.pay(invoice, max_fee_msats=0)
        assert first == second
        assert (first.amount_msats, first.simulated) == (21_500, True)
        assert await it.wallet.balance_msats() == FUNDS_MSATS - 21_500
        assert it.wallet.network == "regtest"
    assert set(it.service.spoken) == {schemes[0]}
    assert it.service.asked.count("pay_invoice") == 1


@pytest.mark.attack("E6")
async def test_answers_by_others_about_others_or_again_are_ignored(tmp_path):
    async with rig(tmp_path, liars=2, wrong_request=True, repeats=True) as it:
        invoice = await it.invoice()
        payments = [await it.wallet.pay(invoice, max_fee_msats=0) for _ in range(3)]
        assert {payment.preimage for payment in payments} == {payments[0].preimage}
        assert await it.wallet.balance_msats() == FUNDS_MSATS - 21_500
        assert it.wallet.network == "regtest"


@pytest.mark.attack("E6")
async def test_a_late_answer_leaves_the_payment_unknown_and_a_look_decides(tmp_path):
    async with rig(tmp_path, timeout_s=1, late_s={"pay_invoice": 1.5}) as it:
        invoice = await it.invoice()
        with pytest.raises(WalletError, match="did not answer pay_invoice") as caught:
            await it.wallet.pay(invoice, max_fee_msats=0)
        assert caught.value.unknown
        status = await it.wallet.find_payment(invoice.payment_hash)
        assert status.state == "settled"
        assert await it.wallet.pay(invoice, max_fee_msats=0) == status.payment
    assert it.service.asked.count("pay_invoice") == 1


@pytest.mark.attack("E6")
async def test_a_request_that_may_still_arrive_is_not_repeated(tmp_path):
    async with rig(tmp_path, timeout_s=1, grace_s=1.5, deaf_to={"pay_invoice"}) as it:
        invoice = await it.invoice()
        for _ in range(2):
            with pytest.raises(WalletError) as caught:
                await it.wallet.pay(invoice, max_fee_msats=0)
            assert caught.value.unknown
        assert (await it.wallet.find_payment(invoice.payment_hash)).state == "pending"
        assert it.service.asked.count("pay_invoice") == 1
        await asyncio.sleep(1.5)
        assert (await it.wallet.find_payment(invoice.payment_hash)).state == "unsent"
        it.service.manners.deaf_to.clear()
        assert (await it.wallet.pay(invoice, max_fee_msats=0)).amount_msats == 21_500


@pytest.mark.attack("E6")
async def test_a_payment_that_cannot_be_looked_up_stays_unknown(tmp_path):
    async with rig(tmp_path, timeout_s=1, swallows={"pay_invoice", "lookup_invoice"}) as it:
        invoice = await it.invoice()
        for _ in range(2):
            with pytest.raises(WalletError) as caught:
                await it.wallet.pay(invoice, max_fee_msats=0)
            assert caught.value.unknown
    assert it.service.asked.count("pay_invoice") == 1


async def test_those_who_ask_together_share_one_payment_and_giving_up_does_not_stop_it(tmp_path):
    async with rig(tmp_path, late_s={"pay_invoice": 0.3}) as it:
        invoice = await it.invoice()
        calls = [asyncio.create_task(it.wallet.pay(invoice, max_fee_msats=0)) for _ in range(8)]
        await asyncio.sleep(0.05)
        for call in calls[:7]:
            call.cancel()
        assert (await calls[7]).amount_msats == 21_500
    assert it.service.asked.count("pay_invoice") == 1


async def test_a_budget_that_is_used_up_is_said_for_sure(tmp_path):
    async with rig(tmp_path, quota_msats=10_000) as it:
        invoice = await it.invoice()
        with pytest.raises(WalletError, match="QUOTA_EXCEEDED") as caught:
            await it.wallet.pay(invoice, max_fee_msats=0)
        assert not caught.value.unknown
        assert (await it.wallet.find_payment(invoice.payment_hash)).state == "unsent"


@pytest.mark.attack("C7")
@pytest.mark.parametrize("preimage", ["ab" * 32, "00" * 32, "zz", "ab"])
async def test_a_preimage_that_proves_nothing_leaves_the_payment_unknown(tmp_path, preimage):
    async with rig(tmp_path, preimage=preimage) as it:
        invoice = await it.invoice()
        for _ in range(2):
            with pytest.raises(WalletError, match="preimage") as caught:
                await it.wallet.pay(invoice, max_fee_msats=0)
            assert caught.value.unknown
    assert it.service.asked.count("pay_invoice") == 1


@pytest.mark.attack("C2")
async def test_an_invoice_that_was_rounded_is_not_handed_on(tmp_path):
    async with rig(tmp_path, whole_sats=True) as it:
        with pytest.raises(WalletError, match="over 1500 msats and made one over 1000"):
            await it.wallet.create_invoice(1_500, memo="", expiry_s=60)
        assert (await it.wallet.create_invoice(2_000, memo="", expiry_s=60)).amount_msats == 2_000


@pytest.mark.attack("C5")
@pytest.mark.parametrize("notifies", [True, False])
async def test_what_came_in_is_hinted_at_and_a_look_decides(tmp_path, notifies):
    async with rig(tmp_path, notifies=notifies) as it:
        invoice = await it.wallet.create_invoice(1_500, memo="a job", expiry_s=600)
        hearing = asyncio.ensure_future(anext(it.wallet.settlements()))
        assert await it.wallet.find_settlement(invoice.payment_hash) is None
        async with LedgerWallet(path=tmp_path / "wallet.db", account="buyer", start_msats=9_000).open() as buyer:
            payment = await buyer.pay(invoice, max_fee_msats=0)
        assert await asyncio.wait_for(hearing, 10) == invoice.payment_hash
        settled = await it.wallet.find_settlement(invoice.payment_hash)
        assert settled is not None
        assert (settled.amount_msats, settled.preimage, settled.simulated) == (1_500, payment.preimage, True)


@pytest.mark.attack("C10")
async def test_a_wallet_that_is_not_there_says_so(tmp_path):
    nobody = f"nostr+walletconnect://{'ab' * 32}?relay=ws://127.0.0.1:1&secret={'cd' * 32}"
    with pytest.raises(WalletError) as caught:
        async with Nwc(uri=SecretStr(nobody), timeout_s=1).open():
            pass
    assert caught.value.retryable
    async with real_relay() as url:
        with pytest.raises(WalletError, match="says nothing of itself"):
            async with Nwc(uri=SecretStr(nobody.replace("ws://127.0.0.1:1", url)), timeout_s=2).open():
                pass


async def test_what_a_wallet_does_not_offer_is_refused_without_asking(tmp_path):
    with pytest.raises(WalletError, match="lookup_invoice"):
        async with rig(tmp_path, methods=("pay_invoice",)):
            pass
    async with rig(tmp_path, methods=tuple(set(METHODS) - {"pay_invoice"})) as it:
        with pytest.raises(WalletError, match="does not offer pay_invoice") as caught:
            await it.wallet.pay(await it.invoice(), max_fee_msats=0)
    assert not caught.value.unknown


async def test_a_foreign_client_and_ours_agree_with_the_service(tmp_path):
    async with rig(tmp_path) as it:
        uri = nostr_sdk.NostrWalletConnectUri.parse(it.service.uri)
        client = nostr_sdk.NostrWalletConnect(uri)
        info = await client.get_info()
        assert info.network == "regtest"
        invoice = await it.invoice(4_000)
        paid = await client.pay_invoice(nostr_sdk.PayInvoiceRequest(id=None, invoice=invoice.bolt11, amount=None))
        assert (await client.get_balance()).balance == await it.wallet.balance_msats() == FUNDS_MSATS - 4_000
        assert (await it.wallet.pay(invoice, max_fee_msats=0)).preimage == paid.preimage


@pytest.mark.attack("E4")
async def test_no_text_form_of_the_block_shows_the_secret_of_its_address():
    secret = "cd" * 32
    uri = f"nostr+walletconnect://{'ab' * 32}?relay=wss://relay.example.org&secret={secret}"
    block = await find_wallet(uri)
    assert isinstance(block, Nwc)
    assert secret not in f"{block!r} {block} {block.model_dump()} {vars(block.open())}"
    with pytest.raises(ValidationError) as caught:
        Nwc(uri=SecretStr(uri.replace("relay=wss", "relay=http")))
    assert secret not in str(caught.value)
