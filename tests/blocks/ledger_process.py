"""Processes that use a ledger, for tests that need several and may kill them.

    python ledger_process.py COUNT COMMAND URL RUN_ID [ARGUMENT ...]

Forks COUNT processes before any has a ledger; `{n}` in RUN_ID is the number of each. Each prints one JSON line.
"""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from blocks.ledger import SqlLedger
from swarmc.contracts.completions import Completion, CompletionRequest, Message, Usage
from swarmc.contracts.errors import LedgerError
from swarmc.contracts.money import Budget, BudgetPolicy, Claim, Granted, Known, ReserveAnswer, Tally
from swarmc.contracts.ports import Ledger, RunLease

SPEC_ID = "sha256:" + "5" * 64
PATIENCE_S = 60
LONG = "long answer " * 1000


def request(content: object) -> CompletionRequest:
    return CompletionRequest(lane="swarm", model="toy", messages=(Message(role="user", content=str(content)),))


def claim(run_id: str, epoch: int, content: object, max_msats: int = 10) -> Claim:
    return Claim(
        run_id=run_id,
        epoch=epoch,
        request_id=request(content).request_id,
        stage="search",
        lane="swarm",
        max_msats=max_msats,
    )


def completion(text: str = "done", cost_msats: int = 7) -> Completion:
    usage = Usage(prompt_tokens=3, completion_tokens=2, cost_msats=cost_msats)
    return Completion(text=text, model="toy", usage=usage, venue="test")


def run(ledger: Ledger, run_id: str = "run", max_calls: int | None = None) -> AbstractAsyncContextManager[RunLease]:
    budget = BudgetPolicy(run=Budget(max_calls=max_calls))
    return ledger.open_run(run_id, spec_id=SPEC_ID, name="a run", budget=budget)


async def total(ledger: Ledger, run_id: str = "run") -> Tally:
    return (await ledger.account(run_id)).total


def start(count: int, command: str, *arguments: object) -> subprocess.Popen[str]:
    """`count` processes that run a command below."""
    words = [sys.executable, __file__, str(count), command, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


async def said(started: subprocess.Popen[str]) -> list:
    """What each process printed, when all have ended."""
    output, _ = await asyncio.to_thread(started.communicate, timeout=PATIENCE_S)
    assert started.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


async def reserve(ledger: Ledger, lease: RunLease, content: object) -> str:
    answer = await ledger.reserve(claim(lease.run_id, lease.epoch, content))
    assert isinstance(answer, Granted), answer
    return answer.reservation_id


async def buy(ledger: Ledger, lease: RunLease, content: object, text: str = "done") -> None:
    await ledger.settle(await reserve(ledger, lease, content), request(content), completion(text))


def _size(path: str) -> int:
    return Path(path).stat().st_size


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def spend(ledger: SqlLedger, run_id: str, epoch: str, count: str) -> None:
    """Buy as many of `count` different completions as the run's budget allows, together."""

    async def try_to_buy(number: int) -> bool:
        content = f"{os.getpid()} {number}"
        answer = await ledger.reserve(claim(run_id, int(epoch), content))
        if isinstance(answer, Granted):
            await asyncio.sleep(0.01)
            await ledger.settle(answer.reservation_id, request(content), completion())
        return isinstance(answer, Granted)

    _say(sum(await asyncio.gather(*(try_to_buy(number) for number in range(int(count))))))


async def share(ledger: SqlLedger, run_id: str, count: str) -> None:
    """Get `count` completions that other processes want too; print the numbers of those bought here."""
    bought = []
    async with run(ledger, run_id) as lease:

        async def get(number: int) -> None:
            answer: ReserveAnswer | None = None
            while not isinstance(answer, Known):
                answer = await ledger.reserve(claim(run_id, lease.epoch, number))
                if isinstance(answer, Granted):
                    bought.append(number)
                    await asyncio.sleep(0.02)
                    await ledger.settle(answer.reservation_id, request(number), completion(f"by {run_id}"))
                await asyncio.sleep(0.005)

        await asyncio.gather(*(get(number) for number in range(int(count))))
    _say(bought)


async def hold(ledger: SqlLedger, run_id: str, settled: str, count: str) -> None:
    """Buy `settled` completions, reserve `count` more, fork a child that sleeps, and wait to be killed."""
    async with run(ledger, run_id) as lease:
        for number in range(int(settled)):
            await buy(ledger, lease, number)
        for number in range(int(settled), int(settled) + int(count)):
            await reserve(ledger, lease, number)
        child = os.fork()
        if child == 0:
            signal.pause()
        _say(child)
        await asyncio.sleep(600)


async def fill(ledger: SqlLedger, run_id: str, path: str, room_bytes: str) -> None:
    """Buy until the ledger's files may grow no more; then let them grow, and buy the rest."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    async with run(ledger, run_id) as lease:
        reservations = [await reserve(ledger, lease, number) for number in range(40)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (_size(path + "-wal") + int(room_bytes), hard))
        failed: dict[int, str] = {}
        for number, reservation_id in enumerate(reservations):
            try:
                await ledger.settle(reservation_id, request(number), completion(LONG))
            except LedgerError as error:
                failed[number] = f"{error.code}: {error}"
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        for number in failed:
            await ledger.settle(reservations[number], request(number), completion(LONG))
        _say([list(failed.values()), (await total(ledger, run_id)).model_dump()])


async def main(command: str, url: str, run_id: str, *arguments: str) -> None:
    async with SqlLedger.open(url) as ledger:
        await {"spend": spend, "share": share, "hold": hold, "fill": fill}[command](ledger, run_id, *arguments)


def fork(count: int, command: str, url: str, run_id: str, *arguments: str) -> int:
    """Run the command in `count` processes; return how many failed."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            asyncio.run(main(command, url, run_id.format(n=number), *arguments))
            os._exit(0)
        children.append(child)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    if sys.argv[1] == "1":
        asyncio.run(main(*sys.argv[2:]))
    else:
        sys.exit(fork(int(sys.argv[1]), *sys.argv[2:]))
