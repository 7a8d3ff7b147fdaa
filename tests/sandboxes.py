"""Whether commands can be run in a real sandbox on this machine; where not, why."""

import asyncio
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from blocks.sandboxes import Bubblewrap
from swarmc.contracts.errors import SandboxError
from swarmc.contracts.ports import Sandbox
from swarmc.contracts.sandbox import CommandJob, CommandResult

MARK = f"swarmc-hostile-sleeper-{uuid.uuid4().hex}"
"""What commands that should be gone carry: of this process of the suite alone, others run at the same time."""
PATIENCE_S = 20


@cache
def why_not() -> str:
    """Why bubblewrap does not work here; empty where it does."""

    async def opened() -> None:
        async with Bubblewrap().open():
            pass

    try:
        asyncio.run(opened())
    except SandboxError as error:
        return str(error)
    return ""


def skip_without_sandbox() -> None:
    """Leave the module out, with the reason, where there is no sandbox: one skip, however many tests it has."""
    if reason := why_not():
        pytest.skip(reason, allow_module_level=True)


async def python(sandbox: Sandbox, source: str, timeout_s: int = 20) -> CommandResult:
    """How a Python program ends in the sandbox."""
    job = CommandJob(files={"it.py": source}, commands=(("python3", "it.py"),), timeout_s=timeout_s)
    (result,) = await sandbox.run(job)
    return result


def sleepers() -> list[int]:
    """Processes of the host that carry the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and MARK.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def until(ready: Callable[[], object]) -> bool:
    """Wait until something is so; whether it came to be."""
    end_s = time.monotonic() + PATIENCE_S
    while not (found := bool(ready())) and time.monotonic() < end_s:
        time.sleep(0.01)
    return found
