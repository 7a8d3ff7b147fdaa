"""A file of play money against a model of it: dictionaries and sums."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blocks.wallets.ledger_account import LedgerAccount
from swarmc.contracts.errors import WalletError
from swarmc.contracts.wallet import Invoice

NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)
amounts = st.integers(1, 100)
numbers = st.integers(0, 1000)


class PlayMoney(RuleBasedStateMachine):
    """Three accounts that fund themselves, ask, pay and wait; whatever the order, the model knows every balance."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.now = 1_700_000_000
        self.stack = AsyncExitStack()
        self.accounts: dict[str, LedgerAccount] = {}
        self.held = dict.fromkeys(NAMES, 0)
        self.funded = 0
        self.invoices: list[tuple[str, Invoice]] = []
        self.paid: dict[str, tuple[str, str]] = {}
        self.reopen()

    def run(self, awaitable: Any) -> Any:
        async def awaited() -> Any:
            return await awaitable

        return self.runner.run(awaited())

    @rule()
    def reopen(self) -> None:
        async def opened() -> None:
            await self.stack.aclose()
            self.stack = AsyncExitStack()
            path = Path(self.directory.name) / "wallet.db"
            for name in NAMES:
                opening = LedgerAccount.opened(path, name, clock=lambda: float(self.now))
                self.accounts[name] = await self.stack.enter_async_context(opening)

        self.run(opened())

    @rule(name=names, amount=amounts)
    def fund(self, name: str, amount: int) -> None:
        self.run(self.accounts[name].fund(amount))
        self.held[name] += amount
        self.funded += amount

    @rule(name=names, amount=amounts, expiry_s=st.integers(1, 3))
    def ask(self, name: str, amount: int, expiry_s: int) -> None:
        self.invoices.append((name, self.run(self.accounts[name].create_invoice(amount, memo="", expiry_s=expiry_s))))

    @rule(seconds=st.integers(1, 2))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(payer=names, number=numbers)
    def pay(self, payer: str, number: int) -> None:
        if not self.invoices:
            return
        payee, invoice = self.invoices[number % len(self.invoices)]
        assert invoice.amount_msats is not None
        before = self.paid.get(invoice.payment_hash)
        may = (
            before is None
            and payer != payee
            and self.now < invoice.expires_at
            and self.held[payer] >= invoice.amount_msats
        )
        if not may and (before is None or before[0] != payer):
            with pytest.raises(WalletError):
                self.run(self.accounts[payer].pay(invoice, max_fee_msats=0))
            return
        payment = self.run(self.accounts[payer].pay(invoice, max_fee_msats=0))
        assert payment.amount_msats == invoice.amount_msats
        if may:
            self.paid[invoice.payment_hash] = (payer, payment.preimage)
            self.held[payer] -= invoice.amount_msats
            self.held[payee] += invoice.amount_msats
        assert self.paid[invoice.payment_hash] == (payer, payment.preimage)

    @rule(name=names, number=numbers)
    def look(self, name: str, number: int) -> None:
        if not self.invoices:
            return
        payee, invoice = self.invoices[number % len(self.invoices)]
        payer, _ = self.paid.get(invoice.payment_hash, (None, None))
        status = self.run(self.accounts[name].find_payment(invoice.payment_hash))
        settlement = self.run(self.accounts[name].find_settlement(invoice.payment_hash))
        assert (status.state == "settled") == (payer == name)
        assert (settlement is not None) == (payer is not None and payee == name)

    @invariant()
    def every_msat_is_where_the_model_has_it(self) -> None:
        found = {name: self.run(account.balance_msats()) for name, account in self.accounts.items()}
        assert found == self.held
        audit = self.run(self.accounts["a"].audit())
        assert (audit.funded_msats, audit.payments) == (self.funded, len(self.paid))

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.directory.cleanup()


PlayMoney.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
test_play_money_is_where_its_model_has_it = PlayMoney.TestCase
