"""A ledger of the first version, without job books: it gets one when it is opened, and keeps what it has."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from pydantic import SecretStr
from sqlalchemy import MetaData, inspect, text

from blocks.ledger import LedgerDatabase, SqlJobBook, SqlLedger
from blocks.ledger.find import find_job_book, find_ledger
from blocks.ledger.schema import METADATA, VERSION
from swarmc.contracts.errors import LedgerError
from swarmc.contracts.job_book import JobRecord
from tests.blocks import ledger_process as process

ROOT = Path(__file__).resolve().parents[2]
NEW_TABLES = {"swarmc_jobs", "swarmc_job_moves"}
RECORD = JobRecord(
    side="bought", owner="a" * 64, job_id="1" * 64, key="k", state="drafted", final=False, version=1, body="{}"
)
OPEN_WHEN_TOLD = (
    "import asyncio, sys\n"
    "from blocks.ledger import SqlJobBook, SqlLedger\n"
    "async def main(kind, url):\n"
    "    print('ready', flush=True)\n"
    "    sys.stdin.readline()\n"
    "    async with kind.open(url):\n"
    "        print('open')\n"
    "asyncio.run(main({'ledger': SqlLedger, 'jobs': SqlJobBook}[sys.argv[1]], sys.argv[2]))"
)


def _rows(url: str, statement: str) -> list[tuple]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def _first_version(url: str) -> None:
    """The tables as the first version made them, with one run in them."""
    old = MetaData()
    for table in METADATA.sorted_tables:
        if table.name not in NEW_TABLES:
            table.to_metadata(old)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    old.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO swarmc_schema_version VALUES (1)"))
        connection.execute(
            old.tables["swarmc_runs"].insert(),
            {"run_id": "old", "spec_id": process.SPEC_ID, "name": "", "state": "completed", "epoch": 1}
            | {"leased": False, "budget": "{}", "created_at_us": 1, "updated_at_us": 1},
        )


def test_the_first_version_is_all_but_the_new_tables() -> None:
    assert METADATA.tables.keys() - NEW_TABLES == {
        *("swarmc_schema_version", "swarmc_runs", "swarmc_cells", "swarmc_completions"),
        *("swarmc_repeats", "swarmc_reservations", "swarmc_losses", "swarmc_uses"),
    }


@pytest.mark.parametrize("first", [SqlLedger, SqlJobBook])
async def test_an_old_ledger_gets_a_job_book_and_keeps_its_runs(
    ledger_url: str, first: type[SqlLedger | SqlJobBook]
) -> None:
    _first_version(ledger_url)
    async with first.open(ledger_url):
        assert _rows(ledger_url, "SELECT max(version) FROM swarmc_schema_version") == [(VERSION,)]
    async with SqlLedger.open(ledger_url) as ledger, SqlJobBook.open(ledger_url) as jobs:
        assert [run.run_id for run in await ledger.runs()] == ["old"]
        assert await jobs.put(RECORD, "{}")
        async with process.run(ledger, "new") as lease:
            await process.buy(ledger, lease, 1)
            assert (await process.total(ledger, "new")).calls == 1


async def test_an_upgraded_ledger_has_the_tables_and_indexes_of_a_new_one(tmp_path: Path) -> None:
    old, new = (f"sqlite:///{tmp_path / name}" for name in ("old.db", "new.db"))
    _first_version(old)
    for url in (old, new):
        async with SqlLedger.open(url):
            pass
    schema = "SELECT name, sql FROM sqlite_master ORDER BY name"
    assert _rows(old, schema) == _rows(new, schema)


def _opener(kind: str, url: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", OPEN_WHEN_TOLD, kind, url]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


async def test_processes_that_open_an_old_ledger_at_once_upgrade_it_once(ledger_url: str) -> None:
    _first_version(ledger_url)
    opening = [_opener(kind, ledger_url) for kind in ("ledger", "jobs", "ledger", "jobs")]
    for one in opening:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in opening:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = [await asyncio.to_thread(one.communicate, timeout=process.PATIENCE_S) for one in opening]
    assert [output for output, _ in said] == ["open\n"] * 4
    assert _rows(ledger_url, "SELECT version FROM swarmc_schema_version ORDER BY version") == [(1,), (VERSION,)]
    assert [run.run_id for run in await _runs(ledger_url)] == ["old"]


async def _runs(url: str) -> list:
    async with SqlLedger.open(url) as ledger:
        return await ledger.runs()


async def test_an_upgrade_that_cannot_be_finished_leaves_the_old_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    _first_version(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE swarmc_job_moves_blocker (x)")
        connection.execute("CREATE INDEX swarmc_jobs_totals ON swarmc_job_moves_blocker (x)")
    for _ in range(2):
        with pytest.raises(LedgerError, match="swarmc_jobs_totals already exists"):
            await SqlLedger.open(f"sqlite:///{path}").__aenter__()
    assert not NEW_TABLES & set(inspect(sqlalchemy.create_engine(f"sqlite:///{path}")).get_table_names())
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE swarmc_job_moves_blocker")
    assert [run.run_id for run in await _runs(f"sqlite:///{path}")] == ["old"]


async def test_a_job_book_of_a_newer_version_is_not_touched(ledger_url: str) -> None:
    async with SqlJobBook.open(ledger_url):
        pass
    with sqlalchemy.create_engine(ledger_url).begin() as connection:
        connection.execute(text(f"INSERT INTO swarmc_schema_version VALUES ({VERSION + 1})"))
    with pytest.raises(LedgerError, match=f"has schema version {VERSION + 1} and this swarmc knows {VERSION}"):
        await SqlJobBook.open(ledger_url).__aenter__()


async def test_the_job_book_is_found_where_the_ledger_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with find_ledger(url) as ledger, find_job_book(url) as jobs:
        assert await jobs.put(RECORD, "{}")
        assert await ledger.runs() == []
    async with LedgerDatabase(url=SecretStr(url)).open_jobs() as jobs:
        assert await jobs.get("bought", RECORD.owner, RECORD.job_id) == RECORD


async def test_the_job_book_at_home_is_in_the_ledger_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMC_HOME", str(tmp_path))
    async with find_job_book(None) as jobs:
        assert await jobs.unfinished("sold", RECORD.owner) == ()
    assert (tmp_path / "ledger.db").exists()
