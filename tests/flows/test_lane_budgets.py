"""Every lane's budget holds to the msat, with many calls in flight, through kills, and by an account of its own."""

import multiprocessing
import random
import signal
import time
from collections import Counter
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from blocks.ledger import SqlLedger
from swarmc.contracts.money import Account, Receipt
from tests.flows.lanes_process import compile_in

ROOMY = {"swarm": 5_000, "validation": 60_000, "premium": 100_000}
TIGHT = {"swarm": 900, "validation": 7_777, "premium": 5_432}


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    """Makes processes that have everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.flows.lanes_process"])
    return context


def answered(folder: Path) -> list[tuple[str, int, str]]:
    """What the lanes answered: lane, msats, request."""
    log = folder / "answers.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(lane, int(msats), request) for lane, msats, request in map(str.split, lines)]


def kill_at(processes: BaseContext, folder: Path, caps: dict[str, int], answers: int) -> bool:
    """Kill it as soon as so many answers were given; whether that was before its end."""
    process = processes.Process(target=compile_in, args=(folder, caps))
    process.start()
    while process.is_alive() and len(answered(folder)) < answers:
        time.sleep(0.002)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def finish(processes: BaseContext, folder: Path, caps: dict[str, int]) -> str:
    process = processes.Process(target=compile_in, args=(folder, caps))
    process.start()
    process.join()
    assert process.exitcode == 0
    return (folder / "winner").read_text()


async def books_of(folder: Path) -> tuple[Account, list[Receipt]]:
    async with SqlLedger.open(f"sqlite:///{folder / 'ledger.db'}") as ledger:
        return await ledger.account("run-1"), [one async for one in ledger.receipts("run-1")]


@pytest.mark.slow
@pytest.mark.parametrize("caps", [ROOMY, TIGHT], ids=["roomy", "tight"])
async def test_killed_again_and_again_no_lane_spends_an_msat_over_its_budget(
    processes: BaseContext, tmp_path: Path, caps: dict[str, int]
):
    moments = sorted(random.Random(11).sample(range(10, 260), 4))
    assert sum([kill_at(processes, tmp_path, caps, answers) for answers in moments]) >= 2
    finish(processes, tmp_path, caps)
    account, receipts = await books_of(tmp_path)
    told = answered(tmp_path)
    prices = {request: (lane, msats) for lane, msats, request in told}
    for lane, tally in account.by_lane().items():
        assert tally.msats + tally.lost_msats <= caps[lane], lane
        # What was answered was settled, or was lost in a kill and counts in full.
        spent = sum(msats for who, msats, _ in told if who == lane)
        assert tally.msats <= spent <= tally.msats + tally.lost_msats, lane
        assert sum(one.usage.cost_msats for one in receipts if one.lane == lane) == tally.msats
    for one in receipts:
        assert prices[one.request_id] == (one.lane, one.usage.cost_msats)
    assert len({one.request_id for one in receipts}) == len(receipts)
    assert len(told) - len(receipts) <= account.total.lost


@pytest.mark.slow
async def test_where_no_budget_binds_a_killed_compile_of_lanes_ends_as_if_nothing_had_happened(
    processes: BaseContext, tmp_path: Path
):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = finish(processes, tmp_path / "whole", ROOMY)
    assert kill_at(processes, tmp_path / "killed", ROOMY, 150)
    assert finish(processes, tmp_path / "killed", ROOMY) == whole
    (one, _), (other, _) = await books_of(tmp_path / "whole"), await books_of(tmp_path / "killed")
    assert one.total.calls == other.total.calls
    assert one.total.msats == other.total.msats
    again = Counter(request for _, _, request in answered(tmp_path / "killed"))
    assert sum(again.values()) - len(again) <= other.total.lost
