"""The second step of a sale: an invoice, and the signed word that it is to be paid."""

from swarmc.contracts.errors import WalletError
from swarmc.contracts.market import Sale
from swarmc.nostr.nip90 import feedback_note
from swarmc.nostr.seller import Quoted, Refused
from tasks.shop import Shop

SIMULATED = "simulated money"


async def quote(shop: Shop, sale: Sale) -> Quoted | Refused:
    """Make an invoice over exactly the sale's price, and sign `payment-required`; nothing is published yet.

    Returns:
        `Refused` when the wallet can never ask for this.

    Raises:
        WalletError: the wallet is away; it may be asked again.
    """
    amount_msats = sale.amount_msats
    try:
        invoice = await shop.wallet.create_invoice(
            amount_msats, memo=f"job {sale.job_id[:16]}", expiry_s=shop.terms.quote_expiry_s
        )
    except WalletError as error:
        if error.retryable:
            raise
        return _refused(shop, sale, "the wallet here cannot ask for this amount")
    if invoice.amount_msats != amount_msats or invoice.network != shop.wallet.network:
        return _refused(shop, sale, "the wallet here asked for something else than the price")
    note = feedback_note(
        sale.request,
        "payment-required",
        int(shop.now_s()),
        extra=SIMULATED if shop.wallet.simulated else "",
        amount_msats=amount_msats,
        bolt11=invoice.bolt11,
    )
    return Quoted(invoice=invoice, amount_msats=amount_msats, feedback=shop.signed(note))


def _refused(shop: Shop, sale: Sale, reason: str) -> Refused:
    feedback = shop.error_feedback(sale.request, WalletError.code, reason, sale.amount_msats)
    return Refused(code=WalletError.code, reason=reason, feedback=feedback)
