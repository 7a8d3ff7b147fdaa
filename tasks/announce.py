"""Before and after all sales: say what is offered (NIP-89), and take it back."""

from swarmc.contracts.market import Announcement
from swarmc.contracts.relay import NostrEvent
from swarmc.nostr.nip09 import deletion_note
from swarmc.nostr.nip89 import offer_note
from tasks.shop import Shop


async def announce(shop: Shop, announcement: Announcement, before: NostrEvent | None = None) -> NostrEvent:
    """Publish the offer. Of two the newest counts, so a later one has a later second.

    Raises:
        RelayError: too few relays took it.
    """
    now_s = int(shop.now_s())
    event = shop.signed(offer_note(announcement, now_s if before is None else max(now_s, before.created_at + 1)))
    await shop.relay.publish(event)
    return event


async def withdraw(shop: Shop, offer: NostrEvent) -> None:
    """Take the offer back.

    Raises:
        RelayError: too few relays took it.
    """
    now_s = max(int(shop.now_s()), offer.created_at)
    await shop.relay.publish(shop.signed(deletion_note([offer], now_s, "no longer served")))
