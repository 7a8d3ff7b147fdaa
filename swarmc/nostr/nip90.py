"""NIP-90: job requests, feedback and results, written as notes and read from what strangers signed.

Source: NIP-90 and the Rust ancestor's `nip90` types (tag order); an encrypted job hides its inputs and parameters.
"""

import json
from typing import Literal

import orjson

from swarmc.contracts.canonical import Contract
from swarmc.contracts.completions import FinishReason
from swarmc.contracts.market import FEEDBACK, RESULT_OFFSET, Answer, Ask, Encryption, Feedback, Job, JobInput, JobResult
from swarmc.contracts.relay import Hex64, NostrEvent, Tags, UnixSeconds, UnsignedNote
from swarmc.nostr.encryption import decrypt_any, encrypt_as
from swarmc.nostr.invoices import MAX_MSATS
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip40 import expiration_tag, expires_at

MAX_INPUTS = 64
MAX_PARAMS = 256
MAX_PROVIDERS = 64
MAX_RELAYS = 16
MAX_RELAY_LETTERS = 256
MAX_WORD_LETTERS = 1024
"""Of a status, its explanation, or a model's name: what is beyond is cut off."""

ECHO_LETTERS = 16_384
"""Longer inputs are not repeated in the result: its event would be too large for public relays."""

REQUESTS = range(5000, 6000)
_HEX = frozenset("0123456789abcdef")
_TEXT_TYPES = frozenset({"", "prompt", "text"})  # Kind 5050's own example says `prompt`.
_FINISH_REASONS: dict[str, FinishReason] = {
    "": "stop",
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}

Code = Literal["kind", "malformed", "too_large", "not_ours", "undecryptable"]


class Unreadable(Contract):
    """Why an event is nothing that we can use.

    Attributes:
        author: Who signed it.
        addressees: Whom its `p` tags name.
        code: `not_ours` when it is encrypted and not for this key.
    """

    event_id: Hex64
    author: Hex64
    created_at: UnixSeconds
    addressees: tuple[str, ...] = ()
    code: Code
    reason: str


def request_note(ask: Ask, created_at: int) -> UnsignedNote:
    """A job request in clear."""
    return UnsignedNote(kind=ask.kind, created_at=created_at, tags=_request_tags(ask, encrypted=False))


def encrypted_request_note(ask: Ask, created_at: int, key: SecretKey, scheme: Encryption) -> UnsignedNote:
    """The same with inputs and parameters hidden from everybody but `key` and the one provider.

    Raises:
        ValueError: not exactly one provider, or more text than the scheme can hide.
    """
    if len(ask.providers) != 1:
        raise ValueError(
            f"an encrypted job is for one provider, not for {len(ask.providers)}: name one, or ask in clear"
        )
    content = encrypt_as(scheme, _tags_json(_hidden_tags(ask)), key, ask.providers[0])
    tags = _request_tags(ask, encrypted=True)
    return UnsignedNote(kind=ask.kind, created_at=created_at, tags=tags, content=content)


def parse_job(event: NostrEvent, key: SecretKey | None = None) -> Job | Unreadable:
    """Read a request. Never raises. `key` is the provider's: an encrypted job that is not for it is unreadable."""
    if event.kind not in REQUESTS:
        return _unreadable(event, "kind", f"an event of kind {event.kind} is no job request")
    hidden: Tags = ()
    encryption: Encryption | None = None
    if _is_encrypted(event):
        opened = _opened_request(event, key)
        if isinstance(opened, Unreadable):
            return opened
        hidden, encryption = opened
    return _job(event, hidden, encryption)


def feedback_note(
    request: NostrEvent,
    status: str,
    created_at: int,
    *,
    extra: str = "",
    amount_msats: int | None = None,
    bolt11: str | None = None,
) -> UnsignedNote:
    """A kind 7000 event about a request, readable or not. `extra` is public: never a part of an encrypted job."""
    said = ("status", status, extra) if extra else ("status", status)
    tags = (said, ("e", request.id), ("p", request.pubkey), *_amount_tags(amount_msats, bolt11))
    return UnsignedNote(kind=FEEDBACK, created_at=created_at, tags=tags)


def parse_feedback(event: NostrEvent, key: SecretKey | None = None) -> Feedback | Unreadable:
    """Read feedback. Never raises. `key` is the customer's, for feedback that hides its tags or content."""
    if event.kind != FEEDBACK:
        return _unreadable(event, "kind", f"an event of kind {event.kind} is no job feedback")
    last = _last_tags(event.tags)
    content = event.content
    if _is_encrypted(event):
        try:
            content = decrypt_any(content, key, event.pubkey)[0] if key is not None and content else ""
        except ValueError:
            return _unreadable(event, "undecryptable", "the feedback is encrypted, and not to this key")
        hidden = _tags_of(content)
        if hidden is not None:
            last, content = {**_last_tags(hidden), **last}, ""
    job_id, customer = _word(last, "e"), _word(last, "p")
    if "status" not in last or not (_is_hex(job_id) and _is_hex(customer)):
        return _unreadable(event, "malformed", "feedback names a status, a job (e) and a customer (p); this does not")
    amount_msats, bolt11 = _amount(last)
    return Feedback(
        event_id=event.id,
        provider=event.pubkey,
        customer=customer,
        job_id=job_id,
        created_at=event.created_at,
        status=_word(last, "status")[:MAX_WORD_LETTERS],
        extra=_word(last, "status", 2)[:MAX_WORD_LETTERS],
        amount_msats=amount_msats,
        bolt11=bolt11,
        content=content,
    )


def result_note(
    job: Job,
    answer: Answer,
    created_at: int,
    *,
    amount_msats: int | None = None,
    bolt11: str | None = None,
    key: SecretKey | None = None,
) -> UnsignedNote:
    """A result: the bare text as content, hidden the way the job was. `key` is the provider's, for encrypted jobs.

    The tags `model`, `finish_reason` and `usage` are ours beside NIP-90; for an encrypted job they are inside the
    tag `details`, because the model may be named by the job.

    Raises:
        ValueError: the job was encrypted and there is no key, or more text than the scheme can hide.
    """
    customer = ("p", job.customer)
    money = (*_amount_tags(amount_msats, bolt11), ("status", "success"))
    kind = job.kind + RESULT_OFFSET
    if job.encryption is None:
        tags = (("e", job.event_id), *_echo(job), customer, *money, *_detail_tags(answer))
        return UnsignedNote(kind=kind, created_at=created_at, tags=tags, content=answer.text)
    if key is None:
        raise ValueError(f"job {job.event_id} was encrypted: its result cannot be written without a key")
    # NIP-44 has no form for an empty text: it goes as it is.
    content = encrypt_as(job.encryption, answer.text, key, job.customer) if answer.text else ""
    details = encrypt_as(job.encryption, _tags_json(_detail_tags(answer)), key, job.customer)
    tags = (("e", job.event_id), customer, *money, ("encrypted",), ("details", details))
    return UnsignedNote(kind=kind, created_at=created_at, tags=tags, content=content)


def parse_result(event: NostrEvent, key: SecretKey | None = None) -> JobResult | Unreadable:
    """Read a result. Never raises. `key` is the customer's, for encrypted ones."""
    if event.kind - RESULT_OFFSET not in REQUESTS:
        return _unreadable(event, "kind", f"an event of kind {event.kind} is no job result")
    last = _last_tags(event.tags)
    job_id, customer = _word(last, "e"), _word(last, "p")
    if not (_is_hex(job_id) and _is_hex(customer)):
        return _unreadable(event, "malformed", "a result names its job (e) and customer (p); this does not")
    text, details = event.content, last
    encryption: Encryption | None = None
    if _is_encrypted(event):
        opened = _opened_result(event, last, key)
        if isinstance(opened, Unreadable):
            return opened
        text, encryption, details = opened
    amount_msats, bolt11 = _amount(last)
    return JobResult(
        event_id=event.id,
        provider=event.pubkey,
        customer=customer,
        job_id=job_id,
        kind=event.kind,
        created_at=event.created_at,
        answer=_answer(text, details),
        status=_word(last, "status")[:MAX_WORD_LETTERS] or "success",
        amount_msats=amount_msats,
        bolt11=bolt11,
        request_json=last["request"][1] if "request" in last else None,
        encryption=encryption,
    )


# Writing.


def _request_tags(ask: Ask, *, encrypted: bool) -> Tags:
    tags: list[tuple[str, ...]] = [] if encrypted else [_input_tag(given) for given in ask.inputs]
    if ask.output:
        tags.append(("output", ask.output))
    if not encrypted:
        tags += [("param", name, value) for name, value in ask.params]
    if ask.bid_msats is not None:
        tags.append(("bid", str(ask.bid_msats)))
    if ask.relays:
        tags.append(("relays", *ask.relays))
    tags += [("p", provider) for provider in ask.providers]
    if encrypted:
        tags.append(("encrypted",))
    if ask.expires_at is not None:
        tags.append(expiration_tag(ask.expires_at))
    return tuple(tags)


def _hidden_tags(ask: Ask) -> Tags:
    return (*map(_input_tag, ask.inputs), *(("param", name, value) for name, value in ask.params))


def _input_tag(given: JobInput) -> tuple[str, ...]:
    words = ("i", given.data, given.type, given.relay, given.marker)
    return words if given.marker else words[:4] if given.relay else words[:3]


def _echo(job: Job) -> Tags:
    if sum(len(given.data) for given in job.inputs) > ECHO_LETTERS:
        return ()
    return tuple(map(_input_tag, job.inputs))


def _detail_tags(answer: Answer) -> Tags:
    tags: list[tuple[str, ...]] = [("model", answer.model)] if answer.model else []
    tags.append(("finish_reason", answer.finish_reason))
    if answer.prompt_tokens is not None and answer.completion_tokens is not None:
        tags.append(("usage", str(answer.prompt_tokens), str(answer.completion_tokens)))
    return tuple(tags)


def _amount_tags(amount_msats: int | None, bolt11: str | None) -> Tags:
    if amount_msats is None:
        return ()
    return (("amount", str(amount_msats), bolt11),) if bolt11 else (("amount", str(amount_msats)),)


def _tags_json(tags: Tags) -> str:
    return json.dumps(tags, ensure_ascii=False, separators=(",", ":"))


# Reading.


def _job(event: NostrEvent, hidden: Tags, encryption: Encryption | None) -> Job | Unreadable:
    body = event.tags if encryption is None else hidden
    inputs = tuple(_input(tag) for tag in body if tag[:1] == ("i",) and len(tag) > 1)
    params = tuple((tag[1], value) for tag in body if tag[:1] == ("param",) and len(tag) > 1 for value in _values(tag))
    if not inputs and encryption is None and event.content:
        inputs = (JobInput(data=event.content),)
    providers = tuple(dict.fromkeys(filter(_is_hex, event.values("p"))))
    if len(inputs) > MAX_INPUTS or len(params) > MAX_PARAMS or len(providers) > MAX_PROVIDERS:
        most = f"{MAX_INPUTS} inputs, {MAX_PARAMS} parameters and {MAX_PROVIDERS} providers"
        return _unreadable(event, "too_large", f"a job has at most {most}")
    if not providers and any(tag[:1] == ("p",) for tag in event.tags):
        # Not a job for anybody: its customer meant somebody.
        return _unreadable(event, "malformed", "its p tags name no public key")
    last = _last_tags((*event.tags, *hidden))
    return Job(
        event_id=event.id,
        customer=event.pubkey,
        created_at=event.created_at,
        kind=event.kind,
        inputs=inputs,
        output=_word(last, "output"),
        params=params,
        bid_msats=_msats(_word(last, "bid")),
        relays=_relays((*event.tags, *hidden)),
        providers=providers,
        expires_at=expires_at(event),
        encryption=encryption,
    )


def _opened_request(event: NostrEvent, key: SecretKey | None) -> tuple[Tags, Encryption] | Unreadable:
    if key is None or key.pubkey not in event.values("p"):
        return _unreadable(event, "not_ours", "the job is encrypted, and not to this key")
    try:
        text, scheme = decrypt_any(event.content, key, event.pubkey)
    except ValueError:
        return _unreadable(event, "undecryptable", "the job names this key, and is not encrypted to it")
    hidden = _tags_of(text)
    if hidden is None:
        return _unreadable(event, "malformed", "what the job hides is no JSON array of tags")
    return hidden, scheme


def _opened_result(
    event: NostrEvent, last: dict[str, tuple[str, ...]], key: SecretKey | None
) -> tuple[str, Encryption, dict[str, tuple[str, ...]]] | Unreadable:
    if key is None:
        return _unreadable(event, "undecryptable", "the result is encrypted, and there is no key to read it")
    try:
        text, scheme = decrypt_any(event.content, key, event.pubkey) if event.content else ("", "nip44")
        hidden = _tags_of(decrypt_any(last["details"][1], key, event.pubkey)[0]) if "details" in last else ()
    except ValueError:
        return _unreadable(event, "undecryptable", "the result is encrypted, and not to this key")
    return text, scheme, _last_tags(hidden or ())


def _answer(text: str, details: dict[str, tuple[str, ...]]) -> Answer:
    return Answer(
        text=text,
        model=_word(details, "model")[:MAX_WORD_LETTERS],
        finish_reason=_FINISH_REASONS.get(_word(details, "finish_reason"), "other"),
        prompt_tokens=_msats(_word(details, "usage")),
        completion_tokens=_msats(_word(details, "usage", 2)),
    )


def _tags_of(text: str) -> Tags | None:
    """Tags that were written as a JSON array, as far as they are tags; nothing when it is no array of arrays."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return None
    if not isinstance(value, list) or not all(isinstance(tag, list) for tag in value):
        return None
    return tuple(tuple(tag) for tag in value if tag and all(isinstance(word, str) for word in tag))


def _input(tag: tuple[str, ...]) -> JobInput:
    word, relay, marker = (*tag[2:5], "", "", "")[:3]
    kind = word.strip().lower()
    return JobInput(data=tag[1], type="text" if kind in _TEXT_TYPES else kind, relay=relay, marker=marker)


def _values(tag: tuple[str, ...]) -> tuple[str, ...]:
    # Some write several values into one tag: none is lost.
    return tag[2:] or ("",)


def _relays(tags: Tags) -> tuple[str, ...]:
    urls = dict.fromkeys(url for tag in tags if tag[:1] == ("relays",) for url in tag[1:])
    return tuple(url for url in urls if 0 < len(url) <= MAX_RELAY_LETTERS)[:MAX_RELAYS]


def _amount(last: dict[str, tuple[str, ...]]) -> tuple[int | None, str | None]:
    return _msats(_word(last, "amount")), _word(last, "amount", 2) or _word(last, "bolt11") or None


def _last_tags(tags: Tags) -> dict[str, tuple[str, ...]]:
    """By name the last tag that has a value: the ancestor reads it so."""
    return {tag[0]: tag for tag in tags if len(tag) > 1}


def _word(last: dict[str, tuple[str, ...]], name: str, place: int = 1) -> str:
    tag = last.get(name, ())
    return tag[place] if len(tag) > place else ""


def _msats(text: str) -> int | None:
    """A decimal number, when it is one that money can have."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_MSATS))):
        return None
    number = int(text)
    return number if number <= MAX_MSATS else None


def _is_hex(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def _is_encrypted(event: NostrEvent) -> bool:
    return any(tag[:1] == ("encrypted",) for tag in event.tags)


def _unreadable(event: NostrEvent, code: Code, reason: str) -> Unreadable:
    return Unreadable(
        event_id=event.id,
        author=event.pubkey,
        created_at=event.created_at,
        addressees=event.values("p")[:MAX_PROVIDERS],
        code=code,
        reason=reason,
    )
