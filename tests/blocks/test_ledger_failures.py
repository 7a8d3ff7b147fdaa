"""What a disk, a database and a network may do to a ledger, and what works after it."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count as count_from
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from blocks.ledger import SqlJobBook, SqlLedger
from blocks.ledger.schema import COMPLETIONS, VERSION
from swarmc.contracts.errors import LedgerError, RunFenced
from swarmc.contracts.job_book import JobRecord
from swarmc.contracts.money import Granted, Known
from tests.blocks import ledger_process as process

_CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
claim, request, completion = process.claim, process.request, process.completion
reserve, buy = process.reserve, process.buy


async def test_an_operation_that_cannot_be_written_spares_its_neighbours(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger, process.run(ledger) as lease:
        claims = [claim("run", lease.epoch, number, max_msats=2**70 if number == 7 else 1) for number in range(20)]
        answers = await asyncio.gather(*(ledger.reserve(one) for one in claims), return_exceptions=True)
        assert [number for number, answer in enumerate(answers) if not isinstance(answer, Granted)] == [7]
        assert isinstance(answers[7], LedgerError)
        assert answers[7].code == "ledger"
        assert (await process.total(ledger)).reserved == 19


async def test_a_completion_without_canonical_form_can_be_released(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger, process.run(ledger) as lease:
        reservation_id = await reserve(ledger, lease, 1)
        broken = completion().model_copy(update={"text": "\ud800"})
        with pytest.raises(LedgerError, match=r"storing the completion of sha256:.*no canonical form"):
            await ledger.settle(reservation_id, request(1), broken)
        await ledger.release(reservation_id, lost=True)
        assert (await process.total(ledger)).lost == 1


async def test_files_that_may_not_grow_fail_calls_and_keep_the_ledger_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    [[failures, total]] = await process.said(process.start(1, "fill", f"sqlite:///{path}", "run", path, 200_000))
    assert 0 < len(failures) < 40
    assert all(failure.startswith(f"ledger: using the ledger at {path}: ") for failure in failures)
    assert "then run again: what was kept before stays kept" in failures[0]
    assert (total["calls"], total["msats"], total["reserved"], total["lost"]) == (40, 280, 0, 0)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounting.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounting.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_disk_fails_calls_until_there_is_space(tiny_disk: Path) -> None:
    (tiny_disk / "other").write_bytes(bytes(1_000_000))
    async with SqlLedger.open(f"sqlite:///{tiny_disk / 'ledger.db'}") as ledger, process.run(ledger) as lease:
        reservations = await asyncio.gather(*(reserve(ledger, lease, number) for number in range(100)))
        await ledger.settle(reservations[0], request(0), completion(process.LONG))
        settling = [
            ledger.settle(reservation_id, request(number), completion(process.LONG))
            for number, reservation_id in enumerate(reservations)
        ]
        results = await asyncio.gather(*settling, return_exceptions=True)
        failed = [number for number, result in enumerate(results) if result is not None]
        assert failed
        assert "database or disk is full; free some space on its disk" in str(results[failed[0]])
        assert await ledger.known("run", "search", "swarm", request(0).request_id) == completion(process.LONG)
        (tiny_disk / "other").unlink()
        await ledger.settle(reservations[failed[0]], request(failed[0]), completion(process.LONG))
        assert (await process.total(ledger)).calls == 100 - len(failed) + 1


async def test_a_locked_database_fails_writers_and_serves_readers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with SqlLedger.open(f"sqlite:///{path}?timeout=0.2") as ledger, process.run(ledger) as lease:
        await buy(ledger, lease, 1)
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        asking = [ledger.reserve(claim("run", lease.epoch, number)) for number in range(2, 12)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(answer) for answer in answers} == {LedgerError}
        assert "database is locked; another program keeps it locked: end that program" in str(answers[0])
        assert isinstance(answers[0], LedgerError)
        assert answers[0].retryable
        assert await ledger.known("run", "search", "swarm", request(1).request_id) == completion()
        blocker.close()
        assert isinstance(await ledger.reserve(claim("run", lease.epoch, 2)), Granted)


async def test_a_cut_connection_is_made_again_and_the_run_stays_owned(postgres_schema_url: str) -> None:
    async with SqlLedger.open(postgres_schema_url) as ledger, process.run(ledger) as lease:
        reservation_id = await reserve(ledger, lease, 1)
        with psycopg.connect(postgres_schema_url.replace("+psycopg", ""), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'swarmc%'"
            )
        await ledger.settle(reservation_id, request(1), completion())
        async with SqlLedger.open(postgres_schema_url) as other:
            with pytest.raises(RunFenced):
                await process.run(other).__aenter__()
        assert (await process.total(ledger)).calls == 1


class _BadLine:
    """A way to a PostgreSQL server that can break for its client while the server goes on waiting."""

    def __init__(self, url: str) -> None:
        self._host = str(sqlalchemy.make_url(url).query["host"])
        self._url = url
        self._clients: list[asyncio.StreamWriter] = []
        self.breaks_before = b""

    @asynccontextmanager
    async def url(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            yield self._url.replace("@/", f"@127.0.0.1:{port}/").replace(f"host={self._host}&", "")

    def cut(self) -> None:
        self._clients.pop().transport.abort()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._clients.append(to_client)
        from_server, to_server = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.5432")
        await asyncio.gather(self._pump(from_client, to_server), self._answer(from_server, to_client))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)

    async def _answer(self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await from_server.read(65536):
            if self.breaks_before and self.breaks_before in data:
                self.breaks_before = b""
                to_client.transport.abort()
            to_client.write(data)


async def test_a_session_the_server_thinks_alive_does_not_cost_us_our_run(postgres_schema_url: str) -> None:
    line = _BadLine(postgres_schema_url)
    async with line.url() as url, SqlLedger.open(url) as ledger:
        async with process.run(ledger) as lease, SqlLedger.open(postgres_schema_url) as other:
            reservation_id = await reserve(ledger, lease, 1)
            line.cut()
            await ledger.settle(reservation_id, request(1), completion())
            with pytest.raises(RunFenced):
                await process.run(other).__aenter__()
        async with process.run(ledger) as lease:
            assert lease.epoch == 2


async def test_what_was_committed_unheard_is_done_once(postgres_schema_url: str) -> None:
    line, committed = _BadLine(postgres_schema_url), b"COMMIT\0"
    async with line.url() as url, SqlLedger.open(url) as ledger, process.run(ledger) as lease:
        line.breaks_before = committed
        reservation_id = await reserve(ledger, lease, 1)
        line.breaks_before = committed
        await ledger.settle(reservation_id, request(1), completion())
        assert line.breaks_before == b""
        other = await reserve(ledger, lease, 2)
        line.breaks_before = committed
        await ledger.release(other, lost=False)
        total = await process.total(ledger)
        assert (total.calls, total.failed, total.reserved, total.lost) == (1, 1, 0, 0)
        assert len([receipt async for receipt in ledger.receipts("run")]) == 1


async def test_a_put_that_was_committed_unheard_is_known_as_our_own(postgres_schema_url: str) -> None:
    line = _BadLine(postgres_schema_url)
    values = {"side": "bought", "owner": "a" * 64, "job_id": "1" * 64, "key": "k", "state": "paying", "final": False}
    first = JobRecord.model_validate(values | {"version": 1, "body": "{}"})
    async with line.url() as url, SqlJobBook.open(url) as jobs:
        line.breaks_before = b"COMMIT\0"
        assert await jobs.put(first, "{}")
        assert line.breaks_before == b""
        assert not await jobs.put(first, "{}")
        assert len(await jobs.history("bought", first.owner, first.job_id)) == 1


async def _blocked(connection: psycopg.Connection, count: int) -> None:
    """Wait until `count` transactions wait for a lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(process.PATIENCE_S):
        for _ in count_from(0):
            if connection.execute(waiting).fetchone() == (count,):
                return
            await asyncio.sleep(0.01)


async def test_two_transactions_that_overlap_cannot_both_have_the_last_call(postgres_schema_url: str) -> None:
    direct = postgres_schema_url.replace("+psycopg", "")
    async with (
        SqlLedger.open(postgres_schema_url) as ledger,
        SqlLedger.open(postgres_schema_url) as other,
        process.run(ledger, max_calls=1) as lease,
    ):
        with psycopg.connect(direct) as admin:
            admin.execute("LOCK TABLE swarmc_reservations IN SHARE MODE")  # lets them look, and not yet write
            claims = [claim("run", lease.epoch, number) for number in range(2)]
            asking = asyncio.gather(ledger.reserve(claims[0]), other.reserve(claims[1]))
            await _blocked(admin, 2)
        assert sorted(type(answer).__name__ for answer in await asking) == ["Granted", "Held"]


async def test_two_runs_that_overlap_cannot_both_buy_the_same(postgres_schema_url: str) -> None:
    direct = postgres_schema_url.replace("+psycopg", "")
    async with (
        SqlLedger.open(postgres_schema_url) as ledger,
        SqlLedger.open(postgres_schema_url) as other,
        process.run(ledger, "a") as first,
        process.run(other, "b") as second,
    ):
        with psycopg.connect(direct) as admin:
            admin.execute("LOCK TABLE swarmc_reservations IN SHARE MODE")
            claims = [claim(lease.run_id, lease.epoch, "same") for lease in (first, second)]
            asking = asyncio.gather(ledger.reserve(claims[0]), other.reserve(claims[1]))
            await _blocked(admin, 2)
        assert sorted(type(answer).__name__ for answer in await asking) == ["Granted", "Held"]


async def test_a_purchase_made_between_looking_and_reserving_is_read(postgres_schema_url: str) -> None:
    direct = postgres_schema_url.replace("+psycopg", "")
    async with SqlLedger.open(postgres_schema_url) as ledger, process.run(ledger) as lease:
        await buy(ledger, lease, "old")
        with psycopg.connect(direct) as admin:
            admin.execute("LOCK TABLE swarmc_cells IN ACCESS EXCLUSIVE MODE")  # a reservation looks there, in between
            asking = asyncio.create_task(ledger.reserve(claim("run", lease.epoch, "new")))
            await _blocked(admin, 1)
            names = ", ".join(COMPLETIONS.columns.keys()[1:])
            copy = f"INSERT INTO swarmc_completions (request_id, {names}) SELECT %s, {names} FROM swarmc_completions"
            admin.execute(copy.encode(), (request("new").request_id,))
        assert await asking == Known(completion=completion())


async def test_a_server_that_lets_nobody_in_fails_all_until_it_does(postgres_schema_url: str) -> None:
    other_database = postgres_schema_url.replace("+psycopg", "").replace("/postgres?", "/template1?")
    async with SqlLedger.open(postgres_schema_url) as ledger, process.run(ledger) as lease:
        with psycopg.connect(other_database, autocommit=True) as admin:
            admin.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
            try:
                admin.execute(_CUT + " datname = 'postgres'")
                asking = [ledger.reserve(claim("run", lease.epoch, number)) for number in range(10)]
                answers = await asyncio.gather(*asking, return_exceptions=True)
                assert {type(answer) for answer in answers} == {LedgerError}
                assert "see that the server runs and that the URL is right" in str(answers[0])
            finally:
                admin.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")
        assert isinstance(await ledger.reserve(claim("run", lease.epoch, 1)), Granted)


@pytest.mark.parametrize("place", ["/proc/ledger.db", "/proc/nowhere/ledger.db", "{file}/ledger.db", "{directory}"])
async def test_a_place_that_cannot_be_written_names_the_remedy(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    path = place.format(file=tmp_path / "file", directory=tmp_path)
    with pytest.raises(LedgerError, match=f"{path}.*choose a place that can be written; SWARMC_HOME names"):
        await SqlLedger.open(f"sqlite:///{path}").__aenter__()


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"dear diary " * 1000)
    with pytest.raises(LedgerError, match="file is not a database; move the file away"):
        await SqlLedger.open(f"sqlite:///{path}").__aenter__()
    assert path.read_bytes() == b"dear diary " * 1000


async def test_a_damaged_ledger_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with SqlLedger.open(f"sqlite:///{path}") as ledger, process.run(ledger) as lease:
        for number in range(20):
            await buy(ledger, lease, number)
    pages = bytearray(path.read_bytes())
    pages[4096:] = b"\x7f" * (len(pages) - 4096)
    path.write_bytes(pages)
    with pytest.raises(LedgerError, match=r"malformed.*; move the file away, or restore it from a copy"):
        await SqlLedger.open(f"sqlite:///{path}").__aenter__()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
        "mysql://u:secret@host/d",
        "postgresql://u:secret@host:port/d",
        "postgresql+asyncpg://u:secret@host/d",
        "nosuch+x://u:secret@host/d",
    ],
)
def test_a_url_of_no_ledger_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(LedgerError, match="write sqlite:////path") as caught:
        SqlLedger.open(url)
    assert "secret" not in str(caught.value)


async def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    url = "postgresql+psycopg://user:secret@127.0.0.1:1/ledger"
    with pytest.raises(LedgerError, match=r"user:\*\*\*@127.0.0.1:1/ledger.*see that the server runs") as caught:
        await SqlLedger.open(url).__aenter__()
    assert "secret" not in str(caught.value)


def test_a_missing_driver_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from blocks.ledger import SqlLedger\n"
        "try: SqlLedger.open('postgresql://u:secret@host/d')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print('prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=_root())
    assert "LedgerError loading psycopg (install `psycopg[binary]`)" in done.stdout
    assert "secret" not in done.stdout
    assert done.stdout.splitlines()[-1] == "False", "a ledger alone need not wait for Prefect's import"


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


async def test_a_ledger_of_a_newer_version_is_not_touched(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url):
        pass
    with sqlalchemy.create_engine(ledger_url).begin() as connection:
        connection.execute(sqlalchemy.text(f"UPDATE swarmc_schema_version SET version = {VERSION + 1}"))
    with pytest.raises(LedgerError, match=f"has schema version {VERSION + 1} and this swarmc knows {VERSION}: upgrade"):
        await SqlLedger.open(ledger_url).__aenter__()
