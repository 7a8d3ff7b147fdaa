"""The DSPy engine: one `dspy.LM` call becomes one metered completion.

Follows DSPy 3.4's engine contract (`dspy.clients.engines.base`): one canonical request in, one
response out, no cache, no retry. Reading and writing `dspy.lm15` types happens here only.

Where a program is streamed (`dspy.streamify`), a call is metered like any other and streamed from its
settled answer: what is seen is paid for, and a replay streams as the purchase did. So the first piece
comes when the last one does.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import dspy
from dspy import lm15

from swarmc.compiler.portal import Portal
from swarmc.compiler.scope import Scope, current_scope
from swarmc.contracts.canonical import canonical_bytes, plain, ppm
from swarmc.contracts.completions import (
    Completion,
    CompletionRequest,
    FinishReason,
    Lane,
    Message,
    Sampling,
    ToolCall,
    ToolSpec,
)
from swarmc.contracts.errors import ProgramError, VenueError
from swarmc.contracts.ports import Venue

READER_POLL_S = 0.005

_FINISH: dict[FinishReason, Any] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_call",
    "content_filter": "content_filter",
    "other": "stop",
}

# DSPy's listeners find a field by what stands before and after it, and take an answer that comes whole
# for a cached one, of which they tell nothing. Pieces of about a token's size suit them.
_PIECE = re.compile(r"\s*(?:\w+|[^\w\s]+)|\s+")


def lane_lm(venue: Venue, lane: Lane, portal: Portal, sampling: Sampling | None = None) -> dspy.LM:
    """A `dspy.LM` whose every call is a completion of `venue`.

    Args:
        venue: Usually a metered one.
        lane: Part of the identity of each completion.
        portal: Where the venue's loop is; synchronous programs come in through it.
        sampling: Defaults for what a call leaves open.
    """
    engine = Engine(venue, lane, portal, sampling or Sampling())
    async_engine = AsyncEngine(engine)
    return dspy.LM(venue.model, engine=engine, async_engine=async_engine, cache=False, num_retries=0)


class Engine:
    """Synchronous side: blocks the calling thread until the portal's loop has the completion."""

    def __init__(self, venue: Venue, lane: Lane, portal: Portal, sampling: Sampling) -> None:
        self._venue = venue
        self._lane: Lane = lane
        self._portal = portal
        self._sampling = sampling

    def complete(self, request: lm15.Request) -> lm15.Response:
        scope = current_scope()
        asked = to_request(request, self._lane, scope.rollout_id, self._sampling)
        with _Call(scope):
            completion = self._portal.call(lambda: self._venue.complete(asked))
            scope.completions.append(completion)
        return to_response(completion)

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        return to_events(self.complete(request))

    async def acomplete(self, request: lm15.Request) -> lm15.Response:
        scope = current_scope()
        asked = to_request(request, self._lane, scope.rollout_id, self._sampling)
        with _Call(scope):
            completion = await self._portal.acall(lambda: self._venue.complete(asked))
            scope.completions.append(completion)
        return to_response(completion)


class AsyncEngine:
    """Asynchronous side of an `Engine`: DSPy tells the two apart by the colour of `complete`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return await self._engine.acomplete(request)

    async def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        for event in to_events(await self._engine.acomplete(request)):
            if event.type == "end":
                await _seen()
            yield event


async def _seen() -> None:
    """Wait until the reader of a streamed program has taken all pieces but the last.

    DSPy puts its status messages into the same small buffer, and blocks the loop that empties it while it
    is full: a whole answer at once in front of a slow reader would stop the program for ever.
    """
    stream = dspy.settings.send_stream
    while stream is not None:
        buffer = stream.statistics()
        if not (buffer.current_buffer_used and buffer.open_receive_streams):
            return
        await asyncio.sleep(READER_POLL_S)


class _Call:
    """One call of a program run, in flight as long as it is entered.

    Lets DSPy see a too long prompt as such (its agents then shorten it); other errors pass unchanged.
    """

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._scope.in_flight.add(self)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._scope.in_flight.discard(self)
        if isinstance(error, VenueError) and error.fault == "context":
            raise lm15.ContextLengthError(str(error)) from error


def to_request(request: lm15.Request, lane: Lane, rollout_id: int, defaults: Sampling) -> CompletionRequest:
    """Translate a DSPy request. What the request leaves open is taken from `defaults`.

    Raises:
        ProgramError: it holds parts that no lane carries (audio, files, documents).
    """
    messages = [Message(role="system", content=_system_text(request.system))] if request.system else []
    for message in request.messages:
        messages += _messages(message)
    return CompletionRequest(
        lane=lane,
        model=request.model,
        messages=tuple(messages),
        tools=tuple(_tool(tool) for tool in request.tools),
        tool_choice=request.config.tool_choice.mode if request.config.tool_choice else None,
        sampling=_sampling(request.config, defaults),
        rollout_id=rollout_id,
    )


def to_response(completion: Completion) -> lm15.Response:
    """Translate a completion into what DSPy's adapters read."""
    parts: list[Any] = []
    if completion.reasoning:
        parts.append(lm15.ThinkingPart(completion.reasoning))
    if completion.text or not completion.tool_calls:
        parts.append(lm15.TextPart(completion.text))
    parts += [lm15.ToolCallPart(call.id, call.name, _arguments(call.arguments)) for call in completion.tool_calls]
    return lm15.Response(
        id=None,
        model=completion.model,
        message=lm15.Message("assistant", tuple(parts)),
        finish_reason=_FINISH[completion.finish_reason],
        usage=lm15.Usage(input_tokens=completion.usage.prompt_tokens, output_tokens=completion.usage.completion_tokens),
    )


def to_events(response: lm15.Response) -> Iterator[Any]:
    """A whole response as DSPy's stream events, its text and its reasoning in pieces that make it up exactly."""
    for event in lm15.response_to_events(response):
        delta = event.delta if isinstance(event, lm15.StreamDeltaEvent) else None
        if isinstance(delta, lm15.TextDelta | lm15.ThinkingDelta):
            for piece in _PIECE.findall(delta.text) or [""]:
                yield lm15.StreamDeltaEvent(delta=replace(delta, text=piece))
        else:
            yield event


def _system_text(system: str | Sequence[Any]) -> str:
    if isinstance(system, str):
        return system
    return "\n".join(_text_of(part) for part in system)


def _messages(message: lm15.Message) -> list[Message]:
    """One DSPy message; a tool message with several results becomes one message each."""
    if message.role == "tool":
        return [
            Message(role="tool", content="\n".join(_text_of(item) for item in part.content), tool_call_id=part.id)
            for part in message.parts_of(lm15.ToolResultPart)
        ]
    texts, images, calls = [], [], []
    for part in message.parts:
        match part:
            case lm15.ToolCallPart():
                calls.append(ToolCall(id=part.id, name=part.name, arguments=json.dumps(part.input, sort_keys=True)))
            case lm15.ImagePart():
                images.append(_image_url(part))
            case lm15.ThinkingPart():
                continue  # A model's own thoughts are not sent back to it.
            case _:
                texts.append(_text_of(part))
    return [Message(role=message.role, content="\n".join(texts), images=tuple(images), tool_calls=tuple(calls))]


def _text_of(part: Any) -> str:
    match part:
        case lm15.TextPart():
            return part.text
        case lm15.DataPart():
            return json.dumps(part.value, ensure_ascii=False)
        case _:
            raise ProgramError(
                f"the program sends a {part.type!r} part; a lane carries text, images and tool calls only"
            )


def _image_url(part: lm15.ImagePart) -> str:
    if part.url is not None:
        return part.url
    if part.data is None:
        raise ProgramError("the program sends an image by file id or path; send its URL or its data")
    return f"data:{part.media_type};base64,{part.data}"


def _tool(tool: Any) -> ToolSpec:
    if not isinstance(tool, lm15.FunctionTool):
        raise ProgramError(f"the program asks for the built-in tool {tool.name!r}; a lane carries function tools only")
    return ToolSpec(name=tool.name, description=tool.description or "", parameters=_canonical(tool.parameters))


def _sampling(config: lm15.Config, defaults: Sampling) -> Sampling:
    extensions = dict(config.extensions or {})
    for name in ("frequency_penalty", "presence_penalty", "top_k", "user_id", "service_tier"):
        if (value := getattr(config, name)) is not None:
            extensions[name] = value
    if config.reasoning is not None:
        extensions["reasoning_effort"] = config.reasoning.effort
    given: dict[str, Any] = {
        "temperature_ppm": None if config.temperature is None else ppm(config.temperature),
        "top_p_ppm": None if config.top_p is None else ppm(config.top_p),
        "max_tokens": config.max_tokens,
        "stop": config.stop or None,
        "seed": config.seed,
        "response_format": None if config.response_format is None else _canonical(config.response_format),
        "extensions": _canonical(extensions) if extensions else None,
    }
    return defaults.model_copy(update={name: value for name, value in given.items() if value is not None})


def _canonical(value: Any) -> str:
    return canonical_bytes(plain(value)).decode()


def _arguments(text: str) -> dict[str, Any]:
    """A tool call's arguments; what is no JSON object is kept under `_unparsed`, so that the tool's error names it."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"_unparsed": text}
    return value if isinstance(value, dict) else {"_unparsed": text}
