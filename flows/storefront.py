"""Open what a provider's spec names: identity, relays, wallet, ledger, venue; and say what is then offered."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pydantic import ValidationError

from blocks.identity import find_identity
from blocks.ledger.find import find_job_book, find_ledger
from blocks.relays import Relays
from blocks.venues.find import find_venue
from blocks.wallets.find import find_wallet
from flows.lanes import RESERVED_PER_PLACE
from swarmc.compiler.around import Around
from swarmc.compiler.lanes import Limited, Retried
from swarmc.compiler.metering import Metered, Purse
from swarmc.contracts.canonical import canonical_bytes, content_id
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.errors import SpecError
from swarmc.contracts.events import Event
from swarmc.contracts.market import TEXT_GENERATION, Announcement
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.ports import Ledger, RunLease, Venue
from swarmc.contracts.provider import ProviderSpec
from swarmc.contracts.spec import LaneSpec
from swarmc.contracts.wallet import Wallet
from swarmc.nostr.admission import Terms
from swarmc.nostr.keys import SecretKey
from tasks.shop import LANE, Shop

FENCE_WAIT_S = 15.0
NPUB_LETTERS = 20
SEVERAL_MODELS = ("ollama", "ollama_chat")
"""Venues that a lane names by one word, and whose model it names beside it."""


@dataclass(frozen=True, slots=True)
class Storefront:
    """A shop that is open, what it offers, and where its jobs run, as a sentence."""

    shop: Shop
    announcement: Announcement
    sentence: str


async def provider_key(reference: str | None) -> SecretKey:
    """Who sells.

    Raises:
        SpecError: nobody is named, or no such identity is saved.
        IdentityError: it cannot be read or unlocked.
    """
    identity = await find_identity(reference)
    if identity is None:
        raise SpecError(
            "a provider needs an identity, and none is named: make one with `swarmc identity new`, then set "
            "`identity` to its file, or SWARMC_IDENTITY and SWARMC_PASSWORD"
        )
    return identity.key()


@asynccontextmanager
async def open_storefront(spec: ProviderSpec, run: str = "") -> AsyncIterator[Storefront]:
    """Open everything, for one provider at a time on one ledger.

    Args:
        spec: What is sold.
        run: What is added to the name of the run under which completions are bought: one job's id, where one job
            alone is done.

    Raises:
        SwarmcError: something that the spec names is not to be had.
        RunFenced: another process serves with this identity and ledger.
    """
    key = await provider_key(spec.identity)
    async with AsyncExitStack() as stack:
        wallet = await stack.enter_async_context((await find_wallet(spec.wallet)).open())
        book = await stack.enter_async_context(find_job_book(spec.ledger))
        ledger = await stack.enter_async_context(find_ledger(spec.ledger))
        lease = await stack.enter_async_context(_run(ledger, key, run))
        block, sentence = await find_venue(_lane(spec))
        venue = await stack.enter_async_context(block.open())
        names = sold_names(spec, venue.model)
        relay = await stack.enter_async_context(_relays(spec).open(key))
        shop = Shop(
            relay=relay,
            wallet=wallet,
            book=book,
            venue=_metered(venue, spec, Purse(ledger, lease.run_id, lease.epoch, LANE, _untold)),
            key=key,
            terms=terms_of(spec, key.pubkey, wallet),
            names=names,
            most_tokens=spec.limits.output_tokens,
            job_timeout_s=spec.job_timeout_s,
        )
        yield Storefront(shop, announcement_of(spec, shop), sentence)


def terms_of(spec: ProviderSpec, pubkey: str, wallet: Wallet) -> Terms:
    """On which jobs are taken."""
    limits = spec.limits
    return Terms(
        provider=pubkey,
        prices=spec.prices,
        require_payment=spec.require_payment,
        unit_msats=wallet.unit_msats,
        open_jobs=spec.open_jobs,
        max_input_bytes=limits.input_bytes,
        quote_expiry_s=spec.invoice_expiry_s,
        max_open=limits.open,
        max_open_per_customer=limits.open_per_customer,
        max_unpaid=limits.unpaid,
        max_quotes_per_minute=limits.quotes_per_minute,
        max_refusals_per_minute=limits.refusals_per_minute,
    )


def announcement_of(spec: ProviderSpec, shop: Shop) -> Announcement:
    """What is offered: what runs here, for what it costs here, in the money that this wallet takes."""
    return Announcement(
        kinds=(TEXT_GENERATION,),
        name=spec.name,
        about=spec.about,
        models=shop.names,
        prices=spec.prices,
        messages=True,
        encryption=shop.terms.encryption,
        network=shop.wallet.network,
        simulated=shop.wallet.simulated,
        relays=spec.relays,
    )


def sold_names(spec: ProviderSpec, model: str) -> tuple[str, ...]:
    """The names under which the venue's model is sold, the default first.

    Raises:
        SpecError: `models` names another model: it would be sold and not run.
    """
    for name in spec.models:
        if not _same_model(name, model):
            raise SpecError(
                f"`models` offers {name!r}, but the venue runs {model!r}: a customer would pay for what does not run. "
                "Leave `models` empty, or set `venue` to where that model runs"
            )
    if spec.models:
        return tuple(dict.fromkeys((*spec.models, model)))
    if _same_model(spec.default_model, model):
        return tuple(dict.fromkeys((spec.default_model, model)))
    return (model,)


def _same_model(name: str, model: str) -> bool:
    """Whether two names mean one model: a provider's prefix, a file's ending and Ollama's `latest` are left out."""
    return name == model or _bare(name) == _bare(model)


def _bare(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(":latest").removesuffix(".gguf").lower()


def _lane(spec: ProviderSpec) -> LaneSpec:
    """The venue's lane, with what the provider says of it."""
    update: dict[str, object] = {"concurrency": spec.capacity}
    if spec.venue.model is None and spec.venue.venue in SEVERAL_MODELS:
        update["model"] = spec.default_model
    return spec.venue.model_copy(update=update)


def _relays(spec: ProviderSpec) -> Relays:
    try:
        return Relays(urls=list(spec.relays), quorum=spec.quorum, private=spec.private_relays)
    except ValidationError as error:
        raise SpecError(f"relays: {error.errors()[0]['msg']}") from None


class _MeteredWhereItCosts(Around):
    """A venue that buys over the ledger what costs us something, and keeps nothing of what it computes for free.

    After a crash what was bought is read, and what was free is computed again.
    """

    def __init__(self, venue: Venue, purse: Purse) -> None:
        super().__init__(venue)
        self._metered = Metered(venue, purse)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask. Errors are the venue's, and the meter's where it costs something."""
        return await (self._metered if self._venue.quote(request) else self._venue).complete(request)


def _metered(venue: Venue, spec: ProviderSpec, purse: Purse) -> Venue:
    """Read, or else: retry, reserve, wait for a free place, buy, settle; given up, it ends and frees its place.

    Every job is a purchase of its own and asked by one driver at a time, so nobody shares one that is under way.
    """
    lane = _lane(spec)
    in_flight = Limited(venue, concurrency=lane.concurrency, rate_per_s=lane.rate_per_s)
    reserved = Limited(_MeteredWhereItCosts(in_flight, purse), concurrency=RESERVED_PER_PLACE * lane.concurrency)
    return Retried(reserved, attempts=lane.attempts)


@asynccontextmanager
async def _run(ledger: Ledger, key: SecretKey, added: str) -> AsyncIterator[RunLease]:
    """The run under which this provider's completions are bought: one process at a time has it."""
    npub = key.npub
    name = f"provider-{npub[:NPUB_LETTERS]}" + (f"-{added[:16]}" if added else "")
    # A provider's run has no spec that could change: it goes on whatever it sells next.
    spec_id = content_id(canonical_bytes({"provider": key.pubkey}))
    opening = ledger.open_run(name, spec_id=spec_id, name=name, budget=BudgetPolicy(), wait_s=FENCE_WAIT_S)
    async with opening as lease:
        yield lease
        await ledger.finish_run(lease, "stopped")


def _untold(_event: Event) -> None:
    """A sold completion is told of by its job, not by an event of its own."""
