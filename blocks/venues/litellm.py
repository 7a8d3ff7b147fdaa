"""Every provider that litellm speaks to: OpenAI, Anthropic, Gemini, Groq and a hundred others."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self, final

from pydantic import Field, SecretStr, model_validator

from blocks.venues.block import VenueBlock, check_model
from blocks.venues.chat_format import FINISH_REASONS, chat_body, text_of, token_count
from blocks.venues.exchange import TOO_LONG, Place, retry_after_s
from blocks.venues.litellm_prices import MSATS_PER_USD, Pricing, Tariff, tariff_of, to_msats
from blocks.venues.prices import Prices, estimated_tokens
from swarmc.contracts.completions import Completion, CompletionRequest, ToolCall, Usage
from swarmc.contracts.errors import VenueError, boundary
from swarmc.contracts.ports import Venue

TIMEOUT_S = 120.0
CONTROLS = frozenset(
    {
        "api_base",
        "api_key",
        "base_url",
        "callbacks",
        "client",
        "custom_llm_provider",
        "fallbacks",
        "max_retries",
        "mock_response",
        "mock_tool_calls",
        "model_list",
        "num_retries",
        "shared_session",
        "stream_options",
        "timeout",
    }
)
"""Arguments of litellm that are no sampling settings, so that no request may set them by `extensions`."""


@dataclass(frozen=True, slots=True)
class _Opened:
    litellm: ModuleType
    tariff: Tariff
    place: Place


@final
class LiteLLMVenue:
    """One model, named as litellm names it.

    Args:
        model: E.g. ``anthropic/claude-haiku-4-5``.
        api_key: The provider's key; from the environment, as litellm finds it, when not given.
        api_base: An address in place of the provider's own.
        timeout_s: Longest wait for one answer, in seconds.
        pricing: How the model's price is found.
    """

    name = "litellm"

    def __init__(
        self,
        model: str,
        *,
        api_key: SecretStr | None = None,
        api_base: str | None = None,
        timeout_s: float = TIMEOUT_S,
        pricing: Pricing | None = None,
    ) -> None:
        self.model = model
        self._key = api_key
        self._api_base = api_base
        self._timeout_s = timeout_s
        self._pricing = pricing or Pricing()
        self._opened: _Opened | None = None

    async def __aenter__(self) -> Self:
        with boundary(VenueError, f"opening the litellm model {self.model!r}"):
            litellm = await asyncio.to_thread(_load_litellm)
            tariff = await asyncio.to_thread(tariff_of, litellm, self.model, self._pricing)
        place = Place(
            title=f"the model {self.model!r} through litellm",
            priced=not tariff.prices.free,
            secret=self._key.get_secret_value() if self._key else "",
        )
        self._opened = _Opened(litellm, tariff, place)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End. The connections are litellm's own, shared by all who use it, and end with the process."""
        self._opened = None

    def quote(self, request: CompletionRequest) -> int:
        """Upper bound in msats: every byte of the prompt a token, the answer as long as it may be.

        Raises:
            VenueError: no bound can be given: no `max_tokens` and an unknown longest answer, an image of
                unknown size, or settings that are billed otherwise.
        """
        return self._open().tariff.quote_msats(request)

    def price_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        """The price by litellm's table, or by hand, in msats: no tiers, no discounts for cached prompts."""
        return self._open().tariff.plain.sum_msats(prompt_tokens, completion_tokens, calls)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask once.

        Raises:
            VenueError: the provider cannot be reached, refuses, breaks off, is late, or answers with something else.
        """
        check_model(self, request)
        opened = self._open()
        arguments = self._arguments(request)
        started_s = time.monotonic()
        with _translated(opened):
            response = await opened.litellm.acompletion(**arguments)
            completion = self._read(response)
        usage = self._usage(opened, request, completion, response)
        latency_ms = round(1000 * (time.monotonic() - started_s))
        return completion.model_copy(update={"usage": usage, "latency_ms": latency_ms})

    def _open(self) -> _Opened:
        if self._opened is None:
            raise VenueError(f"the litellm venue {self.model!r} was asked outside its `async with`; keep it open")
        return self._opened

    def _arguments(self, request: CompletionRequest) -> dict[str, Any]:
        arguments = chat_body(request)
        if controls := sorted(CONTROLS & arguments.keys()):
            raise VenueError(
                f"`extensions` sets {', '.join(controls)}; that belongs to the venue, not to a request", fault="request"
            )
        if request.tools:
            arguments["_skip_mcp_handler"] = True  # litellm's MCP gateway needs a package that litellm does not bring.
        if self._key is not None:
            arguments["api_key"] = self._key.get_secret_value()
        if self._api_base is not None:
            arguments["api_base"] = self._api_base
        return arguments | {"timeout": self._timeout_s, "num_retries": 0, "max_retries": 0, "drop_params": False}

    def _read(self, response: Any) -> Completion:
        choice = response.choices[0]
        message = choice.message
        calls = tuple(
            ToolCall(id=call.id or f"call_{number}", name=call.function.name, arguments=call.function.arguments or "")
            for number, call in enumerate(message.tool_calls or ())
        )
        return Completion(
            text=text_of(message.content),
            model=response.model or self.model,
            finish_reason=FINISH_REASONS.get(choice.finish_reason or "stop", "other"),
            tool_calls=calls,
            reasoning=getattr(message, "reasoning_content", None) or "",
            venue=self.name,
        )

    def _usage(self, opened: _Opened, request: CompletionRequest, completion: Completion, response: Any) -> Usage:
        """The provider's counts and litellm's price; where nothing was counted, our estimates, said to be such."""
        counted = getattr(response, "usage", None)
        prompt, answer = (token_count(getattr(counted, f"{part}_tokens", None)) for part in ("prompt", "completion"))
        estimated = not prompt or answer is None
        if not prompt or answer is None:
            prompt, answer = estimated_tokens(request.messages, completion)
        cost_msats = opened.tariff.prices.cost_msats(prompt, answer)
        if opened.tariff.from_table and not estimated:
            cost_msats = self._table_price_msats(opened.litellm, response, cost_msats)
        return Usage(prompt_tokens=prompt, completion_tokens=answer, cost_msats=cost_msats, estimated=estimated)

    def _table_price_msats(self, litellm: ModuleType, response: Any, most_msats: int) -> int:
        """litellm's price of the call; the upper bound where it can compute none, for the answer is paid already."""
        try:
            with boundary(VenueError, "pricing a call"):
                dollars = litellm.completion_cost(completion_response=response, model=self.model)
        except VenueError:
            return most_msats
        return to_msats(dollars, self._pricing.msats_per_usd)


@contextmanager
def _translated(opened: _Opened) -> Iterator[None]:
    import openai  # litellm's errors are subclasses of this client's, and litellm cannot be without it.

    try:
        with boundary(VenueError, f"asking {opened.place.title}"):
            yield
    except VenueError as error:
        # The cause is cut off: its text, which a traceback would show, may hold the key.
        if isinstance(error.__cause__, openai.OpenAIError):
            raise _translate(opened.litellm.exceptions, error.__cause__, opened.place) from None
        raise VenueError(opened.place.excerpt(str(error).encode()), paid_unknown=opened.place.priced) from None


def _load_litellm() -> ModuleType:
    """Import litellm, which takes seconds, with what must be settled before: no look-ups on the network, no noise."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    # Its newer HTTP handler, without the OpenAI client's recursive rewriting of every request: half the CPU a call.
    os.environ.setdefault("EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER", "true")
    import litellm

    litellm.suppress_debug_info = True
    return litellm


def _translate(kinds: Any, error: Exception, place: Place) -> VenueError:
    """What litellm's exception means for the asker."""
    said = place.excerpt(str(error).encode())
    match error:
        case kinds.AuthenticationError() | kinds.PermissionDeniedError():
            return VenueError(
                f"{place.title} refused the key ({said}); set {place.key_setting} or the provider's variable"
            )
        case kinds.NotFoundError() | kinds.PaymentRequiredError() | kinds.LiteLLMUnknownProvider():
            return VenueError(f"{place.title} is not served ({said}); check the model's name and the account")
        case kinds.UnsupportedParamsError():
            return VenueError(f"{place.title} does not take a setting of the lane ({said}); leave it out")
        case kinds.BadRequestError() | kinds.UnprocessableEntityError():
            return _refused(kinds, error, place, said)
        case kinds.RateLimitError() if "insufficient_quota" in str(error):
            return VenueError(f"{place.title} says that the account is used up ({said}); add credit")
        case kinds.RateLimitError():
            wait_s = retry_after_s(_headers(error) or {})
            return VenueError(f"{place.title} asks for a pause ({said})", retryable=True, retry_after_s=wait_s)
        case _:
            wait_s = retry_after_s(_headers(error) or {})
            message = f"{place.title} failed ({said})"
            paid_unknown = place.priced and _may_have_been_billed(kinds, error)
            return VenueError(message, retryable=True, paid_unknown=paid_unknown, retry_after_s=wait_s)


def _refused(kinds: Any, error: Exception, place: Place, said: str) -> VenueError:
    if "LLM Provider NOT provided" in str(error):
        return VenueError(f"{place.title}: litellm knows no such provider; name the model as `provider/model`")
    too_long = isinstance(error, kinds.ContextWindowExceededError) or TOO_LONG.search(str(error))
    message = f"{place.title} refused the request ({said}); shorten or correct it"
    return VenueError(message, fault="context" if too_long else "request")


def _headers(error: Exception) -> Any:
    """The headers of the provider's refusal; nothing when no answer came at all."""
    return getattr(error, "litellm_response_headers", None)


def _may_have_been_billed(kinds: Any, error: Exception) -> bool:
    """Whether the call may have been carried out: late, broken off or unreadable, but not refused at the door."""
    if isinstance(error, kinds.Timeout | kinds.APIResponseValidationError) or getattr(error, "status_code", 0) == 200:
        return True
    return _headers(error) is None and not _never_sent(error)


def _never_sent(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ConnectionRefusedError) or type(error).__name__ in ("ConnectError", "ConnectTimeout"):
            return True
        if type(error).__name__.startswith("ClientConnector") or "Cannot connect to host" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@final
class LiteLLM(VenueBlock):
    """A hosted model, through litellm. Dollar prices from litellm's table become msats at a fixed rate."""

    _block_type_name = "swarmc litellm venue"
    _block_type_slug = "swarmc-litellm"
    _description = "Runs completions on any provider that litellm speaks to, priced from litellm's table."

    model: str = Field(min_length=1, description="Model as litellm names it, e.g. `anthropic/claude-haiku-4-5`")
    api_key: SecretStr | None = Field(
        default=None, title="API key", description="The provider's key; empty: from its environment variable"
    )
    api_base: str | None = Field(default=None, title="API base", description="Address in place of the provider's own")
    timeout_s: float = Field(default=TIMEOUT_S, gt=0, description="Longest wait for one answer, in seconds")
    msats_per_usd: int = Field(
        default=MSATS_PER_USD,
        gt=0,
        title="msats per USD",
        description="Rate at which dollar prices become msats: 1,000,000 where a bitcoin is 100,000 dollars",
    )
    input_msats_per_1k_tokens: int | None = Field(
        default=None, ge=0, description="Price of 1,000 prompt tokens in msats, in place of litellm's"
    )
    output_msats_per_1k_tokens: int | None = Field(
        default=None, ge=0, description="Price of 1,000 answered tokens in msats, in place of litellm's"
    )
    tokens_per_image: int | None = Field(
        default=None, ge=1, description="Most prompt tokens that an image counts; needed for images at a priced model"
    )
    price_unknown_is_free: bool = Field(
        default=False, description="Take a model that litellm's table does not price as free, e.g. your own server's"
    )

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.input_msats_per_1k_tokens is None) != (self.output_msats_per_1k_tokens is None):
            raise ValueError("give both `input_msats_per_1k_tokens` and `output_msats_per_1k_tokens`, or neither")
        return self

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue. litellm is imported here, which takes seconds once per process.

        Raises:
            VenueError: the model's price is unknown.
        """
        pricing = Pricing(self.msats_per_usd, self.price_unknown_is_free, self._by_hand(), self.tokens_per_image)
        async with LiteLLMVenue(
            self.model, api_key=self.api_key, api_base=self.api_base, timeout_s=self.timeout_s, pricing=pricing
        ) as venue:
            yield venue

    def _by_hand(self) -> Prices | None:
        if self.input_msats_per_1k_tokens is None or self.output_msats_per_1k_tokens is None:
            return None
        return Prices.per_1k(self.input_msats_per_1k_tokens, self.output_msats_per_1k_tokens)
