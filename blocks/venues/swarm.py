"""The market as a venue: a completion is a NIP-90 job, done and paid for by a stranger.

What the meter reserves is the bid, which no job costs more than. A job that an earlier process had published or paid
is taken up where it stands: the job book knows it by the completion's request id.
"""

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import final

from pydantic import Field

from blocks.identity import find_identity
from blocks.ledger.find import find_job_book
from blocks.relays import Relays
from blocks.relays.default import default_relays
from blocks.venues.block import VenueBlock, check_model
from blocks.venues.swarm_desk import Desk, Hands, Judge
from blocks.venues.swarm_offers import Offers
from blocks.wallets.find import find_wallet
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.errors import LedgerError, RelayError, SpecError, VenueError, WalletError
from swarmc.contracts.manifest import PrivacyMode
from swarmc.contracts.market import TEXT_GENERATION, Encryption, Failure, Offer, Order, Purchase
from swarmc.contracts.ports import Venue
from swarmc.nostr.choosing import Choice, Wanted
from swarmc.nostr.events import sign_note
from swarmc.nostr.generation import ask_of, completion_of, worthless
from swarmc.nostr.keys import SecretKey, npub_of, parse_pubkey
from swarmc.nostr.nip90 import encrypted_request_note, request_note
from swarmc.tracing.privacy import Redactor

NAME = "swarm"
ANY_MODEL = "any"
"""The model of a venue that leaves the choice to the provider."""

HALF_LIFE_S = 7 * 86_400.0
EXPIRES_AFTER_S = 300
"""How long after its deadline a request is still of use: to whoever looks for its result after a crash."""

PATIENCE_S = 10.0
RETRYABLE: frozenset[Failure] = frozenset({"unpublished", "refused", "unsent", "unanswered", "undelivered", "too_dear"})
PASSED_ON: frozenset[Failure] = frozenset({"refused", "too_dear"})
"""Failures after which another provider is asked at once."""

MOST_PROVIDERS = 3
MOST_PROMPTS = 20_000
"""Prompts of which it is remembered who answered them."""

PUBLIC = Redactor.of(PrivacyMode.PUBLIC_OK)


@dataclass(frozen=True, slots=True)
class Habits:
    """How a venue buys.

    Attributes:
        wait_msats_per_s: What a second of waiting is worth, for the choice between a cheap and a fast provider.
        only: Public keys of the providers that may be asked; anybody when empty.
        patience_s: How long to look for a provider that fits.
    """

    model: str | None
    bid_msats: int
    max_fee_msats: int = 0
    auto_pay: bool = True
    timeout_s: float = 60.0
    encryption: Encryption | None = "nip44"
    redactor: Redactor = PUBLIC
    relays: tuple[str, ...] = ()
    wait_msats_per_s: int = 0
    only: tuple[str, ...] = ()
    patience_s: float = PATIENCE_S


@final
class SwarmVenue:
    """One model, wherever on the market it is had best.

    Args:
        hands: Relays, wallet, job book and key.
        desk: The open desk that drives the jobs.
        offers: Who offers what.
        habits: How to buy.
    """

    name = NAME

    def __init__(self, hands: Hands, desk: Desk, offers: Offers, habits: Habits) -> None:
        self.model = habits.model or ANY_MODEL
        self._hands = hands
        self._desk = desk
        self._offers = offers
        self._habits = habits
        self._heard: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def quote(self, request: CompletionRequest) -> int:  # noqa: ARG002 - a bid holds for every request
        """The bid, and the most that paying may cost: no job costs more.

        It is no price (the venue is not `Priced`): as one, it would flatter whatever is compared with it.
        """
        return self._habits.bid_msats + self._habits.max_fee_msats if self._habits.auto_pay else 0

    async def complete(self, request: CompletionRequest) -> Completion:
        """Buy one answer, or take up what was begun or bought for this very request before.

        Raises:
            VenueError: nobody fits, does it, or does it for the bid. With `paid_unknown` when money went, or may
                have gone, and no answer came.
        """
        check_model(self, request)
        started_s = monotonic()
        try:
            purchase = await self._earlier(request) or await self._buy(request)
        except (RelayError, WalletError, LedgerError) as error:
            # Where the memory failed, the job may have been paid for before.
            paid_unknown = isinstance(error, LedgerError)
            message = f"buying a completion on the market: {error}"
            raise VenueError(message, retryable=error.retryable, paid_unknown=paid_unknown) from error
        if purchase.result is None:
            raise _failure(purchase)
        return completion_of(
            purchase.result,
            request,
            cost_msats=purchase.paid_msats,
            simulated=purchase.order.simulated and purchase.payment is not None,
            venue=f"{NAME}:{npub_of(purchase.result.provider)[:16]}",
            latency_ms=round(1000 * (monotonic() - started_s)),
        )

    async def _earlier(self, request: CompletionRequest) -> Purchase | None:
        """The job that an earlier process left for this request, driven to its end; nothing without one."""
        records = await self._hands.book.of_key("bought", self._hands.key.pubkey, request.request_id)
        for record in reversed(records):
            if not record.final:
                purchase = await self._desk.resume(record, _judge_of(request))
                # One that failed and cost nothing is no reason not to buy now: its payment was cut off, mostly.
                if purchase.result is not None or purchase.paid_msats:
                    return purchase
            if record.state == "answered":  # Paid and answered, but its process died before the ledger had it.
                return Purchase.model_validate_json(record.body)
        return None

    async def _buy(self, request: CompletionRequest) -> Purchase:
        """Ask the best provider, and where it refuses before it was paid, the next ones."""
        sent, prompt = self._outgoing(request), _prompt_of(request)
        wanted = self._wanted(sent).model_copy(update={"heard": self._heard.get(prompt, ()), "lot": prompt})
        choice = await self._offers.choose(wanted, patience_s=self._habits.patience_s)
        if not choice.offers:
            raise self._nobody(choice)
        purchase = await self._buy_of(choice.offers[0], request, sent)
        for _ in range(MOST_PROVIDERS - 1):
            if purchase.failure not in PASSED_ON or purchase.payment is not None:
                break
            choice = await self._offers.choose(wanted, patience_s=0.0)
            if not choice.offers:
                break
            purchase = await self._buy_of(choice.offers[0], request, sent)
        if purchase.result is not None:
            self._remember(prompt, purchase.result.provider)
        return purchase

    def _remember(self, prompt: str, provider: str) -> None:
        """Another sample of the same prompt is asked of another provider, where there are several."""
        self._heard[prompt] = (*self._heard.pop(prompt, ()), provider)
        if len(self._heard) > MOST_PROMPTS:
            self._heard.popitem(last=False)

    async def _buy_of(self, offer: Offer, request: CompletionRequest, sent: CompletionRequest) -> Purchase:
        order = self._order(request.request_id, sent, offer)
        self._offers.began(offer.provider)
        started_s, failure = monotonic(), "stopped"
        try:
            purchase = await self._desk.buy(order, _judge_of(request))
            failure = purchase.failure
        finally:
            self._offers.ended(offer.provider, monotonic() - started_s, failure)
        return purchase

    def _outgoing(self, request: CompletionRequest) -> CompletionRequest:
        """What leaves the machine: with a seed, and redacted."""
        name = self._habits.redactor.name
        messages = tuple(one.model_copy(update={"content": name(one.content)}) for one in request.messages)
        return request.seeded().model_copy(update={"messages": messages})

    def _wanted(self, request: CompletionRequest) -> Wanted:
        habits = self._habits
        return Wanted(
            ask=ask_of(request, None, salt=""),
            model=habits.model,
            bid_msats=habits.bid_msats,
            network=self._hands.wallet.network,
            wait_msats_per_s=habits.wait_msats_per_s,
            encryption=habits.encryption,
            only=habits.only,
        )

    def _order(self, key: str, request: CompletionRequest, offer: Offer) -> Order:
        habits, now_s = self._habits, int(self._hands.now_s())
        ask = ask_of(
            request,
            offer,
            salt=secrets.token_hex(8),
            bid_msats=habits.bid_msats,
            relays=habits.relays,
            expires_at=now_s + int(habits.timeout_s) + EXPIRES_AFTER_S,
        )
        if habits.encryption is None:
            note = request_note(ask, now_s)
        else:
            note = encrypted_request_note(ask, now_s, self._hands.key, habits.encryption)
        return Order(
            key=key,
            request=sign_note(note, self._hands.key),
            provider=offer.provider,
            bid_msats=habits.bid_msats,
            max_fee_msats=habits.max_fee_msats,
            network=self._hands.wallet.network,
            simulated=self._hands.wallet.simulated,
            timeout_s=max(1, round(habits.timeout_s)),
        )

    def _nobody(self, choice: Choice) -> VenueError:
        others = "; ".join(f"{npub_of(key)[:16]} {why}" for key, why in list(choice.others.items())[:5])
        seen = f"{len(choice.others)} offers were seen: {others}" if others else "no offer of such jobs was seen"
        return VenueError(
            f"no provider on {', '.join(self._habits.relays)} fits for the model {self.model!r} at a bid of "
            f"{self._habits.bid_msats} msats; {seen}. Look at the bid, the model's name and the relays",
            retryable=any("left alone" in why for why in choice.others.values()),
        )


def _prompt_of(request: CompletionRequest) -> str:
    """What all samples of one prompt have in common."""
    return request.model_copy(update={"rollout_id": 0}).request_id if request.rollout_id else request.request_id


def _judge_of(request: CompletionRequest) -> Judge:
    return lambda result: worthless(result.answer, request)


def _failure(purchase: Purchase) -> VenueError:
    """Why there is no answer, for whoever asked."""
    who = npub_of(purchase.provider)[:16] if purchase.provider else "nobody in particular"
    paid = f"; {purchase.paid_msats} msats were paid and are due back" if purchase.refund_due else ""
    failure = purchase.failure or "stopped"
    return VenueError(
        f"job {purchase.job_id[:16]} at {who}: {failure}: {purchase.reason or 'no reason given'}{paid}",
        retryable=failure in RETRYABLE,
        paid_unknown=purchase.paid_msats > 0,
    )


@final
class Swarm(VenueBlock):
    """A model on the Nostr market of compute, paid for over Lightning."""

    _block_type_name = "swarmc swarm venue"
    _block_type_slug = "swarmc-swarm"
    _description = "Buys completions as NIP-90 jobs from whoever offers the model at the best price."

    relays: list[str] = Field(
        default_factory=default_relays,
        min_length=1,
        description="Where offers and jobs are: wss://...; empty: $SWARMC_RELAYS, or the market of OpenAgents",
    )
    quorum: int = Field(default=1, ge=1, description="How many relays must take a request")
    model: str | None = Field(
        default=None, description="The model, as its providers name it; empty: whatever each runs by default"
    )
    bid_msats: int = Field(default=1000, ge=0, title="Bid in msats", description="Most that is paid for one answer")
    max_fee_msats: int = Field(
        default=0, ge=0, title="Fees in msats", description="Most that one payment may cost beside the bid"
    )
    auto_pay: bool = Field(
        default=True, description="Pay invoices that keep to the bid; switched off, only free jobs are had"
    )
    providers: list[str] = Field(
        default=[], description="npub1... of the providers that may be asked; empty: whoever offers it"
    )
    wait_msats_per_s: int = Field(
        default=0,
        ge=0,
        title="Worth of a second",
        description="msats that a second of waiting is worth: a dearer provider is taken when it saves more",
    )
    identity: str | None = Field(
        default=None, description="Who buys: a saved identity or its file; empty: the one that the environment names"
    )
    wallet: str | None = Field(
        default=None, description="Who pays: a saved wallet as `slug/name`; empty: $SWARMC_WALLET, or play money"
    )
    ledger: str | None = Field(default=None, description="Where jobs are kept; empty: the default ledger")
    timeout_s: float = Field(default=60, gt=0, description="Longest wait for one answer, in seconds")
    encrypt: bool = Field(default=True, description="Let nobody but the provider read what is asked and answered")
    privacy: PrivacyMode = Field(
        default=PrivacyMode.PUBLIC_OK, description="What may leave this machine in a prompt, encrypted or not"
    )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue: relays, wallet and job book are opened, and jobs that were left long ago are settled.

        Raises:
            VenueError: there is no identity, the relays, the wallet or the job book cannot be had, or the
                privacy mode lets no prompt out.
        """
        if self.privacy is PrivacyMode.PRIVATE_REPO_ALLOWED:
            raise VenueError(
                f"privacy {self.privacy.value!r} lets nothing but hashes out, so nothing can be asked of the market; "
                "use a local venue, or another mode"
            )
        async with AsyncExitStack() as stack:
            try:
                venue = await self._opened(stack)
            except (RelayError, WalletError, LedgerError, SpecError) as error:
                raise VenueError(f"opening the swarm venue: {error}", retryable=error.retryable) from error
            yield venue

    async def _opened(self, stack: AsyncExitStack) -> Venue:
        key = await self._key()
        relays = Relays(urls=self.relays, quorum=self.quorum)
        hands = Hands(
            relay=await stack.enter_async_context(relays.open(key)),
            wallet=await stack.enter_async_context((await find_wallet(self.wallet)).open()),
            book=await stack.enter_async_context(find_job_book(self.ledger)),
            key=key,
            auto_pay=self.auto_pay,
        )
        standings = await hands.book.standings(key.pubkey, now_us=int(1e6 * hands.now_s()), half_life_s=HALF_LIFE_S)
        desk = await stack.enter_async_context(Desk(hands))
        return SwarmVenue(hands, desk, Offers(hands.relay, TEXT_GENERATION, standings), self._habits(relays))

    async def _key(self) -> SecretKey:
        identity = await find_identity(self.identity)
        if identity is None:
            raise VenueError(
                "buying on the market needs an identity: make one with `swarmc identity new`, or set "
                "$SWARMC_NOSTR_KEY to an nsec1... key"
            )
        return identity.key()

    def _habits(self, relays: Relays) -> Habits:
        return Habits(
            model=self.model,
            bid_msats=self.bid_msats,
            max_fee_msats=self.max_fee_msats,
            auto_pay=self.auto_pay,
            timeout_s=self.timeout_s,
            encryption="nip44" if self.encrypt else None,
            redactor=Redactor.of(self.privacy),
            relays=tuple(relays.urls),
            wait_msats_per_s=self.wait_msats_per_s,
            only=tuple(parse_pubkey(one) for one in self.providers),
        )
