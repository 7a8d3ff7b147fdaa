"""Databases for tests: SQLite files, and a real PostgreSQL from the `pgserver` package's binaries."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import psycopg.sql
import pytest

PATIENCE_S = 30
SERVER_USER = "nobody"
"""PostgreSQL refuses to run as root; pgserver itself would add a system user and change modes around it."""
_STOP_AT_END_OF_INPUT = '"$@" < /dev/null & read _; kill -INT $!; wait'
"""The server ends with the tests, however they end. SIGINT: without waiting for open sessions."""


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server's first database. The server listens on a socket file only."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        try:
            if os.geteuid() == 0:
                shutil.chown(directory, SERVER_USER)
            server = _started(directory)
        except (OSError, subprocess.SubprocessError, LookupError) as error:
            pytest.skip(f"PostgreSQL cannot be started here: {error}")
        yield f"postgresql+psycopg://postgres@/postgres?host={directory}"
        assert server.stdin is not None
        server.stdin.close()
        server.wait(PATIENCE_S)


@pytest.fixture
def postgres_schema_url(postgres_url: str) -> str:
    """The URL of a new, empty schema in it: a tenth of the time that a new database takes."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(name)))
    return f"{postgres_url}&options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new ledger, once for each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return request.getfixturevalue("postgres_schema_url")


def _started(directory: Path) -> subprocess.Popen[bytes]:
    binaries = _binaries(directory)
    data = directory / "data"
    initialise = [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"]
    _run([*initialise, "--encoding=UTF8", "--locale=C"], directory)
    # fsync off: no test cuts the power.
    settings = ["fsync=off", "listen_addresses=", f"unix_socket_directories={directory}", "max_connections=100"]
    options = [word for setting in settings for word in ("-c", setting)]
    log = (directory / "log").open("wb")
    watched = ["sh", "-c", _STOP_AT_END_OF_INPUT, "sh", binaries / "postgres", "-D", data, *options]
    server = subprocess.Popen(watched, stdin=subprocess.PIPE, stderr=log, cwd=directory, **_user())
    until = time.monotonic() + PATIENCE_S
    while subprocess.run([binaries / "pg_isready", "-q", "-h", directory], check=False, cwd=directory).returncode:
        if server.poll() is not None or time.monotonic() > until:
            server.communicate()
            raise LookupError((directory / "log").read_text()[-500:])
        time.sleep(0.05)
    return server


def _binaries(directory: Path) -> Path:
    """The server's programs, copied when its user may not read them where they are."""
    spec = importlib.util.find_spec("pgserver")
    if spec is None or spec.origin is None:
        raise LookupError("the pgserver package is not installed")
    installed = Path(spec.origin).parent / "pginstall"
    probe = [installed / "bin" / "postgres", "--version"]
    try:
        _run(probe, directory)
    except (OSError, subprocess.SubprocessError):
        shutil.copytree(installed, directory / "pginstall")
        installed = directory / "pginstall"
    return installed / "bin"


def _run(command: list[str | Path], directory: Path) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, cwd=directory, timeout=PATIENCE_S, **_user())
    except subprocess.CalledProcessError as error:
        raise LookupError(error.stderr.decode(errors="replace")[-500:]) from error


def _user() -> dict:
    return {"user": SERVER_USER, "group": _group(), "extra_groups": []} if os.geteuid() == 0 else {}


def _group() -> int:
    import pwd

    return pwd.getpwnam(SERVER_USER).pw_gid
