"""Processes that keep jobs, for tests that let them race or kill them.

    python -m tests.conformance.job_book_process COMMAND URL NAME

Each says that it is ready, waits for a line, does its work, and prints one JSON line.
"""

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path

from blocks.ledger import SqlJobBook
from swarmc.contracts.job_book import JobRecord

ROOT = Path(__file__).resolve().parents[2]
OWNER = "a" * 64
JOBS = 20
VERSIONS = 6
PATIENCE_S = 60


def record(job: int, version: int, writer: str, **changes: object) -> JobRecord:
    """Version `version` of a job, whose body says who wrote it. `changes` are other fields."""
    who = {"side": "bought", "owner": OWNER, "job_id": f"{job:064x}", "key": f"key {job}"}
    body = json.dumps({"by": writer, "version": version})
    return JobRecord.model_validate(
        who | {"state": "drafted", "final": False, "version": version, "body": body} | changes
    )


def start(command: str, url: str, name: str) -> subprocess.Popen[str]:
    """A process that runs a command below once it is told; see `go`."""
    words = [sys.executable, "-m", "tests.conformance.job_book_process", command, url, name]
    return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(*started: subprocess.Popen[str]) -> None:
    """When all are ready, let all begin."""
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()


async def said(started: subprocess.Popen[str]) -> list:
    """What it printed, when it has ended."""
    output, _ = await asyncio.to_thread(started.communicate, timeout=PATIENCE_S)
    assert started.returncode == 0
    return json.loads(output)


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def race(book: SqlJobBook, name: str) -> None:
    """Try to make every version of every job; print those made here."""
    won = []

    async def push(job: int) -> None:
        for version in range(1, VERSIONS + 1):
            if await book.put(record(job, version, name), json.dumps(name)):
                won.append((job, version))

    await asyncio.gather(*(push(job) for job in range(JOBS)))
    _say(won)


async def pay(book: SqlJobBook, name: str) -> None:
    """Try to be the job that has each payment hash; print the hashes that are ours."""
    jobs = range(JOBS)
    first = {"one": 100, "two": 200}[name]
    puts = [book.put(record(first + job, 1, name, payment_hash=f"{job:064x}"), "0") for job in jobs]
    _say([job for job, is_kept in zip(jobs, await asyncio.gather(*puts), strict=True) if is_kept])


async def write(book: SqlJobBook, name: str) -> None:
    """Keep versions of many jobs until killed; print a line for each that was kept."""

    async def push(job: int) -> None:
        for version in itertools.count(1):
            await book.put(record(job, version, name, state=f"state {version}", msats=version), json.dumps(version))
            _say([job, version])

    await asyncio.gather(*(push(job) for job in range(JOBS)))


async def main(command: str, url: str, name: str) -> None:
    async with SqlJobBook.open(url) as book:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        await {"race": race, "pay": pay, "write": write}[command](book, name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
