"""Artifacts in a directory: whole files only, one copy per hash, names that people can open."""

import asyncio
import errno
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import final

from prefect.blocks.core import Block
from pydantic import Field

from blocks.stores.addresses import (
    MAX_OBJECT_BYTES,
    check_label,
    check_name,
    check_size,
    check_whole,
    identity_in,
    object_path,
)
from swarmc.contracts.canonical import content_id
from swarmc.contracts.errors import StoreError, boundary
from swarmc.contracts.ports import Store

_CHUNK_BYTES = 1024**2
_LEFTOVER_AGE_S = 24 * 3600
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another directory",
    errno.EDQUOT: "this user's disk quota is used up; free some space or choose another directory",
    errno.EFBIG: "the file would be over the size that this process may write; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; choose a directory that can be written",
    errno.EACCES: "this user may not do that; grant access to the directory or choose another",
    errno.EPERM: "this user may not do that; grant access to the directory or choose another",
    errno.EEXIST: "there is a file where a directory should be; choose another path",
    errno.ENOTDIR: "a part of the path is a file, not a directory; choose another path",
    errno.EISDIR: "there is a directory of that name; choose another path",
}


class DirectoryStore(Block):
    """Artifacts in a directory of this machine, or of a file system that several machines mount."""

    _block_type_name = "swarmc directory store"
    _block_type_slug = "swarmc-directory-store"
    _description = "Keeps swarmc's artifacts as files under the hash of their bytes."

    path: Path = Field(description="The directory; `~` is your home. It is made when the first artifact is kept")
    max_object_bytes: int = Field(
        default=MAX_OBJECT_BYTES, ge=1, description="Largest artifact, in bytes; each is held in memory whole"
    )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """The store, ready for use. Nothing is written until something is put.

        Raises:
            StoreError: the path is there, but is no directory that can be looked into.
        """
        store = OpenDirectory(self.path, max_object_bytes=self.max_object_bytes)
        await asyncio.to_thread(store.sweep)
        yield store


@final
class OpenDirectory:
    """The store port over a directory.

    Bytes are written to `tmp/`, flushed to the disk, then linked into place, so a file under
    `objects/` is whole from the moment it can be seen, whoever else writes and whenever this
    process is killed. Objects and labels are read-only files and share their bytes as hard links;
    where the file system has none, names and labels are copies.

    Args:
        root: The directory, made on the first put.
        max_object_bytes: Larger objects are neither put nor read.

    Raises:
        StoreError: the root cannot be a path (a loop of links, a NUL, `~` without a home).
    """

    def __init__(self, root: Path, *, max_object_bytes: int = MAX_OBJECT_BYTES) -> None:
        with boundary(StoreError, f"opening the store {str(root)!r}", OSError, RuntimeError, ValueError):
            self._root = root.expanduser().resolve()
        self._max_object_bytes = max_object_bytes

    async def put(self, data: bytes, *, name: str) -> str:
        return await asyncio.to_thread(self._put, data, name)

    async def get(self, uri: str) -> bytes:
        return await asyncio.to_thread(self._get, uri)

    async def read(self, label: str) -> bytes | None:
        return await asyncio.to_thread(self._read, label)

    async def label(self, label: str, uri: str) -> str:
        return await asyncio.to_thread(self._label, label, uri)

    def sweep(self) -> None:
        """Remove what writers that were killed over a day ago left in `tmp/`.

        Raises:
            StoreError: the root is no directory, or cannot be looked into.
        """
        with _disk(f"opening the store {self._root}"):
            if self._root.exists() and not self._root.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(self._root))
        oldest_s = time.time() - _LEFTOVER_AGE_S
        with suppress(OSError):  # a store that may only be read has nothing to sweep
            for leftover in (self._root / "tmp").iterdir():
                born_s = leftover.name.partition("-")[0]
                if born_s.isdecimal() and int(born_s) < oldest_s:
                    leftover.unlink(missing_ok=True)

    def _put(self, data: bytes, name: str) -> str:
        check_name(name)
        check_size(len(data), self._max_object_bytes, name)
        content = self._root / object_path(content_id(data))
        with _disk(f"keeping {name} ({len(data)} bytes) in {self._root}"):
            content.parent.mkdir(parents=True, exist_ok=True)
            is_there = content.exists()
            if not (is_there and _holds(content, data)):
                self._write(content, data, replace=is_there)
            self._point(content.with_name(name), content)
            self._sync_folders(content.parent)
        return content.as_uri()

    def _get(self, uri: str) -> bytes:
        identity = identity_in(uri, "file")
        content = self._root / object_path(identity)
        with _disk(f"reading {uri} in {self._root}"):
            try:
                data = self._whole(content, uri)
            except FileNotFoundError as error:
                raise StoreError(self._missing(uri)) from error
        check_whole(data, identity, uri)
        return data

    def _read(self, label: str) -> bytes | None:
        check_label(label)
        with _disk(f"reading {label} in {self._root}"):
            try:
                return self._whole(self._root / label, label)
            except FileNotFoundError:
                return None

    def _whole(self, path: Path, shown: str) -> bytes:
        with path.open("rb") as file:
            check_size(os.fstat(file.fileno()).st_size, self._max_object_bytes, shown)
            return file.read(self._max_object_bytes + 1)

    def _label(self, label: str, uri: str) -> str:
        check_label(label)
        content = self._root / object_path(identity_in(uri, "file"))
        target = self._root / label
        with _disk(f"labelling {uri} as {label} in {self._root}"):
            if not content.is_file():
                raise StoreError(self._missing(uri))
            target.parent.mkdir(parents=True, exist_ok=True)
            self._point(target, content)
            self._sync_folders(target.parent)
        return str(target)

    def _missing(self, uri: str) -> str:
        return f"{uri} is not in the store {self._root}; was it removed, or kept in another store?"

    def _write(self, content: Path, data: bytes, *, replace: bool) -> None:
        """Bring `data` to `content` whole. `replace` is for a damaged object only: a good one keeps its inode,
        which its names and labels share."""
        with self._temporary() as temporary:
            _write_through(temporary, data)
            if replace:
                temporary.replace(content)
                return
            try:
                content.hardlink_to(temporary)
            except FileExistsError:
                return  # another writer of the same bytes was first
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                temporary.replace(content)

    def _point(self, target: Path, content: Path) -> None:
        """Let `target` be a file with `content`'s bytes, replacing what was there in one step."""
        if target.exists() and target.samefile(content):
            return
        with self._temporary() as temporary:
            try:
                temporary.hardlink_to(content)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _write_through(temporary, content.read_bytes())
            temporary.replace(target)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A free path in `tmp/`, removed at the end. Its name tells when it was made, for `sweep`."""
        folder = self._root / "tmp"
        folder.mkdir(exist_ok=True)
        path = folder / f"{int(time.time())}-{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)  # renaming a link onto its own file does nothing, so it may still be there

    def _sync_folders(self, folder: Path) -> None:
        """Flush the entries of every folder from `folder` up to the root, so that a power cut keeps them."""
        while folder.is_relative_to(self._root):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:  # some network file systems flush no folders
                    raise
            finally:
                os.close(descriptor)
            folder = folder.parent


def _holds(path: Path, data: bytes) -> bool:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != len(data):
            return False
        return all(file.read(_CHUNK_BYTES) == data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES))


def _write_through(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _disk(doing: str) -> Iterator[None]:
    with boundary(StoreError, doing, OSError):
        try:
            yield
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0)
            if advice is None:
                raise
            raise StoreError(f"{doing}: {advice}") from error
