"""One completion: what is asked, what comes back, what it used."""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from swarmc.contracts.canonical import CanonicalText, Contract, content_id

Lane = Literal["swarm", "validation", "premium", "propose", "teacher", "judge"]
"""Which purse and which quality a call belongs to."""

Stage = Literal[
    "load", "bootstrap", "propose", "search", "climb", "validate", "verify", "promote", "record", "serve", "other"
]
"""The part of a compile that made a call."""

SEED_DIGITS = 7
"""Hex digits of a request's id that make its seed: 28 bits, which every server takes."""

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "other"]


class ToolCall(Contract):
    """A model's wish to call a tool. `arguments` is JSON text as the model wrote it, valid or not."""

    id: str
    name: str
    arguments: str


class ToolSpec(Contract):
    """A tool that a model may call. `parameters` is its JSON schema."""

    name: str
    description: str = ""
    parameters: CanonicalText = "{}"


class Message(Contract):
    """One turn. `images` are URLs (`https:` or `data:`) shown after `content`."""

    role: Role
    content: str = ""
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Sampling(Contract):
    """How a model picks its words. Fractions are parts per million, so that no float is hashed.

    `extensions` carries a provider's own settings as canonical JSON.
    """

    temperature_ppm: int | None = Field(default=None, ge=0)
    top_p_ppm: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: CanonicalText | None = None
    extensions: CanonicalText = "{}"


class CompletionRequest(Contract):
    """A request whose hash is its identity: equal requests are bought once.

    `rollout_id` tells apart repeated samples of the same prompt. Where the request runs (which
    address, which key) is no part of it; the lane and the model are.
    """

    lane: Lane
    model: str
    messages: tuple[Message, ...] = Field(min_length=1)
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "none", "required"] | None = None
    sampling: Sampling = Sampling()
    rollout_id: int = 0

    @cached_property
    def body(self) -> bytes:
        """`canonical()`, computed once: it is hashed, stored and sometimes sent."""
        return self.canonical()

    @cached_property
    def request_id(self) -> str:
        """`sha256:` of `body`."""
        return content_id(self.body)

    def seeded(self) -> "CompletionRequest":
        """The same with a seed, made of its id where it has none: wherever a model runs, it then says the same."""
        if self.sampling.seed is not None:
            return self
        seed = int(self.request_id.removeprefix("sha256:")[:SEED_DIGITS], 16)
        return self.model_copy(update={"sampling": self.sampling.model_copy(update={"seed": seed})})


class Usage(Contract):
    """Tokens and price of one call.

    `estimated` says that the server gave no token counts and these are ours; `cost_msats` is 0
    for a local model. `simulated` marks money that was not real.
    """

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    cost_msats: int = Field(default=0, ge=0)
    estimated: bool = False
    simulated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost_sats(self) -> int:
        """Whole satoshis, rounded up."""
        return -(-self.cost_msats // 1000)


def _whole(text: str) -> str:
    # Half a character has no bytes, so the answer could not be stored after it was paid for.
    return text.encode("utf-8", "replace").decode()


Answer = Annotated[str, AfterValidator(_whole)]
"""A model's text; half characters in it become question marks."""


class Completion(Contract):
    """What came back. `text` is empty when the model only called tools."""

    text: Answer
    model: str
    usage: Usage = Usage()
    finish_reason: FinishReason = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: Answer = ""
    venue: str = ""
    latency_ms: int = Field(default=0, ge=0)
