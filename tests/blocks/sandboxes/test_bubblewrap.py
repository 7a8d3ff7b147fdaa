"""Hostile commands in bubblewrap, each judged from the host: nothing is reached, nothing stays, the host lives on."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from blocks.sandboxes import Bubblewrap
from swarmc.contracts.ports import Sandbox
from swarmc.contracts.sandbox import MIB, CommandJob, SandboxLimits
from tests.sandboxes import MARK, python, skip_without_sandbox, sleepers, until

skip_without_sandbox()
pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = SandboxLimits(
    memory_bytes=96 * MIB, processes=24, output_bytes=MIB, file_bytes=8 * MIB, disk_bytes=24 * MIB, files=500
)
SECRET = "hunter2-of-the-host"
REFUSED = """
import ctypes, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

try:
    {act}
except OSError as error:
    print("refused", error.errno)
else:
    print("reached")
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Bubblewrap(limits=LIMITS).open() as opened:
        yield opened


@dataclass(frozen=True)
class Host:
    """What a command must not reach: a port, sockets, a file, this process."""

    port: int
    path: str
    abstract: str
    secret: str
    pid: int


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    (folder / "secret").write_text(SECRET)
    os.environ["SWARMC_TEST_SECRET"] = SECRET
    listening = [socket.create_server(("127.0.0.1", 0))]
    for name in (str(folder / "s"), f"\0{folder.name}-{os.getpid()}"):
        listening.append(socket.socket(socket.AF_UNIX))
        listening[-1].bind(name)
        listening[-1].listen()
    port = listening[0].getsockname()[1]
    yield Host(port, str(folder / "s"), f"{folder.name}-{os.getpid()}", str(folder / "secret"), os.getpid())
    for one in listening:
        one.close()
    del os.environ["SWARMC_TEST_SECRET"]


ON_THE_HOST = {
    "a port of the host": ("socket.create_connection(('127.0.0.1', {port}))", {97}),
    "a socket of the host": ("socket.socket(socket.AF_UNIX).connect('{path}')", {2}),
    "an abstract socket of the host": ("socket.socket(socket.AF_UNIX).connect('\\0{abstract}')", {111}),
    "a file of the host": ("open('{secret}')", {2}),
    "a file of the host through a link": ("os.symlink('{secret}', 'link'); open('link')", {2}),
    "a file of the host through the first process": ("open('/proc/1/root{secret}')", {2, 13}),
    "a process of the host": ("os.kill({pid}, 0)", {3}),
}
ANYWHERE = {
    "datagrams": ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", {97}),
    "the newer internet": ("socket.socket(socket.AF_INET6)", {97}),
    "the kernel's own sockets": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", {97}),
    "the machine's hypervisor": ("socket.socket(socket.AF_VSOCK)", {97}),
    "packets": ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", {97}),
    "passwords": ("open('/etc/shadow')", {2}),
    "devices' settings": ("os.listdir('/sys')", {2}),
    "the root folder": ("open('/here', 'w')", {30}),
    "programs": ("open('/usr/bin/here', 'w')", {30, 13}),
    "users": ("open('/etc/passwd', 'w')", {30, 13}),
    "devices": ("open('/dev/here', 'w')", {30}),
    "the kernel's settings": ("open('/proc/sys/kernel/hostname', 'w')", {30, 13}),
    "other processes' memory": ("call({ptrace}, 16, 1, 0, 0)", {1}),
    "a namespace of its own": ("call({unshare}, 0x10000000)", {1}),
    "a namespace by clone": ("call({clone}, 0x10000011, 0, 0, 0, 0)", {1}),
    "the newer clone, whose flags no filter sees": ("call({clone3}, 0, 0)", {38}),
    "keys of the session": ("call({keyctl}, 0, -3, 0)", {1}),
    "requests that no filter sees": ("call({uring}, 1, 0)", {1}),
    "programs in the kernel": ("call({bpf}, 0, 0, 0)", {1}),
    "mounts": ("call({mount}, 0, b'/tmp', b'tmpfs', 0, 0)", {1}),
}
X86 = {"ptrace": 101, "unshare": 272, "clone": 56, "keyctl": 250, "bpf": 321, "mount": 165}
ARM = {"ptrace": 117, "unshare": 97, "clone": 220, "keyctl": 219, "bpf": 280, "mount": 40}
NUMBERS = (X86 if os.uname().machine == "x86_64" else ARM) | {"clone3": 435, "uring": 425}


@pytest.mark.parametrize("what", ON_THE_HOST)
async def test_of_the_host_nothing_is_reached(sandbox: Sandbox, host: Host, tmp_path: Path, what: str) -> None:
    act, errors = ON_THE_HOST[what]
    source = REFUSED.replace("{act}", act.format(**vars(host)))
    outside = [sys.executable, "-c", source]
    reached = await asyncio.to_thread(subprocess.run, outside, capture_output=True, check=True, cwd=tmp_path)
    if "/proc/1" not in act:  # Of the host's first process this user may have no leave to see more.
        assert reached.stdout == b"reached\n"
    assert (await python(sandbox, source)).output in {f"refused {error}\n" for error in errors}


@pytest.mark.parametrize("what", ANYWHERE)
async def test_the_machine_and_the_kernel_are_out_of_reach(sandbox: Sandbox, what: str) -> None:
    act, errors = ANYWHERE[what]
    result = await python(sandbox, REFUSED.replace("{act}", act.format(**NUMBERS) if "call(" in act else act))
    assert result.output in {f"refused {error}\n" for error in errors}


async def test_no_secret_is_in_the_environment_of_any_process(sandbox: Sandbox, host: Host) -> None:
    result = await python(
        sandbox,
        "import glob\n"
        "for name in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'): print(open(name).read())\n"
        "print(open('/proc/self/mountinfo').read().count('/ho' 'me/'))",
    )
    assert result.exit_code == 0
    assert "PYTHONHASHSEED=0" in result.output
    assert SECRET not in result.output
    assert not {"SWARMC", "pytest", "VIRTUAL_ENV"} & set(result.output.replace("=", " ").split())


async def test_it_is_nobody_with_no_rights_and_no_open_files(sandbox: Sandbox) -> None:
    result = await python(
        sandbox,
        "import os\nprint(sorted(os.listdir('/proc/self/fd'))[:4], os.getuid(), len(os.listdir('/proc/1/fd')) < 16)\n"
        "print([line.split()[1] for line in open('/proc/self/status') if line[:6] in "
        "('CapEff', 'CapBnd', 'NoNewP', 'Seccom')][:4])\n"
        "print(len([name for name in os.listdir('/proc') if name.isdecimal()]) <= 3)",
    )
    shown = "['0', '1', '2', '3'] 1000 True\n['" + "0" * 16 + "', '" + "0" * 16 + "', '1', '2']\nTrue\n"
    assert result.output == shown  # The fourth is the list itself.


BOMBS = {
    "memory": ("memory", "kept = [bytearray(MIB) for _ in range(400)]"),
    "memory of many": (
        "memory",
        "if all(os.fork() for _ in range(8)): raise SystemExit(os.wait()[1])\nkept = b'x' * (30 * MIB); time.sleep(9)",
    ),
    "shared memory": ("memory", "kept = mmap.mmap(-1, 400 * MIB); kept.write(b'x' * (400 * MIB))"),
    "output": ("output", "while True: os.write(1, b'x' * 4096)"),
    "both streams": ("output", "os.fork()\nwhile True: os.write(os.getpid() % 2 + 1, b'x' * 4096)"),
    "disk": ("disk", "for n in range(20):\n with open(f'f{n}', 'wb') as f: f.write(bytes(4 * MIB))"),
    "empty files": ("disk", "for n in range(2000): open(f'f{n}', 'w').close()"),
    "files that have no name any more": (
        "disk",
        "kept = []\nwhile True:\n kept.append(open('f', 'wb')); os.unlink('f'); kept[-1].write(bytes(4 * MIB))",
    ),
    "depth": ("disk", "for n in range(400): os.mkdir('d'); os.chdir('d')"),
}


@pytest.mark.parametrize("what", BOMBS)
async def test_what_would_fill_the_machine_is_ended_and_named(sandbox: Sandbox, what: str) -> None:
    over, source = BOMBS[what]
    began_s = time.monotonic()
    result = await python(sandbox, f"import mmap, os, time\nMIB = 1024 ** 2\n{source}")
    assert (result.over, result.exit_code != 0 or over == "disk") == (over, True), result.output
    assert len(result.output) <= 16 * 1024
    assert time.monotonic() - began_s < 8


async def test_a_fork_bomb_leaves_the_host_usable_and_nothing_behind(sandbox: Sandbox) -> None:
    bombed = asyncio.create_task(python(sandbox, "import os\nwhile True:\n try: os.fork()\n except OSError: pass", 1))
    await asyncio.sleep(0.6)
    began_s = time.monotonic()
    await asyncio.to_thread(subprocess.run, ["true"], check=True)
    assert time.monotonic() - began_s < 1
    assert (await bombed).over == "time"


async def test_a_file_grows_no_further_than_it_may(sandbox: Sandbox) -> None:
    result = await python(sandbox, "open('f', 'wb').write(bytes(9 * 1024 ** 2))")
    assert "File too large" in result.output
    result = await python(sandbox, "open('/dev/shm/f', 'wb').write(bytes(5 * 1024 ** 2)); print('fits')")
    assert result.output == "fits\n"


ESCAPES = {
    "ignores every signal": "import signal, time\nfor n in range(1, 32):\n try: signal.signal(n, signal.SIG_IGN)\n"
    " except (OSError, ValueError): pass\nwhile True: time.sleep(9)",
    "leaves its session twice": "import os, time\nif os.fork(): time.sleep(60)\nos.setsid()\n"
    "if os.fork(): os._exit(0)\nwhile True: time.sleep(9)",
    "stops its group": "import os, signal, time\nos.fork(); os.kill(0, signal.SIGSTOP); time.sleep(60)",
    "kills all it sees and goes on": "import os, subprocess, time\nif os.fork(): os.kill(-1, 9)\ntime.sleep(60)",
}


@pytest.mark.parametrize("what", ESCAPES)
async def test_when_time_is_over_nothing_lives_on(sandbox: Sandbox, what: str) -> None:
    job = CommandJob(files={"it.py": ESCAPES[what]}, commands=(("python3", "it.py", MARK),), timeout_s=1)
    began_s = time.monotonic()
    (result,) = await sandbox.run(job)
    assert result.over == "time" or (result.exit_code == 137 and "kills" in what)
    assert time.monotonic() - began_s < 4
    assert sleepers() == []


async def test_a_daemon_ends_with_its_command_though_it_holds_the_output(sandbox: Sandbox) -> None:
    daemon = f"(setsid nohup sh -c 'sleep 60; echo {MARK}' &) ; echo done"
    began_s = time.monotonic()
    (result,) = await sandbox.run(CommandJob(files={}, commands=(("sh", "-c", daemon),), timeout_s=20))
    assert (result.exit_code, result.output) == (0, "done\n")
    assert time.monotonic() - began_s < 5
    assert sleepers() == []


async def test_a_job_that_is_cancelled_leaves_nothing(sandbox: Sandbox) -> None:
    job = CommandJob(files={}, commands=(("sh", "-c", f"sleep 60; echo {MARK}"),), timeout_s=60)
    running = asyncio.create_task(sandbox.run(job))
    assert await asyncio.to_thread(until, sleepers)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sleepers() == []


@pytest.mark.parametrize("pause_s", [0, 0.004, 0.008, 0.016])
async def test_a_job_is_cancelled_at_any_moment_of_its_start(sandbox: Sandbox, pause_s: float) -> None:
    job = CommandJob(files={}, commands=(("sh", "-c", f"sleep 60; echo {MARK}"),), timeout_s=60)
    for steps in range(8):
        running = asyncio.create_task(sandbox.run(job))
        for _ in range(steps):
            await asyncio.sleep(0)
        time.sleep(pause_s)  # noqa: ASYNC251 - the loop is held up while bubblewrap begins
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=10)
        assert done, f"cancelled after {steps} steps of the loop, it goes on"
        assert running.cancelled()
    assert sleepers() == []
