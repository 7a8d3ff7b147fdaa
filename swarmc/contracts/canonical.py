"""One canonical JSON form, and the ids that are hashes of it.

Canonical JSON here is UTF-8, keys sorted by code point, no white space, text as it is (not
``\\uXXXX``), integers only. Scores are parts per million; a float that is a user's own *data* is
tagged by `plain`, never written bare. The form is a law: what is hashed today must hash the same
tomorrow, so `tests/vectors/` pins it.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

PPM = 1_000_000
"""Parts per million in one: the unit of every score and every fraction that is hashed."""

UNTHREADED_BYTES = 2047
MANY_BYTES = 1 << 16

CONTENT_ID_PATTERN = r"^sha256:[0-9a-f]{64}$"
ContentId = Annotated[str, Field(pattern=CONTENT_ID_PATTERN)]
"""`sha256:` and 64 hex digits: the hash of a record's canonical bytes, or of a file's bytes."""

Ppm = Annotated[int, Field(strict=True, ge=0, le=PPM)]
"""A fraction in parts per million, 0 to 1,000,000. Make one from a float with `ppm`."""


class Contract(BaseModel):
    """A frozen record that refuses unknown fields and has one canonical form.

    Raises:
        pydantic.ValidationError: an unknown field, a missing field, or a value of another type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, ser_json_inf_nan="constants")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Pydantic's copy, without what the original had computed of itself."""
        copy = super().model_copy(update=update, deep=deep)
        fields, held = type(self).model_fields, vars(copy)
        if len(held) > len(fields):
            for name in held.keys() - fields.keys():
                del held[name]
        return copy

    def canonical(self) -> bytes:
        """The canonical JSON bytes of this record, `None` fields included."""
        return canonical_bytes(self.model_dump(mode="json"))

    @property
    def content_id(self) -> str:
        """`sha256:` of `canonical()`."""
        return content_id(self.canonical())


def ppm(fraction: float) -> int:
    """`fraction` (0.0 to 1.0) in parts per million, rounded half to even.

    >>> ppm(0.85)
    850000

    Raises:
        ValueError: not finite.
    """
    if not math.isfinite(fraction):
        raise ValueError(f"{fraction!r} is no finite number")
    return round(fraction * PPM)


def canonical_bytes(value: JsonValue) -> bytes:
    """The one JSON form of `value`.

    >>> canonical_bytes({"b": [1, True, None], "a": "é"}).decode()
    '{"a":"é","b":[1,true,null]}'

    Raises:
        ValueError: a float, a lone surrogate, or a type that JSON lacks.
    """
    _refuse_floats(value)
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"no canonical form: {error}") from error


def content_id(data: bytes) -> str:
    """`sha256:` and the hex digest of `data`."""
    digest = hashlib.sha256()
    # Above this size hashlib lets other threads run meanwhile, and to get back in takes longer than to hash a prompt.
    step = UNTHREADED_BYTES if len(data) < MANY_BYTES else len(data)
    for start in range(0, len(data), step):
        digest.update(data[start : start + step])
    return "sha256:" + digest.hexdigest()


def plain(value: Any) -> JsonValue:
    """A user's own value (an example's field, a demonstration) as canonical JSON data.

    A float becomes ``{"$float": repr}``: the shortest text that reads back as the same number,
    so the bytes do not depend on a formatter. A pydantic model becomes its fields; a tuple, a
    list; anything else, ``{"$repr": [type, str]}``.

    >>> plain({"price": 0.1})
    {'price': {'$float': '0.1'}}
    """
    match value:
        case None | bool() | str():
            return value
        case Integral():
            return int(value)
        case Real():
            return {"$float": repr(float(value))}
        case BaseModel():
            return plain(value.model_dump(mode="python"))
        case dict():
            fields = {str(key): plain(item) for key, item in value.items()}
            # A user's own key that looks like a tag is fenced in, so that no two values share a form.
            return {"$dict": fields} if any(key.startswith("$") for key in fields) else fields
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=canonical_bytes)
        case _:
            return {"$repr": [type(value).__qualname__, str(value)]}


def unplain(value: JsonValue) -> Any:
    """The value that `plain` was given, as far as JSON goes (a tuple comes back as a list, an object as its text).

    >>> unplain(plain({"price": 0.1}))
    {'price': 0.1}
    """
    match value:
        case {"$float": str(digits)}:
            return float(digits)
        case {"$repr": [_, text]}:
            return text
        case {"$dict": dict(fields)}:
            return {key: unplain(item) for key, item in fields.items()}
        case dict():
            return {key: unplain(item) for key, item in value.items()}
        case list():
            return [unplain(item) for item in value]
        case _:
            return value


def _refuse_floats(value: JsonValue) -> None:
    left = [value]
    while left:  # A loop over plain types: this stands in the way of every call.
        item = left.pop()
        if isinstance(item, dict):
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)
        elif isinstance(item, float):
            raise ValueError(f"{item!r} is a float; hashed records hold integers (`ppm`) or tagged data (`plain`)")


def _must_be_canonical(text: str) -> str:
    try:
        value = json.loads(text, parse_float=lambda digits: {"$float": digits})
        written = canonical_bytes(value).decode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if written != text:
        raise ValueError("not in canonical form: sort the keys, drop white space, write no float")
    return text


CanonicalText = Annotated[str, AfterValidator(_must_be_canonical)]
"""JSON carried as canonical text: a schema or an argument list that we hash but do not read."""
