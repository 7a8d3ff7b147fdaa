"""NIP-40: from when on an event is void."""

from swarmc.contracts.relay import NostrEvent

TAG = "expiration"
_MOST = 2**53 - 1
_MOST_DIGITS = len(str(_MOST))


def expiration_tag(at_s: int) -> tuple[str, str]:
    """The tag of an event that is void from Unix time `at_s` on.

    Raises:
        ValueError: that is no time an event can have.
    """
    if not 0 <= at_s <= _MOST:
        raise ValueError(f"an event cannot expire at {at_s}; Unix times here are 0 to {_MOST}")
    return (TAG, str(at_s))


def expires_at(event: NostrEvent) -> int | None:
    """The Unix time from which an event is void: the earliest that it names; `None` when it names none.

    A stranger's tag that holds no time counts for nothing.
    """
    times = [int(word) for word in event.values(TAG) if _is_time(word)]
    return min(times, default=None)


def is_expired(event: NostrEvent, now_s: float) -> bool:
    """Whether an event is void at Unix time `now_s`."""
    at_s = expires_at(event)
    return at_s is not None and at_s <= now_s


def _is_time(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS and int(word) <= _MOST
