"""Commands in bubblewrap: namespaces of their own, a filter of system calls, control groups, no network, no host.

Bubblewrap shares the machine's kernel: who has much to lose runs swarmc in a virtual machine.
"""

import asyncio
import json
import os
import pwd
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import final

from pydantic import Field

from blocks.sandboxes.block import SandboxBlock
from blocks.sandboxes.cgroups import Ground, Group, find_ground
from blocks.sandboxes.guard import guarded
from blocks.sandboxes.processes import Bounds, Ended, run_process
from blocks.sandboxes.rooms import FREE_USERS, House, open_house, remove, size_of, sweep, unlinked_bytes
from blocks.sandboxes.seccomp import filter_program
from blocks.sandboxes.trial import bubblewrap_here, check_limits, try_out
from blocks.sandboxes.walls import WORKSPACE, Walls
from swarmc.contracts.errors import SandboxError, boundary
from swarmc.contracts.ports import Sandbox
from swarmc.contracts.sandbox import MIB, CommandJob, CommandResult, Limit, Over, SandboxLimits

WATCH_S = 0.1


@final
class Bubblewrap(SandboxBlock):
    """Commands in bubblewrap (Linux): nothing of the host but its programs, no network, hard limits, all gone after."""

    _block_type_name = "swarmc bubblewrap"
    _block_type_slug = "swarmc-bubblewrap"
    _description = "Runs commands on what models wrote where it can do no harm."

    readable: tuple[Path, ...] = Field(
        default=(), description="Folders that commands may read besides /usr, e.g. of a virtual environment"
    )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Sandbox]:
        """The sandbox, tried out."""
        program, version = await bubblewrap_here()
        self._check_readable()
        ground = await asyncio.to_thread(find_ground)
        check_limits(ground.missing, allowed=self.allow_unenforced)
        owner = _somebody() if os.geteuid() == 0 else None
        with boundary(SandboxError, "making a folder for the sandbox"), ExitStack() as stack:
            for name in await asyncio.to_thread(sweep):
                ground.sweep(name)
            house = stack.enter_context(open_house(owner))
            stack.enter_context(guarded(house.folder, list(ground.parents.values())))
            walls = Walls(program, self.readable, house.folder, owner, self.limits, "memory" not in ground.missing)
            opened = OpenBubblewrap(walls, ground, house, self.at_once or os.cpu_count() or 1, version)
            await try_out(opened, opened.smaller())
            yield opened

    def _check_readable(self) -> None:
        for path in self.readable:
            if not path.is_absolute() or not path.is_dir() or path.is_relative_to(WORKSPACE):
                raise SandboxError(f"{path} cannot be shown to commands; `readable` takes absolute paths of folders")


@final
class OpenBubblewrap:
    """The sandbox port over bubblewrap: one process tree for each command, one folder for each job.

    Args:
        walls: What every command is told.
        ground: Where control groups are made.
        house: Where jobs' folders are.
        at_once: Most jobs at once; others wait, and their time does not run.
        version: Bubblewrap's.
    """

    def __init__(self, walls: Walls, ground: Ground, house: House, at_once: int, version: str) -> None:
        self._walls = walls
        self._ground = ground
        self._house = house
        self._places = asyncio.Semaphore(at_once)
        self._version = version
        self._filter = filter_program()

    @property
    def unenforced(self) -> Sequence[Limit]:
        return self._ground.missing

    @property
    def sentence(self) -> str:
        held = ", ".join(self._ground.parents)
        groups = f"{held} held by cgroup v{self._ground.version}" if held else "no control groups"
        lacking = f"; NOT enforced here: {', '.join(self.unenforced)}" if self.unenforced else ""
        user = "" if self._walls.owner is None else f" as user {self._walls.owner}"
        return f"bubblewrap {self._version}{user}, no network, {groups}, disk looked at every {WATCH_S} s{lacking}"

    def smaller(self) -> Sandbox:
        """The same with little memory, to try the limit out."""
        walls = replace(self._walls, limits=SandboxLimits(memory_bytes=32 * MIB))
        return OpenBubblewrap(walls, self._ground, self._house, 1, self._version)

    async def run(self, job: CommandJob) -> Sequence[CommandResult]:
        async with self._places:
            with boundary(SandboxError, f"running {job.commands[0][0]!r} in bubblewrap"):
                room = self._house.room(job.files)
                try:
                    group = self._ground.group(f"{self._house.folder.name}-{room.name}", self._walls.limits)
                    try:
                        return await self._run(job, room, group)
                    finally:
                        await asyncio.to_thread(group.close)
                finally:
                    await asyncio.to_thread(remove, room)

    async def _run(self, job: CommandJob, room: Path, group: Group) -> list[CommandResult]:
        clock = asyncio.get_running_loop().time
        until_s = clock() + job.timeout_s
        results: list[CommandResult] = []
        for command in job.commands:
            results.append(await self._one(command, room, group, until_s - clock()))
            if results[-1].exit_code or results[-1].over:
                break
        return results

    async def _one(self, command: Sequence[str], room: Path, group: Group, seconds: float) -> CommandResult:
        async def watch() -> Over:
            while True:
                await asyncio.sleep(WATCH_S)
                if await asyncio.to_thread(self._is_full, room, group):
                    return "disk"

        limits, kills = self._walls.limits, group.kills_for_memory()
        with ExitStack() as stack:
            seccomp = stack.enter_context(_held(self._filter))
            status = stack.enter_context(_held(b""))
            options = stack.enter_context(_held(self._walls.options(room, seccomp, status)))
            argv = self._walls.command(group.folders, options, command)
            bounds = Bounds(max(seconds, 0), limits.output_bytes, watch, group.kill)
            ended = await run_process(argv, (seccomp, status, options), bounds)
            exit_code = _exit_code(os.pread(status, 4096, 0))
        over = ended.over or ("disk" if self._is_full(room, group) else None)
        if over is None and exit_code != 0 and group.kills_for_memory() > kills:
            over = "memory"
        if over is None and exit_code is None:
            exit_code = _not_begun(command, ended)
        return CommandResult(exit_code=137 if exit_code is None else exit_code, output=ended.output, over=over)

    def _is_full(self, room: Path, group: Group) -> bool:
        limits = self._walls.limits
        size, files = size_of(room, limits.files)
        return files > limits.files or size + unlinked_bytes(group.pids(), room) > limits.disk_bytes


def _somebody() -> int:
    """A user id that nobody has, to run as: a root that is nobody inside still owns the host's files."""
    taken = {one.pw_uid for one in pwd.getpwall()}
    return next(uid for uid in FREE_USERS if uid not in taken)


@contextmanager
def _held(data: bytes) -> Iterator[int]:
    """A descriptor of a file in memory with these bytes."""
    descriptor = os.memfd_create("swarmc")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _exit_code(status: bytes) -> int | None:
    """The command's exit code; nothing when it was never begun, or was ended together with bubblewrap."""
    for line in status.splitlines():
        with suppress(ValueError):
            found = json.loads(line)
            if "exit-code" in found:
                return found["exit-code"]
    return None


def _not_begun(command: Sequence[str], ended: Ended) -> int:
    """127 where the program is a file of the job, which a stranger's text should have made.

    Raises:
        SandboxError: it is none, so the machine lacks it; or bubblewrap failed.
    """
    program, said = command[0], ended.output.strip().rpartition("\n")[2]
    if "execvp" not in said:
        raise SandboxError(f"bubblewrap could not begin {program!r}: {said or 'it said nothing'}", retryable=True)
    if "/" not in program or program.startswith("/"):
        raise SandboxError(
            f"the command {program!r} is not in the sandbox, where only /usr and the block's `readable` folders are: "
            f"install it for all users, or name its folder ({said})"
        )
    return 127
