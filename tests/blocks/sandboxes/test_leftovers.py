"""What a sandbox leaves: nothing; what it needs of a machine, and what it says where that is missing."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.sandboxes import Bubblewrap, bubblewrap, find_sandbox
from blocks.sandboxes.cgroups import Ground
from blocks.sandboxes.rooms import PREFIX, open_house, remove, size_of, sweep
from blocks.sandboxes.seccomp import filter_program
from blocks.sandboxes.trial import check_limits
from swarmc.contracts.errors import SandboxError
from swarmc.contracts.sandbox import SandboxLimits
from tests.sandboxes import MARK, sleepers, until, why_not

SUPERVISOR = """
import asyncio
from blocks.sandboxes import Bubblewrap
from swarmc.contracts.sandbox import CommandJob

async def main():
    async with Bubblewrap().open() as sandbox:
        await sandbox.run(CommandJob(files={}, commands=(("sh", "-c", "sleep 60; echo MARK"),), timeout_s=60))

asyncio.run(main())
"""


@pytest.fixture
def tmpdir_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def opened(sandbox: Bubblewrap) -> None:
    async def enter() -> None:
        async with sandbox.open():
            pass

    asyncio.run(enter())


@pytest.fixture
def others_may_enter() -> Iterator[Path]:
    """A folder for temporary files; not `tmp_path`, whose parents are their owner's alone: commands run as another."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def supervisor(others_may_enter: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs a sleeper in a sandbox, with a folder for temporary files of its own."""
    if reason := why_not():
        pytest.skip(reason)
    program = others_may_enter / "supervisor.py"
    program.write_text(SUPERVISOR.replace("MARK", MARK))
    environment = {**os.environ, "TMPDIR": str(others_may_enter), "PYTHONPATH": str(Path(__file__).parents[3])}
    running = subprocess.Popen([sys.executable, program], env=environment)
    yield running
    running.kill()
    running.wait()


def test_where_a_compile_is_killed_nothing_lives_on_and_nothing_stays(supervisor, others_may_enter: Path) -> None:
    assert until(sleepers)
    # At this moment the command is often not begun: bubblewrap is, and does not yet die with its parent.
    (house,) = others_may_enter.glob(f"{PREFIX}*")
    assert list(house.glob("job-*"))
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    assert until(lambda: not sleepers())
    assert until(lambda: not house.exists())
    groups = [one for _, names, _ in os.walk("/sys/fs/cgroup") for one in names]  # Others come and go meanwhile.
    assert not [one for one in groups if one.startswith(f"{house.name}-job-")]


def test_a_house_that_is_lived_in_is_not_swept_and_anothers_is_not_touched(tmpdir_here: Path) -> None:
    with open_house(None) as house:
        room = house.room({"a/b.py": "x = 1\n"})
        left, strange = tmpdir_here / f"{PREFIX}left", tmpdir_here / f"{PREFIX}strange"
        left.mkdir()
        (left / "lock").touch()
        (tmpdir_here / "precious").mkdir()
        (tmpdir_here / "precious" / "lock").touch()
        strange.symlink_to(tmpdir_here / "precious")
        assert sweep() == [left.name]
        assert (room / "a/b.py").read_text() == "x = 1\n"
    assert sorted(one.name for one in tmpdir_here.iterdir()) == ["precious", strange.name]


def test_a_folder_that_does_not_want_to_be_removed_is_and_what_it_points_at_is_not(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    folder = tmp_path / "room"
    deep = "import os\nfor n in range(1_200): os.mkdir('d'); os.chdir('d')\nos.mkdir('closed'); os.chmod('closed', 0)"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    subprocess.run([sys.executable, "-c", deep], cwd=folder, check=True)
    assert size_of(folder, 500)[1] == 501  # Too deep to be looked through is too much.
    remove(folder)
    assert [one.name for one in tmp_path.iterdir()] == ["precious"]


def test_the_groups_of_the_newer_version_are_written_as_the_kernel_reads_them(tmp_path: Path) -> None:
    limits = SandboxLimits(memory_bytes=64 * 1024**2, processes=20, cpus=2)
    ground = Ground(2, {"memory": tmp_path, "processes": tmp_path, "cpus": tmp_path})
    group = ground.group("job", limits)
    written = {one.name: one.read_text() for one in (tmp_path / "job").iterdir()}
    assert written == {"memory.max": str(64 * 1024**2), "pids.max": "20", "cpu.max": "200000 100000"}
    (tmp_path / "job/memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert (group.kills_for_memory(), group.pids(), ground.missing) == (2, [], ())


def test_where_bubblewrap_is_missing_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="`apt-get install bubblewrap`"):
        opened(Bubblewrap())
    (tmp_path / "prlimit").symlink_to("/bin/true")
    (tmp_path / "setpriv").symlink_to("/bin/true")
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    (tmp_path / "bwrap").chmod(0o755)
    with pytest.raises(SandboxError, match=r"0\.4\.1.* needs bubblewrap 0\.8 or newer"):
        opened(Bubblewrap())


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "apparmor_parser"),
        ("bwrap: setting up uid map: Permission denied", "apparmor_parser"),
        ("bwrap: No permissions to create new namespace", "gives users no namespaces"),
    ],
)
def test_where_the_system_forbids_it_the_way_out_is_said(monkeypatch, others_may_enter, said: str, advice: str) -> None:
    if reason := why_not():
        pytest.skip(reason)
    program = others_may_enter / "bwrap"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.9.0 || echo "{said}"\n')
    program.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "bubblewrap_here", lambda: _here(program))
    with pytest.raises(SandboxError, match=advice) as caught:
        opened(Bubblewrap())
    assert said in str(caught.value)


async def _here(program: Path) -> tuple[str, str]:
    return str(program), "0.9.0"


def test_a_limit_that_cannot_be_enforced_is_refused_unless_it_is_allowed() -> None:
    with pytest.raises(SandboxError, match=r"no limit of memory and processes.* `bubblewrap:unenforced`"):
        check_limits(Ground(0, {}).missing, allowed=False)
    check_limits(Ground(0, {}).missing, allowed=True)
    check_limits(["cpus"], allowed=False)
    assert (allowed := asyncio.run(find_sandbox("bubblewrap:unenforced"))).allow_unenforced, allowed


def test_a_folder_to_read_must_be_one_and_not_of_the_job() -> None:
    for path in (Path("relative"), Path("/no/such/folder"), Path("/workspace")):
        with pytest.raises(SandboxError, match=r"cannot be shown|not here"):
            opened(Bubblewrap(readable=(path,)))


def test_a_filter_is_made_for_machines_whose_numbers_are_known() -> None:
    sizes = {machine: len(filter_program(machine)) for machine in ("x86_64", "aarch64")}
    assert len(set(sizes.values())) == 1
    assert all(size % 8 == 0 for size in sizes.values())
    with pytest.raises(SandboxError, match="known for riscv64"):
        filter_program("riscv64")
