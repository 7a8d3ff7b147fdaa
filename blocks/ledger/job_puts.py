"""A batch of puts in one transaction: read the jobs they touch, decide, write what changed."""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from blocks.ledger.batch import now_us
from blocks.ledger.database import Database, Row
from blocks.ledger.schema import JOB_MOVES, JOBS
from blocks.ledger.statements import select_sql
from swarmc.contracts.errors import LedgerError
from swarmc.contracts.job_book import JobRecord

Place = tuple[str, str, str]
"""Side, owner and job id."""

_HEAD = tuple(name for name in JobRecord.model_fields if name != "body")
_head = attrgetter(*_HEAD)


class Put(NamedTuple):
    """A record to keep. `put_id` is this put's alone, so that it is known again when it is sent again."""

    record: JobRecord
    what: str
    put_id: str

    @property
    def place(self) -> Place:
        return self.record.side, self.record.owner, self.record.job_id


class _Kept(NamedTuple):
    """What a put is checked against."""

    version: int
    payment_hash: str | None
    created_at_us: int


def keep(database: Database, puts: Sequence[Put]) -> list[bool | LedgerError]:
    """Answer `puts` in order and commit what they changed; see `JobBook.put`.

    Two transactions that overlap cannot both make a version, nor both take a payment hash: the keys of the
    moves and of the hashes refuse the later one, which then starts again and sees the other's.
    """
    with database.transaction():
        pages = _Pages(database, puts)
        answers = [pages.answer(put, at_us) for at_us, put in enumerate(puts, now_us())]
        # Sorted, so that two processes wait for each other in one order.
        database.replace(JOBS, [row for _, row in sorted(pages.rows.items())])
        database.insert(JOB_MOVES, pages.moves)
    return answers


class _Pages:
    """The jobs of a batch, and how it changed them."""

    def __init__(self, database: Database, puts: Sequence[Put]) -> None:
        self._database = database
        self._jobs = _jobs(database, puts)
        self._payers = _payers(database, [put for put in puts if self._is_new_hash(put)])
        self.rows: dict[Place, Row] = {}
        self.moves: list[Row] = []

    def answer(self, put: Put, at_us: int) -> bool | LedgerError:
        record, place = put.record, put.place
        kept = self._jobs.get(place) or _Kept(0, None, at_us)
        if record.version > kept.version + 1:
            return LedgerError(
                f"job {record.job_id} has version {kept.version} in the job book and cannot get {record.version}: "
                "read it again and go on from there"
            )
        if record.version <= kept.version:
            return _is_kept_already(self._database, put)
        if self._payer(put) != record.job_id:
            return False
        self._jobs[place] = _Kept(record.version, record.payment_hash, kept.created_at_us)
        self.rows[place] = (*_head(record), kept.created_at_us, at_us, record.body)
        self.moves.append((*place, record.version, at_us, put.put_id, put.what))
        return True

    def _is_new_hash(self, put: Put) -> bool:
        kept = self._jobs.get(put.place)
        return put.record.payment_hash is not None and (kept is None or kept.payment_hash != put.record.payment_hash)

    def _payer(self, put: Put) -> str:
        """The job that has the put's payment hash: from now on its own, unless another was first."""
        side, owner, job_id = put.place
        payment_hash = put.record.payment_hash
        return job_id if payment_hash is None else self._payers.setdefault((side, owner, payment_hash), job_id)


def _jobs(database: Database, puts: Sequence[Put]) -> dict[Place, _Kept]:
    rest = "WHERE side IN ? AND owner IN ? AND job_id IN ? ORDER BY side, owner, job_id" + database.dialect.row_lock
    names = ("side", "owner", "job_id", *_Kept._fields)
    lists = [sorted(values) for values in map(set, zip(*(put.place for put in puts), strict=True))]
    rows = database.rows_among(select_sql(JOBS, rest, names), *lists)
    return {(side, owner, job_id): _Kept(*kept) for side, owner, job_id, *kept in rows}


def _payers(database: Database, puts: Sequence[Put]) -> dict[Place, str]:
    """Who has the payment hashes of `puts`: job ids by side, owner and hash."""
    rest = "WHERE side IN ? AND owner IN ? AND payment_hash IN ?"
    wanted = {(*put.place[:2], put.record.payment_hash or "") for put in puts}
    lists = [sorted(values) for values in map(set, zip(*wanted, strict=True))] or [[]]
    rows = database.rows_among(select_sql(JOBS, rest, ("side", "owner", "payment_hash", "job_id")), *lists)
    return {(side, owner, payment_hash): job_id for side, owner, payment_hash, job_id in rows}


def _is_kept_already(database: Database, put: Put) -> bool:
    """Whether this very put made its version: its commit was in doubt, and it is sent again."""
    rest = "WHERE side = ? AND owner = ? AND job_id = ? AND version = ?"
    rows = database.rows(select_sql(JOB_MOVES, rest, ("put_id",)), (*put.place, put.record.version))
    return rows == [(put.put_id,)]


assert (*_HEAD, "created_at_us", "changed_at_us", "body") == tuple(JOBS.columns.keys()), "a record is a row of the jobs"
