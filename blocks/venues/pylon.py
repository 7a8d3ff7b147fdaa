"""Pylon: one name for a model on this machine, for the market, and for both.

`local` asks a backend here and costs nothing. `swarm` buys on the market. `hybrid` asks here first and buys
where what is here is down (see `hybrid.py`). A person names one by a string:

    pylon:local                 the first backend that answers (see `pylon_backends.py`)
    pylon:local:ollama          this backend; also `apple-fm`, `llamacpp`, `practice`
    pylon:local:qwen3:4b        this model of Ollama; a name ending in .gguf is a file
    pylon:local:ollama:qwen3    both
    pylon:swarm                 any model on the market
    pylon:swarm:qwen3:4b        this one
    pylon:hybrid[:...]          as `local`, then the market, which is asked for the model's local name

That name is one for both, because answers are remembered under it: providers that call the same model something
else are not asked, and a file's name is one that none of them knows unless `model` gives it theirs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, final, get_args

from pydantic import ConfigDict, Field, field_validator

from blocks.relays.default import default_relays
from blocks.venues.auto import Choice
from blocks.venues.block import VenueBlock
from blocks.venues.chat_format import most_completion_tokens
from blocks.venues.hybrid import HybridVenue
from blocks.venues.pylon_backends import BACKENDS, Backend, Wish, find_backend
from swarmc.compiler.around import Around
from swarmc.contracts.canonical import ppm
from swarmc.contracts.completions import Completion, CompletionRequest, Sampling
from swarmc.contracts.errors import BudgetExhausted, VenueError
from swarmc.contracts.manifest import PrivacyMode
from swarmc.contracts.ports import Venue

PylonVenueKind = Literal["local", "swarm", "hybrid"]
KINDS: tuple[PylonVenueKind, ...] = get_args(PylonVenueKind)
SPELLINGS: dict[str, Backend] = {"llama": "llamacpp", "llama.cpp": "llamacpp", **{name: name for name in BACKENDS}}
MSATS_PER_SAT = 1000
FORMS = "pylon:local, pylon:local:BACKEND, pylon:local:MODEL, pylon:swarm, pylon:swarm:MODEL or pylon:hybrid"

_log = logging.getLogger("swarmc.venues")


def is_pylon(reference: str) -> bool:
    """Whether a model string names a Pylon."""
    return reference.partition(":")[0] == "pylon"


def settings_of(reference: str) -> dict[str, Any]:
    """The fields of a `Pylon` that a model string sets; see this file's docstring.

    Raises:
        VenueError: it names no Pylon.
    """
    _, _, rest = reference.partition(":")
    kind, _, rest = rest.partition(":")
    if not is_pylon(reference) or kind not in ("", *KINDS):
        raise VenueError(f"{reference!r} names no Pylon; write {FORMS}")
    said: dict[str, Any] = {"venue": kind or "local"}
    if kind == "swarm":
        return said | ({"model": rest} if rest else {})
    head, _, model = rest.partition(":")
    if head in SPELLINGS:
        return said | {"backend": SPELLINGS[head]} | ({"model": model} if model else {})
    if rest.endswith(".gguf"):
        return said | {"backend": "llamacpp", "model_path": Path(rest)}
    return said | ({"backend": "ollama", "model": rest} if rest else {})


@final
class Labelled(Around):
    """A venue under another name, which its answers bear too, with what theirs said beside its own (a provider)."""

    def __init__(self, venue: Venue, label: str) -> None:
        super().__init__(venue)
        self._label = label

    @property
    def name(self) -> str:
        return self._label

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask. Errors are the venue's."""
        completion = await self._venue.complete(request)
        own, name = completion.venue, self._venue.name
        detail = own.removeprefix(name) if own.startswith(f"{name}:") else ""
        return completion.model_copy(update={"venue": self._label + detail})


@final
class Spending:
    """What one opening of a Pylon may spend, kept in this process; a compile's own budget is its ledger's.

    Args:
        limit_msats: Most msats; 0 for no limit.
    """

    def __init__(self, limit_msats: int) -> None:
        self._limit_msats = limit_msats
        self._spent_msats = 0
        self._held_msats = 0
        self._changed = asyncio.Event()

    def sentence(self, max_msats: int) -> str | None:
        """Why a call of at most `max_msats` cannot be bought any more; nothing when it can."""
        if not (self._limit_msats and max_msats) or self._spent_msats + max_msats <= self._limit_msats:
            return None
        return (
            f"the Pylon's `budget_sats` is {self._limit_msats // MSATS_PER_SAT} sats, of which "
            f"{self._spent_msats} msats are spent; the next call may cost {max_msats} msats"
        )

    async def hold(self, max_msats: int) -> None:
        """Set the price of a call aside; wait while others hold what is left.

        Raises:
            VenueError: it is spent. `retryable`, so that a metered caller asks for a quote again and is told so.
        """
        while (sentence := self.sentence(max_msats)) is None:
            left_msats = self._limit_msats - self._spent_msats - self._held_msats
            if not self._limit_msats or max_msats <= max(left_msats, 0):
                self._held_msats += max_msats
                return
            await self._changed.wait()
        raise VenueError(sentence, retryable=True)

    def settle(self, max_msats: int, cost_msats: int) -> None:
        """Turn what was set aside into what was spent."""
        self._held_msats -= max_msats
        self._spent_msats += cost_msats
        self._changed.set()
        self._changed = asyncio.Event()


@final
class PylonVenue(Around):
    """An open Pylon: fills in what a request leaves open, and keeps to its budget.

    What it fills in is no part of a request's identity, as a server's own defaults are none.

    Args:
        venue: Who is asked.
        defaults: `temperature_ppm` and `max_tokens` where a request sets none.
        spending: Its budget.
        close: Ends what it is made of.
    """

    def __init__(
        self, venue: Venue, defaults: Sampling, spending: Spending, close: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(venue)
        self._defaults = defaults
        self._spending = spending
        self.aclose = close

    def quote(self, request: CompletionRequest) -> int:
        """Upper bound in msats.

        Raises:
            BudgetExhausted: `budget_sats` does not allow it.
            VenueError: there is no upper bound.
        """
        max_msats = self._venue.quote(self._filled(request))
        if (sentence := self._spending.sentence(max_msats)) is not None:
            raise BudgetExhausted(sentence, scope="pylon")
        return max_msats

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask once, when the budget has room.

        Raises:
            VenueError: the venue's; or the budget is spent, which `quote` says as `BudgetExhausted`.
        """
        request = self._filled(request)
        max_msats = self._venue.quote(request)
        await self._spending.hold(max_msats)
        cost_msats = max_msats  # What ends in an unknown way counts in full: it may have been billed.
        try:
            completion = await self._venue.complete(request)
            cost_msats = completion.usage.cost_msats
        except VenueError as error:
            cost_msats = max_msats if error.paid_unknown else 0
            raise
        finally:
            self._spending.settle(max_msats, cost_msats)
        return completion

    def _filled(self, request: CompletionRequest) -> CompletionRequest:
        sampling, given = request.sampling, {}
        if sampling.temperature_ppm is None:
            given["temperature_ppm"] = self._defaults.temperature_ppm
        if most_completion_tokens(request) is None:
            given["max_tokens"] = self._defaults.max_tokens
        return request.model_copy(update={"sampling": sampling.model_copy(update=given)}) if given else request


@final
class Pylon(VenueBlock):
    """A model on this machine, on the market, or on this machine and where that is down on the market."""

    _block_type_name = "swarmc Pylon venue"
    _block_type_slug = "swarmc-pylon"
    _description = "Runs completions on this machine (free), on the Nostr market (paid), or here first and then there."

    # A wallet or an identity may be refused because it is a secret itself, which the error would quote.
    model_config = ConfigDict(hide_input_in_errors=True)

    venue: PylonVenueKind = Field(
        default="local", description="`local`: here, free. `swarm`: bought on the market. `hybrid`: here, or bought"
    )
    backend: Backend = Field(
        default="auto", description="What runs it here; `auto`: the first of Ollama, Apple's bridge, llama.cpp"
    )
    base_url: str | None = Field(
        default=None,
        title="Base URL",
        description="The backend's address; empty: its usual one, or OLLAMA_HOST, FM_BRIDGE_URL, LLAMACPP_URL",
    )
    model: str | None = Field(
        default=None,
        description="The model; empty: one that is there. PYLON_LOCAL_MODEL and OLLAMA_MODEL go before it at Ollama",
    )
    model_path: Path | None = Field(default=None, description="A .gguf file, where no server is meant or none answers")
    timeout_s: float = Field(default=60, gt=0, description="Longest wait for one answer, in seconds")
    budget_sats: int = Field(
        default=0, ge=0, description="Most satoshis that one opening spends on the market; 0 for no limit"
    )
    max_tokens: int = Field(default=512, ge=1, description="Most tokens of an answer, where a call does not say")
    temperature: float = Field(default=0.7, ge=0, le=5, description="Where a call does not say")
    relays: list[str] = Field(
        default_factory=default_relays,
        min_length=1,
        description="Where jobs are published: wss://...; empty: $SWARMC_RELAYS, or the market of OpenAgents",
    )
    bid_msats: int = Field(default=1000, ge=0, title="Bid in msats", description="Most that is paid for one answer")
    auto_pay: bool = Field(default=True, description="Pay what keeps to the bid without asking anybody")
    identity: str | None = Field(
        default=None, description="Who buys: a saved identity or its file; empty: the one that the environment names"
    )
    wallet: str | None = Field(
        default=None, description="Who pays: a saved wallet as `slug/name`; empty: $SWARMC_WALLET, or play money"
    )
    encrypt: bool = Field(default=True, description="Let nobody but the provider read what is asked and answered")
    privacy: PrivacyMode = Field(
        default=PrivacyMode.PUBLIC_OK, description="What may leave this machine in a prompt that is sent to the market"
    )

    @field_validator("identity", "wallet")
    @classmethod
    def _no_secret(cls, reference: str | None) -> str | None:
        if reference and ("://" in reference or "nsec1" in reference or len(reference.split()) > 1):
            raise ValueError("this looks like a secret itself; save it in a block of its own, and name that")
        return reference

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue. Here, a backend is looked for; on the market, a wallet and the relays are opened.

        Raises:
            VenueError: no backend is there, or the market cannot be reached.
        """
        async with AsyncExitStack() as stack:
            venue = await self._opened(stack)
            defaults = Sampling(temperature_ppm=ppm(self.temperature), max_tokens=self.max_tokens)
            yield PylonVenue(venue, defaults, Spending(self.budget_sats * MSATS_PER_SAT), stack.aclose)

    async def choose(self, environ: Mapping[str, str] | None = None) -> Choice:
        """The local backend that `open` would open, and why.

        Raises:
            VenueError: there is none.
        """
        wish = Wish(self.backend, self.base_url, self.model, self.model_path, self.timeout_s)
        return await find_backend(wish, environ)

    async def _opened(self, stack: AsyncExitStack) -> Venue:
        match self.venue:
            case "local":
                return await self._local(stack)
            case "swarm":
                return await self._swarm(stack, self.model)
            case "hybrid":
                return await self._hybrid(stack)

    async def _local(self, stack: AsyncExitStack) -> Venue:
        choice = await self.choose()
        _log.info("pylon: %s", choice.sentence)
        return Labelled(await stack.enter_async_context(choice.block.open()), "pylon:local")

    async def _swarm(self, stack: AsyncExitStack, model: str | None) -> Venue:
        # Here, because a machine that only computes locally needs nothing of the market.
        from blocks.venues.swarm import Swarm

        block = Swarm(
            relays=self.relays,
            bid_msats=self.bid_msats,
            auto_pay=self.auto_pay,
            identity=self.identity,
            wallet=self.wallet,
            model=model,
            timeout_s=self.timeout_s,
            encrypt=self.encrypt,
            privacy=self.privacy,
        )
        return Labelled(await stack.enter_async_context(block.open()), "pylon:swarm")

    async def _hybrid(self, stack: AsyncExitStack) -> Venue:
        """Both; or one of them alone, said aloud, where the other is away now. What is set up wrongly is an error."""
        try:
            local = await self._local(stack)
        except VenueError as error:
            if not error.retryable:
                raise
            _log.warning("pylon: only the swarm is asked, because %s", error)
            return await self._swarm(stack, self.model)
        try:
            swarm = await self._swarm(stack, local.model)
        except VenueError as error:
            if not error.retryable:
                raise
            _log.warning("pylon: nothing can be bought where this machine fails, because %s", error)
            return local
        return HybridVenue(local, swarm)
