"""What a sandbox is asked, within which limits, and how it says that commands ended."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from swarmc.contracts.canonical import Contract

FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*(/[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)*$"
MIB = 1024**2
MAX_ARGUMENT_BYTES = 100_000
"""Of one argument of a command; Linux takes no longer one than 128 KiB."""

Over = Literal["time", "memory", "output", "disk"]
"""A limit that a command went over, and was ended for."""

Limit = Literal["memory", "processes", "cpus"]
"""A limit that some machines cannot enforce."""


class SandboxLimits(Contract):
    """What the commands of one job may take, all of them together; the time is the job's own."""

    memory_bytes: int = Field(default=512 * MIB, ge=16 * MIB, description="Most memory; there is no swap besides")
    processes: int = Field(default=64, ge=8, le=32_768, description="Most processes and threads at once")
    cpus: int = Field(default=1, ge=1, le=4_096, description="Most processors at once")
    output_bytes: int = Field(default=4 * MIB, ge=1, description="Most that one command may write to its output")
    file_bytes: int = Field(default=64 * MIB, ge=4096, description="Largest file")
    disk_bytes: int = Field(default=256 * MIB, ge=4096, description="Most that all files take")
    files: int = Field(default=10_000, ge=1, description="Most files and folders")


class CommandJob(Contract):
    """What a sandbox is asked to do with a stranger's text.

    Attributes:
        files: Text by file name, relative to where the commands run.
        commands: Each a program and its arguments; none is run after one that failed.
        timeout_s: Most seconds for all together.
    """

    files: dict[Annotated[str, Field(pattern=FILE_NAME)], str]
    commands: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...]
    timeout_s: int = Field(ge=1)

    @field_validator("commands")
    @classmethod
    def _can_be_told_to_a_system(cls, commands: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        for word in (word for command in commands for word in command):
            if "\0" in word or len(word.encode(errors="replace")) > MAX_ARGUMENT_BYTES:
                raise ValueError(f"no word of a command holds a NUL or more than {MAX_ARGUMENT_BYTES} bytes")
        if not all(command[0] for command in commands):
            raise ValueError("a command begins with the name of a program")
        return commands


class CommandResult(Contract):
    """How one command ended.

    Attributes:
        exit_code: The program's own, or 128 and the signal's number.
        output: The end of what it wrote, both streams, as far as it was kept.
        over: The limit for which it was ended, if it was.
    """

    exit_code: int
    output: str = ""
    over: Over | None = None
