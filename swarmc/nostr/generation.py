"""Kind 5050, text generation: a completion request as a job, and a completion as its answer.

To a provider that reads `messages` the chat travels whole, as canonical JSON in one input, so that it asks its
own venue exactly what was asked here; to any other as one plain text, the way the Rust ancestor writes it.
"""

import json
import re
from collections.abc import Collection, Sequence
from decimal import Decimal

from pydantic import JsonValue, TypeAdapter, ValidationError

from swarmc.contracts.canonical import PPM, canonical_bytes
from swarmc.contracts.completions import Completion, CompletionRequest, Lane, Message, Sampling, Usage
from swarmc.contracts.market import TEXT_GENERATION, Answer, Ask, Job, JobInput, JobResult, Offer, PriceList
from swarmc.nostr.invoices import MAX_MSATS

DEFAULT_MAX_TOKENS = 512
"""What a job that names no `max_tokens` is priced for."""

BYTES_PER_TOKEN = 4
"""What buyer and seller count input by: neither knows the other's tokenizer."""

SAFE_EXTENSIONS = frozenset({"top_k", "min_p", "frequency_penalty", "presence_penalty", "repeat_penalty"})
"""Settings that a stranger may set: they choose words, never an address, a key or a count of answers."""

MESSAGES = "messages"
"""The marker of an input that holds a chat's messages."""

_MESSAGES: TypeAdapter[tuple[Message, ...]] = TypeAdapter(tuple[Message, ...])
_TITLES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,30})?")
_INTEGER = re.compile(r"-?[0-9]{1,64}")
_MOST_TOKENS = 2**31 - 1
_COUNTS = ("top_k",)
_FRACTIONS = ("min_p", "frequency_penalty", "presence_penalty", "repeat_penalty")
_SIGNED_DECIMAL = re.compile(r"-?[0-9]{1,4}(?:\.[0-9]{1,12})?")


def ask_of(
    request: CompletionRequest,
    offer: Offer | None,
    *,
    salt: str,
    bid_msats: int | None = None,
    relays: Sequence[str] = (),
    expires_at: int | None = None,
) -> Ask:
    """The job to publish for a completion.

    Args:
        request: What is asked; its lane stays here.
        offer: Who is to do it; nobody in particular when `None`, then in plain text.
        salt: Another for every job: equal asks of one second would be one event.
        bid_msats: The most that is paid.
        relays: Where to answer.
        expires_at: Unix time from which it is of no use.

    Raises:
        ValueError: it needs tools, or in plain text images.
    """
    if request.tools or request.tool_choice is not None:
        raise ValueError("a text generation job cannot carry tools: run this request at a venue that takes them")
    whole = offer is not None and offer.messages
    given = JobInput(data=_messages_json(request), marker=MESSAGES) if whole else JobInput(data=_plain_text(request))
    return Ask(
        inputs=(given,),
        output="text/plain",
        params=(*_params(request), ("salt", salt)),
        bid_msats=bid_msats,
        relays=tuple(relays),
        providers=() if offer is None else (offer.provider,),
        expires_at=expires_at,
    )


def completion_request_of(
    job: Job,
    *,
    lane: Lane,
    models: Sequence[str],
    most_tokens: int | None = None,
    extensions: Collection[str] = SAFE_EXTENSIONS,
) -> CompletionRequest:
    """What a seller asks its own venue for a job.

    Args:
        job: As it was read.
        lane: For the seller's books.
        models: What it runs, the default first: the model of a job that names none.
        most_tokens: The longest answer sold, and the length where the job names none.
        extensions: Names of provider settings that a stranger may set.

    Raises:
        ValueError: it cannot be: another kind, no text, an input that is no text, a model that is not run, a bad
            parameter. The message names what is wrong, never what was written.
    """
    if job.kind != TEXT_GENERATION:
        raise ValueError(f"a job of kind {job.kind} is no text generation ({TEXT_GENERATION})")
    model = job.param("model") or (models[0] if models else "")
    if model not in models:
        raise ValueError("the model that the job names is not run here: see the offer for those that are")
    rollout_id = _integer(job, "rollout_id") or 0
    messages, sampling = _messages(job), _sampling(job, most_tokens, extensions)
    return CompletionRequest(lane=lane, model=model, messages=messages, sampling=sampling, rollout_id=rollout_id)


def tokens_of(ask: Ask) -> tuple[int, int]:
    """Tokens a job is priced by: of its inputs, four bytes each, and the most of its answer.

    The latter is `max_tokens`, or `DEFAULT_MAX_TOKENS` when the job names none that can be read.
    """
    prompt_bytes = sum(len(given.data.encode("utf-8", "replace")) for given in ask.inputs)
    try:
        most = _max_tokens(ask)
    except ValueError:
        most = None
    return -(-prompt_bytes // BYTES_PER_TOKEN), DEFAULT_MAX_TOKENS if most is None else most


def price_of(prices: PriceList, ask: Ask) -> int:
    """What a job costs in msats by `tokens_of`, the same for buyer and seller; at most all the money there is."""
    return min(prices.price_msats(*tokens_of(ask)), MAX_MSATS)


def answer_of(completion: Completion) -> Answer:
    """What a seller says. Token counts that were only estimated are not told."""
    usage = completion.usage
    return Answer(
        text=completion.text,
        model=completion.model,
        finish_reason=completion.finish_reason,
        prompt_tokens=None if usage.estimated else usage.prompt_tokens,
        completion_tokens=None if usage.estimated else usage.completion_tokens,
    )


def worthless(answer: Answer, request: CompletionRequest) -> str:
    """Why an answer is none, whoever signed it; empty when nothing is wrong with it on its face."""
    said = answer.text.split()
    if not said:
        return "it is empty"
    if said == request.messages[-1].content.split():
        return "it repeats what was asked"
    return ""


def completion_of(
    result: JobResult,
    request: CompletionRequest,
    *,
    cost_msats: int = 0,
    simulated: bool = False,
    venue: str = "",
    latency_ms: int = 0,
) -> Completion:
    """What a buyer's caller gets. Token counts that the provider does not tell are estimated, and marked so."""
    answer = result.answer
    told = answer.prompt_tokens is not None and answer.completion_tokens is not None
    asked = sum(len(message.content.encode("utf-8", "replace")) for message in request.messages)
    said = len(answer.text.encode("utf-8", "replace"))
    usage = Usage(
        prompt_tokens=_or_estimate(answer.prompt_tokens, asked),
        completion_tokens=_or_estimate(answer.completion_tokens, said),
        cost_msats=cost_msats,
        estimated=not told,
        simulated=simulated,
    )
    return Completion(
        text=answer.text,
        model=answer.model or request.model,
        usage=usage,
        finish_reason=answer.finish_reason,
        venue=venue,
        latency_ms=latency_ms,
    )


# A request as inputs and parameters.


def _messages_json(request: CompletionRequest) -> str:
    dumped: list[JsonValue] = [message.model_dump(mode="json", exclude_defaults=True) for message in request.messages]
    return canonical_bytes(dumped).decode()


def _plain_text(request: CompletionRequest) -> str:
    if any(message.images or message.tool_calls or message.role not in _TITLES for message in request.messages):
        raise ValueError(
            "a job in plain text carries no images, tool calls or tool answers: choose an offer that reads messages"
        )
    only, *more = request.messages
    if only.role == "user" and not more:
        return only.content
    return "\n\n".join(f"{_TITLES[message.role]}: {message.content}" for message in request.messages)


def _params(request: CompletionRequest) -> tuple[tuple[str, str], ...]:
    sampling = request.sampling
    stop = canonical_bytes(list(sampling.stop)).decode() if sampling.stop else None
    values = (
        ("model", request.model or None),
        ("max_tokens", _digits(sampling.max_tokens)),
        ("temperature", _decimal_text(sampling.temperature_ppm)),
        ("top_p", _decimal_text(sampling.top_p_ppm)),
        ("seed", _digits(sampling.seed)),
        ("stop", stop),
        ("response_format", sampling.response_format),
        ("extensions", None if sampling.extensions == "{}" else sampling.extensions),
        ("rollout_id", _digits(request.rollout_id or None)),
    )
    return tuple((name, value) for name, value in values if value is not None)


def _digits(number: int | None) -> str | None:
    return None if number is None else str(number)


def _decimal_text(parts: int | None) -> str | None:
    """Parts per million as an exact decimal fraction: 700000 is `0.7`."""
    if parts is None:
        return None
    whole, rest = divmod(parts, PPM)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


# And back.


def _messages(job: Job) -> tuple[Message, ...]:
    if not job.inputs or not any(given.data for given in job.inputs):
        raise ValueError("the job holds no text to answer: put it into an input of type text")
    if any(given.type != "text" for given in job.inputs):
        raise ValueError("an input of the job is no text: addresses, events and other jobs are not read here")
    if len(job.inputs) == 1 and job.inputs[0].marker == MESSAGES:
        return _chat(job.inputs[0].data)
    return (Message(role="user", content="\n\n".join(given.data for given in job.inputs)),)


def _chat(text: str) -> tuple[Message, ...]:
    try:
        messages = _MESSAGES.validate_json(text)
    except ValidationError:
        raise ValueError("the input marked `messages` is no JSON array of a chat's messages") from None
    if not messages:
        raise ValueError("the input marked `messages` holds none")
    # An address would be fetched from this machine, by whoever serves the model.
    if any(not image.startswith("data:") for message in messages for image in message.images):
        raise ValueError("an image of the job is an address: send the image itself, as a data: URL")
    return messages


def _sampling(job: Job, most_tokens: int | None, extensions: Collection[str]) -> Sampling:
    max_tokens = _max_tokens(job)
    if most_tokens is not None and (max_tokens or 0) > most_tokens:
        raise ValueError(f"the job asks for more than the {most_tokens} tokens that are sold at once: lower max_tokens")
    response_format = job.param("response_format", "response-format")
    return Sampling(
        temperature_ppm=_ppm(job, "temperature"),
        top_p_ppm=_ppm(job, "top_p", "top-p"),
        max_tokens=most_tokens if max_tokens is None else max_tokens,
        stop=_stops(job),
        seed=_integer(job, "seed"),
        response_format=None if response_format is None else _canonical_text(response_format, "response_format"),
        extensions=_extensions(job, extensions),
    )


def _max_tokens(ask: Ask) -> int | None:
    number = _integer(ask, "max_tokens", "max-tokens")
    if number is not None and not 1 <= number <= _MOST_TOKENS:
        raise ValueError(f"max_tokens is not between 1 and {_MOST_TOKENS}")
    return number


def _integer(ask: Ask, *names: str) -> int | None:
    text = ask.param(*names)
    if text is None:
        return None
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"parameter {names[0]} is no whole number")
    return int(text)


def _ppm(ask: Ask, *names: str) -> int | None:
    text = ask.param(*names)
    if text is None:
        return None
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"parameter {names[0]} is no decimal number of at least 0")
    return round(Decimal(text) * PPM)


def _stops(job: Job) -> tuple[str, ...]:
    """Every `stop`: a JSON array of words, or one bare word."""
    words: list[str] = []
    for name, value in job.params:
        if name == "stop":
            listed = _json(value, "stop") if value.startswith("[") else [value]
            if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
                raise ValueError("parameter stop is no JSON array of texts")
            words += [word for word in listed if isinstance(word, str)]
    return tuple(words)


def _extensions(job: Job, known: Collection[str]) -> str:
    text = job.param("extensions")
    values = {} if text is None else _json(text, "extensions")
    if not isinstance(values, dict):
        raise ValueError("parameter extensions is no JSON object")
    for name in (*_COUNTS, *_FRACTIONS):
        word = job.param(name, name.replace("_", "-"))
        if word is not None:
            values.setdefault(name, _number(word, name))
    if not values.keys() <= set(known):
        raise ValueError(f"a setting in extensions is not taken here; these are: {', '.join(sorted(known))}")
    return canonical_bytes(values).decode()


def _number(text: str, name: str) -> JsonValue:
    if name in _COUNTS and _INTEGER.fullmatch(text):
        return int(text)
    if name in _FRACTIONS and _SIGNED_DECIMAL.fullmatch(text):
        return {"$float": text}
    raise ValueError(f"parameter {name} is no number")


def _canonical_text(text: str, name: str) -> str:
    return canonical_bytes(_json(text, name)).decode()


def _json(text: str, name: str) -> JsonValue:
    # As `CanonicalText` reads it: a float is tagged, because what is hashed holds none.
    try:
        value = json.loads(text, parse_float=lambda digits: {"$float": digits})
        canonical_bytes(value)
    except (ValueError, RecursionError):
        raise ValueError(f"parameter {name} is no JSON that has a canonical form") from None
    return value


def _or_estimate(told: int | None, text_bytes: int) -> int:
    return -(-text_bytes // BYTES_PER_TOKEN) if told is None else told
