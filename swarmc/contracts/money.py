"""Budgets, what they were spent on, and the answers of a ledger. All money is integer msats."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import Field

from swarmc.contracts.canonical import ContentId, Contract
from swarmc.contracts.completions import Completion, Lane, Stage, Usage

RunState = Literal["running", "completed", "failed", "stopped"]


class Budget(Contract):
    """Caps on one purse. `None` means no cap. Zero calls: nothing may be bought; zero msats: nothing that costs.

    A lost call (asked, but its answer never came: a crash, a hang) counts in full against both
    caps, because it may have been billed.
    """

    max_msats: int | None = Field(default=None, ge=0, description="Most msats to spend; empty for no cap")
    max_calls: int | None = Field(default=None, ge=0, description="Most model calls to buy; empty for no cap")


class BudgetPolicy(Contract):
    """The caps of a run: as a whole, and on its stages and lanes. Every cap that applies must hold."""

    run: Budget = Field(default=Budget(), description="Cap on the whole run")
    stages: Mapping[Stage, Budget] = Field(default={}, description="Caps by stage: {'search': {'max_calls': 500}}")
    lanes: Mapping[Lane, Budget] = Field(default={}, description="Caps by lane: {'swarm': {'max_msats': 20000}}")


class Claim(Contract):
    """A wish to buy one completion.

    Attributes:
        max_msats: Upper bound of the price, which is reserved until the call is settled.
        epoch: The fence: the run's epoch when this process opened it.
    """

    run_id: str
    epoch: int
    request_id: ContentId
    stage: Stage
    lane: Lane
    max_msats: int = Field(ge=0)


class Known(Contract):
    """The completion is in the ledger: it is free."""

    completion: Completion


class Granted(Contract):
    """The price is reserved: buy it, then settle or release."""

    reservation_id: str


class Held(Contract):
    """Not now: somebody is buying this very completion, or calls in flight hold the rest of the budget. Ask again."""

    why: Literal["purchase", "budget"]


class Refused(Contract):
    """No: `scope` has `limit`, of which `used` is spent or lost for good, and this call would exceed it."""

    scope: str
    unit: Literal["calls", "msats"]
    limit: int
    used: int


ReserveAnswer = Known | Granted | Held | Refused


class Tally(Contract):
    """Sums over calls. `calls` were bought and settled; `reserved` are in flight.

    `reused` counts completions that this run read but an earlier run had paid for; `lost`, calls
    whose answer never came and which may have been billed; `failed`, calls that were refused or
    broke without cost.
    """

    calls: int = 0
    reused: int = 0
    reserved: int = 0
    lost: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    msats: int = 0
    reserved_msats: int = 0
    lost_msats: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in Tally.model_fields})


class AccountLine(Contract):
    """The tally of one stage in one lane."""

    stage: Stage
    lane: Lane
    tally: Tally


class Account(Contract):
    """Everything a run bought, by stage and lane."""

    run_id: str
    lines: tuple[AccountLine, ...] = ()

    @property
    def total(self) -> Tally:
        return sum((line.tally for line in self.lines), start=Tally())

    def by_stage(self) -> dict[Stage, Tally]:
        return self._by("stage")

    def by_lane(self) -> dict[Lane, Tally]:
        return self._by("lane")

    def _by(self, key: str) -> dict:
        sums: dict[str, Tally] = {}
        for line in self.lines:
            name = getattr(line, key)
            sums[name] = sums.get(name, Tally()) + line.tally
        return sums


class Receipt(Contract):
    """One settled call: what was asked (by hash), who answered, what it cost."""

    run_id: str
    request_id: ContentId
    completion_id: ContentId
    stage: Stage
    lane: Lane
    venue: str
    model: str
    usage: Usage
    settled_at_ms: int


class RunRecord(Contract):
    """A run as the ledger knows it. `epoch` counts how often it was opened."""

    run_id: str
    spec_id: str
    name: str
    state: RunState
    epoch: int
    created_at: datetime
    updated_at: datetime
    budget: BudgetPolicy
    manifest_uri: str | None = None
