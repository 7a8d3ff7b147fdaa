"""The ports: what a room may be given, and what it may then rely on.

Implementations live in `blocks/`; each family has one shelf of files and one conformance test. The ports
of the market stand beside what they speak of: `Relay` in `relay.py`, `Wallet` in `wallet.py`, `JobBook` in
`job_book.py`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from swarmc.contracts.bundle import Purchase
from swarmc.contracts.candidates import (
    Attempt,
    Candidate,
    Demo,
    Demonstration,
    Evaluation,
    Pools,
    PredictorInfo,
    SearchResult,
    Study,
    Trial,
)
from swarmc.contracts.canonical import ContentId
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.events import Event
from swarmc.contracts.money import Account, BudgetPolicy, Claim, Receipt, ReserveAnswer, RunRecord, RunState
from swarmc.contracts.plan import Demand
from swarmc.contracts.sandbox import CommandJob, CommandResult, Limit
from swarmc.contracts.spec import PlannedSearch


class Venue(Protocol):
    """A place where a completion runs."""

    @property
    def name(self) -> str:
        """The product, as receipts and reports show it: `llamacpp`, `litellm`."""
        ...

    @property
    def model(self) -> str:
        """The model that is asked, as the venue names it."""
        ...

    def quote(self, request: CompletionRequest) -> int:
        """Upper bound, in msats, of what `complete(request)` can cost. 0 for a free venue.

        Raises:
            VenueError: no upper bound can be given (a priced model with no `max_tokens`).
        """
        ...

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask once. No retry, no cache.

        Raises:
            VenueError: with `retryable`, `paid_unknown`, `retry_after_s` and `fault` set.
        """
        ...


@runtime_checkable
class Priced(Protocol):
    """What a venue may have besides: it says what it charges for tokens that were counted elsewhere."""

    def price_msats(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int | None:
        """The plain price, in msats, of `calls` calls with so many tokens together; 0 for a free venue.

        No upper bound: a bid or a quote is none. `None` where it is not known before a call is made.
        """
        ...


class RunLease(Protocol):
    """The right to work on one run, held until closed or until the process dies."""

    @property
    def run_id(self) -> str: ...

    @property
    def epoch(self) -> int: ...

    @property
    def recovered(self) -> int:
        """How many reservations of dead processes were found in this run and marked lost."""
        ...


class Ledger(Protocol):
    """The memory: every msat reserved and paid, every completion bought. Safe across processes."""

    def open_run(
        self, run_id: str, *, spec_id: str, name: str, budget: BudgetPolicy, wait_s: float = 0
    ) -> AbstractAsyncContextManager[RunLease]:
        """Take the run for this process; leaving the context gives it back.

        A run that exists keeps its account and takes the given budget. Reservations of earlier
        epochs belong to dead processes and are marked lost.

        Raises:
            RunFenced: another live process holds it after `wait_s` seconds.
            LedgerError: the ledger cannot be written.
        """
        ...

    async def reserve(self, claim: Claim) -> ReserveAnswer:
        """Read the completion, or set its price aside, in one step no interleaving can split.

        Raises:
            RunFenced: the claim's epoch is no longer the run's.
        """
        ...

    async def known(self, run_id: str, stage: str, lane: str, request_id: ContentId) -> Completion | None:
        """The completion, if it was ever bought; noted as `reused` when another run had bought it."""
        ...

    async def settle(self, reservation_id: str, request: CompletionRequest, completion: Completion) -> None:
        """Store the completion and turn the reservation into spend, in one transaction."""
        ...

    async def release(self, reservation_id: str, *, lost: bool) -> None:
        """Give a reservation back; `lost` keeps it against the budget, because it may have been billed."""
        ...

    async def account(self, run_id: str) -> Account:
        """What the run bought so far, by stage and lane.

        Raises:
            LedgerError: no such run.
        """
        ...

    async def finish_run(self, lease: RunLease, state: RunState, *, manifest_uri: str | None = None) -> None:
        """Write down how the run ended."""
        ...

    async def runs(self, *, limit: int = 50) -> list[RunRecord]:
        """The newest runs first."""
        ...

    async def find_run(self, run_id_prefix: str) -> RunRecord:
        """The one run whose id begins so.

        Raises:
            LedgerError: none, or several.
        """
        ...

    async def unfinished_run(self, spec_id: str) -> RunRecord | None:
        """The newest run of this spec that neither completed nor is held by a live process."""
        ...

    def purchases(self, run_id: str) -> AsyncIterator[Purchase]:
        """Every completion that the run used, bought by it or read from an earlier purchase, oldest first.

        Raises:
            LedgerError: no such run.
        """
        ...

    def receipts(self, run_id: str) -> AsyncIterator[Receipt]:
        """Every settled call of the run, oldest first."""
        ...


class Store(Protocol):
    """Where artifacts live, under the hash of their bytes."""

    async def put(self, data: bytes, *, name: str) -> str:
        """Keep `data`; return its URI. The same bytes give the same URI and are kept once.

        Args:
            data: The bytes.
            name: A file name for people, e.g. `manifest.json`. Also kept, beside the hash.

        Raises:
            StoreError: it could not be kept whole.
        """
        ...

    async def get(self, uri: str) -> bytes:
        """The bytes at a URI that `put` returned, checked against their hash.

        Raises:
            StoreError: missing, or not the bytes that were put.
        """
        ...

    async def read(self, label: str) -> bytes | None:
        """The bytes that `label` names; nothing when there is no such label.

        Raises:
            StoreError: it is there and cannot be read.
        """
        ...

    async def label(self, label: str, uri: str) -> str:
        """Let `label` (a path such as `runs/abc/manifest.json`) name `uri`'s bytes, replacing what it named.

        Returns:
            Where a person opens it: a file's path, or an `s3:` address.
        """
        ...


class Sink(Protocol):
    """Where a run is told. May be slow or broken: the stream never waits for it."""

    async def tell(self, event: Event) -> None: ...

    async def aclose(self) -> None: ...


class Sandbox(Protocol):
    """Where commands run on strangers' texts and can do no harm: no network, no files but the job's, no secrets."""

    @property
    def sentence(self) -> str:
        """What it is, and which limits hold, for people."""
        ...

    @property
    def unenforced(self) -> Sequence[Limit]:
        """The limits that this machine does not enforce."""
        ...

    async def run(self, job: CommandJob) -> Sequence[CommandResult]:
        """Run the commands one after the other, until one fails, on files that nobody else sees or keeps.

        Every process that a command began is gone when this returns, raises or is cancelled.

        Returns:
            How each command that was begun ended. One that went over a limit has failed, with 137 or the program's own.

        Raises:
            SandboxError: a command could not be begun; it says nothing of the texts.
        """
        ...


class Workbench(Protocol):
    """What an optimizer may ask of a compile. It sees texts, ids and scores; never a model, a file or a clock."""

    @property
    def spec(self) -> PlannedSearch:
        """The search as it was planned: how much to try, and how."""
        ...

    @property
    def earlier(self) -> Study | None:
        """What an earlier search of this program learned, to start from; nothing on a cold start."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed: all randomness comes from it."""
        ...

    @property
    def predictors(self) -> Mapping[str, PredictorInfo]: ...

    @property
    def own(self) -> Candidate:
        """The program's own text: the baseline."""
        ...

    def ids(self, split: str) -> Sequence[ContentId]:
        """The examples of `train` or `search`, in their order. The others are not for optimizers.

        Raises:
            KeyError: another split.
        """
        ...

    def labelled(self, example_id: ContentId) -> Mapping[str, Demo]:
        """A demonstration straight from the example's own labels, for predictors whose fields it has."""
        ...

    async def evaluate(
        self, candidate: Candidate, example_ids: Sequence[ContentId], *, rollout_id: int = 0
    ) -> Evaluation:
        """Score a candidate; another `rollout_id` is another sample.

        Raises:
            BudgetExhausted: not all of it could be bought. What was bought is kept in the ledger.
        """
        ...

    async def demonstrate(self, candidate: Candidate, example_id: ContentId, *, rollout_id: int = 0) -> Demonstration:
        """Run a candidate in the teacher's lane and keep its trace. Raises as `evaluate`."""
        ...

    async def prepare(self) -> None:
        """Do what `instructions` needs first, beside other work. Raises nothing; `instructions` then does."""
        ...

    async def instructions(self, predictor: str, demos: Sequence[Demo], *, count: int | None = None) -> Sequence[str]:
        """Hand-written instructions for a predictor and up to `count` proposed ones, distinct, without its own.

        Without a `count` as many are proposed as the search plans. Raises as `evaluate`.
        """
        ...

    async def attempt(self, candidate: Candidate, example_id: ContentId, *, rollout_id: int = 0) -> Attempt:
        """Score a candidate on one example as `evaluate` does (the same calls), and keep what was said."""
        ...

    async def write(self, prompt: str, *, rollout_id: int = 0) -> str:
        """What the `propose` lane's model answers to a plain prompt. Raises as `evaluate`."""
        ...

    def tell_trial(self, trial: Trial) -> None:
        """Say that a trial was scored."""
        ...


class Optimizer(Protocol):
    """A way to search for a better text. One file; it may be asked again and must then do the same."""

    @property
    def name(self) -> str: ...

    async def bootstrap(self, bench: Workbench) -> dict[str, tuple[tuple[Demo, ...], ...]]:
        """Demonstration sets by predictor, the program's own first."""
        ...

    async def propose(
        self, bench: Workbench, demo_sets: Mapping[str, Sequence[Sequence[Demo]]]
    ) -> dict[str, tuple[str, ...]]:
        """Instructions by predictor, the program's own first."""
        ...

    async def search(self, bench: Workbench, pools: Pools) -> SearchResult:
        """Make up to `bench.spec.runs` program runs. A budget that runs out ends it with the best so far."""
        ...

    def demand(self, spec: PlannedSearch, predictors: int, train: int) -> Demand:
        """What it asks for at most beside the search's runs.

        Args:
            spec: The search as it is planned.
            predictors: How many the program has.
            train: How many train examples there are.
        """
        ...
