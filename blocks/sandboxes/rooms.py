"""The folders that jobs run in: made fresh, measured, and removed whatever a job made of them."""

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

PREFIX = "swarmc-sandbox-"
BLOCK_BYTES = 512
MOST_DEPTH = 64
FREE_USERS = range(61_184, 65_520)
"""User ids that systems keep for whom they do not know by name (systemd.io/UIDS-GIDS)."""
ETC = {
    "passwd": "user:x:1000:1000::/tmp:/bin/sh\n",
    "group": "user:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclass(frozen=True)
class House:
    """One process's folder for all of its jobs.

    Attributes:
        folder: Where it is; only `owner` looks into it.
        owner: Whose the rooms are; nothing for the user of this process.
    """

    folder: Path
    owner: int | None
    numbers: Iterator[int]

    def room(self, files: Mapping[str, str]) -> Path:
        """A new folder with these files, which belong to `owner`."""
        room = self.folder / f"job-{next(self.numbers)}"
        room.mkdir(mode=0o700)
        for name, text in files.items():
            path = room / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode(errors="replace"))
        if self.owner is not None:
            for path in (room, *room.rglob("*")):
                os.chown(path, self.owner, self.owner)
        return room


@contextmanager
def open_house(owner: int | None) -> Iterator[House]:
    """A house of this process, which is removed in the end. It stays locked, so that its owner is known to live."""
    # Under a name that is not swept, until it is locked.
    making = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
    lock = os.open(making / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = making.rename(making.with_name(making.name.removeprefix(".")))
    try:
        (folder / "etc").mkdir()
        for name, text in ETC.items():
            (folder / "etc" / name).write_text(text)
        if owner is not None:
            os.chown(folder, owner, owner)
        yield House(folder, owner, count())
    finally:
        remove(folder)
        os.close(lock)


def sweep() -> list[str]:
    """Remove the houses of processes that were killed; their names."""
    swept = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if not _is_ours(folder):
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
                swept.append(folder.name)
            finally:
                os.close(lock)
    return swept


def _is_ours(folder: Path) -> bool:
    """Whether a folder is of this user, or of nobody whom root ran as: another's could be a link to anywhere."""
    found = folder.lstat()
    of_root = os.geteuid() == 0 and found.st_uid in FREE_USERS
    return stat.S_ISDIR(found.st_mode) and (found.st_uid == os.geteuid() or of_root)


def remove(folder: Path) -> None:
    """Remove a folder that does not want to be: closed to its owner, thousands of levels deep.

    Raises:
        OSError: it is still there.
    """
    with suppress(OSError, RecursionError):
        shutil.rmtree(folder)
        return
    for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf", "--one-file-system"]):
        subprocess.run([*command, "--", folder], check=False, capture_output=True)  # noqa: S603 - a name of our own
    if folder.exists():
        raise OSError(f"{folder} cannot be removed")


def size_of(room: Path, most_files: int) -> tuple[int, int]:
    """How many bytes the files in a room take on disk, and how many there are; it counts no further than `most_files`.

    What lies too deep, or is closed, counts as too many: nothing is to be hidden there.
    """
    total = files = 0
    folders = [(room, 0)]
    while folders and files <= most_files:
        folder, depth = folders.pop()
        if depth > MOST_DEPTH:
            return total, most_files + 1
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError:
            return total, most_files + 1
        try:
            with os.scandir(opened) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        total += found.st_blocks * BLOCK_BYTES
                        files += 1
                        if stat.S_ISDIR(found.st_mode):
                            folders.append((folder / entry.name, depth + 1))
                    if files > most_files:
                        break
        finally:
            os.close(opened)
    return total, files


def unlinked_bytes(pids: list[int], room: Path) -> int:
    """What files take on the room's disk that have no name any more and are still open in these processes."""
    device, found = room.stat().st_dev, dict[int, int]()
    for pid in pids:
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names alone, of links that lead anywhere
                with suppress(OSError):
                    one = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116 - of what is open, not of the link
                    if stat.S_ISREG(one.st_mode) and not one.st_nlink and one.st_dev == device:
                        found[one.st_ino] = one.st_blocks * BLOCK_BYTES
    return sum(found.values())
