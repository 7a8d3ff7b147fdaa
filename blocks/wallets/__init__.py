"""Who pays and is paid: one file a wallet, and the register of them all."""

from blocks.wallets.block import WalletBlock
from blocks.wallets.find import find_wallet
from blocks.wallets.ledger_wallet import LedgerWallet
from blocks.wallets.lnbits import Lnbits
from blocks.wallets.nwc import Nwc

__all__ = ["WALLETS", "LedgerWallet", "Lnbits", "Nwc", "WalletBlock", "find_wallet"]

WALLETS: dict[str, type[WalletBlock]] = {
    "ledger": LedgerWallet,
    "lnbits": Lnbits,
    "nwc": Nwc,
}
"""Every wallet's saved configuration, by the word that names it."""
