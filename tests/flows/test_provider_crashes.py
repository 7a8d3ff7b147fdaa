"""A provider that is killed at any step and started again: one charge, one answer, nothing forgotten."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip09 import deletion_note
from tests.nostr.relays import real_relay
from tests.sellers import PRICE_MSATS, open_customer, open_seller, reached

ROOT = Path(__file__).resolve().parents[2]
STEPS = (
    "heard:quoted",
    "kept:quoted",
    "heard:feedback_sent",
    "heard:settled",
    "heard:performed",
    "kept:performed",
    "heard:delivered",
    "kept:delivered",
)


@asynccontextmanager
async def provider(url: str, folder: Path, key: SecretKey, step: str = "") -> AsyncIterator[Process]:
    """A provider's process that serves, until it kills itself or the context ends."""
    words = ("-m", "tests.flows.provider_process", url, str(folder), key.nsec(), step)
    process = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT, stdout=PIPE)
    assert process.stdout is not None
    try:
        assert (await process.stdout.readline()) == b"serving\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
@pytest.mark.attack("B15")
@pytest.mark.attack("B14")
@pytest.mark.parametrize("step", STEPS)
async def test_a_job_survives_a_kill_at_any_step_and_is_charged_and_done_once(step: str, tmp_path: Path) -> None:
    key = SecretKey.generate()
    async with real_relay() as url, open_customer(url, tmp_path) as customer:
        had_msats = await customer.wallet.balance_msats()
        async with provider(url, tmp_path, key, step) as doomed:
            job = await customer.ask("hello", key.pubkey)
            paying = asyncio.create_task(customer.pay(job))
            assert await asyncio.wait_for(doomed.wait(), 30) == -9
        async with provider(url, tmp_path, key):
            await paying
            result = await customer.result(job)
            await asyncio.sleep(0.5)
        assert {one.id for one in customer.results(job)} == {result.id}
        assert had_msats - await customer.wallet.balance_msats() == PRICE_MSATS
    assert len((tmp_path / "asked").read_text().split()) == 1
    async with real_relay() as url, open_seller(url, tmp_path, key) as seller:
        sale = await seller.sale(job)
        assert sale is not None
        assert (sale.state, sale.final, sale.earned_msats) == ("delivered", True, PRICE_MSATS)


@pytest.mark.attack("B15")
async def test_a_job_that_is_paid_while_nobody_serves_is_done_at_the_next_start(tmp_path: Path) -> None:
    key = SecretKey.generate()
    async with real_relay() as url, open_customer(url, tmp_path) as customer:
        async with open_seller(url, tmp_path, key) as seller, seller.selling():
            job = await customer.ask("hello", key.pubkey)
            await customer.feedback(job, "payment-required")
        await customer.pay(job)
        async with open_seller(url, tmp_path, key) as again, again.selling():
            assert (await customer.result(job)).content == "echo: hello"


@pytest.mark.attack("B15")
@pytest.mark.attack("B10")
async def test_a_cancellation_made_while_nobody_serves_is_heard_at_the_next_start(tmp_path: Path) -> None:
    key = SecretKey.generate()
    async with real_relay() as url, open_customer(url, tmp_path) as customer:
        async with open_seller(url, tmp_path, key) as seller, seller.selling():
            job = await customer.ask("hello", key.pubkey)
            await customer.feedback(job, "payment-required")
        await customer.publish(deletion_note([job], job.created_at))
        async with open_seller(url, tmp_path, key) as again, again.selling():
            await reached(again.did(job, "cancelled"))
