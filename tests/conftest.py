"""What holds for every test: a home of its own, no key to pay with, no deadline, a watched count of skips."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.attacks import mark_items, table_of
from tests.databases import ledger_url, postgres_schema_url, postgres_url
from tests.prefect_server import on_server, prefect_api_url, prefect_env

# Fixtures, for every folder from here: one that two files import is two, and starts its server twice.
__all__ = ["ledger_url", "on_server", "postgres_schema_url", "postgres_url", "prefect_api_url", "prefect_env"]

MOST_SKIPS = 6
"""A skip hides a test. In CI more than this many fail the run; elsewhere a machine may lack what it lacks."""
IN_CI = "CI" in os.environ

HOME = Path(tempfile.mkdtemp(prefix="swarmc-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Set before anything imports Prefect, DSPy or litellm, which read the environment when they are imported.
os.environ.update(
    SWARMC_HOME=str(HOME / "swarmc"),
    PREFECT_HOME=str(HOME / "prefect"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL",
    DSPY_CACHEDIR=str(HOME / "dspy"),
    MPLCONFIGDIR=str(HOME / "matplotlib"),
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    DO_NOT_TRACK="1",
)
ELSEWHERE = {"PREFECT_API_URL", "PREFECT_PROFILE"}
for name in [name for name in os.environ if name.endswith("_API_KEY") or name in ELSEWHERE]:
    del os.environ[name]

settings.register_profile("house", deadline=None, derandomize=IN_CI)
settings.load_profile("house")


# What a shell starts in the background is told to ignore Ctrl-C, and so would be all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    "prefect",
    "prefect, a second server",
    "prefect, a third server",
    "tests/flows/test_swarm_compiler.py",
    "tests/flows/test_market_durability.py",
    "tests/flows/test_provider_crashes.py",
    "lnbits",
)
"""Groups of tests that take longest. They are begun first, so that no worker is left with one of them at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file stays on one worker, so that its fixtures are made once; tests of one Prefect server stay together."""
    mark_items(items)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            served = "prefect_api_url" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("prefect" if served else item.nodeid.partition("::")[0]))
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    group = item.get_closest_marker("xdist_group")
    assert group is not None
    return LONGEST.index(group.args[0]) if group.args[0] in LONGEST else len(LONGEST)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if IN_CI and _skips(session.config) > MOST_SKIPS and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of attacks, and the count of skips beside its limit."""
    for line in table_of(terminalreporter):
        terminalreporter.write_line(line)
    count = _skips(config)
    verdict = ": too many, so this run fails (tests/conftest.py)" if IN_CI and count > MOST_SKIPS else ""
    terminalreporter.write_line(f"{count} skipped; CI allows {MOST_SKIPS}{verdict}", red=count > MOST_SKIPS)


def _skips(config: pytest.Config) -> int:
    # A worker of pytest-xdist has no terminal; its controller counts.
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0
