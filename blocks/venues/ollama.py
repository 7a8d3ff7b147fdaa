"""Ollama, by its own API: models by name, and the settings that only this API has."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, final

import orjson
from pydantic import Field

from blocks.venues.block import VenueBlock, check_model
from blocks.venues.chat_format import FINISH_REASONS, chat_body, from_canonical, token_count, tool_calls_of
from blocks.venues.exchange import Exchange, Place, unreadable
from blocks.venues.prices import estimated_tokens
from swarmc.contracts.completions import Completion, CompletionRequest, Message, Usage
from swarmc.contracts.errors import VenueError
from swarmc.contracts.ports import Venue

NAME = "ollama"
BASE_URL = "http://127.0.0.1:11434"
TIMEOUT_S = 300.0
OPTIONS = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "num_predict", "stop": "stop", "seed": "seed"}
"""Sampling settings and their names among Ollama's `options`."""

TOP_LEVEL = frozenset({"think", "keep_alive"})
"""Extensions that Ollama takes beside `options`; every other one is an option (`num_ctx`, `top_k`)."""


@final
class OllamaVenue:
    """One model of an Ollama server. Free.

    Args:
        model: The model, as `ollama list` names it.
        base_url: The server's address, without `/api`.
        context_tokens: Context to load the model with; a longer prompt is cut by Ollama without a word.
        timeout_s: Longest wait for one answer, in seconds; the first call also loads the model.
    """

    name = NAME

    def __init__(
        self,
        model: str,
        *,
        base_url: str = BASE_URL,
        context_tokens: int | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.model = model
        self._context_tokens = context_tokens
        self._exchange = Exchange(base_url, Place(f"Ollama at {base_url}"), timeout_s=timeout_s)

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

    def quote(self, request: CompletionRequest) -> int:  # noqa: ARG002 - the port's; nothing here has a price
        """Nothing: the model is the asker's own."""
        return 0

    def price_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:  # noqa: ARG002 - as above
        """Nothing."""
        return 0

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask once.

        Raises:
            VenueError: Ollama cannot be reached, lacks the model, refuses, is late, or answers with something else.
        """
        check_model(self, request)
        body = ollama_body(request, self._context_tokens)
        started_s = time.monotonic()
        try:
            answer = await self._exchange.post("/api/chat", body)
        except VenueError as error:
            if "not found" in str(error) and "HTTP 404" in str(error):
                advice = f"Ollama does not have the model {self.model!r}; run `ollama pull {self.model}`"
                raise VenueError(advice) from error
            raise
        try:
            return self._read(request, answer, round(1000 * (time.monotonic() - started_s)))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise unreadable(self._exchange.place, orjson.dumps(answer)) from error

    def _read(self, request: CompletionRequest, answer: dict[str, Any], latency_ms: int) -> Completion:
        message = answer["message"]
        calls = tool_calls_of(message)
        reason = FINISH_REASONS.get(answer.get("done_reason") or "stop", "other")
        completion = Completion(
            text=message.get("content") or "",
            model=answer.get("model") or self.model,
            finish_reason="tool_calls" if calls else reason,
            tool_calls=calls,
            reasoning=message.get("thinking") or "",
            venue=self.name,
            latency_ms=latency_ms,
        )
        return completion.model_copy(update={"usage": _usage(request, completion, answer)})


def ollama_body(request: CompletionRequest, context_tokens: int | None) -> dict[str, Any]:
    """The JSON for `/api/chat`.

    Raises:
        VenueError: an image by address, `tool_choice: required`, or extensions that set what a venue sets.
    """
    if request.tool_choice == "required":
        raise VenueError("Ollama cannot be told that a tool must be called; use `tool_choice` auto", fault="request")
    chat = chat_body(request)
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_to_wire(message) for message in request.messages],
        "stream": False,
    }
    options = {OPTIONS[name]: chat.pop(name) for name in OPTIONS if name in chat}
    if context_tokens is not None:
        options["num_ctx"] = context_tokens
    extensions = from_canonical(request.sampling.extensions)
    options |= extensions.pop("options", {})
    body |= {name: value for name, value in extensions.items() if name in TOP_LEVEL}
    options |= {name: value for name, value in extensions.items() if name not in TOP_LEVEL}
    if options:
        body["options"] = options
    if request.tools and request.tool_choice != "none":
        body["tools"] = chat["tools"]
    if (wanted := _format(chat.get("response_format"))) is not None:
        body["format"] = wanted
    return body


def _to_wire(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "developer":
        wire["role"] = "system"
    if message.images:
        wire["images"] = [_image(url) for url in message.images]
    if message.tool_calls:
        wire["tool_calls"] = [
            {"function": {"name": call.name, "arguments": _arguments(call.arguments)}} for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _image(url: str) -> str:
    """The base64 of a `data:` address."""
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise VenueError(f"Ollama fetches no images ({url[:60]}); send the image itself, as data:", fault="request")
    return data


def _arguments(text: str) -> Any:
    """A tool call's arguments as the object that Ollama wants; what is no JSON is wrapped, so that it is not lost."""
    try:
        value = orjson.loads(text or "{}")
    except ValueError:
        return {"text": text}
    return value if isinstance(value, dict) else {"value": value}


def _format(response_format: Any) -> Any:
    """`response_format` as Ollama's `format`: `json`, a schema, or nothing."""
    match response_format:
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return schema
        case None | {"type": "text"}:
            return None
        case _:
            return response_format


def _usage(request: CompletionRequest, completion: Completion, answer: dict[str, Any]) -> Usage:
    """Ollama leaves `prompt_eval_count` out where it had the whole prompt in its cache; then we estimate."""
    prompt, said = token_count(answer.get("prompt_eval_count")), token_count(answer.get("eval_count"))
    if prompt is not None and said is not None:
        return Usage(prompt_tokens=prompt, completion_tokens=said)
    estimated_prompt, estimated_said = estimated_tokens(request.messages, completion)
    return Usage(
        prompt_tokens=estimated_prompt if prompt is None else prompt,
        completion_tokens=estimated_said if said is None else said,
        estimated=True,
    )


@final
class Ollama(VenueBlock):
    """A model that Ollama runs, on this machine or another."""

    _block_type_name = "swarmc Ollama venue"
    _block_type_slug = "swarmc-ollama"
    _description = "Runs completions on a model of an Ollama server."

    model: str = Field(min_length=1, description="The model, as `ollama list` names it, e.g. `qwen3:4b`")
    base_url: str = Field(default=BASE_URL, title="Base URL", description="The server's address, without `/api`")
    context_tokens: int | None = Field(
        default=None,
        ge=256,
        description="Context to load the model with; empty: Ollama's default, beyond which it cuts prompts silently",
    )
    timeout_s: float = Field(default=TIMEOUT_S, gt=0, description="Longest wait for one answer, in seconds")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Venue]:
        """The venue. Ollama is first spoken to by the first call.

        Raises:
            VenueError: `base_url` is no address.
        """
        async with OllamaVenue(
            self.model, base_url=self.base_url, context_tokens=self.context_tokens, timeout_s=self.timeout_s
        ) as venue:
            yield venue
