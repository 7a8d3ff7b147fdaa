"""The law of every job book: one writer a version, one job a payment, each job counted once, nothing forgotten."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blocks.ledger import SqlJobBook
from blocks.ledger.job_reads import EXCUSED
from swarmc.contracts.errors import LedgerError
from swarmc.contracts.job_book import JobBook, JobRecord
from tests.conformance import job_book_process as process

OWNER = process.OWNER
OTHER = "b" * 64
HASH = "c" * 64
patient = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
money = st.integers(0, 2_100_000_000_000_000_000)


@pytest.fixture
async def book(ledger_url: str) -> AsyncIterator[JobBook]:
    async with SqlJobBook.open(ledger_url) as book:
        yield book


def record(job: int = 1, version: int = 1, **changes: object) -> JobRecord:
    return process.record(job, version, "here", **changes)


async def keep(book: JobBook, *records: JobRecord) -> None:
    for one in records:
        assert await book.put(one, "{}")


async def read(book: JobBook, one: JobRecord) -> JobRecord | None:
    return await book.get(one.side, one.owner, one.job_id)


def jobs_of(records: tuple[JobRecord, ...]) -> list[int]:
    return [int(one.job_id, 16) for one in records]


async def test_a_job_is_kept_and_read(book: JobBook) -> None:
    assert await read(book, record()) is None
    assert await book.put(record(), '{"type":"drafted"}')
    assert await read(book, record()) == record()


async def test_the_next_version_takes_the_place_of_the_last(book: JobBook) -> None:
    await keep(book, record(), second := record(version=2, state="paid", msats=5, payment_hash=HASH, body='{"n":2}'))
    assert await read(book, record()) == second


async def test_a_version_that_is_there_already_is_not_kept_again(book: JobBook) -> None:
    await keep(book, record(), second := record(version=2, state="paid"))
    for stale in (record(), second, record(state="failed"), record(version=2, state="failed")):
        assert not await book.put(stale, '"stale"')
    assert await read(book, record()) == second
    assert len(await book.history("bought", OWNER, record().job_id)) == 2


async def test_a_version_that_skips_one_is_an_error(book: JobBook) -> None:
    with pytest.raises(LedgerError, match=r"has version 0 in the job book and cannot get 2: read it again"):
        await book.put(record(version=2), "{}")
    await keep(book, record())
    with pytest.raises(LedgerError, match="has version 1 in the job book and cannot get 3"):
        await book.put(record(version=3), "{}")
    assert await read(book, record()) == record()


async def test_the_two_sides_and_the_owners_of_one_job_are_apart(book: JobBook) -> None:
    mine, sold, others = record(), record(side="sold", state="received"), record(owner=OTHER, state="paying")
    await keep(book, mine, sold, others)
    assert [await read(book, one) for one in (mine, sold, others)] == [mine, sold, others]
    assert await book.unfinished("sold", OWNER) == (sold,)


@pytest.mark.attack("C8")
async def test_one_payment_is_for_one_job(book: JobBook) -> None:
    first, second = record(payment_hash=HASH), record(2, payment_hash=HASH)
    await keep(book, first)
    assert not await book.put(second, "{}")
    assert await read(book, second) is None
    await keep(book, record(2))
    assert not await book.put(record(2, 2, payment_hash=HASH), "{}")
    await keep(book, record(1, 2, payment_hash=HASH), record(2, 2, payment_hash="d" * 64))
    await keep(book, record(3, side="sold", payment_hash=HASH), record(3, owner=OTHER, payment_hash=HASH))


@pytest.mark.attack("C8")
async def test_of_jobs_put_together_with_one_payment_one_is_kept(book: JobBook) -> None:
    kept = await asyncio.gather(*(book.put(record(job, payment_hash=HASH), "{}") for job in range(20)))
    assert sum(kept) == 1
    assert len(await book.recent("bought")) == 1


async def test_versions_put_together_are_kept_in_order(book: JobBook) -> None:
    puts = [book.put(record(job, version), str(version)) for version in range(1, 6) for job in range(10)]
    assert await asyncio.gather(*puts) == [True] * 50
    for job in range(10):
        assert await read(book, record(job)) == record(job, 5)
        history = await book.history("bought", OWNER, record(job).job_id)
        assert [(moved.version, moved.what) for moved in history] == [(number, str(number)) for number in range(1, 6)]


async def test_what_happened_is_told_in_order_with_its_time(book: JobBook) -> None:
    before = time.time_ns() // 1000
    for version, what in enumerate(('{"a":1}', '"é\\u0000"', "[]"), 1):
        assert await book.put(record(version=version), what)
    moves = await book.history("bought", OWNER, record().job_id)
    assert [(moved.version, moved.what) for moved in moves] == [(1, '{"a":1}'), (2, '"é\\u0000"'), (3, "[]")]
    times = [moved.at_us for moved in moves]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time_ns() // 1000 + 3
    assert await book.history("sold", OWNER, record().job_id) == ()


async def test_the_jobs_of_a_key_come_oldest_first(book: JobBook) -> None:
    for job in (3, 1, 2):
        await keep(book, record(job, key="the same"))
    await keep(book, record(4, key="another"), record(1, 2, key="the same"), record(5, owner=OTHER, key="the same"))
    assert jobs_of(await book.of_key("bought", OWNER, "the same")) == [3, 1, 2]
    assert await book.of_key("bought", OWNER, "nothing") == ()


@pytest.mark.attack("B15")
async def test_what_is_not_final_is_unfinished_oldest_first(book: JobBook) -> None:
    for job in (3, 1, 2, 4):
        await keep(book, record(job))
    await keep(book, record(1, 2, state="answered", final=True), record(3, 2, state="paying"))
    assert jobs_of(await book.unfinished("bought", OWNER)) == [3, 2, 4]
    assert await book.unfinished("bought", OTHER) == ()


async def test_recent_jobs_are_those_that_changed_last(book: JobBook) -> None:
    for job in (1, 2, 3):
        await keep(book, record(job))
    await keep(book, record(4, owner=OTHER), record(5, side="sold"), record(1, 2))
    assert jobs_of(await book.recent("bought")) == [1, 4, 3, 2]
    assert jobs_of(await book.recent("bought", OWNER)) == [1, 3, 2]
    assert jobs_of(await book.recent("bought", OWNER, limit=1)) == [1]
    assert await book.recent("bought", limit=0) == await book.recent("bought", limit=-1) == ()


@pytest.mark.attack("C9")
async def test_totals_count_each_job_once_however_often_it_changed(book: JobBook) -> None:
    for job in range(4):
        for version in range(1, 6):
            await keep(book, record(job, version, state="paid", msats=100 + job))
    await keep(book, record(3, 6, state="failed", final=True, msats=103, refund_due=True))
    await keep(book, record(7, state="paid", msats=5, simulated=True), record(8, owner=OTHER, state="paid", msats=9))
    rows = [tuple(total.model_dump().values()) for total in await book.totals("bought", OWNER)]
    assert rows == [("failed", 1, 103, 1, 103, False), ("paid", 3, 303, 0, 0, False), ("paid", 1, 5, 0, 0, True)]
    assert sum(total.msats for total in await book.totals("bought")) == 103 + 303 + 5 + 9
    assert await book.totals("sold") == ()


@pytest.mark.attack("D8")
async def test_a_provider_stands_by_what_became_of_its_jobs(book: JobBook) -> None:
    failed = {"state": "failed", "final": True}
    await keep(book, record(1, state="answered", final=True, counterparty=OTHER))
    await keep(book, record(2, **failed, counterparty=OTHER, body='{"failure":"refused"}'))
    await keep(book, record(3, **failed, counterparty=OTHER, refund_due=True, body='{"failure":"undelivered"}'))
    await keep(book, record(4, state="paid", counterparty=OTHER), record(5, **failed, body='{"failure":"unanswered"}'))
    await keep(book, record(6, state="answered", final=True, counterparty=HASH))
    await keep(book, record(7, side="sold", state="delivered", final=True, counterparty=HASH))
    await keep(book, record(8, owner=HASH, state="answered", final=True, counterparty=HASH))
    standings = await book.standings(OWNER, now_us=0, half_life_s=60)
    assert [tuple(one.model_dump().values()) for one in standings] == [(HASH, 1, 0, 0, 1), (OTHER, 1, 2, 1, 3)]


@pytest.mark.parametrize("failure", EXCUSED)
async def test_what_was_not_the_providers_fault_counts_as_a_job_only(book: JobBook, failure: str) -> None:
    failed = {"state": "failed", "final": True, "counterparty": OTHER}
    lie = json.dumps({"failure": "refused", "reason": f'"failure":"{failure}"'}, separators=(",", ":"))
    await keep(
        book, record(1, **failed, body=f'{{"accepted_by":0,"failure":"{failure}"}}'), record(2, **failed, body=lie)
    )
    [standing] = await book.standings(OWNER, now_us=0, half_life_s=60)
    assert (standing.failed, standing.jobs) == (1, 2)


async def test_old_jobs_count_half_after_every_half_life(book: JobBook) -> None:
    await keep(book, record(1, state="answered", final=True, counterparty=OTHER))
    await keep(book, record(2, state="failed", final=True, refund_due=True, counterparty=OTHER))
    at_us = (await book.history("bought", OWNER, record(2).job_id))[0].at_us
    [standing] = await book.standings(OWNER, now_us=at_us + 120_000_000, half_life_s=60)
    assert standing.failed == standing.undelivered == 0.25
    assert standing.answered == pytest.approx(0.25, rel=0.01)
    [standing] = await book.standings(OWNER, now_us=at_us + 10**18, half_life_s=1e-9)
    assert (standing.answered, standing.failed, standing.jobs) == (0, 0, 2)


@pytest.mark.parametrize("half_life_s", [0, -1, float("nan"), float("inf")])
async def test_a_half_life_is_a_positive_number(book: JobBook, half_life_s: float) -> None:
    with pytest.raises(LedgerError, match="give a positive number"):
        await book.standings(OWNER, now_us=0, half_life_s=half_life_s)


@pytest.mark.attack("B15")
async def test_of_processes_that_race_for_a_version_exactly_one_has_it(ledger_url: str) -> None:
    racing = [process.start("race", ledger_url, name) for name in ("one", "two", "three")]
    process.go(*racing)
    won = {name: await process.said(one) for name, one in zip(("one", "two", "three"), racing, strict=True)}
    made = sorted((job, version, name) for name, places in won.items() for job, version in places)
    every = [(job, version) for job in range(process.JOBS) for version in range(1, process.VERSIONS + 1)]
    assert [(job, version) for job, version, _ in made] == every
    async with SqlJobBook.open(ledger_url) as book:
        for job in range(process.JOBS):
            history = await book.history("bought", OWNER, record(job).job_id)
            makers = [name for of, _, name in made if of == job]
            assert [json.loads(moved.what) for moved in history] == makers
            assert await read(book, record(job)) == process.record(job, process.VERSIONS, makers[-1])


@pytest.mark.attack("C8")
async def test_of_processes_that_race_with_one_payment_exactly_one_keeps_its_job(ledger_url: str) -> None:
    racing = [process.start("pay", ledger_url, name) for name in ("one", "two")]
    process.go(*racing)
    kept = [hash_number for one in racing for hash_number in await process.said(one)]
    assert sorted(kept) == list(range(process.JOBS))
    async with SqlJobBook.open(ledger_url) as book:
        assert len(await book.unfinished("bought", OWNER)) == process.JOBS


@pytest.mark.attack("B15")
async def test_a_killed_process_leaves_whole_records_and_all_it_was_told_of(ledger_url: str) -> None:
    writing = process.start("write", ledger_url, "writer")
    process.go(writing)
    await asyncio.sleep(0.4)
    writing.kill()
    output, _ = await asyncio.to_thread(writing.communicate, timeout=process.PATIENCE_S)
    whole = output[: output.rfind("\n")].splitlines()
    told = dict(sorted(map(json.loads, whole)))
    assert told
    async with SqlJobBook.open(ledger_url) as book:
        for one in await book.unfinished("bought", OWNER):
            job, version = int(one.job_id, 16), one.version
            assert version >= told.get(job, 0)
            assert one == process.record(job, version, "writer", state=f"state {version}", msats=version)
            history = await book.history("bought", OWNER, one.job_id)
            assert [(moved.version, moved.what) for moved in history] == [(n, str(n)) for n in range(1, version + 1)]
            assert await book.put(process.record(job, version + 1, "next"), "{}")


async def test_a_connection_that_was_cut_is_made_again(postgres_schema_url: str) -> None:
    async with SqlJobBook.open(postgres_schema_url) as book:
        await keep(book, record())
        engine = sqlalchemy.create_engine(postgres_schema_url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as admin:
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'swarmc%'"
            admin.execute(sqlalchemy.text(cut))
        await keep(book, record(version=2))


async def test_a_text_that_cannot_be_stored_spares_its_neighbours(book: JobBook) -> None:
    bodies = ["\ud800" if job == 7 else "{}" for job in range(20)]
    puts = [book.put(record(job, body=body), "{}") for job, body in enumerate(bodies)]
    answers = await asyncio.gather(*puts, return_exceptions=True)
    assert [job for job, answer in enumerate(answers) if answer is not True] == [7]
    assert isinstance(answers[7], LedgerError)
    assert jobs_of(await book.unfinished("bought", OWNER)) == [job for job in range(20) if job != 7]


async def test_a_damaged_row_says_so(ledger_url: str) -> None:
    async with SqlJobBook.open(ledger_url) as book:
        await keep(book, record())
        with sqlalchemy.create_engine(ledger_url, poolclass=sqlalchemy.NullPool).begin() as connection:
            connection.execute(sqlalchemy.text("UPDATE swarmc_jobs SET payment_hash = 'none'"))
        with pytest.raises(LedgerError, match="its row in the job book is damaged"):
            await read(book, record())


async def test_a_job_book_that_is_not_open_says_so(ledger_url: str) -> None:
    book = SqlJobBook.open(ledger_url)
    with pytest.raises(LedgerError, match="not open: enter it with `async with` first"):
        await book.put(record(), "{}")
    async with book:
        with pytest.raises(LedgerError, match="was opened before: make a new SqlJobBook"):
            await book.__aenter__()
    with pytest.raises(LedgerError, match="is closed: open it again"):
        await book.unfinished("sold", OWNER)


@patient
@given(key=texts, state=texts, body=texts, what=texts, msats=money, flags=st.tuples(*[st.booleans()] * 3))
async def test_every_record_is_read_as_it_was_put(
    book: JobBook, key: str, state: str, body: str, what: str, msats: int, flags: tuple[bool, bool, bool]
) -> None:
    marks = dict(zip(("final", "simulated", "refund_due"), flags, strict=True))
    one = record(uuid.uuid4().int, key=key, state=state, body=body, msats=msats, **marks)
    assert await book.put(one, what)
    assert await read(book, one) == one
    assert [moved.what for moved in await book.history("bought", OWNER, one.job_id)] == [what]


puts = st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from([None, 0, 1, 2]), st.booleans())


@patient
@given(batches=st.lists(st.lists(puts, max_size=8), max_size=8))
async def test_any_puts_are_answered_as_by_the_model(
    book: JobBook, batches: list[list[tuple[int, int, int | None, bool]]]
) -> None:
    """The model: the newest record of each job. A batch is put together; a hash that a job got stays its own."""
    owner, kept, payers = uuid.uuid4().hex * 2, dict[int, JobRecord](), dict[int, int]()
    for batch in batches:
        wanted, expected = [], []
        for job, version, number, final in batch:
            number = next((old for old, payer in payers.items() if payer == job), number)  # never another after it
            payment_hash = None if number is None else f"{number:064x}"
            one = record(job, version, owner=owner, payment_hash=payment_hash, final=final)
            wanted.append(one)
            newest = kept[job].version if job in kept else 0
            is_next = version == newest + 1 and payers.get(-1 if number is None else number, job) == job
            expected.append(LedgerError if version > newest + 1 else is_next)
            if is_next:
                kept[job] = one
                payers |= {} if number is None else {number: job}
        answers = await asyncio.gather(*(book.put(one, "{}") for one in wanted), return_exceptions=True)
        assert [type(one) if isinstance(one, LedgerError) else one for one in answers] == expected
        found = sorted(await book.recent("bought", owner), key=lambda one: one.job_id)
        assert found == [kept[job] for job in sorted(kept)]
        assert sum(total.jobs for total in await book.totals("bought", owner)) == len(kept)
        unfinished = await book.unfinished("bought", owner)
        assert {one.job_id for one in unfinished} == {one.job_id for one in found if not one.final}
