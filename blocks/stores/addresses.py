"""What every store agrees on: where a hash lives, which names may be written, how much is read at once.

Both stores lay their objects out alike, so a directory that is copied into a bucket (or back) is a store again:

    objects/sha256/ab/cdef.../content         the bytes, once per hash; what a URI points at
    objects/sha256/ab/cdef.../manifest.json   a name for people (directories only: a link to the same bytes)
    runs/<run id>/manifest.json               a label
"""

import re

from swarmc.contracts.canonical import ContentId, content_id
from swarmc.contracts.errors import StoreError

MAX_OBJECT_BYTES = 1024**3
"""The largest object that is put or read, unless a store is configured otherwise: 1 GiB, held in memory whole."""

CONTENT = "content"
"""The file name that an object's bytes have, whatever names people gave them."""

_RESERVED = frozenset({"objects", "tmp"})
_MAX_PART_BYTES = 255  # the limit of the common file systems
_MAX_LABEL_BYTES = 800  # an S3 key holds 1,024, of which a prefix takes some
_UNFIT = re.compile(r"[\x00-\x1f\x7f\\]")
_OBJECT_URI = re.compile(
    r"(?P<root>(?P<scheme>[a-z0-9]+)://.*?)/objects/sha256/(?P<head>[0-9a-f]{2})/(?P<tail>[0-9a-f]{62})/content"
)


def object_path(identity: ContentId) -> str:
    """Where the bytes of `identity` lie, relative to the store's root.

    >>> object_path("sha256:" + "ab" * 32)[:22]
    'objects/sha256/ab/abab'
    """
    digest = identity.removeprefix("sha256:")
    return f"objects/sha256/{digest[:2]}/{digest[2:]}/{CONTENT}"


def identity_in(uri: str, scheme: str) -> ContentId:
    """The hash that a store's URI carries.

    Only the hash is used: a store finds the object under its own root, so one that was moved still
    answers its old URIs, and no URI reaches outside the root.

    Args:
        uri: What `put` returned.
        scheme: The asking store's own: `file` or `s3`.

    Raises:
        StoreError: of another scheme, or without an object's path.
    """
    found = _OBJECT_URI.fullmatch(uri)
    if found is None or found["scheme"] != scheme:
        raise StoreError(
            f"{uri!r} is no object of this store; give a {scheme}:// URI as `put` returned it, "
            f"ending in objects/sha256/<2 hex digits>/<62 hex digits>/{CONTENT}"
        )
    return f"sha256:{found['head']}{found['tail']}"


def root_of(uri: str) -> str:
    """The address of the store that a URI was put into.

    >>> root_of(f"s3://bucket/team/{object_path('sha256:' + 'ab' * 32)}")
    's3://bucket/team'

    Raises:
        StoreError: it is no object's URI.
    """
    found = _OBJECT_URI.fullmatch(uri)
    if found is None:
        raise StoreError(
            f"{uri!r} is no object of a store; give a URI as a run's record or a manifest names it, "
            f"ending in objects/sha256/<2 hex digits>/<62 hex digits>/{CONTENT}"
        )
    return found["root"]


def check_whole(data: bytes, identity: ContentId, uri: str) -> None:
    """Refuse bytes that are not those the URI promises.

    Raises:
        StoreError: their hash is another.
    """
    actual = content_id(data)
    if actual != identity:
        raise StoreError(
            f"{uri} is damaged: its {len(data)} bytes hash to {actual}; "
            "restore it from a copy, or put the same artifact again"
        )


def check_size(size_bytes: int, max_bytes: int, what: str) -> None:
    """Refuse an object that is too large to be held in memory.

    Raises:
        StoreError: over `max_bytes`.
    """
    if size_bytes > max_bytes:
        raise StoreError(
            f"{what} has {size_bytes} bytes, over this store's limit of {max_bytes}; "
            "split it, or raise `max_object_bytes`"
        )


def check_name(name: str) -> None:
    """Refuse a name that is no plain file name.

    Raises:
        StoreError: empty, `.` or `..`, over 255 bytes, or with a slash, a backslash or a control character.
    """
    reason = "it holds a slash" if "/" in name else _unfit(name)
    if reason:
        raise StoreError(
            f"an artifact cannot be named {name!r}: {reason}; give a plain file name such as manifest.json"
        )


def check_label(label: str) -> None:
    """Refuse a label that is absolute, leaves the store, or could overwrite its objects.

    Raises:
        StoreError: it starts with a slash, `objects` or `tmp`, has an empty, `.` or `..` part, a backslash or a
            control character, or is too long (255 bytes a part, 800 in all).
    """
    reason = _unfit_label(label)
    if reason:
        raise StoreError(f"{label!r} cannot be a label: {reason}; give a relative path such as runs/<id>/manifest.json")


def _unfit_label(label: str) -> str:
    parts = label.split("/")
    if label.startswith("/"):
        return "it is absolute"
    if parts[0].casefold() in _RESERVED:
        return f"{parts[0]}/ belongs to the store itself"
    reason = next(filter(None, map(_unfit, parts)), "")
    if not reason and len(label.encode()) > _MAX_LABEL_BYTES:
        return f"it is over {_MAX_LABEL_BYTES} bytes long"
    return reason


def _unfit(part: str) -> str:
    if part in ("", ".", ".."):
        return f"{part!r} names no file"
    if _UNFIT.search(part):
        return "it holds a backslash or a control character"
    try:
        too_long = len(part.encode()) > _MAX_PART_BYTES
    except UnicodeEncodeError:
        return "it is no valid Unicode text"
    return f"a part is over {_MAX_PART_BYTES} bytes long" if too_long else ""
