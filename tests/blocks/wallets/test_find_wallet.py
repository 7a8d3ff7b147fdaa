"""What a person may call a wallet."""

from pathlib import Path

import pytest

from blocks.wallets import LedgerWallet, find_wallet
from blocks.wallets.ledger_wallet import default_path
from swarmc.contracts.errors import WalletError


@pytest.mark.parametrize("reference", [None, "", "ledger", " ledger "])
async def test_nothing_means_the_ledger_wallet_at_home(reference: str | None) -> None:
    assert await find_wallet(reference) == LedgerWallet()


async def test_home_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMC_HOME", str(tmp_path))
    assert default_path() == tmp_path / "wallet.db"
    async with LedgerWallet(start_msats=3).open() as wallet:
        assert await wallet.balance_msats() == 3
    assert (tmp_path / "wallet.db").exists()


@pytest.mark.parametrize(
    ("reference", "path", "account"),
    [
        ("ledger:buyer", None, "buyer"),
        ("money.db", "money.db", "default"),
        ("/tmp/money.db:seller-2", "/tmp/money.db", "seller-2"),
    ],
)
async def test_a_ledger_wallet_is_named_by_account_and_file(reference: str, path: str | None, account: str) -> None:
    block = await find_wallet(reference)
    assert isinstance(block, LedgerWallet)
    assert (block.path, block.account) == (Path(path) if path else None, account)


@pytest.mark.parametrize(
    "reference", ["ledgers", "ledger:", "ledger:a/b", "money.sqlite", "x" * 5000, "\0", "ledger:é"]
)
async def test_words_that_name_no_wallet_are_one_clear_error(reference: str) -> None:
    with pytest.raises(WalletError, match="names no wallet; give ledger"):
        await find_wallet(reference)


async def test_an_address_that_may_hold_a_key_is_not_repeated() -> None:
    with pytest.raises(WalletError) as caught:
        await find_wallet("somewhere://x?secret=" + "5" * 64)
    assert "555" not in str(caught.value)


@pytest.mark.parametrize("account", ["", "-a", "a b", "a" * 65, "a\n"])
def test_an_account_has_a_plain_name(account: str) -> None:
    with pytest.raises(ValueError, match="account"):
        LedgerWallet(account=account)
