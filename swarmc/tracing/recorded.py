"""A venue that answers with what a bundle recorded, and nothing else: no model, no network."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from pydantic import ValidationError

from swarmc.contracts.bundle import Call, preview
from swarmc.contracts.completions import Completion, CompletionRequest, Lane
from swarmc.contracts.errors import BundleError, VenueError
from swarmc.tracing.bundle import Bundle

Missed = Callable[[CompletionRequest], None]
"""Told of a request that nobody recorded."""


@dataclass(frozen=True)
class Answers:
    """What was recorded, by request.

    Attributes:
        completions: The answer to each request; of one that was paid twice, the first.
        requests: The requests themselves.
        models: By lane, the model that was asked.
        prices_msats: By lane, the highest price of a call.
    """

    completions: Mapping[str, Completion]
    requests: Mapping[str, CompletionRequest]
    models: Mapping[Lane, str]
    prices_msats: Mapping[Lane, int]

    def venue(self, lane: Lane, missed: Missed) -> "RecordedVenue":
        """The venue of a lane, as far as the lane was used: its model then is the one that was asked."""
        return RecordedVenue(self, lane, missed)

    def nearest(self, request: CompletionRequest) -> CompletionRequest | None:
        """The recorded request of the same lane that ends as this one does, and differs least before."""
        text = _text(request)
        same = [
            one
            for one in self.requests.values()
            if one.lane == request.lane and one.messages[-1].content == request.messages[-1].content
        ]
        return max(same, key=lambda one: difflib.SequenceMatcher(None, _text(one), text).quick_ratio(), default=None)


@final
class RecordedVenue:
    """Implements the `Venue` port over what was recorded.

    Args:
        answers: What was recorded.
        lane: Whose calls it answers.
        missed: Told of every request that was not recorded, before it is refused.
    """

    name = "recorded"

    def __init__(self, answers: Answers, lane: Lane, missed: Missed) -> None:
        self._answers = answers
        self._missed = missed
        self._price_msats = answers.prices_msats.get(lane, 0)
        self.model = answers.models.get(lane, f"nothing in lane {lane}")

    def quote(self, request: CompletionRequest) -> int:  # noqa: ARG002 - the port's
        """The highest price that a call of the lane had: what the venue would have asked was not recorded."""
        return self._price_msats

    async def complete(self, request: CompletionRequest) -> Completion:
        """What was answered.

        Raises:
            VenueError: nobody asked this.
        """
        found = self._answers.completions.get(request.request_id)
        if found is None:
            self._missed(request)
            raise VenueError(f"the bundle holds no answer to request {request.request_id} of lane {request.lane}")
        return found


def answers_of(bundle: Bundle) -> Answers:
    """The recorded answers of a bundle.

    Raises:
        BundleError: a call is no request with a completion.
    """
    completions: dict[str, Completion] = {}
    requests: dict[str, CompletionRequest] = {}
    models: dict[Lane, str] = {}
    prices: dict[Lane, int] = {}
    for place, call in enumerate(bundle.calls):
        if call.request is None or call.completion is None:
            continue
        request, completion = _parsed(call, bundle.line_of("completion", place))
        if call.source != "repeat" or request.request_id not in completions:
            completions[request.request_id] = completion
        requests[request.request_id] = request
        models.setdefault(request.lane, request.model)
        prices[request.lane] = max(prices.get(request.lane, 0), completion.usage.cost_msats)
    return Answers(completions, requests, models, prices)


def first_difference(new: CompletionRequest, old: CompletionRequest) -> str:
    """Where two requests differ first, in one line for people."""
    fields = [name for name in CompletionRequest.model_fields if name != "messages"]
    other = [name for name in fields if getattr(new, name) != getattr(old, name)]
    if other:
        return f"{other[0]}: {getattr(new, other[0])} instead of {getattr(old, other[0])}"
    for a, b in zip(_text(new).splitlines(), _text(old).splitlines(), strict=False):
        if a != b:
            return f"{preview(a)!r} instead of {preview(b)!r}"
    return "the one is longer than the other"


def _parsed(call: Call, line: int) -> tuple[CompletionRequest, Completion]:
    try:
        return CompletionRequest.model_validate(call.request), Completion.model_validate(call.completion)
    except (ValidationError, RecursionError):
        raise BundleError(f"line {line}: no request with a completion as this version writes them", line=line) from None


def _text(request: CompletionRequest) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in request.messages)
