"""The bill of a run: what was paid by stage and lane, beside what the same calls cost on the reference lane alone."""

from pydantic import Field

from swarmc.contracts.canonical import PPM, Contract
from swarmc.contracts.completions import Lane, Stage


class BillLine(Contract):
    """One stage in one lane.

    Attributes:
        calls: Bought and answered.
        reused: Read, and paid by an earlier run; they are in no price here.
        lost: Bought, and never answered; `msats` counts them in full, as budgets do.
        msats: What was paid, and what may have been paid and is lost.
        simulated_msats: Of `msats`, what was paid in play money.
        premium_msats: What `calls` cost on the reference lane; its own calls at what they cost. `None`: not known.
        estimated: `premium_msats` is made of what the reference lane's own calls cost on average.
    """

    stage: Stage
    lane: Lane
    calls: int = Field(default=0, ge=0)
    reused: int = Field(default=0, ge=0)
    lost: int = Field(default=0, ge=0)
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    msats: int = Field(default=0, ge=0)
    simulated_msats: int = Field(default=0, ge=0)
    premium_msats: int | None = Field(default=None, ge=0)
    estimated: bool = False


class Bill(Contract):
    """Everything a run bought, and what it would have cost.

    Attributes:
        reference: The lane that is compared with; `None` where the run has one quality alone.
        msats_per_usd: The rate at which msats are shown as dollars.
    """

    run_id: str
    reference: Lane | None = None
    msats_per_usd: int = Field(gt=0)
    lines: tuple[BillLine, ...] = ()

    @property
    def calls(self) -> int:
        return sum(line.calls for line in self.lines)

    @property
    def reused(self) -> int:
        return sum(line.reused for line in self.lines)

    @property
    def lost(self) -> int:
        return sum(line.lost for line in self.lines)

    @property
    def msats(self) -> int:
        return sum(line.msats for line in self.lines)

    @property
    def simulated_msats(self) -> int:
        return sum(line.simulated_msats for line in self.lines)

    @property
    def premium_msats(self) -> int | None:
        """`None` as soon as one line's is not known."""
        known = [line.premium_msats for line in self.lines if line.premium_msats is not None]
        return sum(known) if self.reference is not None and len(known) == len(self.lines) else None

    @property
    def estimated(self) -> bool:
        return any(line.estimated for line in self.lines)

    @property
    def premium_simulated(self) -> bool:
        """What it would have cost holds prices of play money."""
        return any(line.simulated_msats for line in self.lines if line.lane == self.reference)

    @property
    def saving_ppm(self) -> int | None:
        """Parts per million of the reference price that were not paid; negative where more was. `None`: not known."""
        premium = self.premium_msats
        return (premium - self.msats) * PPM // premium if premium else None
