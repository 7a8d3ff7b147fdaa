"""The step of a sale that publishes what is signed and kept: on our relays, and where the customer asked for it."""

from swarmc.contracts.market import Sale
from swarmc.contracts.relay import NostrEvent
from swarmc.nostr.seller import Delivered, FeedbackSent
from tasks.shop import Shop


async def deliver(shop: Shop, sale: Sale) -> Delivered:
    """Publish the result. To publish it again does no harm: there is one.

    Raises:
        RelayError: too few relays took it.
        ValueError: the sale has no result.
    """
    if sale.result is None:
        raise ValueError(f"job {sale.job_id} has no result to deliver: perform it first")
    published = await shop.relay.publish(sale.result, also=wanted_relays(sale.request))
    return Delivered(accepted=len(published.accepted))


async def tell(shop: Shop, sale: Sale) -> FeedbackSent:
    """Publish the feedback that is still to be published.

    Raises:
        RelayError: too few relays took it.
        ValueError: there is none.
    """
    if sale.feedback is None:
        raise ValueError(f"job {sale.job_id} has no feedback to tell")
    await shop.relay.publish(sale.feedback, also=wanted_relays(sale.request))
    return FeedbackSent(event_id=sale.feedback.id)


def wanted_relays(request: NostrEvent) -> tuple[str, ...]:
    """The relays on which the customer wants to be answered. Whoever dials them decides which may be dialled."""
    return tuple(url for tag in request.tags if tag[:1] == ("relays",) for url in tag[1:])[:16]
