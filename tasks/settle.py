"""The step of a sale that decides whether it is paid: by the wallet's own word, for exactly this invoice."""

from swarmc.contracts.market import Sale
from swarmc.nostr.seller import Settled, TimePassed, unfit_settlement
from tasks.shop import Shop


async def settle(shop: Shop, sale: Sale) -> Settled | TimePassed:
    """Ask the wallet what came in. A hint that something may have is no more than a reason to ask.

    Returns:
        What came in, with the signed refusal where it is too little or too late; or that nothing did.

    Raises:
        WalletError: the wallet is away; ask again.
    """
    if sale.invoice is None:
        return TimePassed()
    settlement = await shop.wallet.find_settlement(sale.invoice.payment_hash)
    if settlement is None:
        return TimePassed()
    unfit = unfit_settlement(sale, settlement)
    if unfit is None or sale.state != "quoted":
        return Settled(settlement=settlement)
    code, reason = unfit
    return Settled(settlement=settlement, feedback=shop.error_feedback(sale.request, code, reason))
