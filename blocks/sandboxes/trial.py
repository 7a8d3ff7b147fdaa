"""Whether bubblewrap works on this machine, found by doing, and what to do where it does not."""

import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE, create_subprocess_exec
from collections.abc import Sequence

from swarmc.contracts.errors import SandboxError, boundary
from swarmc.contracts.ports import Sandbox
from swarmc.contracts.sandbox import CommandJob, Limit

OLDEST = (0, 8)
MISSING = (
    "commands on what a model wrote need a sandbox, and bubblewrap is not here: `apt-get install bubblewrap` (or your "
    "system's package of that name). There is none for other systems than Linux; use a virtual machine there"
)
APPARMOR = (
    "AppArmor forbids bubblewrap its namespaces, as Ubuntu 24.04 does: "
    "`apt-get install apparmor-profiles && cp /usr/share/apparmor/extra-profiles/bwrap-userns-restrict "
    "/etc/apparmor.d/ && apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict`"
)
NAMESPACES = "this system gives users no namespaces of their own (a container without leave, or a switched off sysctl)"
FILLS_MEMORY = ("sh", "-c", "head -c 64M /dev/zero | tail -c 64M > /dev/null")
TRIAL_S = 20


async def bubblewrap_here() -> tuple[str, str]:
    """Where bubblewrap is, and its version.

    Raises:
        SandboxError: it is not here, or too old.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError(MISSING)
    if missing := [name for name in ("prlimit", "setpriv") if shutil.which(name) is None]:
        raise SandboxError(f"the sandbox needs {missing[0]}, which is not here; it is in the package util-linux")
    with boundary(SandboxError, f"asking {program} for its version"):
        process = await create_subprocess_exec(program, "--version", stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
        said = (await process.communicate())[0].decode(errors="replace")
    match = re.search(r"(\d+)\.(\d+)\S*", said)
    if match is None or (int(match[1]), int(match[2])) < OLDEST:
        raise SandboxError(f"{program} says {said.strip()!r}; the sandbox needs bubblewrap 0.8 or newer")
    return program, match[0]


def check_limits(missing: Sequence[Limit], *, allowed: bool) -> None:
    """Refuse a machine that does not enforce what keeps it usable.

    Raises:
        SandboxError: a limit of memory or processes is missing and that is not allowed.
    """
    hard = [limit for limit in missing if limit != "cpus"]
    if hard and not allowed:
        raise SandboxError(
            f"this machine lets swarmc enforce no limit of {' and '.join(hard)} on commands (no control group may be "
            "written): start swarmc with `systemd-run --user --scope`, or, for texts that you trust, name "
            "`bubblewrap:unenforced` or a block with `allow_unenforced` as `sandbox`"
        )


async def try_out(sandbox: Sandbox, small: Sandbox) -> None:
    """Run a command, and one that must not get the memory it wants.

    Args:
        sandbox: The sandbox.
        small: The same with 32 MiB of memory.

    Raises:
        SandboxError: nothing runs, or a limit that should hold does not.
    """
    try:
        (result,) = await sandbox.run(CommandJob(files={}, commands=(("true",),), timeout_s=TRIAL_S))
    except SandboxError as error:
        raise SandboxError(f"bubblewrap does not work here: {_advice(str(error))}") from error
    if result.exit_code or result.over:
        raise SandboxError(f"bubblewrap does not work here: `true` ended with {result.exit_code} {result.output}")
    if "memory" not in sandbox.unenforced:
        (result,) = await small.run(CommandJob(files={}, commands=(FILLS_MEMORY,), timeout_s=TRIAL_S))
        if result.over != "memory":
            raise SandboxError(
                "the limit of memory does not hold here, though a control group was written: 64 MiB were taken of 32"
            )


def _advice(said: str) -> str:
    if "RTM_NEWADDR" in said or "uid map" in said:
        return f"{said}. {APPARMOR}"
    if "namespace" in said:
        return f"{said}. {NAMESPACES}"
    return said
