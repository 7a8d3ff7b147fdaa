"""What a person asks a provider to do: the parameters of `serve_market` and of a `provider.json`."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from swarmc.contracts.market import PriceList
from swarmc.contracts.spec import LaneSpec
from swarmc.contracts.wallet import Msats


class _Asked(BaseModel):
    """Frozen, refuses unknown fields; fields become a form, so each says what it is for."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Limits(_Asked):
    """What strangers may ask of a provider. Beyond a limit a job is refused, or not answered at all."""

    open_per_customer: int = Field(default=64, ge=1, description="Jobs of one key that are not over")
    open: int = Field(default=1_000, ge=1, le=20_000, description="Jobs of everybody that are not over")
    unpaid: int = Field(default=500, ge=1, le=10_000, description="Quotes that wait to be paid")
    quotes_per_minute: int = Field(default=12_000, ge=1, description="Invoices made in a minute")
    refusals_per_minute: int = Field(default=600, ge=0, description="Refusals told in a minute; beyond it, silence")
    input_bytes: int = Field(default=131_072, ge=1, description="Longest input of a job, its parameters included")
    output_tokens: int = Field(default=4_096, ge=1, description="Longest answer that is sold")


class ProviderSpec(_Asked):
    """What is sold on the market, by whom, where, for how much."""

    name: str = Field(default="swarmc provider", max_length=200, description="What customers see you as")
    about: str = Field(default="", max_length=4_000, description="A sentence for customers")
    venue: LaneSpec = Field(
        default=LaneSpec(), description="Where jobs run; its `concurrency` is `capacity`, whatever it says"
    )
    models: tuple[str, ...] = Field(
        default=(),
        description="Names of the venue's model to sell it under, the first being that of jobs that name none; "
        "empty: its own name. A name of another model is refused",
    )
    default_model: str = Field(
        default="llama3.2",
        description="The model to ask of a venue that has several, such as `ollama`, where its lane names none. A "
        "venue that runs another sells that one, by its own name",
    )
    relays: tuple[str, ...] = Field(
        default=("wss://relay.damus.io", "wss://relay.nostr.band"),
        min_length=1,
        max_length=20,
        description="Relays to listen and answer on",
    )
    quorum: int = Field(default=1, ge=1, description="How many of them must take an event")
    private_relays: bool = Field(
        default=False,
        description="Answer also on relays that customers name without TLS or on a private network; for a network "
        "of your own only",
    )
    identity: str | None = Field(
        default=None, description="Who sells: a saved identity or an encrypted file; empty: the environment's"
    )
    wallet: str | None = Field(
        default=None, description="Who is paid: `ledger:NAME` (play money), or a saved wallet; empty: `ledger`"
    )
    ledger: str | None = Field(
        default=None, description="Where jobs are remembered: database URL or saved ledger; empty: the one at home"
    )
    require_payment: bool = Field(default=False, description="Ask to be paid before the work; otherwise it is free")
    min_price_msats: Msats = Field(default=1_000, description="The least that a paid job costs")
    request_msats: Msats = Field(default=0, description="What every paid job costs before its tokens")
    input_msats_per_1k_tokens: Msats = Field(default=0, description="Price of 1,000 tokens (4,000 bytes) of input")
    output_msats_per_1k_tokens: Msats = Field(default=0, description="Price of 1,000 tokens of the longest answer")
    open_jobs: bool = Field(default=True, description="Take jobs that name no provider, too")
    capacity: int = Field(default=8, ge=1, le=4_096, description="Jobs that are performed at once")
    limits: Limits = Field(default=Limits(), description="What strangers may ask")
    job_timeout_s: float = Field(default=120, gt=0, le=86_400, description="Longest time for one job, in seconds")
    invoice_expiry_s: int = Field(default=600, ge=10, le=86_400, description="How long a quote can be paid")
    health_every_s: float = Field(default=30, gt=0, description="Seconds between two reports of its health")
    grace_s: float = Field(default=30, ge=0, description="Seconds that paid jobs get to finish when it is stopped")

    @field_validator("relays")
    @classmethod
    def _once(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(url.strip().rstrip("/") for url in urls))

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.quorum > len(self.relays):
            raise ValueError(f"a quorum of {self.quorum} cannot be had of {len(self.relays)} relays")
        if any(not name.strip() or len(name) > 200 for name in self.models):
            raise ValueError("a name in `models` is empty, or longer than 200 characters")
        return self

    @property
    def prices(self) -> PriceList:
        """What a job costs; nothing at all where no payment is required."""
        if not self.require_payment:
            return PriceList()
        return PriceList(
            min_msats=self.min_price_msats,
            request_msats=self.request_msats,
            input_msats_per_1k_tokens=self.input_msats_per_1k_tokens,
            output_msats_per_1k_tokens=self.output_msats_per_1k_tokens,
        )
