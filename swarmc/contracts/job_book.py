"""How jobs on the market are kept: records, totals, standings, and the port of those who keep them."""

from typing import Literal, Protocol

from pydantic import Field

from swarmc.contracts.canonical import Contract
from swarmc.contracts.relay import Hex64
from swarmc.contracts.wallet import Msats

Side = Literal["bought", "sold"]


class JobRecord(Contract):
    """A purchase or a sale as the job book keeps it.

    Attributes:
        owner: Whose it is: the public key of our side.
        key: Of a purchase what it is bought for; of a sale the job's id.
        counterparty: The other side's public key; empty while it is open.
        version: 1 when it is new, one more with every change.
        msats: Money that moved: paid, or come in.
        payment_hash: Of its invoice. No two jobs of one owner and side have the same.
        body: The canonical JSON of the `Purchase` or `Sale`.
    """

    side: Side
    owner: Hex64
    job_id: Hex64
    key: str
    state: str
    final: bool
    version: int = Field(ge=1)
    counterparty: str = ""
    msats: Msats = 0
    simulated: bool = False
    refund_due: bool = False
    payment_hash: Hex64 | None = None
    body: str


class Moved(Contract):
    """One change of a job: what happened, as JSON, after which it had this version."""

    version: int
    at_us: int
    what: str


class JobTotal(Contract):
    """Jobs of one owner and side that are in one state."""

    state: str
    jobs: int
    msats: int
    refunds_due: int
    refunds_due_msats: int
    simulated: bool


class Standing(Contract):
    """What became of the jobs that one provider did for us, newer ones counting more.

    Attributes:
        answered: Jobs it answered, each weighing a half for every `half_life_s` since.
        failed: Jobs it refused or left, weighed so.
        undelivered: Of these the ones we had paid for, weighed so.
        jobs: How many in all, unweighed.
    """

    provider: Hex64
    answered: float
    failed: float
    undelivered: float
    jobs: int


class JobBook(Protocol):
    """Every job bought and sold, in every state it was in. Safe across processes. Raises `LedgerError`."""

    async def put(self, record: JobRecord, what: str) -> bool:
        """Keep a new job (version 1), or the next version of one, and what happened.

        Args:
            record: The job as it now is.
            what: What happened, as JSON: one line of the job's history.

        Returns:
            Whether it was kept; not when this version is there already: somebody else was quicker. Nor when
            another job of this owner and side has its payment hash.
        """
        ...

    async def get(self, side: Side, owner: str, job_id: str) -> JobRecord | None: ...

    async def of_key(self, side: Side, owner: str, key: str) -> tuple[JobRecord, ...]:
        """Jobs of one key, oldest first."""
        ...

    async def unfinished(self, side: Side, owner: str) -> tuple[JobRecord, ...]:
        """Jobs that are not final, oldest first."""
        ...

    async def recent(self, side: Side, owner: str | None = None, *, limit: int = 50) -> tuple[JobRecord, ...]:
        """The jobs that changed last, newest first; of every owner when none is named."""
        ...

    async def history(self, side: Side, owner: str, job_id: str) -> tuple[Moved, ...]: ...

    async def totals(self, side: Side, owner: str | None = None) -> tuple[JobTotal, ...]:
        """Jobs and money by state, simulated money apart. Each job counts once."""
        ...

    async def standings(self, owner: str, *, now_us: int, half_life_s: float) -> tuple[Standing, ...]:
        """How the providers did that `owner` bought from, by the jobs that are final."""
        ...
