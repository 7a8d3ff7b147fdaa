"""What bubblewrap is told: what a command sees of the machine, and what it does not."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks.sandboxes.rooms import ETC
from swarmc.contracts.sandbox import MIB, SandboxLimits

WORKSPACE = "/workspace"
SCRATCH_BYTES = 64 * MIB
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own
    "TMPDIR": "/tmp",  # noqa: S108
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    # A hash that differs from run to run makes tests that pass sometimes.
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
SHOWN_OF_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "mime.types")
HIDDEN_OF_PROC = ("cmdline", "config.gz", "kallsyms", "keys", "key-users", "modules", "sched_debug", "timer_list")

ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'
"""Puts itself into every group that is named before `--`, then becomes what is named after it."""


@dataclass(frozen=True)
class Walls:
    """What stays the same for all commands of a sandbox.

    Attributes:
        program: Where bubblewrap is.
        readable: Further folders that commands may read.
        house: The folder with the sandbox's own `etc`.
        owner: Whom to run as; nothing where this process has no rights to lose.
        limits: What a job may take.
        has_group: Whether a control group counts the memory.
    """

    program: str
    readable: tuple[Path, ...]
    house: Path
    owner: int | None
    limits: SandboxLimits
    has_group: bool

    def command(self, folders: Sequence[Path], options: int, command: Sequence[str]) -> list[str]:
        """The whole command: into the groups, under the limits, to the unprivileged user, into bubblewrap.

        Args:
            folders: Of the control group.
            options: The descriptor from which bubblewrap reads its options: what it is told there nobody inside sees.
            command: The program and its arguments, as a stranger may have written them.
        """
        size = self.limits.file_bytes
        # A core file of 1 byte, not of none: with none a handler of the whole machine may still be started.
        limits = ["prlimit", "--core=1:1", f"--fsize={size}:{size}", "--nofile=1024:1024"]
        if not self.has_group:
            limits.append(f"--data={self.limits.memory_bytes}:{self.limits.memory_bytes}")
        user = [] if self.owner is None else ["setpriv", f"--reuid={self.owner}", f"--regid={self.owner}"]
        drop = [*user, "--clear-groups", "--inh-caps=-all"] if user else []
        inside = [self.program, "--args", str(options), "--", *command]
        return ["/bin/sh", "-c", ENTER, "sh", *map(str, folders), "--", *limits, *drop, *inside]

    def options(self, room: Path, seccomp: int, status: int) -> bytes:
        """Bubblewrap's options, as it reads them from a descriptor.

        Args:
            room: The job's folder. Nothing is mounted below it: links that it holds would lead there.
            seccomp: The descriptor with the filter of system calls.
            status: The descriptor that it writes the exit code to, if the command was begun.
        """
        words = [
            *("--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"),
            *("--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
            *("--seccomp", str(seccomp), "--json-status-fd", str(status), "--clearenv"),
            *(word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)),
            *self._system(),
            *("--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"),  # noqa: S108
            *("--bind", str(room), WORKSPACE, "--chdir", WORKSPACE, "--remount-ro", "/"),
        ]
        return b"".join(os.fsencode(word) + b"\0" for word in words)

    def _system(self) -> Iterator[str]:
        """The machine as it may be seen: programs and libraries, and what they need to start."""
        yield from ("--ro-bind", "/usr", "/usr")
        for name in SYSTEM_LINKS:
            path = Path("/", name)
            if path.is_symlink():
                yield from ("--symlink", str(path.readlink()), str(path))
            elif path.is_dir():
                yield from ("--ro-bind", str(path), str(path))
        for name in SHOWN_OF_ETC:
            yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
        for name in ETC:
            yield from ("--ro-bind", str(self.house / "etc" / name), f"/etc/{name}")
        for path in self.readable:
            yield from ("--ro-bind", str(path), str(path))
        yield from ("--proc", "/proc")
        for name in HIDDEN_OF_PROC:
            if Path("/proc", name).exists():
                yield from ("--ro-bind", "/dev/null", f"/proc/{name}")
        yield from ("--dev", "/dev", "--size", str(SCRATCH_BYTES), "--tmpfs", "/dev/shm")  # noqa: S108
        yield from ("--remount-ro", "/dev")
