"""What a litellm model costs: litellm's own price table, in dollars, turned into msats once and rounded up."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from types import ModuleType
from typing import Any

from blocks.venues.chat_format import from_canonical, most_completion_tokens
from blocks.venues.prices import Prices
from swarmc.contracts.completions import CompletionRequest
from swarmc.contracts.errors import VenueError

MSATS_PER_USD = 1_000_000
"""One dollar is 1,000 sats where a bitcoin is 100,000 dollars."""

SPECIAL_TIERS = ("batches", "flex", "priority", "decisions", "ultrafast", "balanced", "above_1hr")
UNBOUNDED = frozenset({"service_tier", "web_search_options", "cache_control_injection_points", "modalities", "audio"})
"""Settings that are billed by other prices than those of tokens of text."""


@dataclass(frozen=True, slots=True)
class Pricing:
    """How a model's price is found.

    Attributes:
        msats_per_usd: The rate at which litellm's dollars become msats.
        unknown_is_free: Take a model that litellm's table does not price as free.
        by_hand: Prices that go before litellm's.
        tokens_per_image: Most prompt tokens that an image can count; unknown when `None`.
    """

    msats_per_usd: int = MSATS_PER_USD
    unknown_is_free: bool = False
    by_hand: Prices | None = None
    tokens_per_image: int | None = None


@dataclass(frozen=True, slots=True)
class Tariff:
    """The price of one model.

    Attributes:
        prices: Upper bounds by token, in msats.
        plain: What a call costs as a rule: without the surcharges for long prompts and the discounts for cached ones.
        most_completion_tokens: The longest answer the model gives, in tokens; `None` when unknown.
        from_table: Whether a call's price is what litellm computes, rather than `prices`.
    """

    prices: Prices
    plain: Prices
    most_completion_tokens: int | None = None
    from_table: bool = False

    def quote_msats(self, request: CompletionRequest) -> int:
        """Upper bound of what `request` can cost.

        Raises:
            VenueError: no bound can be given.
        """
        if self.prices.free:
            return 0
        if self.from_table and request.sampling.extensions != "{}":
            extensions = from_canonical(request.sampling.extensions)
            if unbounded := sorted(UNBOUNDED.intersection(extensions)):
                raise VenueError(
                    f"with {', '.join(unbounded)} the price of a call to {request.model!r} has no upper bound; "
                    "leave it out, or give the venue prices by hand",
                    fault="request",
                )
        asked = most_completion_tokens(request)
        return self.prices.bound_msats(request, self.most_completion_tokens if asked is None else asked)


def tariff_of(litellm: ModuleType, model: str, pricing: Pricing) -> Tariff:
    """The tariff of `model`. May ask a provider's server for the model's sizes, so it is no work for an event loop.

    Raises:
        VenueError: litellm does not know the model's price, and nothing else is said about it.
    """
    row = _row(litellm, model)
    most = row.get("max_output_tokens") or row.get("max_tokens")
    longest = most if isinstance(most, int) and most > 0 else None
    if pricing.by_hand is not None:
        by_hand = replace(pricing.by_hand, tokens_per_image=pricing.tokens_per_image)
        return Tariff(by_hand, by_hand, longest)
    if "input_cost_per_token" in row and "output_cost_per_token" in row:
        return Tariff(_prices(row, pricing), _plain(row, pricing), longest, from_table=True)
    if pricing.unknown_is_free:
        return Tariff(Prices(), Prices(), longest)
    raise VenueError(
        f"litellm's table has no price for the model {model!r}; give the venue `input_msats_per_1k_tokens` and "
        "`output_msats_per_1k_tokens`, or set `price_unknown_is_free` if it costs nothing"
    )


def to_msats(dollars: float, msats_per_usd: int) -> int:
    """Dollars in msats, rounded up. The twelfth digit of a float is noise of its arithmetic and is left out."""
    return ceil(_exact(dollars) * msats_per_usd)


def _row(litellm: ModuleType, model: str) -> Mapping[str, Any]:
    """What litellm's table says of `model`; nothing when it says nothing."""
    if model.startswith(("ollama/", "ollama_chat/")):
        return {}  # litellm asks a server for these, and calls what it does not know free.
    try:
        key = litellm.get_model_info(model)["key"]
    except (litellm.exceptions.ModelNotMappedError, litellm.exceptions.BadRequestError, KeyError, ValueError):
        return {}
    return litellm.model_cost.get(key) or {}


def _prices(row: Mapping[str, Any], pricing: Pricing) -> Prices:
    """The highest prices of a row that apply to a plain call: long prompts and written caches included."""
    call_usd = _highest(row, "input_cost_per_request")
    if row.get("litellm_provider") == "perplexity":  # It searches at every call.
        call_usd += max((row.get("search_context_cost_per_query") or {"none": 0}).values())
    input_usd = _highest(row, "input_cost_per_token", "cache_creation_input_token_cost")
    output_usd = _highest(row, "output_cost_per_token", "output_cost_per_reasoning_token")
    each = [_exact(dollars) * pricing.msats_per_usd for dollars in (input_usd, output_usd, call_usd)]
    return Prices(*each, tokens_per_image=pricing.tokens_per_image)


def _plain(row: Mapping[str, Any], pricing: Pricing) -> Prices:
    """The prices of a row without tiers; a bill compares with them, so they are no higher than what is asked."""
    names = ("input_cost_per_token", "output_cost_per_token", "input_cost_per_request")
    input_msats, output_msats, call_msats = (_exact(row.get(name) or 0.0) * pricing.msats_per_usd for name in names)
    return Prices(input_msats, output_msats, call_msats)


def _highest(row: Mapping[str, Any], *names: str) -> float:
    found = (
        value
        for key, value in row.items()
        if key.startswith(names) and not any(tier in key for tier in SPECIAL_TIERS) and isinstance(value, int | float)
    )
    return max(found, default=0.0)


def _exact(dollars: float) -> Fraction:
    return Fraction(f"{dollars:.12g}")
