"""What a paid call costs in the ledger: known, reserve and settle, in milliseconds of wall time a call.

    python benchmarks/ledger.py [--calls 3000] [--url postgresql+psycopg://...]

Completions and requests have about 1.5 kB each. `loop busy` runs the same while the event loop's own
thread computes most of the time, as a DSPy program does.
"""

import argparse
import asyncio
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from blocks.ledger import SqlLedger
from swarmc.contracts.completions import Completion, CompletionRequest, Message, Usage
from swarmc.contracts.money import Budget, BudgetPolicy, Claim, Granted
from swarmc.contracts.ports import Ledger, RunLease

CONCURRENCIES = (1, 8, 32, 128)
BUDGET = BudgetPolicy(run=Budget(max_calls=10**9, max_msats=10**12))


def _request(salt: str, number: int) -> CompletionRequest:
    message = Message(role="user", content=f"{salt} {number} " + "ticket " * 180)
    return CompletionRequest(lane="swarm", model="model", messages=(message,))


def _completion(number: int) -> Completion:
    usage = Usage(prompt_tokens=400, completion_tokens=300, cost_msats=7)
    return Completion(text=f"{number} " + "answer " * 180, model="model", usage=usage, venue="benchmark")


async def _call(ledger: Ledger, lease: RunLease, request: CompletionRequest, completion: Completion) -> None:
    assert await ledger.known(lease.run_id, "search", "swarm", request.request_id) is None
    claim = Claim(
        run_id=lease.run_id,
        epoch=lease.epoch,
        request_id=request.request_id,
        stage="search",
        lane="swarm",
        max_msats=10,
    )
    answer = await ledger.reserve(claim)
    assert isinstance(answer, Granted), answer
    await ledger.settle(answer.reservation_id, request, completion)


async def _spin(share: float) -> None:
    """Keep the loop's thread busy for `share` of the time."""
    while True:
        until = time.perf_counter() + 0.002 * share
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(0.002 * (1 - share))


async def _measure(ledger: Ledger, calls: int, concurrency: int) -> tuple[float, float]:
    """Wall and CPU milliseconds a call; then each call once more, known."""
    salt = uuid.uuid4().hex
    work = [(_request(salt, number), _completion(number)) for number in range(calls)]
    for request, _ in work:
        _ = request.request_id
    async with ledger.open_run(uuid.uuid4().hex, spec_id="benchmark", name="benchmark", budget=BUDGET) as lease:
        queue = iter(work)

        async def worker() -> None:
            for request, completion in queue:
                await _call(ledger, lease, request, completion)

        async def reader() -> None:
            for request, _ in queue:
                assert await ledger.known(lease.run_id, "search", "swarm", request.request_id)

        begun, begun_cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        wall, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
        queue = iter(work)
        begun = time.perf_counter()
        await asyncio.gather(*(reader() for _ in range(concurrency)))
        known = time.perf_counter() - begun
        print(
            f"{concurrency:>5} tasks: {wall / calls * 1000:.3f} ms a call (CPU {cpu / calls * 1000:.3f}); "
            f"known already: {known / calls * 1000:.3f} ms"
        )
        return wall, cpu


async def _main(url: str, calls: int) -> None:
    async with SqlLedger.open(url) as ledger:
        await _measure(ledger, 200, 32)
        for concurrency in CONCURRENCIES:
            await _measure(ledger, calls if concurrency > 1 else calls // 3, concurrency)
        print("loop busy for 80 % of the time")
        spinning = asyncio.create_task(_spin(0.8))
        await _measure(ledger, calls // 3, 32)
        spinning.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a ledger's URL; a new SQLite file when not given")
    parser.add_argument("--calls", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_main(arguments.url or f"sqlite:///{directory}/ledger.db", arguments.calls))
