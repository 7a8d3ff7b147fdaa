"""Pylon as a provider of litellm: `litellm.completion("pylon/local:ollama", ...)`, `dspy.LM("pylon/hybrid")`.

Call `register()` once. Every call goes through the ledger, in a run named `litellm-pylon` of this process, so it
leaves a receipt and keeps to `budget_sats` (beyond it is `litellm.PaymentRequiredError`). Each call is a new sample,
and paid anew; with `rollout_id=NUMBER` an equal call with an equal number is read from the ledger, by any process.
A stream is one piece: an answer is settled before it is seen.

Venues are opened when first asked, live on the loop of one thread, and are closed when the process ends.
"""

import asyncio
import os
import secrets
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, final

from blocks.ledger.find import find_ledger
from blocks.venues.block import VenueBlock
from blocks.venues.chat_request import read_chat
from blocks.venues.litellm_prices import MSATS_PER_USD
from blocks.venues.pylon import MSATS_PER_SAT, Pylon, settings_of
from swarmc.compiler.metering import Metered, Purse, Remembered
from swarmc.compiler.portal import Portal
from swarmc.contracts.canonical import content_id
from swarmc.contracts.completions import Completion
from swarmc.contracts.errors import BudgetExhausted, SwarmcError, VenueError
from swarmc.contracts.events import Event
from swarmc.contracts.money import Budget, BudgetPolicy
from swarmc.contracts.ports import Ledger, RunLease

PROVIDER = "pylon"
RUN_NAME = "litellm-pylon"
CLOSE_LIMIT_S = 15.0
DRAIN_GRACE_S = 5.0
SAMPLE_BITS = 52
"""Of a sample's number, drawn anew for each call: every JSON reader reads it exactly."""


def register(settings: Pylon | None = None, *, ledger: str | None = None) -> "PylonProvider":
    """Let litellm know the provider `pylon`; one that was registered before is replaced, and closed at exit.

    Args:
        settings: What a model string leaves open: bid, relays, wallet, time-out, `budget_sats`.
        ledger: A database URL or a saved block; the ledger at home when not given.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # Its import else asks the network.
    import litellm

    settings = settings or Pylon()

    def block_of(reference: str, base_url: str | None) -> Pylon:
        said = settings_of(reference) | ({"base_url": base_url} if base_url else {})
        # The ledger keeps to the budget, across all model strings.
        return settings.model_copy(update={**said, "budget_sats": 0})

    provider = PylonProvider(Home(block_of, budget_sats=settings.budget_sats, ledger=ledger))
    others: list[Any] = [item for item in litellm.custom_provider_map if item["provider"] != PROVIDER]
    litellm.custom_provider_map = [*others, {"provider": PROVIDER, "custom_handler": provider}]
    return provider


@dataclass(frozen=True, slots=True)
class Books:
    """The run that calls are booked under."""

    ledger: Ledger
    lease: RunLease


@final
class Home:
    """Where the provider's venues live: a thread with a loop, started by the first call.

    Args:
        block_of: The configuration that a model string and an address mean.
        budget_sats: Most that all calls together may cost; 0 for no limit.
        ledger: As `find_ledger` takes it.
    """

    def __init__(
        self, block_of: Callable[[str, str | None], VenueBlock], *, budget_sats: int = 0, ledger: str | None = None
    ) -> None:
        self._budget = Budget(max_msats=budget_sats * MSATS_PER_SAT or None)
        self._block_of = block_of
        self._ledger = ledger
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at_exit = False
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._books: Books | None = None
        self._venues: dict[tuple[str, str | None], Remembered] = {}

    def portal(self) -> Portal:
        """The door to the loop, which is started if it is not running."""
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name=RUN_NAME, daemon=True).start()
                self._close_at_exit()
            return Portal(self._loop)

    def close(self) -> None:
        """Let calls in flight end, close venues and ledger, and stop. Harmless when nothing runs; a call restarts."""
        with self._starting:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            try:
                asyncio.run_coroutine_threadsafe(self._aclose(), loop).result(CLOSE_LIMIT_S)
            finally:
                loop.call_soon_threadsafe(loop.stop)

    def _close_at_exit(self) -> None:
        if not self._at_exit:
            # Before the pools of threads end, which closing a ledger needs: `atexit` itself comes after them.
            threading._register_atexit(self.close)  # pyright: ignore[reportAttributeAccessIssue]
            self._at_exit = True

    async def ask(self, asked: "Asked") -> Completion:
        """Ask once; on the home loop only.

        Raises:
            BudgetExhausted: `budget_sats` does not allow it.
            VenueError: no such Pylon, or it did not answer within `asked.limit_s`.
            LedgerError: the ledger cannot be opened or written.
        """
        venue = await self._venue(asked.reference, asked.base_url)
        parameters = dict(asked.parameters)
        rollout_id = parameters.pop("rollout_id", None)
        request = read_chat(
            venue.model,
            asked.messages,
            parameters,
            rollout_id=secrets.randbits(SAMPLE_BITS) if rollout_id is None else rollout_id,
        )
        try:
            return await asyncio.wait_for(venue.complete(request), asked.limit_s)
        except TimeoutError:
            message = f"{asked.reference} did not answer within the {asked.limit_s:g} s that the call gives it"
            raise VenueError(message, retryable=True, paid_unknown=True) from None

    async def _venue(self, reference: str, base_url: str | None) -> Remembered:
        key = (reference, base_url)
        async with self._opening:
            if key not in self._venues:
                block = self._block_of(reference, base_url)
                books = self._books = self._books or await self._open_books()
                venue = await self._stack.enter_async_context(block.open())
                purse = Purse(books.ledger, books.lease.run_id, books.lease.epoch, "swarm", emit=_untold)
                remembered = Remembered(Metered(venue, purse), purse)
                self._stack.push_async_callback(remembered.drain, DRAIN_GRACE_S)
                self._venues[key] = remembered
            return self._venues[key]

    async def _open_books(self) -> Books:
        ledger = await self._stack.enter_async_context(find_ledger(self._ledger))
        run_id, spec_id = f"{RUN_NAME}-{uuid.uuid4()}", content_id(RUN_NAME.encode())
        opening = ledger.open_run(run_id, spec_id=spec_id, name=RUN_NAME, budget=BudgetPolicy(run=self._budget))
        lease = await self._stack.enter_async_context(opening)
        self._stack.push_async_callback(ledger.finish_run, lease, "completed")
        return Books(ledger, lease)

    async def _aclose(self) -> None:
        stack, self._stack = self._stack, AsyncExitStack()
        self._books, self._venues = None, {}
        self._opening = asyncio.Lock()  # The old one belongs to a loop that ends.
        await stack.aclose()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _untold(event: Event) -> None:
    """Nobody listens: the ledger keeps what happened."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call of litellm's, as far as it concerns us.

    Attributes:
        reference: The model string in our own form: `pylon:local:ollama`.
        limit_s: Longest wait that the caller allows, in seconds.
    """

    reference: str
    messages: list[dict[str, Any]]
    parameters: Mapping[str, Any]
    base_url: str | None
    limit_s: float | None

    @classmethod
    def of(cls, call: Mapping[str, Any]) -> "Asked":
        limit = call.get("timeout")
        return cls(
            reference=f"{PROVIDER}:{call['model']}",
            messages=call["messages"],
            parameters=call.get("optional_params") or {},
            base_url=call.get("api_base"),
            limit_s=float(limit) if isinstance(limit, int | float) else None,
        )


@final
class PylonProvider:
    """What litellm calls; its methods are those of litellm's `CustomLLM`, with its arguments by name."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def close(self) -> None:
        """Close what was opened now, not at exit. A later call opens it again."""
        self._home.close()

    def completion(self, **call: Any) -> Any:
        """A `ModelResponse`, with the price in `usage.cost_msats` and `_hidden_params["response_cost"]` (dollars).

        Raises:
            litellm's own errors, by what is at fault.
        """
        return _response(call["model_response"], self._ask(call))

    async def acompletion(self, **call: Any) -> Any:
        """As `completion`."""
        return _response(call["model_response"], await self._aask(call))

    def streaming(self, **call: Any) -> Iterator[dict[str, Any]]:
        """The answer in one piece, then its end with what it used. Errors as `completion`."""
        yield from _chunks(self._ask(call))

    async def astreaming(self, **call: Any) -> AsyncIterator[dict[str, Any]]:
        """As `streaming`."""
        for chunk in _chunks(await self._aask(call)):
            yield chunk

    def _ask(self, call: Mapping[str, Any]) -> Completion:
        portal = self._home.portal()
        return portal.call(lambda: self._on_the_loop(Asked.of(call)))

    async def _aask(self, call: Mapping[str, Any]) -> Completion:
        portal = self._home.portal()
        return await portal.acall(lambda: self._on_the_loop(Asked.of(call)))

    async def _on_the_loop(self, asked: Asked) -> Completion:
        try:
            return await self._home.ask(asked)
        except SwarmcError as error:
            raise _translated(error, asked.reference) from error


def _translated(error: SwarmcError, model: str) -> Exception:
    """Our error as the one of litellm's that means the same to who retries by kind."""
    from litellm import exceptions as kinds

    message = str(error)
    match error:
        case BudgetExhausted():
            # litellm's own `BudgetExceededError` would come out as a bad request.
            return kinds.PaymentRequiredError(message, model=model, llm_provider=PROVIDER)
        case VenueError(fault="context"):
            return kinds.ContextWindowExceededError(message, model=model, llm_provider=PROVIDER)
        case VenueError(fault="request"):
            return kinds.BadRequestError(message, model=model, llm_provider=PROVIDER)
        case VenueError(retryable=True, retry_after_s=float()):
            return kinds.RateLimitError(message, llm_provider=PROVIDER, model=model)
        case VenueError(retryable=True):
            return kinds.ServiceUnavailableError(message, llm_provider=PROVIDER, model=model)
        case VenueError():
            return kinds.NotFoundError(message, model=model, llm_provider=PROVIDER)
        case _:
            return kinds.APIError(500, message, llm_provider=PROVIDER, model=model)


def _response(response: Any, completion: Completion) -> Any:
    """Fill litellm's response."""
    import litellm

    calls = [_tool_call(completion, number) for number in range(len(completion.tool_calls))]
    message = litellm.Message(content=completion.text or None, role="assistant", tool_calls=calls or None)
    if completion.reasoning:
        message.reasoning_content = completion.reasoning
    response.choices = [litellm.Choices(finish_reason=completion.finish_reason, index=0, message=message)]
    response.model = completion.model
    response.usage = litellm.Usage(**_usage(completion))
    response._hidden_params["response_cost"] = completion.usage.cost_msats / MSATS_PER_USD
    response._hidden_params["venue"] = completion.venue
    return response


def _chunks(completion: Completion) -> Iterator[dict[str, Any]]:
    """litellm's generic pieces of a stream: all text, each tool call, the end."""
    open_end = {"is_finished": False, "finish_reason": "", "usage": None, "index": 0, "tool_use": None}
    yield {**open_end, "text": completion.text}
    for number in range(len(completion.tool_calls)):
        yield {**open_end, "text": "", "tool_use": {**_tool_call(completion, number), "index": number}}
    end = {"is_finished": True, "finish_reason": completion.finish_reason, "usage": _usage(completion)}
    costs = {"cost_msats": completion.usage.cost_msats}
    yield {**open_end, **end, "text": "", "provider_specific_fields": costs}


def _tool_call(completion: Completion, number: int) -> dict[str, Any]:
    call = completion.tool_calls[number]
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(completion: Completion) -> dict[str, Any]:
    usage = completion.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cost_msats": usage.cost_msats,
    }
