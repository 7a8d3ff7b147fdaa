"""A completion that was paid twice is told with both of its receipts, and with one question."""

import shutil
from pathlib import Path

from blocks.ledger import SqlLedger
from tests.blocks import ledger_process as process

request, completion = process.request, process.completion


async def test_a_completion_that_was_paid_twice_is_told_as_a_repeat(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with SqlLedger.open(url) as ledger, process.run(ledger, "a") as first, process.run(ledger, "b") as second:
        early = await process.reserve(ledger, first, "same")
        shutil.rmtree(tmp_path / "ledger.db.locks")  # somebody tidies up, and run a looks dead
        late = await process.reserve(ledger, second, "same")
        await ledger.settle(early, request("same"), completion("first"))
        await ledger.settle(late, request("same"), completion("second", cost_msats=8))
        told = {run: [purchase async for purchase in ledger.purchases(run)] for run in "ab"}
        await ledger.known("b", "search", "swarm", request("same").request_id)
        after = [purchase async for purchase in ledger.purchases("b")]
    assert [(one.source, one.completion) for one in told["a"]] == [("bought", completion("first"))]
    assert [(one.source, one.completion) for one in told["b"]] == [("repeat", completion("second", cost_msats=8))]
    assert [one.request for one in told["b"]] == [request("same")]
    assert [(one.source, one.receipt.run_id) for one in after] == [("reused", "a"), ("repeat", "b")]
