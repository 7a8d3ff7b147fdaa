"""nostr-relay, a persistent relay in an environment of its own: started, killed and started again by tests."""

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

VERSION = "1.14"
FOLDER = Path.home() / ".cache" / "swarmc-tests" / f"nostr-relay-{VERSION}"
STARTS_IN_S = 60.0

SETTINGS = """\
relay_name: tests
max_event_size: 2000000
subscription_limit: 100
storage:
  sqlalchemy.url: sqlite+aiosqlite:///{folder}/relay.sqlite3
  validators:
    - nostr_relay.validators.is_not_too_large
    - nostr_relay.validators.is_signed
    - nostr_relay.validators.is_recent
gunicorn:
  bind: 127.0.0.1:{port}
  workers: 1
  loglevel: warning
"""


@cache
def program() -> Path:
    """Where nostr-relay is; installed at the first use. The test is skipped where that cannot be."""
    found = FOLDER / "bin" / "nostr-relay"
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with (FOLDER.parent / f"{FOLDER.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            if uv is None:
                pytest.skip("nostr-relay is not installed, and there is no uv to install it with")
            python = str(FOLDER / "bin" / "python")
            for command in (
                [uv, "venv", "--quiet", "--clear", "--python", "3.11", str(FOLDER)],
                [uv, "pip", "install", "--quiet", "--python", python, f"nostr-relay=={VERSION}"],
            ):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    pytest.skip(f"nostr-relay {VERSION} cannot be installed: {done.stderr.strip()[-200:]}")
    return found


@dataclass
class PersistentRelay:
    """Keeps its events in a folder, over any number of lives."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._spawn()
        ends_s = time.monotonic() + STARTS_IN_S
        while not await self._listens():
            log = (self.folder / "relay.log").read_text()[-2000:]
            assert time.monotonic() < ends_s, log
            assert self.process is not None
            assert self.process.poll() is None, log
            await asyncio.sleep(0.05)

    def _spawn(self) -> None:
        settings = self.folder / "relay.yaml"
        settings.write_text(SETTINGS.format(folder=self.folder, port=self.port))
        with (self.folder / "relay.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program(), "-c", settings, "serve", "--use-uvicorn"],
                stdout=log, stderr=log, cwd=self.folder, env={**os.environ, "HOME": str(self.folder)},
                start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


@asynccontextmanager
async def persistent_relay(folder: Path) -> AsyncIterator[PersistentRelay]:
    """A running one, that is stopped in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    relay = PersistentRelay(folder, port)
    try:
        await relay.start()
        yield relay
    finally:
        relay.kill()
