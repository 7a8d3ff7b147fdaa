"""A wallet of play money: everybody who opens the same SQLite file is on one network and can pay each other.

Its invoices are real ones, signed BOLT-11 on regtest, exact to the msat; only the money is not real.
"""

import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Self, final

from pydantic import Field

from blocks.home import swarmc_home
from blocks.wallets.block import WalletBlock
from blocks.wallets.ledger_account import LedgerAccount
from swarmc.nostr.invoices import MAX_MSATS

_ACCOUNT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_REFERENCE = re.compile(rf"(?:ledger|(?P<path>.+\.db))(?::(?P<account>{_ACCOUNT}))?")


def default_path() -> Path:
    """`$SWARMC_HOME/wallet.db`; SWARMC_HOME is `~/.swarmc` unless set."""
    return swarmc_home() / "wallet.db"


@final
class LedgerWallet(WalletBlock):
    """Play money in a file: for tests, demonstrations and markets of one machine. Nothing of it is worth anything."""

    _block_type_name = "swarmc ledger wallet"
    _block_type_slug = "swarmc-ledger-wallet"

    path: Path | None = Field(
        default=None,
        description="The SQLite file that is the network; made when it is missing. $SWARMC_HOME/wallet.db unless set.",
    )
    account: Annotated[str, Field(pattern=rf"^{_ACCOUNT}$")] = Field(
        default="default", description="Whose money; made when it is missing. Buyers and sellers need one each."
    )
    start_msats: int = Field(
        default=0, ge=0, le=MAX_MSATS, title="Start (msats)", description="Play money that a new account is given."
    )

    def open(self) -> AbstractAsyncContextManager[LedgerAccount]:
        """The wallet, to be entered with `async with`.

        Raises:
            WalletError: on entering, the file cannot be had, or is another program's.
        """
        path = (self.path or default_path()).expanduser().absolute()
        return LedgerAccount.opened(path, self.account, start_msats=self.start_msats)

    @classmethod
    def named(cls, reference: str) -> Self | None:
        """Of `ledger`, `ledger:ACCOUNT`, `file.db` and `file.db:ACCOUNT`."""
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            return None
        said = {name: value for name, value in match.groupdict().items() if value is not None}
        return cls.model_validate(said)
