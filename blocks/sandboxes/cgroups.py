"""Control groups: what a whole tree of processes may take together, on cgroup v1 and v2."""

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from swarmc.contracts.sandbox import Limit, SandboxLimits

CPU_PERIOD_US = 100_000
EMPTY_AFTER_S = 3.0
CONTROLLER: dict[Limit, str] = {"memory": "memory", "processes": "pids", "cpus": "cpu"}


@dataclass(frozen=True)
class Ground:
    """Where groups can be made on this machine.

    Attributes:
        version: 1 or 2; 0 where none can be.
        parents: The folder for each limit; on v2 the same for all.
    """

    version: int
    parents: dict[Limit, Path]

    @property
    def missing(self) -> tuple[Limit, ...]:
        """The limits that no group here enforces."""
        return tuple(limit for limit in CONTROLLER if limit not in self.parents)

    def group(self, name: str, limits: SandboxLimits) -> "Group":
        """A new group with these limits.

        Raises:
            OSError: it cannot be made.
        """
        group = Group(self.version, tuple(dict.fromkeys(parent / name for parent in self.parents.values())))
        try:
            for folder in group.folders:
                folder.mkdir()
            for limit, parent in self.parents.items():
                for file, value in _settings(self.version, limit, limits):
                    _write(parent / name / file, value)
        except OSError:
            group.close()
            raise
        return group

    def sweep(self, prefix: str) -> None:
        """Remove the groups of a process that is gone."""
        for parent in set(self.parents.values()):
            for folder in parent.glob(f"{prefix}*"):
                Group(self.version, (folder,)).close()


@dataclass(frozen=True)
class Group:
    """The folders of one group; one on v2, one for each controller on v1."""

    version: int
    folders: tuple[Path, ...]

    def pids(self) -> list[int]:
        """Its processes at this moment, without zombies."""
        found: set[int] = set()
        for folder in self.folders:
            with suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return sorted(found)

    def kills_for_memory(self) -> int:
        """How many processes the kernel ended because the group's memory was used up."""
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        for folder in self.folders:
            with suppress(OSError):
                if match := re.search(r"^oom_kill (\d+)$", (folder / file).read_text(), re.MULTILINE):
                    return int(match[1])
        return 0

    def kill(self) -> None:
        """End all of its processes; those that they begin meanwhile too."""
        until_s = time.monotonic() + EMPTY_AFTER_S
        while (pids := self.pids()) and time.monotonic() < until_s:
            for pid in pids:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def close(self) -> None:
        """End its processes and remove it; what cannot be removed is left to the next sweep."""
        self.kill()
        until_s = time.monotonic() + EMPTY_AFTER_S
        for folder in self.folders:
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > until_s:
                        return
                    time.sleep(0.002)


def find_ground() -> Ground:
    """Where this process may make groups that enforce something, found by making one."""
    for version, parents in ((2, _second()), (1, _first())):
        usable: dict[Limit, Path] = {
            limit: parent for limit, parent in parents.items() if _may_make_groups(version, limit, parent)
        }
        if "memory" in usable:
            return Ground(version, usable)
    return Ground(0, {})


def _may_make_groups(version: int, limit: Limit, parent: Path) -> bool:
    trial = Ground(version, {limit: parent})
    try:
        group = trial.group(f"swarmc-trial-{os.getpid()}-{limit}", SandboxLimits())
    except OSError:
        return False
    group.close()
    return True


def _first() -> dict[Limit, Path]:
    """On v1: the own group of each controller."""
    own = {name: path for _, names, path in _own_groups() for name in names.split(",")}
    found: dict[Limit, Path] = {}
    for root, mount, kind, options in _mounts():
        for limit, controller in CONTROLLER.items():
            if kind == "cgroup" and controller in options and controller in own:
                found[limit] = _below(root, mount, own[controller])
    return found


def _second() -> dict[Limit, Path]:
    """On v2: the nearest group above that hands memory and processes down to those below it, and may be written."""
    own = next((path for number, names, path in _own_groups() if number == "0" and not names), "/")
    for root, mount, kind, _ in _mounts():
        if kind == "cgroup2":
            here = _below(root, mount, own)
            for parent in (here, *here.parents):
                if not parent.is_relative_to(mount):
                    break
                with suppress(OSError):
                    handed = (parent / "cgroup.subtree_control").read_text().split()
                    # To move a process takes leave to write in the group above both ends.
                    writable = os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK)
                    if writable and {"memory", "pids"} <= set(handed):
                        return {limit: parent for limit, name in CONTROLLER.items() if name in handed}
    return {}


def _settings(version: int, limit: Limit, limits: SandboxLimits) -> Iterator[tuple[str, str]]:
    """Files of a group and what to write into them. One that begins with `?` may be missing."""
    memory, quota = str(limits.memory_bytes), limits.cpus * CPU_PERIOD_US
    settings: dict[tuple[int, Limit], Sequence[tuple[str, str]]] = {
        (1, "memory"): (("memory.limit_in_bytes", memory), ("?memory.memsw.limit_in_bytes", memory)),
        (1, "processes"): (("pids.max", str(limits.processes)),),
        (1, "cpus"): (("cpu.cfs_period_us", str(CPU_PERIOD_US)), ("cpu.cfs_quota_us", str(quota))),
        (2, "memory"): (("memory.max", memory), ("?memory.swap.max", "0"), ("?memory.oom.group", "1")),
        (2, "processes"): (("pids.max", str(limits.processes)),),
        (2, "cpus"): (("cpu.max", f"{quota} {CPU_PERIOD_US}"),),
    }
    yield from settings[version, limit]


def _write(file: Path, value: str) -> None:
    """Write a setting. A kernel without swap has no limit of it, and needs none."""
    name = file.name
    if name.startswith("?"):
        file = file.with_name(name[1:])
        if not file.exists():
            return
    file.write_text(value)


def _own_groups() -> list[tuple[str, str, str]]:
    """Hierarchy, controllers and path of the groups that this process is in; none on another system than Linux."""
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        return [(number, names, path) for number, names, path in (line.split(":", 2) for line in lines)]
    return []


def _mounts() -> Iterator[tuple[str, Path, str, set[str]]]:
    """Root, mount point, kind and options of every cgroup file system (`man 5 proc`, mountinfo)."""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            root, mount = before.split()[3:5]
            kind, _, options = after.split()[:3]
            if kind.startswith("cgroup"):
                yield root, Path(mount), kind, set(options.split(","))


def _below(root: str, mount: Path, path: str) -> Path:
    """A group's folder. In a container the path may be of the host's tree, which is not mounted: then the top."""
    inside = path.removeprefix(root if root != "/" else "").lstrip("/")
    return mount / inside if (mount / inside).is_dir() else mount
