"""Any server that speaks OpenAI's chat API: llama.cpp, vLLM, SGLang, Ollama's /v1. The fast path, without litellm."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, final

import orjson
from pydantic import Field, SecretStr

from blocks.venues.block import VenueBlock, check_model
from blocks.venues.chat_format import (
    FINISH_REASONS,
    chat_body,
    most_completion_tokens,
    text_of,
    token_count,
    tool_calls_of,
)
from blocks.venues.exchange import Exchange, Place, refusal, unreadable
from blocks.venues.prices import Prices, estimated_tokens
from swarmc.contracts.completions import Completion, CompletionRequest, Usage
from swarmc.contracts.errors import VenueError
from swarmc.contracts.ports import Venue

NAME = "openai"
TIMEOUT_S = 120.0


@final
class OpenAIVenue:
    """One model of one server, over a pooled session.

    Args:
        base_url: The address that `/chat/completions` is appended to, e.g. ``http://127.0.0.1:8080/v1``.
        model: The model, as the server names it.
        api_key: Sent as a bearer token.
        prices: What the server asks for; free unless given.
        timeout_s: Longest wait for one answer, in seconds.
        name: The product, where it is known.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: SecretStr | None = None,
        prices: Prices | None = None,
        timeout_s: float = TIMEOUT_S,
        name: str = NAME,
    ) -> None:
        self.name = name
        self.model = model
        self._prices = prices or Prices()
        place = Place(
            title=f"the model server at {base_url}",
            priced=not self._prices.free,
            secret=api_key.get_secret_value() if api_key else "",
        )
        self._exchange = Exchange(base_url, place, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        await self._exchange.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Harmless when they are closed."""
        await self._exchange.aclose()

    def quote(self, request: CompletionRequest) -> int:
        """Upper bound in msats: every byte of the prompt a token, the answer as long as `max_tokens` allows.

        Raises:
            VenueError: the server is priced, and `max_tokens` is not set.
        """
        return 0 if self._prices.free else self._prices.bound_msats(request, most_completion_tokens(request))

    def price_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        """The price that was set for the server, in msats."""
        return self._prices.sum_msats(prompt_tokens, completion_tokens, calls)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask once.

        Raises:
            VenueError: the server cannot be reached, refuses, breaks off, is late, or answers with something else.
        """
        check_model(self, request)
        started_s = time.monotonic()
        answer = await self._exchange.post("/chat/completions", chat_body(request))
        if "choices" not in answer and isinstance(answer.get("error"), dict):
            raise self._relayed(answer["error"])
        latency_ms = round(1000 * (time.monotonic() - started_s))
        try:
            return self._read(request, answer, latency_ms)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise unreadable(self._exchange.place, orjson.dumps(answer)) from error

    def _read(self, request: CompletionRequest, answer: dict[str, Any], latency_ms: int) -> Completion:
        choice = answer["choices"][0]
        message = choice["message"]
        counted = answer["usage"] if isinstance(answer.get("usage"), dict) else {}
        prompt, said = token_count(counted.get("prompt_tokens")), token_count(counted.get("completion_tokens"))
        completion = Completion(
            text=text_of(message.get("content")),
            model=answer.get("model") or self.model,
            usage=Usage() if prompt is None or said is None else self._usage(prompt, said),
            finish_reason=FINISH_REASONS.get(choice.get("finish_reason") or "stop", "other"),
            tool_calls=tool_calls_of(message) if message.get("tool_calls") else (),
            reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
            venue=self.name,
            latency_ms=latency_ms,
        )
        if prompt is not None and said is not None:
            return completion
        estimate = self._usage(*estimated_tokens(request.messages, completion), estimated=True)
        return completion.model_copy(update={"usage": estimate})

    def _usage(self, prompt: int, said: int, *, estimated: bool = False) -> Usage:
        cost_msats = 0 if self._prices.free else self._prices.cost_msats(prompt, said)
        return Usage(prompt_tokens=prompt, completion_tokens=said, cost_msats=cost_msats, estimated=estimated)

    def _relayed(self, error: dict[str, Any]) -> VenueError:
        """A gateway's own 200 around the failure of the server behind it."""
        status = token_count(error.get("code")) or 502
        return refusal(self._exchange.place, status, {}, orjson.dumps(error))


@final
class OpenAICompatible(VenueBlock):
    """A model behind an OpenAI-compatible address, spoken to directly: the fast path for local and rented servers."""

    _block_type_name = "swarmc OpenAI-compatible venue"
    _block_type_slug = "swarmc-openai-compatible"
    _description = "Runs completions on a llama.cpp, vLLM, SGLang or other server that speaks OpenAI's chat API."

    base_url: str = Field(description="Address up to `/v1`, e.g. `http://127.0.0.1:8080/v1`", title="Base URL")
    model: str = Field(min_length=1, description="The model, as the server names it")
    api_key: SecretStr | None = Field(
        default=None, description="Sent as a bearer token; empty for none", title="API key"
    )
    timeout_s: float = Field(default=TIMEOUT_S, gt=0, description="Longest wait for one answer, in seconds")
    input_msats_per_1k_tokens: int = Field(default=0, ge=0, description="Price of 1,000 prompt tokens, in msats")
    output_msats_per_1k_tokens: int = Field(default=0, ge=0, description="Price of 1,000 answered tokens, in msats")
    tokens_per_image: int | None = Field(
        default=None, ge=1, description="Most prompt tokens that an image counts; needed for images at a priced server"
    )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue. The server is first spoken to by the first call.

        Raises:
            VenueError: `base_url` is no address.
        """
        prices = Prices.per_1k(self.input_msats_per_1k_tokens, self.output_msats_per_1k_tokens, self.tokens_per_image)
        venue = OpenAIVenue(self.base_url, self.model, api_key=self.api_key, prices=prices, timeout_s=self.timeout_s)
        async with venue:
            yield venue
