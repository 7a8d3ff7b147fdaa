"""The law of every wallet: money moves once, exactly, with proof, and never for what must not be paid."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from blocks.wallets import WALLETS
from swarmc.contracts.errors import WalletError
from swarmc.contracts.wallet import Invoice, Network, Payment
from swarmc.nostr.invoices import Node, decode_invoice, make_invoice
from tests.conformance.wallet_pairs import FUNDS_MSATS, PAIRS, Pair

pytestmark = pytest.mark.xdist_group("lnbits")

PRICE_MSATS = 100_000
PATIENCE_S = 20


@pytest.fixture(params=list(PAIRS))
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with PAIRS[request.param](request) as pair:
        yield pair


async def ask(pair: Pair, amount_msats: int = PRICE_MSATS, expiry_s: int = 600) -> Invoice:
    return await pair.payee.create_invoice(amount_msats, memo="a job", expiry_s=expiry_s)


async def pay(pair: Pair, invoice: Invoice) -> Payment:
    return await pair.payer.pay(invoice, max_fee_msats=0)


async def balances(pair: Pair) -> tuple[int, int]:
    return await pair.payer.balance_msats(), await pair.payee.balance_msats()


def stranger_s(network: Network, amount_msats: int | None) -> Invoice:
    """An invoice, rightly signed, of a node that nobody knows."""
    payment_hash = secrets.token_bytes(32).hex()
    node = Node(secrets.token_bytes(32), network)
    return make_invoice(node, payment_hash, amount_msats, created_at=int(time.time()), expiry_s=600)


async def refusal(pair: Pair, invoice: Invoice) -> WalletError:
    """Why it is not paid; nothing has moved."""
    with pytest.raises(WalletError) as caught:
        await pay(pair, invoice)
    assert not caught.value.unknown
    assert await balances(pair) == (FUNDS_MSATS, 0)
    return caught.value


def test_every_registered_wallet_is_held_to_the_law() -> None:
    assert set(PAIRS) == set(WALLETS)


def test_every_wallet_s_block_has_a_name_of_its_own() -> None:
    assert len({kind.get_block_type_slug() for kind in WALLETS.values()}) == len(WALLETS)


@pytest.mark.attack("C1")
async def test_an_invoice_asks_for_exactly_what_was_asked(pair: Pair) -> None:
    before = int(time.time())
    invoice = await ask(pair, 21_000, expiry_s=1234)
    assert decode_invoice(invoice.bolt11) == invoice
    assert (invoice.amount_msats, invoice.network) == (21_000, pair.payee.network)
    assert (invoice.expires_at - invoice.created_at, invoice.description) == (1234, "a job")
    assert before <= invoice.created_at <= time.time() + 1


async def test_every_invoice_has_a_hash_of_its_own(pair: Pair) -> None:
    invoices = await asyncio.gather(*(ask(pair) for _ in range(8)))
    assert len({invoice.payment_hash for invoice in invoices}) == 8


@pytest.mark.attack("C2")
@pytest.mark.parametrize("amount_msats", [1, 999, 1_001, 1_500, 1_999])
async def test_a_part_of_a_satoshi_is_asked_for_exactly_or_refused(pair: Pair, amount_msats: int) -> None:
    asked = await asyncio.gather(ask(pair, amount_msats), return_exceptions=True)
    if isinstance(asked[0], WalletError):
        assert not asked[0].unknown
        return
    assert isinstance(asked[0], Invoice)
    assert decode_invoice(asked[0].bolt11).amount_msats == amount_msats
    assert (await pay(pair, asked[0])).amount_msats == amount_msats


@pytest.mark.parametrize(("amount_msats", "expiry_s"), [(0, 600), (-1000, 600), (10**30, 600), (1000, 0), (1000, -1)])
async def test_no_invoice_is_made_over_what_cannot_be_paid(pair: Pair, amount_msats: int, expiry_s: int) -> None:
    with pytest.raises(WalletError):
        await ask(pair, amount_msats, expiry_s)


@pytest.mark.attack("C7", "C11")
async def test_a_payment_is_proved_by_the_preimage_and_the_money_adds_up(pair: Pair) -> None:
    invoice = await ask(pair)
    payment = await pay(pair, invoice)
    assert hashlib.sha256(bytes.fromhex(payment.preimage)).hexdigest() == payment.payment_hash == invoice.payment_hash
    assert payment.amount_msats == PRICE_MSATS
    assert payment.simulated is pair.payer.simulated
    assert await balances(pair) == (FUNDS_MSATS - payment.cost_msats, PRICE_MSATS)


@pytest.mark.attack("C8", "D7")
async def test_the_same_invoice_paid_again_moves_nothing_and_gives_the_same_payment(pair: Pair) -> None:
    invoice = await ask(pair)
    first = await pay(pair, invoice)
    again = await asyncio.gather(*(pay(pair, invoice) for _ in range(4)))
    assert {payment.preimage for payment in again} == {first.preimage}
    assert await balances(pair) == (FUNDS_MSATS - first.cost_msats, PRICE_MSATS)


async def test_an_invoice_paid_by_many_tasks_at_once_is_paid_once(pair: Pair) -> None:
    invoice = await ask(pair)
    payments = await asyncio.gather(*(pay(pair, invoice) for _ in range(8)))
    assert len({payment.preimage for payment in payments}) == 1
    assert await balances(pair) == (FUNDS_MSATS - payments[0].cost_msats, PRICE_MSATS)


@pytest.mark.attack("C4", "D4")
async def test_an_expired_invoice_is_not_paid(pair: Pair) -> None:
    invoice = await ask(pair, expiry_s=1)
    await asyncio.sleep(max(0.0, invoice.expires_at - time.time()) + 0.05)
    await refusal(pair, invoice)
    assert await pair.payee.find_settlement(invoice.payment_hash) is None


@pytest.mark.attack("D5")
async def test_an_invoice_without_an_amount_is_not_paid(pair: Pair) -> None:
    await refusal(pair, stranger_s(pair.payer.network, None))


@pytest.mark.attack("D4")
async def test_an_invoice_of_another_network_is_not_paid(pair: Pair) -> None:
    networks: tuple[Network, ...] = ("bitcoin", "testnet", "signet", "regtest")
    for network in networks:
        if network != pair.payer.network:
            await refusal(pair, stranger_s(network, PRICE_MSATS))


async def test_an_invoice_of_a_node_that_nobody_knows_is_not_paid(pair: Pair) -> None:
    await refusal(pair, stranger_s(pair.payer.network, PRICE_MSATS))


async def test_too_little_money_pays_nothing_and_says_so_for_sure(pair: Pair) -> None:
    invoice = await ask(pair, FUNDS_MSATS + 1000)
    await refusal(pair, invoice)
    assert (await pair.payer.find_payment(invoice.payment_hash)).state == "unsent"
    assert await pair.payee.find_settlement(invoice.payment_hash) is None


async def test_what_became_of_a_payment_is_known_to_the_payer_alone(pair: Pair) -> None:
    invoice = await ask(pair)
    assert (await pair.payer.find_payment(invoice.payment_hash)).state == "unsent"
    payment = await pay(pair, invoice)
    status = await pair.payer.find_payment(invoice.payment_hash)
    assert status.state == "settled"
    assert status.payment == payment
    assert (await pair.payee.find_payment(invoice.payment_hash)).state == "unsent"


async def test_a_payment_of_an_unknown_hash_is_unsent_and_not_settled(pair: Pair) -> None:
    assert (await pair.payer.find_payment("ab" * 32)).state == "unsent"
    assert await pair.payee.find_settlement("ab" * 32) is None


@pytest.mark.attack("C5", "C7", "C9")
async def test_what_came_in_is_known_to_the_payee_alone_and_only_once_it_came(pair: Pair) -> None:
    invoice = await ask(pair)
    assert await pair.payee.find_settlement(invoice.payment_hash) is None
    before = int(time.time())
    payment = await pay(pair, invoice)
    settlement = await pair.payee.find_settlement(invoice.payment_hash)
    assert settlement is not None
    assert (settlement.payment_hash, settlement.amount_msats) == (invoice.payment_hash, PRICE_MSATS)
    assert settlement.preimage in (None, payment.preimage)
    assert settlement.simulated is pair.payee.simulated
    assert before - 1 <= settlement.settled_at <= time.time() + 1
    assert await pair.payer.find_settlement(invoice.payment_hash) is None


async def test_a_payment_is_hinted_at_to_whoever_listens(pair: Pair) -> None:
    invoices = [await ask(pair, 1000) for _ in range(3)]
    hints = pair.payee.settlements()
    waiting = {invoice.payment_hash for invoice in invoices}

    async def hear() -> None:
        async for hint in hints:
            waiting.discard(hint)
            if not waiting:
                return

    hearing = asyncio.create_task(hear())
    for invoice in invoices:
        await pay(pair, invoice)
    await asyncio.wait_for(hearing, PATIENCE_S)


@pytest.mark.attack("D6")
async def test_fifty_payments_at_once_spend_no_more_than_there_is(pair: Pair) -> None:
    invoices = [await ask(pair) for _ in range(50)]
    answers = await asyncio.gather(*(pay(pair, invoice) for invoice in invoices), return_exceptions=True)
    paid = [answer for answer in answers if isinstance(answer, Payment)]
    assert all(isinstance(answer, WalletError) and not answer.unknown for answer in answers if answer not in paid)
    assert 0 < len(paid) <= FUNDS_MSATS // PRICE_MSATS
    spent_msats = sum(payment.cost_msats for payment in paid)
    assert await balances(pair) == (FUNDS_MSATS - spent_msats, len(paid) * PRICE_MSATS)
