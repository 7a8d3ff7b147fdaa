"""The tables of a ledger, and the version that says how to read them.

Names begin with `swarmc_`, because a PostgreSQL database may be shared with other programs. Money is
integer msats (`_msats`), times are Unix microseconds (`_us`).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from swarmc.contracts.money import Tally

VERSION = 2
"""What this code reads and writes. A ledger with a higher number was made by a newer swarmc.

2 added the jobs and their moves. A version may add tables: they are made when an older ledger is opened.
"""

METADATA = MetaData()
TALLY_COLUMNS = tuple(Tally.model_fields)


def _counts() -> list[Column]:
    return [Column(name, BigInteger, CheckConstraint(f"{name} >= 0"), nullable=False) for name in TALLY_COLUMNS]


def _claim() -> list[Column]:
    return [
        Column("run_id", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("stage", Text, nullable=False),
        Column("lane", Text, nullable=False),
        Column("max_msats", BigInteger, nullable=False),
        Column("reserved_at_us", BigInteger, nullable=False),
    ]


def _receipt() -> list[Column]:
    return [
        Column("run_id", Text, nullable=False),
        Column("stage", Text, nullable=False),
        Column("lane", Text, nullable=False),
        Column("venue", Text, nullable=False),
        Column("model", Text, nullable=False),
        Column("completion_id", Text, nullable=False),
        Column("prompt_tokens", BigInteger, nullable=False),
        Column("completion_tokens", BigInteger, nullable=False),
        Column("cost_msats", BigInteger, nullable=False),
        Column("estimated", Boolean, nullable=False),
        Column("simulated", Boolean, nullable=False),
        Column("settled_at_us", BigInteger, nullable=False),
        Column("completion", LargeBinary, nullable=False),
    ]


def _job() -> list[Column]:
    return [Column(name, Text, nullable=False) for name in ("side", "owner", "job_id")]


SCHEMA_VERSION = Table("swarmc_schema_version", METADATA, Column("version", Integer, primary_key=True))

RUNS = Table(
    "swarmc_runs",
    METADATA,
    Column("run_id", Text, primary_key=True),
    Column("spec_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("leased", Boolean, nullable=False),  # false once its owner closed it: its claims are then refused
    Column("budget", Text, nullable=False),
    Column("manifest_uri", Text),
    Column("created_at_us", BigInteger, nullable=False),
    Column("updated_at_us", BigInteger, nullable=False),
    Index("swarmc_runs_newest", "created_at_us"),
)

CELLS = Table(
    "swarmc_cells",
    METADATA,
    Column("run_id", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("lane", Text, nullable=False),
    *_counts(),
    PrimaryKeyConstraint("run_id", "stage", "lane"),
)

COMPLETIONS = Table(
    "swarmc_completions",
    METADATA,
    Column("request_id", Text, primary_key=True),  # the hash of `request`: a completion is bought once ever
    Column("reservation_id", Text, nullable=False),
    *_receipt(),
    Column("request", LargeBinary, nullable=False),
    Index("swarmc_completions_of_run", "run_id", "settled_at_us"),
)

REPEATS = Table(  # paid twice because a reservation was thought dead: the money is told, the first answer stays
    "swarmc_repeats",
    METADATA,
    Column("request_id", Text, nullable=False),
    Column("reservation_id", Text, primary_key=True),
    *_receipt(),
    Index("swarmc_repeats_of_run", "run_id", "settled_at_us"),
)

RESERVATIONS = Table(
    "swarmc_reservations",
    METADATA,
    Column("reservation_id", Text, primary_key=True),
    Column("request_id", Text, nullable=False, unique=True),  # one buyer at a time, whatever its run or process
    *_claim(),
)

LOSSES = Table(  # kept, so that an answer which comes after all turns its loss into spend
    "swarmc_losses",
    METADATA,
    Column("reservation_id", Text, primary_key=True),
    Column("request_id", Text, nullable=False),
    *_claim(),
)

USES = Table(
    "swarmc_uses",
    METADATA,
    Column("run_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    PrimaryKeyConstraint("run_id", "request_id"),
)

_PAID_FOR = text("payment_hash IS NOT NULL")
_NOT_FINAL = text("NOT final")

JOBS = Table(  # each as it now is; `body` stands last, because SQLite reads a row from its beginning
    "swarmc_jobs",
    METADATA,
    *_job(),
    Column("key", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("version", Integer, nullable=False),
    Column("counterparty", Text, nullable=False),
    Column("msats", BigInteger, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("refund_due", Boolean, nullable=False),
    Column("payment_hash", Text),
    Column("created_at_us", BigInteger, nullable=False),
    Column("changed_at_us", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("side", "owner", "job_id"),
    Index(
        *("swarmc_jobs_paid_once", "side", "owner", "payment_hash"),
        unique=True,
        sqlite_where=_PAID_FOR,
        postgresql_where=_PAID_FOR,
    ),
    Index("swarmc_jobs_of_key", "side", "owner", "key"),
    Index(
        *("swarmc_jobs_unfinished", "side", "owner", "created_at_us"),
        sqlite_where=_NOT_FINAL,
        postgresql_where=_NOT_FINAL,
    ),
    Index("swarmc_jobs_changed", "side", "changed_at_us", "owner"),
    # All that totals ask for: a sum over every job must not read every body.
    Index("swarmc_jobs_totals", "side", "owner", "state", "simulated", "refund_due", "msats"),
)

JOB_MOVES = Table(  # only ever added to; its key lets one writer make a version
    "swarmc_job_moves",
    METADATA,
    *_job(),
    Column("version", Integer, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("put_id", Text, nullable=False),  # tells a put whose commit was not heard from another's
    Column("what", Text, nullable=False),
    PrimaryKeyConstraint("side", "owner", "job_id", "version"),
)
