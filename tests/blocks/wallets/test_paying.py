"""What wallets behind a network share: one payment an invoice, and hints that do not end."""

import asyncio
import hashlib
import time

import pytest

from blocks.wallets.hints import Hints
from blocks.wallets.paying import Paying, check_payable, check_terms, proves
from swarmc.contracts.errors import WalletError
from swarmc.contracts.wallet import Invoice, Payment, PaymentStatus, Settlement
from swarmc.nostr.invoices import Node, make_invoice

PREIMAGE = b"\x07" * 32
HASH = hashlib.sha256(PREIMAGE).hexdigest()
NODE = Node(b"\x05" * 32, "regtest")
PAYMENT = Payment(payment_hash=HASH, preimage=PREIMAGE.hex(), amount_msats=1, simulated=True)


def invoice(*, expiry_s: int = 600, payment_hash: str = HASH, amount_msats: int | None = 1) -> Invoice:
    return make_invoice(NODE, payment_hash, amount_msats, created_at=int(time.time()) - 10, expiry_s=expiry_s)


async def unsent(_: str) -> PaymentStatus:
    return PaymentStatus(state="unsent")


async def test_a_wallet_that_is_closed_meanwhile_leaves_the_payment_unknown():
    async def send(_: Invoice) -> Payment:
        await asyncio.sleep(30)
        return PAYMENT

    paying = Paying(unsent, grace_s=5)
    call = asyncio.create_task(paying.pay(invoice(), "regtest", send))
    await asyncio.sleep(0.01)
    assert paying.may_come(HASH)
    await paying.aclose()
    with pytest.raises(WalletError, match="closed") as caught:
        await call
    assert caught.value.unknown
    assert paying.may_come(HASH)


async def test_an_invoice_that_was_paid_and_then_expired_still_gives_its_payment():
    async def send(_: Invoice) -> Payment:
        raise AssertionError("an expired invoice was handed to the wallet")

    async def found(_: str) -> PaymentStatus:
        return PaymentStatus(state="settled", payment=PAYMENT)

    assert await Paying(found, grace_s=0).pay(invoice(expiry_s=1), "regtest", send) == PAYMENT
    with pytest.raises(WalletError, match="expired"):
        await Paying(unsent, grace_s=0).pay(invoice(expiry_s=1), "regtest", send)


@pytest.mark.attack("D4", "D5")
def test_what_must_not_be_paid_is_refused_to_the_second():
    asked = invoice()
    check_payable(asked, "regtest", asked.expires_at - 0.001)
    for given, network, now_s, why in (
        (asked, "regtest", asked.expires_at, "expired"),
        (asked, "bitcoin", asked.created_at, "network"),
        (invoice(amount_msats=None), "regtest", asked.created_at, "amount"),
    ):
        with pytest.raises(WalletError, match=why):
            check_payable(given, network, now_s)


@pytest.mark.parametrize(("amount_msats", "expiry_s"), [(0, 1), (-1, 1), (1, 0), (1, -1), (10**30, 1), (1, 10**30)])
def test_nobody_is_asked_for_what_cannot_be_paid(amount_msats, expiry_s):
    with pytest.raises(WalletError):
        check_terms(amount_msats, expiry_s, "the wallet")


@pytest.mark.attack("C7")
@pytest.mark.parametrize("preimage", ["", "zz", "00" * 32, "07" * 31, "07" * 33, "07 " * 32, "ab" * 32])
def test_only_the_preimage_proves_a_payment(preimage):
    assert proves(PREIMAGE.hex(), HASH)
    assert not proves(preimage, HASH)


@pytest.mark.attack("C10")
async def test_hints_go_on_while_a_wallet_is_down_and_end_with_the_invoice():
    answers = iter([WalletError("down"), None])
    asked: list[str] = []

    async def find(payment_hash: str) -> Settlement | None:
        asked.append(payment_hash)
        answer = next(answers, Settlement(payment_hash=payment_hash, amount_msats=1, settled_at=1, simulated=True))
        if isinstance(answer, WalletError):
            raise answer
        return answer

    hints = Hints(find, every_s=0.01)
    hints.watch(make_invoice(NODE, "ab" * 32, 1, created_at=1, expiry_s=1))
    hints.watch(invoice())
    listening = hints.listen()
    assert await asyncio.wait_for(anext(listening), 5) == HASH
    assert asked == [HASH] * 3
    await asyncio.wait((ahead := asyncio.ensure_future(anext(listening)),), timeout=0.05)
    assert asked == [HASH] * 3
    hints.tell("cd" * 32)
    assert await asyncio.wait_for(ahead, 5) == "cd" * 32
