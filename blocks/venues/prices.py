"""Upper bounds of what a request can cost, and token counts where a server gives none."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from swarmc.contracts.completions import Completion, CompletionRequest, Message
from swarmc.contracts.errors import VenueError

MESSAGE_TOKENS = 16
"""More than any chat template we know puts around one message."""

TEMPLATE_TOKENS = 128
"""More than the default system prompts of chat templates (Llama's date header, Qwen's greeting)."""

TOOLS_TOKENS = 512
"""More than what chat templates say about the use of tools, the tools' own text aside."""

BYTES_PER_TOKEN = 4
"""The estimate where a server counts no tokens: UTF-8 bytes / 4, rounded up, and 4 more per message."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What tokens cost at a place.

    Attributes:
        input_msats: msats of one prompt token, at most.
        output_msats: msats of one completion token, at most.
        call_msats: msats of a call besides its tokens, at most.
        tokens_per_image: Most prompt tokens that an image can count; unknown when `None`.
    """

    input_msats: Fraction = Fraction(0)
    output_msats: Fraction = Fraction(0)
    call_msats: Fraction = Fraction(0)
    tokens_per_image: int | None = None

    @classmethod
    def per_1k(cls, input_msats: int, output_msats: int, tokens_per_image: int | None = None) -> "Prices":
        """Prices given in msats per 1,000 tokens."""
        return cls(Fraction(input_msats, 1000), Fraction(output_msats, 1000), tokens_per_image=tokens_per_image)

    @property
    def free(self) -> bool:
        return not (self.input_msats or self.output_msats or self.call_msats)

    def cost_msats(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The price of a call of so many tokens, rounded up."""
        return self.sum_msats(prompt_tokens, completion_tokens, 1)

    def sum_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        """The price of calls of so many tokens together, rounded up once."""
        tokens_msats = self.input_msats * prompt_tokens + self.output_msats * completion_tokens
        return ceil(self.call_msats * calls + tokens_msats)

    def bound_msats(self, request: CompletionRequest, most_completion_tokens: int | None) -> int:
        """Upper bound of what `request` can cost.

        Args:
            request: What will be asked.
            most_completion_tokens: Most tokens of the answer, thoughts included.

        Raises:
            VenueError: the place is priced, and the length of the answer or of an image has no bound.
        """
        if self.free:
            return 0
        if most_completion_tokens is None:
            raise VenueError(
                f"the price of a call to {request.model!r} has no upper bound; set `max_tokens`", fault="request"
            )
        images = sum(len(message.images) for message in request.messages)
        if images and self.tokens_per_image is None:
            raise VenueError(
                f"the price of {images} image(s) for {request.model!r} has no upper bound; "
                "set `tokens_per_image` on the venue",
                fault="request",
            )
        prompt_tokens = most_prompt_tokens(request) + images * (self.tokens_per_image or 0)
        return self.cost_msats(prompt_tokens, most_completion_tokens)


def most_prompt_tokens(request: CompletionRequest) -> int:
    """More tokens than the text of any prompt made of `request` has: a token holds at least one byte."""
    tokens = TEMPLATE_TOKENS + sum(MESSAGE_TOKENS + _message_bytes(message) for message in request.messages)
    if request.tools:
        tokens += TOOLS_TOKENS
        tokens += sum(
            MESSAGE_TOKENS + _bytes(tool.name) + _bytes(tool.description) + _bytes(tool.parameters)
            for tool in request.tools
        )
    return tokens + _bytes(request.sampling.response_format or "")


def estimated_tokens(messages: Sequence[Message], completion: Completion) -> tuple[int, int]:
    """Tokens of prompt and answer where nobody counted them; see `BYTES_PER_TOKEN`."""
    prompt_bytes = sum(_message_bytes(message) for message in messages)
    answer_bytes = _bytes(completion.text) + _bytes(completion.reasoning)
    answer_bytes += sum(_bytes(call.name) + _bytes(call.arguments) for call in completion.tool_calls)
    return -(-prompt_bytes // BYTES_PER_TOKEN) + 4 * len(messages), -(-answer_bytes // BYTES_PER_TOKEN)


def _message_bytes(message: Message) -> int:
    calls = sum(_bytes(call.id) + _bytes(call.name) + _bytes(call.arguments) for call in message.tool_calls)
    return _bytes(message.content) + calls + _bytes(message.tool_call_id or "")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
