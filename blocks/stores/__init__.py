"""Where artifacts live: one file a store, and the register of them all."""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

from pydantic import ValidationError

from blocks.stores.addresses import root_of
from blocks.stores.directory import DirectoryStore, OpenDirectory
from blocks.stores.s3 import OpenBucket, S3Store
from swarmc.contracts.errors import StoreError, boundary
from swarmc.contracts.ports import Store

__all__ = ["STORES", "DirectoryStore", "OpenBucket", "OpenDirectory", "S3Store", "find_store", "open_store", "read_uri"]

STORES: dict[str, type[DirectoryStore] | type[S3Store]] = {"directory": DirectoryStore, "s3": S3Store}
"""Every store's saved configuration, by the word that names it."""

_DEFAULT_HOME = "~/.swarmc"


@asynccontextmanager
async def find_store(reference: str | None) -> AsyncIterator[Store]:
    """The store that a person named.

    Args:
        reference: A saved block as `swarmc-directory-store/name` or `swarmc-s3-store/name`; else what
            `open_store` takes; empty for the directory `$SWARMC_HOME/artifacts` (`~/.swarmc/artifacts`).

    Raises:
        StoreError: no such block is saved, or the reference names no place.
    """
    home = os.environ.get("SWARMC_HOME") or _DEFAULT_HOME
    reference = reference or f"{home}/artifacts"
    slug, _, name = reference.partition("/")
    kind = next((kind for kind in STORES.values() if kind.get_block_type_slug() == slug), None)
    if kind is None:
        opening = open_store(reference)
    else:
        with boundary(StoreError, f"loading the saved store {reference!r}; see `prefect block ls`"):
            opening = (await kind.aload(name)).open()
    async with opening as store:
        yield store


def open_store(uri_or_path: str) -> AbstractAsyncContextManager[Store]:
    """The store at an address, with no saved configuration.

    Args:
        uri_or_path: A directory (`artifacts`, `~/artifacts`, `file:///srv/artifacts`), or `s3://bucket/prefix`,
            whose endpoint, region and credentials come from the environment as boto3 finds them.

    Raises:
        StoreError: it names no such place.
    """
    scheme, separator, rest = uri_or_path.partition("://")
    if not separator and uri_or_path:
        return DirectoryStore(path=Path(uri_or_path)).open()
    host, slash, path = rest.partition("/")
    if scheme == "file" and slash and host in ("", "localhost"):
        return DirectoryStore(path=Path(unquote(f"/{path}"))).open()
    if scheme == "s3":
        return _bucket(uri_or_path, bucket=host, prefix=path)
    raise StoreError(
        f"{uri_or_path!r} names no store; give a directory, file:///an/absolute/path or s3://bucket/prefix"
    )


async def read_uri(uri: str) -> bytes:
    """The bytes at a URI that some store's `put` returned, checked against their hash.

    A bucket is reached with the environment's endpoint and credentials; for one that needs a saved
    block's, open it with `find_store` and ask it.

    Raises:
        StoreError: no object's URI, missing, or not the bytes that were put.
    """
    async with open_store(root_of(uri)) as store:
        return await store.get(uri)


def _bucket(uri: str, *, bucket: str, prefix: str) -> AbstractAsyncContextManager[Store]:
    try:
        return S3Store(bucket=bucket, prefix=prefix).open()
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise StoreError(f"{uri!r} names no bucket ({reason}); give s3://bucket/prefix") from error
