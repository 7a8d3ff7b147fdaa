"""A file of whole lines, appended to by any number of processes."""

import fcntl
import os
from pathlib import Path
from typing import final

from swarmc.contracts.errors import StoreError, boundary

_STEP_BYTES = 1 << 16


@final
class LineFile:
    """Appends lines. One that a killed process left unfinished is cut off by whoever writes next.

    Args:
        path: The file; it and the directories above it are made when missing.

    Raises:
        StoreError: it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        path = path.expanduser()
        with boundary(StoreError, f"opening {path}; choose a file that this user may write", OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.path = path

    def append(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            StoreError: not all could be written; what was begun is cut off again.
        """
        with boundary(StoreError, f"writing {len(lines)} bytes to {self.path}", OSError):
            # Under the lock nobody is in the middle of a line, so an unfinished one belongs to a dead process.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                self._cut_torn_line()
                self._write(lines)
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Nothing more will be written."""
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._descriptor).st_size
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def _cut_torn_line(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size == 0 or os.pread(self._descriptor, 1, size - 1) == b"\n":
            return
        end = size
        while end > 0:
            start = max(0, end - _STEP_BYTES)
            newline = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if newline >= 0:
                os.ftruncate(self._descriptor, start + newline + 1)
                return
            end = start
        os.ftruncate(self._descriptor, 0)
