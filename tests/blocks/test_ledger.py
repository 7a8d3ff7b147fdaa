"""Several processes and threads on one ledger, and what a dying one leaves behind."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blocks.ledger import LedgerDatabase, SqlLedger, default_ledger_url
from swarmc.contracts.errors import LedgerError, RunFenced
from swarmc.contracts.money import BudgetPolicy, Granted, Held, Tally
from tests.blocks import ledger_process as process

claim, request, completion = process.claim, process.request, process.completion
reserve, buy = process.reserve, process.buy


@contextmanager
def _holding(url: str, run_id: str, settled: int, reserved: int) -> Iterator[subprocess.Popen[str]]:
    """A process that owns a run with calls in flight, and a child it forked, which outlives it."""
    holder = process.start(1, "hold", url, run_id, settled, reserved)
    assert holder.stdout is not None
    line = holder.stdout.readline()
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()
        if line:
            os.kill(json.loads(line), signal.SIGKILL)


async def test_eight_processes_against_ten_calls_are_granted_exactly_ten(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger, process.run(ledger, max_calls=10) as lease:
        granted = await process.said(process.start(8, "spend", ledger_url, "run", lease.epoch, 10))
        assert len(granted) == 8
        assert sum(granted) == 10
        assert await process.total(ledger) == Tally(calls=10, prompt_tokens=30, completion_tokens=20, msats=70)


async def test_processes_that_ask_for_the_same_completions_buy_each_once(ledger_url: str) -> None:
    bought = await process.said(process.start(6, "share", ledger_url, "run-{n}", 40))
    assert sorted(number for numbers in bought for number in numbers) == list(range(40))
    async with SqlLedger.open(ledger_url) as ledger:
        totals = [await process.total(ledger, f"run-{number}") for number in range(6)]
    assert sorted(total.calls for total in totals) == sorted(map(len, bought))
    assert [total.calls + total.reused for total in totals] == [40] * 6


async def test_what_a_killed_process_had_in_flight_is_found_at_the_next_opening(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger:
        with _holding(ledger_url, "run", settled=2, reserved=3) as holder:
            assert (await process.total(ledger)).reserved == 3
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            async with process.run(ledger) as lease:
                assert (lease.epoch, lease.recovered) == (2, 3)
                assert await ledger.known("run", "search", "swarm", request(1).request_id) == completion()
                await buy(ledger, lease, 2)
                total = await process.total(ledger)
                assert (total.calls, total.lost, total.lost_msats, total.reserved) == (3, 3, 30, 0)


async def test_a_run_of_a_live_process_is_fenced_and_of_a_dead_one_is_free(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger, process.run(ledger, "mine") as mine:
        with _holding(ledger_url, "theirs", settled=0, reserved=1) as holder:
            with pytest.raises(RunFenced, match=r"'theirs' is held by .*process .*: wait until that is done"):
                await process.run(ledger, "theirs").__aenter__()
            assert await ledger.reserve(claim("mine", mine.epoch, 0)) == Held(why="purchase")
            assert await ledger.unfinished_run(process.SPEC_ID) is None
            holder.kill()
            holder.wait()
            for _ in range(200):  # PostgreSQL notices in a moment
                unfinished = await ledger.unfinished_run(process.SPEC_ID)
                if unfinished is not None:
                    break
                await asyncio.sleep(0.02)
            assert unfinished is not None
            assert unfinished.run_id == "theirs"
            assert isinstance(await ledger.reserve(claim("mine", mine.epoch, 0)), Granted)
            assert await process.total(ledger, "theirs") == Tally(lost=1, lost_msats=10)


async def test_whoever_only_looks_at_an_owner_does_not_keep_the_run_from_others(tmp_path: Path) -> None:
    async with SqlLedger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        async with process.run(ledger):
            pass
        with (tmp_path / "ledger.db.locks" / "run.lock").open() as looked_at:
            fcntl.flock(looked_at, fcntl.LOCK_SH)
            opening = asyncio.create_task(process.run(ledger).__aenter__())
            await asyncio.sleep(0.1)
        assert (await opening).epoch == 2


async def test_money_paid_twice_is_told_and_the_first_answer_stays(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with SqlLedger.open(url) as ledger, process.run(ledger, "a") as first, process.run(ledger, "b") as second:
        early = await reserve(ledger, first, "same")
        shutil.rmtree(tmp_path / "ledger.db.locks")  # somebody tidies up, and run a looks dead
        late = await reserve(ledger, second, "same")
        await ledger.settle(early, request("same"), completion("first"))
        again = [ledger.settle(late, request("same"), completion("second", cost_msats=8)) for _ in range(3)]
        await asyncio.gather(*again)
        assert await ledger.known("b", "search", "swarm", request("same").request_id) == completion("first")
        assert ((await process.total(ledger, "a")).msats, (await process.total(ledger, "b")).msats) == (7, 8)
        receipts = [receipt for run_id in "ab" async for receipt in ledger.receipts(run_id)]
        assert [receipt.usage.cost_msats for receipt in receipts] == [7, 8]
        assert receipts[1].completion_id == completion("second", cost_msats=8).content_id


async def test_threads_with_loops_of_their_own_share_one_ledger(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger, process.run(ledger, max_calls=30) as lease:

        async def work(thread: int) -> int:
            claims = [claim("run", lease.epoch, f"{thread} {number}") for number in range(20)]
            answers = await asyncio.gather(*(ledger.reserve(one) for one in claims))
            return sum(isinstance(answer, Granted) for answer in answers)

        granted = await asyncio.gather(*(asyncio.to_thread(asyncio.run, work(number)) for number in range(4)))
        assert sum(granted) == 30


async def test_a_cancelled_asker_leaves_nothing_reserved(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger, process.run(ledger) as lease:
        for number in range(30):
            asking = asyncio.create_task(ledger.reserve(claim("run", lease.epoch, "same")))
            await asyncio.sleep(number / 10_000)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            if not asking.cancelled():
                await ledger.release(asking.result().reservation_id, lost=False)
        total = await process.total(ledger)
        assert (total.reserved, total.lost) == (0, 0)
        assert isinstance(await ledger.reserve(claim("run", lease.epoch, "same")), Granted)


async def test_a_cancelled_wait_takes_no_run(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger:
        async with process.run(ledger):
            opening = ledger.open_run("run", spec_id=process.SPEC_ID, name="", budget=BudgetPolicy(), wait_s=20)
            waiting = asyncio.create_task(opening.__aenter__())
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with process.run(ledger) as lease:
            assert lease.epoch == 2


async def test_a_settlement_whose_asker_gave_up_is_kept(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger, process.run(ledger) as lease:
        reservation_id = await reserve(ledger, lease, 1)
        settling = asyncio.create_task(ledger.settle(reservation_id, request(1), completion()))
        await asyncio.sleep(0)
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        assert await ledger.known("run", "search", "swarm", request(1).request_id) == completion()


async def test_what_was_asked_before_closing_is_done(ledger_url: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger:
        async with process.run(ledger) as lease:
            settling = [asyncio.create_task(buy(ledger, lease, number)) for number in range(10)]
            await asyncio.gather(*settling)
        last = asyncio.create_task(ledger.runs())
        await asyncio.sleep(0)
    assert [record.run_id for record in await last] == ["run"]
    with pytest.raises(LedgerError, match="is closed: open it again"):
        await ledger.runs()


async def test_a_ledger_that_was_not_entered_says_so(tmp_path: Path) -> None:
    ledger = SqlLedger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(LedgerError, match="not open: enter it with `async with` first"):
        await ledger.runs()
    async with ledger:
        with pytest.raises(LedgerError, match="was opened before"):
            await ledger.__aenter__()


def test_a_forked_child_is_told_to_open_its_own(tmp_path: Path) -> None:
    ledger = SqlLedger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    with asyncio.Runner() as runner:
        runner.run(ledger.__aenter__())
        child = os.fork()
        if child == 0:
            try:
                runner.run(ledger.runs())
            except LedgerError as error:
                os._exit(42 if "open it again in the child" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        assert runner.run(ledger.runs()) == []
        runner.run(ledger.__aexit__(None, None, None))


@pytest.mark.parametrize("run_id", ["../../outside", "é" * 300, ".", "a/b", "with space", "CON"])
async def test_any_text_may_name_a_run(ledger_url: str, run_id: str) -> None:
    async with SqlLedger.open(ledger_url) as ledger:
        async with process.run(ledger, run_id) as lease:
            await buy(ledger, lease, 1)
            with pytest.raises(RunFenced):
                async with process.run(ledger, run_id):
                    pytest.fail("two owners")
        assert (await ledger.find_run(run_id)).run_id == run_id


async def test_the_default_ledger_is_made_in_swarmc_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMC_HOME", str(tmp_path / "a home" / "é%20"))
    async with SqlLedger.open(default_ledger_url()) as ledger:
        assert await ledger.runs() == []
    assert (tmp_path / "a home" / "é%20" / "ledger.db").exists()
    assert stat.S_IMODE((tmp_path / "a home" / "é%20").stat().st_mode) == 0o700
    monkeypatch.delenv("SWARMC_HOME")
    assert default_ledger_url() == f"sqlite:///{Path.home()}/.swarmc/ledger.db"


async def test_a_program_that_changes_its_directory_keeps_its_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with SqlLedger.open("sqlite:///ledger.db") as ledger:
        monkeypatch.chdir("/")
        async with process.run(ledger):
            pass
    assert (tmp_path / "ledger.db.locks" / "run.lock").exists()


async def test_the_saved_ledger_hides_its_url_and_opens(tmp_path: Path) -> None:
    saved = LedgerDatabase(url=f"sqlite:///{tmp_path / 'ledger.db'}")
    assert str(tmp_path) not in repr(saved)
    assert str(tmp_path) not in str(saved.model_dump(mode="json"))
    async with saved.open() as ledger:
        assert await ledger.runs() == []
    assert LedgerDatabase.model_json_schema()["required"] == ["url"]


def test_the_writer_thread_ends_with_its_ledger(tmp_path: Path) -> None:
    async def use() -> None:
        async with SqlLedger.open(f"sqlite:///{tmp_path / 'ledger.db'}"):
            assert "swarmc-ledger" in [thread.name for thread in threading.enumerate()]
        with pytest.raises(LedgerError):
            await SqlLedger.open(f"sqlite:///{tmp_path}").__aenter__()

    asyncio.run(use())
    assert "swarmc-ledger" not in [thread.name for thread in threading.enumerate()]
