"""A market on this machine in one command: a relay, two providers on the practice model, and a compile that buys there.

`make market` runs it. The money is play money in a file, and everything else is what a real market has: signed
events over a relay, invoices that are checked and paid, ledgers on both sides. It ends with both sides' accounts,
which must agree to the msat. Killed in the middle and started again, it goes on where it was.
"""

import asyncio
import ctypes
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nostr_sdk import LocalRelayBuilder, RateLimit
from rich.console import Console
from rich.table import Table

from blocks.ledger import SqlJobBook
from blocks.relays.pool import RelayPool
from blocks.wallets.ledger_wallet import LedgerWallet
from swarmc.contracts.relay import Filter
from swarmc.nostr.keys import SecretKey

HOME = Path(os.environ.get("SWARMC_HOME") or ".swarmc").absolute() / "market"
SPEC = "examples/ticket_routing/compile.json"
BUYER_MSATS = 1_000_000
READY_LIMIT_S = 120.0
END_LIMIT_S = 40.0

CHEAP = {"name": "cheap", "request_msats": 20, "capacity": 8}
DEAR = {"name": "slow and dear", "request_msats": 90, "capacity": 1}
SLOW_PER_S = 10.0
PLACES_OF_ONE_CUSTOMER = 6
"""At the cheap provider: less than the compile has in flight, so that some of it goes to the dear one."""

console = Console()


def swarmc() -> list[str]:
    """The command that is installed beside this Python."""
    command = Path(sys.executable).with_name("swarmc")
    return [str(command)] if command.exists() else [sys.executable, "-m", "flows"]


@dataclass(frozen=True)
class Person:
    """Somebody on the market: a name, a key, a folder, an account."""

    name: str
    key: SecretKey

    @property
    def home(self) -> Path:
        return HOME / self.name

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.home / 'ledger.db'}"

    def environment(self, relay_url: str) -> dict[str, str]:
        """What a process of theirs is given: its own ledger, key and account, the same relay and network of money."""
        return {
            **os.environ,
            "SWARMC_HOME": str(self.home),
            "SWARMC_NOSTR_KEY": self.key.nsec(),
            "SWARMC_RELAYS": relay_url,
            "SWARMC_WALLET": f"{HOME / 'wallet.db'}:{self.name}",
        }


def person(name: str) -> Person:
    """The same person every time, until the market is over."""
    file = HOME / name / "key"
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_suffix(".draft")
        draft.write_text(SecretKey.generate().nsec(), encoding="utf-8")
        draft.chmod(0o600)
        draft.rename(file)
    return Person(name, SecretKey.parse(file.read_text(encoding="utf-8")))


@asynccontextmanager
async def relay() -> AsyncIterator[str]:
    """A relay on a free port of this machine."""
    running = LocalRelayBuilder().rate_limit(RateLimit(max_reqs=10_000, notes_per_minute=10**6)).build()
    await running.run()
    try:
        yield str(await running.url()).rstrip("/")
    finally:
        running.shutdown()


@asynccontextmanager
async def provider(seller: Person, relay_url: str, terms: dict[str, object]) -> AsyncIterator[None]:
    """A provider in a process of its own, which is told to end when the market is over."""
    spec = {
        "about": "The practice model, for tickets of the example",
        "venue": {"venue": "practice", **({"rate_per_s": SLOW_PER_S} if terms is DEAR else {})},
        "relays": [relay_url],
        "require_payment": True,
        "min_price_msats": 1,
        "limits": {"open_per_customer": PLACES_OF_ONE_CUSTOMER} if terms is CHEAP else {},
        **terms,
    }
    file = seller.home / "provider.json"
    file.write_text(json.dumps(spec, indent=2), encoding="utf-8")
    with (seller.home / "provider.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *swarmc(), "provider", "start", str(file),
            env=seller.environment(relay_url), stdout=log, stderr=log,
            preexec_fn=_end_with_us,
        )  # fmt: skip
    try:
        yield
    finally:
        await _end(process)


def _end_with_us() -> None:
    """In the child: be told to end when the market dies, however it dies (where the system can do that: Linux)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_LIMIT_S)
    except TimeoutError:
        process.kill()


async def announced(relay_url: str, sellers: list[Person]) -> str:
    """Wait until all offers are there; return the model they sell."""
    async with RelayPool([relay_url]) as pool, asyncio.timeout(READY_LIMIT_S):
        while True:
            found = await pool.fetch([Filter(kinds=(31990,), authors=tuple(one.key.pubkey for one in sellers))])
            if len({event.pubkey for event in found.events}) == len(sellers):
                return str(json.loads(found.events[0].content)["models"][0])
            await asyncio.sleep(0.3)


async def compile_there(buyer: Person, relay_url: str, model: str) -> int:
    """The example, compiled on what the market sells. Returns the exit code."""
    process = await asyncio.create_subprocess_exec(
        *swarmc(), "compile", SPEC, "--set", f"lanes.swarm.venue=pylon:swarm:{model}",
        env=buyer.environment(relay_url),
    )  # fmt: skip
    try:
        return await process.wait()
    except asyncio.CancelledError:
        await _end(process)
        raise


async def accounts(buyer: Person, sellers: list[Person]) -> bool:
    """Show what each side's books and wallet say. Whether they agree."""
    columns = ("who", "jobs", "paid msats", "earned msats", "refunds due", "wallet msats")
    table = Table(*columns, title="\nAccounts (play money)")
    paid = earned = 0
    agree = True
    for one in (buyer, *sellers):
        side = "bought" if one is buyer else "sold"
        async with SqlJobBook.open(one.ledger_url) as book:
            totals = await book.totals(side, one.key.pubkey)
        async with LedgerWallet(path=HOME / "wallet.db", account=one.name).open() as wallet:
            balance = await wallet.balance_msats()
            await wallet.audit()
        jobs = sum(total.jobs for total in totals if total.state in ("answered", "delivered"))
        msats = sum(total.msats for total in totals)
        due = sum(total.refunds_due for total in totals)
        agree = agree and balance == (BUYER_MSATS - msats if one is buyer else msats)
        paid, earned = (paid + msats, earned) if one is buyer else (paid, earned + msats)
        moved = (f"{msats:,}", "") if one is buyer else ("", f"{msats:,}")
        table.add_row(one.name, f"{jobs:,}", *moved, str(due), f"{balance:,}")
    console.print(table)
    agree = agree and paid == earned
    console.print(
        f"Books and wallets agree to the msat: {paid:,} paid, {earned:,} earned."
        if agree
        else f"[bold red]Books and wallets do not agree[/]: {paid:,} paid, {earned:,} earned."
    )
    return agree


async def main() -> int:
    """Open the market, compile, show the accounts."""
    finished = HOME / "finished"
    if finished.exists():
        shutil.rmtree(HOME)
    buyer, cheap, dear = (person(name) for name in ("buyer", "cheap", "dear"))
    async with LedgerWallet(path=HOME / "wallet.db", account=buyer.name, start_msats=BUYER_MSATS).open():
        pass
    async with AsyncExitStack() as stack:
        relay_url = await stack.enter_async_context(relay())
        console.print(f"relay      {relay_url}")
        for seller, terms in ((cheap, CHEAP), (dear, DEAR)):
            await stack.enter_async_context(provider(seller, relay_url, terms))
            console.print(
                f"provider   {seller.key.npub[:16]}  {terms['name']}: {terms['request_msats']} msats a job "
                f"(its log: {seller.home / 'provider.log'})"
            )
        model = await announced(relay_url, [cheap, dear])
        console.print(f"buyer      {buyer.key.npub[:16]}  {BUYER_MSATS:,} msats of play money\n")
        code = await compile_there(buyer, relay_url, model)
    agree = await accounts(buyer, [cheap, dear])
    if code == 0:
        finished.touch()
    return code or int(not agree)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        console.print("\nstopped. What was bought stays bought: start it again to go on.")
        sys.exit(130)
