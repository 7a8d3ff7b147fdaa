"""A real LNbits on loopback, with money that is not real: installed once into a cache, started once a process."""

import atexit
import fcntl
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.wallets.lnbits import Lnbits

CACHE = Path.home() / ".cache" / "swarmc-tests"
WANTED = ("lnbits==1.6.2", "bitstring<5")
INSTALL_LIMIT_S = 150
START_LIMIT_S = 90
PYTHONS = ((3, 10), (3, 13))

SETTINGS = {
    "LNBITS_BACKEND_WALLET_CLASS": "FakeWallet",
    "AUTH_ALLOWED_METHODS": "user-id-only, username-password",
    "LNBITS_RATE_LIMIT_NO": "100000",
    "LNBITS_PRICE_AGGREGATOR_ENABLED": "false",
    "LNBITS_EXCHANGE_RATE_PROVIDERS": "[]",
    "LNBITS_EXTENSIONS_MANIFESTS": "[]",
    "LNBITS_WASM_EXTENSIONS_MANIFESTS": "[]",
    "LNBITS_CALLBACK_ALLOW_PRIVATE_IPS": "true",
    "LNBITS_CALLBACK_URL_RULES": r'["http://127\\.0\\.0\\.1:[0-9]+"]',
}

# It ends when its standard input does: with the test process, however that ends.
MAIN = """
import os, sys, threading
import uvicorn
from lnbits.settings import set_cli_settings
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
set_cli_settings(host="127.0.0.1", port=int(sys.argv[1]), forwarded_allow_ips="127.0.0.1")
uvicorn.run("lnbits.__main__:app", host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


@dataclass(frozen=True)
class Account:
    """A wallet of the server: its id and its keys."""

    base_url: str
    id: str
    admin_key: str = field(repr=False)
    invoice_key: str = field(repr=False)

    def block(self, **changes: Any) -> Lnbits:
        given = {
            "base_url": self.base_url,
            "admin_key": SecretStr(self.admin_key),
            "invoice_key": SecretStr(self.invoice_key),
            "simulated": True,
        }
        return Lnbits(**{**given, **changes})


@dataclass(frozen=True)
class LnbitsServer:
    """The server under way, set up, and the token of its administrator."""

    base_url: str
    token: str = field(repr=False)

    def account(self, sats: int = 0) -> Account:
        """A new wallet with so much in it."""
        made = called("POST", f"{self.base_url}/api/v1/account", {"name": "test"})
        if sats:
            admin = {"Authorization": f"Bearer {self.token}"}
            called("PUT", f"{self.base_url}/users/api/v1/balance", {"id": made["id"], "amount": sats}, admin)
        return Account(self.base_url, made["id"], made["adminkey"], made["inkey"])


def lnbits_server() -> LnbitsServer:
    """The server of this process; it ends with it. Skips the test where LNbits cannot be installed."""
    python = installed()
    if isinstance(python, str):
        pytest.skip(python)
    return started(python)


@functools.cache
def started(python: Path) -> LnbitsServer:
    home = Path(tempfile.mkdtemp(prefix="swarmc-lnbits-"))
    packages = next(python.parents[1].glob("lib/python*/site-packages/lnbits"))
    (home / "lnbits").symlink_to(packages)  # It opens ./lnbits/static.
    for folder in ("data/logs", "ext/extensions"):
        (home / folder).mkdir(parents=True)
    port = free_port()
    log = home / "log"
    environment = {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")},
        **SETTINGS,
        "LNBITS_DATA_FOLDER": str(home / "data"),
        "LNBITS_EXTENSIONS_PATH": str(home / "ext"),
    }
    with log.open("wb") as said:
        process = subprocess.Popen(
            [python, "-c", MAIN, str(port)],
            cwd=home, env=environment, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    atexit.register(stop, process, home)
    base_url = f"http://127.0.0.1:{port}"
    wait_for(base_url, process, log)
    first = {"username": "tester", "password": "not-a-secret", "password_repeat": "not-a-secret"}
    token = called("PUT", f"{base_url}/api/v1/auth/first_install", first)["access_token"]
    return LnbitsServer(base_url, token)


@functools.cache
def installed() -> Path | str:
    """The Python of LNbits' own environment, made when it is missing; or why it cannot be had."""
    if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        return f"LNbits needs Python 3.10 to 3.12, this is {sys.version_info.major}.{sys.version_info.minor}"
    place = CACHE / WANTED[0].replace("==", "-")
    python, complete = place / "bin/python", place / "complete"
    with locked(CACHE / "lock"):
        if not complete.exists():
            shutil.rmtree(place, ignore_errors=True)
            try:
                install(place, python)
            except (subprocess.SubprocessError, OSError) as error:
                told = (getattr(error, "stderr", None) or str(error).encode()).decode("utf-8", "replace").strip()
                return f"LNbits cannot be installed here: {' '.join(told.split())[-300:]}"
            complete.touch()
    return python


def install(place: Path, python: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv:
        steps = [[uv, "venv", "--python", sys.executable, place], [uv, "pip", "install", "--python", python, *WANTED]]
    else:
        steps = [[sys.executable, "-m", "venv", place], [python, "-m", "pip", "install", *WANTED]]
    for step in steps:
        subprocess.run(step, check=True, capture_output=True, timeout=INSTALL_LIMIT_S)


def wait_for(base_url: str, process: subprocess.Popen, log: Path) -> None:
    until_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            urllib.request.urlopen(f"{base_url}/api/v1/health", timeout=5).close()
        except urllib.error.HTTPError:
            return  # Until it is set up, every answer is a redirection.
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"LNbits did not start: {log.read_text()[-2000:]}")


def called(method: str, url: str, body: dict[str, Any], headers: Mapping[str, str] = MappingProxyType({})) -> Any:
    given = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, json.dumps(body).encode(), given, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def stop(process: subprocess.Popen, home: Path) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
