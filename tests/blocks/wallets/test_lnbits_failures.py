"""What the LNbits wallet makes of a server that fails, lies or is silent; the server is a script."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.wallets.lnbits import Lnbits, LnbitsWallet
from swarmc.contracts.errors import WalletError
from swarmc.contracts.wallet import Invoice
from swarmc.nostr.invoices import Node, make_invoice
from tests.blocks.venues.scripted_server import Asked, Said, scripted

PREIMAGE = b"\x07" * 32
HASH = hashlib.sha256(PREIMAGE).hexdigest()
NODE = Node(b"\x05" * 32, "bitcoin")
ADMIN_KEY = "an-admin-key-that-nobody-may-see"
UNKNOWN_HASH = Said({"detail": "Payment does not exist."}, 404)
GONE = Said(status=0)


def invoice(amount_msats: int = 21_000, **changes: Any) -> Invoice:
    return make_invoice(NODE, HASH, amount_msats, **{"created_at": int(time.time()), "expiry_s": 600, **changes})


def row(**changes: Any) -> dict[str, Any]:
    """A payment that we made, as the server tells of it."""
    told = {"payment_hash": HASH, "amount": -21_000, "fee": -2, "status": "success", "preimage": PREIMAGE.hex()}
    return {**told, "updated_at": "2030-01-01T00:00:00+00:00", **changes}


@dataclass
class Script:
    """What the server answers, by what is asked."""

    pay: Said = field(default_factory=lambda: Said(row(), 201))
    made: Said = GONE
    look: Said = UNKNOWN_HASH
    fee: Said = field(default_factory=lambda: Said({"fee_reserve": 2_000}))

    def answer(self, asked: Asked) -> Said:
        if asked.path == "/api/v1/wallet":
            return Said({"name": "x", "balance": 50_000})
        if asked.method == "POST":
            return self.pay if asked.body["out"] else self.made
        return self.fee if "fee-reserve" in asked.path else self.look


@asynccontextmanager
async def opened(script: Script, *, grace_s: float = 10, **changes: Any) -> AsyncIterator[LnbitsWallet]:
    async with scripted(script.answer) as server:
        block = Lnbits(
            base_url=server.url, invoice_key=SecretStr("k"), admin_key=SecretStr(ADMIN_KEY), timeout_s=2, **changes
        )
        async with LnbitsWallet(block, grace_s=grace_s) as wallet:
            yield wallet


async def refusal(wallet: LnbitsWallet, asked: Invoice | None = None) -> WalletError:
    with pytest.raises(WalletError) as caught:
        await wallet.pay(asked or invoice(), max_fee_msats=5_000)
    assert ADMIN_KEY not in str(caught.value)
    return caught.value


OPEN_ENDS = {
    "broken off": GONE,
    "500": Said({"detail": f"boom {ADMIN_KEY}"}, 500),
    "502 of a gateway": Said(b"<html>bad gateway", 502),
    "pending": Said({"detail": "Payment is still pending.", "status": "pending"}, 520),
    "pending row": Said(row(status="pending", preimage=None), 201),
    "nonsense": Said(b"ok", 201),
    "an empty object": Said({}, 201),
    "no preimage": Said(row(preimage=None), 201),
    "another preimage": Said(row(preimage="ab" * 32), 201),
    "another payment": Said(row(payment_hash="ab" * 32), 201),
}


@pytest.mark.parametrize("pay", OPEN_ENDS.values(), ids=OPEN_ENDS)
async def test_after_an_unclear_answer_the_payment_is_unknown_and_is_not_sent_again(pay):
    script = Script(pay)
    async with opened(script) as wallet:
        assert (await refusal(wallet)).unknown
        assert (await wallet.find_payment(HASH)).state == "pending"
        script.pay = Said(row(), 201)
        again = await refusal(wallet)
        assert again.unknown
        assert "earlier try" in str(again)
        script.look = Said({"paid": True, "details": row()})
        assert (await wallet.pay(invoice(), max_fee_msats=5_000)).fee_msats == 2


async def test_once_it_can_no_longer_come_it_may_be_paid_anew():
    script = Script(GONE)
    async with opened(script, grace_s=0.2) as wallet:
        assert (await refusal(wallet)).unknown
        await asyncio.sleep(0.25)
        assert (await wallet.find_payment(HASH)).state == "unsent"
        script.pay = Said(row(), 201)
        assert (await wallet.pay(invoice(), max_fee_msats=5_000)).amount_msats == 21_000


async def test_a_silent_server_leaves_the_payment_unknown():
    async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    block = Lnbits(
        base_url=f"http://127.0.0.1:{port}", invoice_key=SecretStr("k"), admin_key=SecretStr("k"), timeout_s=0.3,
        simulated=True,
    )  # fmt: skip
    wallet = LnbitsWallet(block)
    async with wallet._rest:
        error = await refusal(wallet)
        assert error.unknown
        assert "did not answer within 0.3 s" in str(error)
        # Nor can it be looked up: it stays unknown.
        assert (await refusal(wallet)).unknown
    server.close()


NOES = {
    "too dear": Said({"detail": "Insufficient balance.", "status": "failed"}, 520),
    "bad request": Said({"detail": "no"}, 400),
    "wrong key": Said({"detail": "Invoice (or Admin) key required."}, 403),
    "not set up": Said(b"", 307, {"location": "/first_install"}),
    "too often": Said({"detail": "slow down"}, 429),
}


@pytest.mark.parametrize("pay", NOES.values(), ids=NOES)
async def test_a_clear_no_says_for_sure_that_nothing_was_paid(pay):
    async with opened(Script(pay)) as wallet:
        assert not (await refusal(wallet)).unknown
        assert (await wallet.find_payment(HASH)).state == "unsent"


@pytest.mark.parametrize("status", ["success", "failed"])
async def test_an_invoice_that_was_paid_before_gives_the_first_payment(status):
    no = Said({"detail": "Payment already paid.", "status": status}, 520)
    async with opened(Script(no, look=Said({"paid": True, "details": row()}))) as wallet:
        assert (await wallet.pay(invoice(), max_fee_msats=5_000)).preimage == PREIMAGE.hex()


async def test_a_server_that_is_not_there_was_not_asked_to_pay():
    block = Lnbits(base_url="http://127.0.0.1:1", invoice_key=SecretStr("k"), admin_key=SecretStr("k"), simulated=True)
    with pytest.raises(WalletError, match="cannot be reached") as caught:
        async with block.open():
            pass
    assert caught.value.retryable
    wallet = LnbitsWallet(block)
    async with wallet._rest:
        assert not (await refusal(wallet)).unknown


async def test_a_fee_above_the_cap_is_refused_beforehand():
    async with opened(Script(fee=Said({"fee_reserve": 5_001}))) as wallet:
        error = await refusal(wallet)
        assert "5001 msats" in str(error)
        assert not error.unknown


@pytest.mark.attack("C1", "C2")
@pytest.mark.parametrize("amount_msats", [1_000, 1_999, 3_000])
async def test_an_invoice_over_another_amount_is_not_handed_on(amount_msats):
    made = Said({"bolt11": invoice(amount_msats).bolt11}, 201)
    async with opened(Script(made=made)) as wallet:
        with pytest.raises(WalletError, match=f"over 2000 msats and made one over {amount_msats}"):
            await wallet.create_invoice(2_000, memo="", expiry_s=600)


async def test_an_invoice_that_lasts_longer_or_is_none_is_not_handed_on():
    for bolt11 in (invoice(2_000, expiry_s=601).bolt11, "lnbcnonsense", 7, None):
        async with opened(Script(made=Said({"bolt11": bolt11}, 201))) as wallet:
            with pytest.raises(WalletError):
                await wallet.create_invoice(2_000, memo="", expiry_s=600)


@pytest.mark.attack("C5", "C7")
async def test_what_came_in_is_believed_by_status_and_never_against_its_preimage():
    came_in = row(amount=21_000)
    looks = {
        "pending": Said({"paid": True, "details": {**came_in, "status": "pending"}}),
        "unknown": UNKNOWN_HASH,
    }
    for look in looks.values():
        async with opened(Script(look=look)) as wallet:
            assert await wallet.find_settlement(HASH) is None
    async with opened(Script(look=Said({"details": {**came_in, "preimage": "ab" * 32}}))) as wallet:
        with pytest.raises(WalletError, match="preimage"):
            await wallet.find_settlement(HASH)


async def test_an_answer_for_anybody_without_details_proves_nothing():
    """The server says so, of every wallet's payments, to a key that it does not know."""
    async with opened(Script(look=Said({"paid": True, "preimage": PREIMAGE.hex()}))) as wallet:
        with pytest.raises(WalletError, match="invoice_key"):
            await wallet.find_settlement(HASH)
        with pytest.raises(WalletError, match="invoice_key"):
            await wallet.find_payment(HASH)


@pytest.mark.parametrize("details", [None, [], {}, {"amount": "x"}, row(amount=None), row(updated_at="yesterday")])
async def test_details_that_cannot_be_read_are_an_error_and_no_answer(details):
    async with opened(Script(look=Said({"paid": True, "details": details}))) as wallet:
        with pytest.raises(WalletError, match="reading what"):
            await wallet.find_payment(HASH)
