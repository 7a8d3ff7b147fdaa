"""Play money in a file: what holds of it beyond the law of every wallet."""

import asyncio
import os
import random
import sqlite3
import stat
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from blocks.wallets.ledger_account import LedgerAccount
from blocks.wallets.ledger_audit import Audit, audited
from swarmc.contracts.errors import WalletError
from swarmc.contracts.wallet import Invoice

ROOT = Path(__file__).parents[3]
PAYING = Path(__file__).with_name("paying_process.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "money" / "wallet.db"


def spoil(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()


async def pay(payer: LedgerAccount, invoice: Invoice) -> str:
    return (await payer.pay(invoice, max_fee_msats=0)).preimage


async def test_a_new_account_gets_its_start_once_and_keeps_its_node(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=500) as account:
        assert await account.balance_msats() == 500
        pubkey = account.pubkey
        await account.fund(7)
    async with LedgerAccount.opened(path, "a", start_msats=500) as account:
        assert await account.balance_msats() == 507
        assert account.pubkey == pubkey
        assert await account.audit() == Audit(accounts=1, payments=0, funded_msats=507)


async def test_every_account_signs_with_a_key_of_its_own_which_is_shown_nowhere(path: Path) -> None:
    async with LedgerAccount.opened(path, "a") as a, LedgerAccount.opened(path, "b") as b:
        invoice = await a.create_invoice(1, memo="", expiry_s=60)
        assert invoice.payee == a.pubkey != b.pubkey
        with closing(sqlite3.connect(path)) as database:
            (key,) = database.execute("SELECT node_key FROM accounts WHERE name = 'a'").fetchone()
        assert key.hex() not in repr(a) + repr(vars(a)) + repr(invoice)


async def test_the_file_with_the_keys_is_for_its_owner_alone(path: Path) -> None:
    async with LedgerAccount.opened(path, "a"):
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("amount_msats", [0, -5, 2_100_000_000_000_000_000])
async def test_play_money_is_added_only_within_all_that_there_will_ever_be(path: Path, amount_msats: int) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=1) as account:
        with pytest.raises(WalletError, match="cannot be added"):
            await account.fund(amount_msats)
        assert await account.balance_msats() == 1


async def test_an_invoice_that_another_account_paid_is_refused(path: Path) -> None:
    async with (
        LedgerAccount.opened(path, "a", start_msats=100) as a,
        LedgerAccount.opened(path, "b", start_msats=100) as b,
        LedgerAccount.opened(path, "c") as c,
    ):
        invoice = await c.create_invoice(60, memo="", expiry_s=60)
        await pay(a, invoice)
        with pytest.raises(WalletError, match="paid by another account"):
            await pay(b, invoice)
        assert [await account.balance_msats() for account in (a, b, c)] == [40, 100, 60]


async def test_an_account_does_not_pay_itself(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=100) as a:
        invoice = await a.create_invoice(60, memo="", expiry_s=60)
        with pytest.raises(WalletError, match="account's own"):
            await pay(a, invoice)


async def test_an_invoice_is_paid_until_the_second_of_its_end_and_not_in_it(path: Path) -> None:
    now = [1_700_000_000.0]
    async with (
        LedgerAccount.opened(path, "a", start_msats=100, clock=lambda: now[0]) as a,
        LedgerAccount.opened(path, "b", clock=lambda: now[0]) as b,
    ):
        first, second = [await b.create_invoice(10, memo="", expiry_s=60) for _ in range(2)]
        now[0] = first.expires_at - 0.5
        preimage = await pay(a, first)
        now[0] = first.expires_at
        with pytest.raises(WalletError, match="expired"):
            await pay(a, second)
        assert await pay(a, first) == preimage


async def test_an_invoice_that_says_other_than_the_one_that_was_made_is_refused(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=100) as a, LedgerAccount.opened(path, "b") as b:
        invoice = await b.create_invoice(60, memo="", expiry_s=60)
        forged = invoice.model_copy(update={"amount_msats": 1, "bolt11": invoice.bolt11.replace("600p", "10p")})
        with pytest.raises(WalletError, match="made by no account"):
            await pay(a, forged)
        assert await a.balance_msats() == 100


@pytest.mark.attack("C7")
async def test_a_preimage_that_proves_nothing_moves_no_money(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=100) as a, LedgerAccount.opened(path, "b") as b:
        invoice = await b.create_invoice(60, memo="", expiry_s=60)
        spoil(path, f"UPDATE invoices SET preimage = '{'00' * 32}'")
        with pytest.raises(WalletError, match="would not prove"):
            await pay(a, invoice)
        assert (await a.balance_msats(), await b.balance_msats()) == (100, 0)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE accounts SET balance_msats = balance_msats + 1 WHERE name = 'a'", "'a' holds 41 msats"),
        ("UPDATE invoices SET amount_msats = 59", "holds"),
        ("DELETE FROM payments", "holds"),
        ("INSERT INTO fundings VALUES (9, 1, 5, 0)", "holds"),
        ("UPDATE invoices SET preimage = payment_hash", "does not prove"),
    ],
)
async def test_an_audit_finds_money_that_came_from_nowhere(path: Path, statement: str, complaint: str) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=100) as a, LedgerAccount.opened(path, "b") as b:
        await pay(a, await b.create_invoice(60, memo="", expiry_s=60))
        assert await a.audit() == Audit(accounts=2, payments=1, funded_msats=100)
        spoil(path, statement)
        with pytest.raises(WalletError, match=complaint):
            await b.audit()


async def opened_and_closed(path: Path) -> None:
    async with LedgerAccount.opened(path, "a"):
        pass


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    spoil(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(WalletError, match="another program's database"):
        asyncio.run(opened_and_closed(path))
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all, but a text that is long enough")
    with pytest.raises(WalletError, match="not a database"):
        asyncio.run(opened_and_closed(path))
    assert path.read_bytes().startswith(b"no database")


async def test_a_file_of_a_newer_program_is_refused(path: Path) -> None:
    async with LedgerAccount.opened(path, "a"):
        spoil(path, "PRAGMA user_version = 9")
        with pytest.raises(WalletError, match="version 9"):
            await opened_and_closed(path)


async def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WalletError, match=r"opening the wallet file .*give another path"):
        await opened_and_closed(tmp_path / "file" / "wallet.db")


async def test_a_payment_that_is_cancelled_before_its_turn_moves_nothing(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=100) as a, LedgerAccount.opened(path, "b") as b:
        invoice = await b.create_invoice(60, memo="", expiry_s=60)
        paying = asyncio.create_task(pay(a, invoice))
        await asyncio.sleep(0)
        paying.cancel()
        await asyncio.gather(paying, return_exceptions=True)
        assert (await a.find_payment(invoice.payment_hash)).state == "unsent"
        assert await a.balance_msats() == 100
        await pay(a, invoice)


async def test_one_refusal_among_many_payments_of_one_turn_spoils_no_other(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=100) as a, LedgerAccount.opened(path, "b") as b:
        invoices = [await b.create_invoice(amount, memo="", expiry_s=60) for amount in (30, 500, 30, 30, 30)]
        answers = await asyncio.gather(*(pay(a, invoice) for invoice in invoices), return_exceptions=True)
        assert [isinstance(answer, WalletError) for answer in answers] == [False, True, False, False, True]
        assert (await a.balance_msats(), await b.balance_msats()) == (10, 90)


async def test_a_writer_waits_for_another_process_without_holding_up_its_loop(path: Path) -> None:
    async with LedgerAccount.opened(path, "a") as account:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            funding = asyncio.create_task(account.fund(5))
            turns = 0
            until = time.monotonic() + 0.1
            while time.monotonic() < until:
                await asyncio.sleep(0.001)
                turns += 1
            assert not funding.done()
            assert turns > 20
            other.execute("COMMIT")
        await asyncio.wait_for(funding, 5)
        assert await account.balance_msats() == 5


async def test_a_closed_wallet_says_so_to_everybody(path: Path) -> None:
    async with LedgerAccount.opened(path, "a") as account:
        hints = account.settlements()
    for asked in (account.balance_msats(), account.fund(1), anext(hints)):
        with pytest.raises(WalletError, match="closed"):
            await asked


async def test_the_log_is_copied_back_while_payments_go_on(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=10**6) as a, LedgerAccount.opened(path, "b") as b:
        for _ in range(60):
            invoices = [await b.create_invoice(1, memo="", expiry_s=60) for _ in range(20)]
            for invoice in invoices:
                await pay(a, invoice)
        assert path.with_name("wallet.db-wal").stat().st_size < 16_000_000
        assert (await a.audit()).payments == 1200


def paying_process(path: Path) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PAYING), str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "paying\n"
    return process


@pytest.mark.attack("B15")
@pytest.mark.slow
async def test_a_process_killed_while_it_pays_leaves_every_msat_in_its_place(path: Path) -> None:
    payments = 0
    for _ in range(3):
        with paying_process(path) as process:
            await asyncio.sleep(random.uniform(0.05, 0.3))
            process.kill()
        audit = audited(path)
        assert audit.payments > payments
        assert audit.funded_msats == 3_000_000
        payments = audit.payments
    async with LedgerAccount.opened(path, "a", start_msats=10) as a, LedgerAccount.opened(path, "payer0") as b:
        await pay(a, await b.create_invoice(10, memo="", expiry_s=60))


async def test_another_process_s_payments_are_heard(path: Path) -> None:
    async with LedgerAccount.opened(path, "payee0") as payee:
        hints = payee.settlements()
        with paying_process(path) as process:
            for _ in range(20):
                settlement = await payee.find_settlement(await asyncio.wait_for(anext(hints), 10))
                assert settlement is not None
                assert settlement.amount_msats == 7
            process.kill()


async def test_a_payment_is_heard_within_milliseconds(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=100) as a, LedgerAccount.opened(path, "b") as b:
        hints, delays_s = b.settlements(), []
        for _ in range(20):
            invoice = await b.create_invoice(1, memo="", expiry_s=60)
            hearing = asyncio.ensure_future(anext(hints))
            await asyncio.sleep(0.003)
            await pay(a, invoice)
            paid_at = time.monotonic()
            assert await hearing == invoice.payment_hash
            delays_s.append(time.monotonic() - paid_at)
        assert statistics.median(delays_s) < 0.02  # 2 ms on a machine that has nothing else to do


async def test_what_was_paid_before_one_listens_is_not_told_again(path: Path) -> None:
    async with LedgerAccount.opened(path, "a", start_msats=100) as a, LedgerAccount.opened(path, "b") as b:
        await pay(a, await b.create_invoice(1, memo="", expiry_s=60))
        hints = b.settlements()
        second = await b.create_invoice(1, memo="", expiry_s=60)
        await pay(a, second)
        assert await asyncio.wait_for(anext(hints), 5) == second.payment_hash
