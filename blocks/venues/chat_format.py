"""Completions in the wire form of OpenAI's chat API, there and back."""

from typing import Any

import orjson

from swarmc.contracts.canonical import PPM, unplain
from swarmc.contracts.completions import (
    CompletionRequest,
    FinishReason,
    Message,
    Sampling,
    ToolCall,
    ToolSpec,
)
from swarmc.contracts.errors import VenueError

RESERVED = frozenset({"model", "messages", "tools", "tool_choice", "stream", "n", "best_of"})
"""What a request's `extensions` may not set: they are fields of it, or would change how much is bought."""

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def chat_body(request: CompletionRequest) -> dict[str, Any]:
    """The request's JSON, `model` included.

    Raises:
        VenueError: `extensions` set a reserved field.
    """
    body: dict[str, Any] = {"model": request.model, "messages": [to_wire(message) for message in request.messages]}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = request.tool_choice
    body.update(sampling_fields(request.sampling))
    return body


def to_wire(message: Message) -> dict[str, Any]:
    """One turn, as the API writes it."""
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        texts = [{"type": "text", "text": message.content}] if message.content else []
        wire["content"] = [*texts, *({"type": "image_url", "image_url": {"url": url}} for url in message.images)]
    if message.tool_calls:
        wire["content"] = wire["content"] or None
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """What is set of `sampling`; fractions as floats, `extensions` merged.

    Raises:
        VenueError: `extensions` set a reserved field.
    """
    fields: dict[str, Any] = {}
    if sampling.temperature_ppm is not None:
        fields["temperature"] = sampling.temperature_ppm / PPM
    if sampling.top_p_ppm is not None:
        fields["top_p"] = sampling.top_p_ppm / PPM
    if sampling.max_tokens is not None:
        fields["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if sampling.response_format is not None:
        fields["response_format"] = from_canonical(sampling.response_format)
    if sampling.extensions != "{}":
        fields.update(_extensions(sampling.extensions))
    return fields


def from_canonical(text: str) -> Any:
    """The value of canonical JSON text; a tagged float is a number again (see `canonical.plain`).

    Raises:
        VenueError: a tag that holds no number.
    """
    try:
        return unplain(orjson.loads(text))
    except ValueError as error:
        raise VenueError(f"reading {text[:80]!r}: {error}", fault="request") from error


def most_completion_tokens(request: CompletionRequest) -> int | None:
    """The longest answer that `request` allows, in tokens; `None` when it sets no limit."""
    limits = [request.sampling.max_tokens]
    if request.sampling.extensions != "{}":
        limits.append(_extensions(request.sampling.extensions).get("max_completion_tokens"))
    return max((limit for limit in limits if isinstance(limit, int)), default=None)


def tool_calls_of(wire: dict[str, Any]) -> tuple[ToolCall, ...]:
    """The tool calls of a message; arguments stay text as the model wrote it."""
    calls = []
    for number, call in enumerate(wire.get("tool_calls") or ()):
        function = call["function"]
        arguments = function.get("arguments") or ""
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        calls.append(ToolCall(id=call.get("id") or f"call_{number}", name=function["name"], arguments=text))
    return tuple(calls)


def text_of(content: Any) -> str:
    """A message's content: a string, nothing, or parts of which the text counts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def token_count(value: Any) -> int | None:
    """A server's count of tokens, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _tool(tool: ToolSpec) -> dict[str, Any]:
    parameters = from_canonical(tool.parameters) or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _extensions(text: str) -> dict[str, Any]:
    extensions = from_canonical(text)
    if not isinstance(extensions, dict):
        raise VenueError(f"`extensions` is {text[:80]}; give a JSON object", fault="request")
    if reserved := sorted(RESERVED & extensions.keys()):
        raise VenueError(
            f"`extensions` sets {', '.join(reserved)}, which a venue sets itself; use the request's own fields",
            fault="request",
        )
    return extensions
