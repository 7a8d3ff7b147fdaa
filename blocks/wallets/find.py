"""The wallet that a person named: a word, a file, an address or a saved block."""

import os

from pydantic import ValidationError

from blocks.wallets.block import WalletBlock
from blocks.wallets.ledger_wallet import LedgerWallet
from swarmc.contracts.errors import WalletError, boundary


async def find_wallet(reference: str | None) -> WalletBlock:
    """Its configuration, not yet opened.

    Args:
        reference: `slug/name` of a saved block; `ledger` or `ledger:ACCOUNT` for play money in
            `$SWARMC_HOME/wallet.db`; a `.db` file or `file.db:ACCOUNT` for play money elsewhere; what another
            wallet's block knows as its address; nothing for what $SWARMC_WALLET says, or `ledger`.

    Raises:
        WalletError: it names no wallet, or no such block is saved.
    """
    words = (reference or os.environ.get("SWARMC_WALLET") or "").strip() or "ledger"
    kinds = WalletBlock.__subclasses__()
    slug, _, name = words.partition("/")
    saved = next((kind for kind in kinds if kind.get_block_type_slug() == slug), None)
    if saved is not None:
        with boundary(WalletError, f"loading the saved wallet {words!r}; see `prefect block ls`"):
            return await saved.aload(name)
    try:
        found = next((block for block in (kind.named(words) for kind in kinds) if block is not None), None)
    except ValidationError as error:
        # Of the words only their beginning is said: a wallet's address may hold its key.
        reason = "; ".join(f"{detail['loc'][-1]}: {detail['msg']}" for detail in error.errors())
        raise WalletError(f"{_beginning(words)} names no wallet: {reason}") from None
    if found is None:
        raise WalletError(
            f"{_beginning(words)} names no wallet; give ledger, ledger:ACCOUNT, a .db file, "
            f"or a saved block as slug/name ({LedgerWallet.get_block_type_slug()}/mine)"
        )
    return found


def _beginning(words: str) -> str:
    return repr(words if len(words) <= 12 else words[:12] + "...")
