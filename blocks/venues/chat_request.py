"""A request in the wire form of OpenAI's chat API, read as a `CompletionRequest`. The way back of `chat_format`."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from swarmc.contracts.canonical import canonical_bytes, plain, ppm
from swarmc.contracts.completions import CompletionRequest, Lane, Message, Sampling, ToolCall, ToolSpec
from swarmc.contracts.errors import VenueError, boundary

SAMPLING = frozenset({"temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "response_format"})
TOOLS = frozenset({"tools", "tool_choice"})
NO_CHOICE = frozenset({"n", "best_of", "stream", "stream_options", "max_retries", "model", "messages"})
"""What is no way to pick words: how much is bought, how it is handed over, and what has its own argument."""


def read_chat(
    model: str,
    messages: Iterable[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    *,
    lane: Lane = "swarm",
    rollout_id: int = 0,
) -> CompletionRequest:
    """Read it. Parameters that the API does not know become `extensions`.

    Args:
        model: The model, as the venue names it.
        messages: `role`, `content` (text, or parts of text and images), `tool_calls`, `tool_call_id`.
        parameters: The rest of the body.
        lane: The lane that the completion belongs to.
        rollout_id: Which sample of equal prompts.

    Raises:
        VenueError: with the fault `request`, where it asks for what no venue does, or is malformed.
    """
    if any(int(parameters.get(name) or 1) != 1 for name in ("n", "best_of")):
        raise VenueError("a venue gives one answer a call; leave `n` at 1 and ask again", fault="request")
    try:
        with boundary(VenueError, "reading a chat request", KeyError, TypeError, ValueError, AttributeError):
            return CompletionRequest(
                lane=lane,
                model=model,
                messages=tuple(_message(message) for message in messages),
                tools=tuple(_tool(tool) for tool in parameters.get("tools") or ()),
                tool_choice=_tool_choice(parameters.get("tool_choice")),
                sampling=_sampling(parameters),
                rollout_id=rollout_id,
            )
    except VenueError as error:
        said = error.__cause__
        detail = said.errors(include_url=False)[0] if isinstance(said, ValidationError) else None
        reason = f"reading a chat request: {detail['loc'][-1]}: {detail['msg']}" if detail else str(error)
        raise VenueError(reason, fault="request") from error


def _message(wire: Mapping[str, Any]) -> Message:
    texts, images = _content(wire.get("content"))
    calls = tuple(
        ToolCall(id=call.get("id") or "", name=call["function"]["name"], arguments=call["function"]["arguments"])
        for call in wire.get("tool_calls") or ()
    )
    return Message(
        role=wire["role"],
        content="\n".join(texts),
        images=tuple(images),
        tool_calls=calls,
        tool_call_id=wire.get("tool_call_id"),
    )


def _content(content: Any) -> tuple[list[str], list[str]]:
    """The texts and the images of a message."""
    if content is None or isinstance(content, str):
        return [content or ""], []
    texts, images = [], []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
                images.append(url)
            case _:
                raise VenueError(f"a message has a part that no venue carries ({str(part)[:60]}); send text or images")
    return texts, images


def _tool(wire: Mapping[str, Any]) -> ToolSpec:
    if wire.get("type", "function") != "function":
        raise VenueError(f"{wire.get('type')!r} is a tool that no venue carries; send function tools")
    function = wire["function"]
    parameters = _canonical(function.get("parameters") or {})
    return ToolSpec(name=function["name"], description=function.get("description") or "", parameters=parameters)


def _tool_choice(wire: Any) -> Any:
    if isinstance(wire, Mapping):
        raise VenueError("no venue can be told which tool must be called; use auto, none or required")
    return wire


def _sampling(parameters: Mapping[str, Any]) -> Sampling:
    stop = parameters.get("stop")
    temperature, top_p = parameters.get("temperature"), parameters.get("top_p")
    response_format = parameters.get("response_format")
    extensions = {
        name: value
        for name, value in parameters.items()
        if value is not None and name not in SAMPLING | TOOLS | NO_CHOICE
    }
    return Sampling(
        temperature_ppm=None if temperature is None else ppm(temperature),
        top_p_ppm=None if top_p is None else ppm(top_p),
        max_tokens=parameters.get("max_completion_tokens") or parameters.get("max_tokens"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        seed=parameters.get("seed"),
        response_format=None if response_format is None else _canonical(response_format),
        extensions=_canonical(extensions),
    )


def _canonical(value: Any) -> str:
    return canonical_bytes(plain(value)).decode()
