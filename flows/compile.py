"""Compile a DSPy program: bootstrap, propose, search, validate, record, over metered models."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from blocks.identity import find_identity, signer
from blocks.ledger.find import find_ledger
from blocks.sandboxes import find_sandbox
from blocks.sinks import ArtifactSink
from blocks.sinks.event_log import EventLog, event_log_path
from blocks.sinks.find import find_sinks
from blocks.sinks.hud import HudSink
from blocks.stores import find_store
from flows.bills import terms_of
from flows.lanes import calmed_interpreter, find_venues, open_lanes
from flows.steps import Steps, open_bench, prices_of
from swarmc.compiler.commands import Remembered
from swarmc.compiler.metering import now_ms
from swarmc.compiler.planning import effective_budget
from swarmc.compiler.quoting import Quoted
from swarmc.compiler.telling import Teller
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import BudgetExhausted, SwarmcError
from swarmc.contracts.events import Emit, Note, RunOpened
from swarmc.contracts.money import BudgetPolicy
from swarmc.contracts.ports import Ledger, RunLease, Sandbox, Sink, Store, Venue
from swarmc.contracts.spec import CompileSpec
from swarmc.tracing.stream import open_stream
from tasks.load import Loaded, load
from tasks.record import Recorded
from tasks.vouch import vouch

MAX_OPENINGS = 50
FENCE_WAIT_S = 15.0

watchers: ContextVar[tuple[Sink, ...]] = ContextVar("watchers", default=())
"""Further sinks for runs of this process, e.g. the terminal's."""


def run_name() -> str:
    """What the run is called in lists: the spec's own name, and the first letters of the run's id."""
    spec = flow_run.get_parameters().get("spec", {})
    name = spec["name"] if isinstance(spec, dict) else spec.name
    return f"{name} {str(flow_run.get_id())[:8]}"


@flow(name="compile-program", flow_run_name=run_name, persist_result=True, validate_parameters=True)
async def compile_program(spec: CompileSpec, continue_run: str | None = None) -> Recorded:
    """Find the instructions and demonstrations with which a DSPy program scores best, within a budget.

    Every model call is reserved, paid and stored in the ledger before it is used, so a run that is
    killed continues where it was and pays for nothing twice. The result is a manifest with scores,
    their intervals, and the compiled program as JSON that plain DSPy loads. It is promoted under the
    spec's name when a paired test shows it better than what was.

    Args:
        spec: What to compile, on which examples, with which models, at what cost.
        continue_run: Id of an earlier run whose account and budget this run goes on with. Leave it
            empty, except to continue a run that this Prefect server does not know.
    """
    return await compile_metered(spec, continue_run or str(flow_run.get_id()))


@dataclass(frozen=True)
class Given:
    """What came as objects, where a spec has names. Then the steps run as plain functions, without Prefect.

    Attributes:
        loaded: Program, metric and examples.
        venues: Open venues by lane.
        sinks: Where the run is told besides.
    """

    loaded: Loaded
    venues: Mapping[Lane, Venue] = field(default_factory=dict)
    sinks: tuple[Sink, ...] = ()


async def compile_metered(spec: CompileSpec, run_id: str, given: Given | None = None) -> Recorded:
    """One compile on the run's account: what flows do, and `flows/swarm_compiler.py` with objects."""
    budget = effective_budget(spec)
    if budget.run.max_calls == 0:
        raise BudgetExhausted(
            "the budget is 0 calls, so nothing can be tried; raise `budget.run.max_calls`", scope="run"
        )
    identity = await find_identity(spec.identity)
    sign = signer(identity.key()) if identity is not None else None  # A key that cannot be read is found now.
    log_path = event_log_path(run_id)
    async with (
        find_ledger(spec.ledger) as ledger,
        _opened(ledger, run_id, spec, budget) as lease,
        find_store(spec.store) as store,
    ):
        async with (
            find_sinks(spec.sinks, spec.privacy_mode) as sinks,
            open_stream((EventLog(log_path), *_screens(given), *sinks)) as stream,
        ):
            opened = RunOpened(
                run_id=run_id, at_ms=now_ms(), epoch=lease.epoch, recovered=lease.recovered, budget=budget
            )
            stream.emit(opened)
            for sink in sinks:
                if isinstance(sink, HudSink):
                    stream.emit(Note(run_id=run_id, at_ms=now_ms(), text=f"live at {sink.url}"))
            recorded = await _Compile(spec, ledger, lease, store, stream.emit, given).run()
        await _keep_events(store, run_id, log_path)
        if sign is not None:
            await vouch(recorded.manifest, ledger.purchases(run_id), store, sign)
        await ledger.finish_run(lease, "completed", manifest_uri=recorded.manifest_uri)
        return recorded


def _screens(given: Given | None) -> tuple[Sink, ...]:
    return (ArtifactSink(), *watchers.get()) if given is None else given.sinks


async def _keep_events(store: Store, run_id: str, path: Path) -> None:
    """Put the whole log into the store, where a bundle finds it."""
    data = await asyncio.to_thread(path.read_bytes)
    await store.label(f"runs/{run_id}/events.jsonl", await store.put(data, name="events.jsonl"))
    await asyncio.to_thread(path.unlink, missing_ok=True)


@asynccontextmanager
async def _opened(ledger: Ledger, run_id: str, spec: CompileSpec, budget: BudgetPolicy) -> AsyncIterator[RunLease]:
    """The run, taken for this process; how it ends is written down."""
    opening = ledger.open_run(run_id, spec_id=spec.spec_id, name=spec.name, budget=budget, wait_s=FENCE_WAIT_S)
    async with opening as lease:
        if lease.epoch > MAX_OPENINGS:
            raise SwarmcError(
                f"run {run_id} was opened {lease.epoch} times and never finished; something ends it each time. "
                "Read its log, then start a new run (what was paid for is reused)"
            )
        try:
            yield lease
        except SwarmcError:
            await ledger.finish_run(lease, "failed")
            raise


@dataclass
class _Compile:
    """One compile of one process: the open ports, and the order of the steps."""

    spec: CompileSpec
    ledger: Ledger
    lease: RunLease
    store: Store
    emit: Emit
    given: Given | None

    async def run(self) -> Recorded:
        with calmed_interpreter():
            # First of all: what cannot be scored must not be bought.
            async with self._sandbox() as sandbox:
                return await self._run(sandbox)

    @asynccontextmanager
    async def _sandbox(self) -> AsyncIterator[Sandbox | None]:
        """Where commands of the metric run, which remembers how they ended; nothing where there are none."""
        if not self.spec.runs_commands:
            yield None
            return
        async with (await find_sandbox(self.spec.sandbox)).open() as sandbox:
            self._note(f"commands run in {sandbox.sentence}")
            yield Remembered(sandbox, self.store, self.lease.run_id)

    async def _run(self, sandbox: Sandbox | None) -> Recorded:
        given = self.given
        found = await find_venues(self.spec.lanes, given.venues if given else None)
        sentences = {lane: venue.sentence for lane, venue in found.items()}
        self._note("; ".join(f"lane {lane}: {sentence}" for lane, sentence in sentences.items()))
        loading, objects = (load.fn, given.loaded) if given else (load, None)
        loaded = await loading(self.spec, sentences, self.lease.run_id, self.emit, objects, sandbox)
        async with open_lanes(self.spec.lanes, found, self.ledger, self.lease, self.emit) as lanes:
            quoted: dict[Lane, Quoted] = {lane: one.quoted for lane, one in lanes.items()}
            prices = prices_of(self.spec, loaded, quoted)
            terms = terms_of(self.spec, quoted, {lane: venue.block for lane, venue in found.items()})
            with open_bench(self.spec, loaded, lanes, self.emit, self.lease.run_id) as bench:
                bench.sandbox = sandbox.sentence if sandbox is not None else ""
                bench.evaluator.tell(Teller(self.emit, self.lease.run_id, self.spec.program))
                steps = Steps(bench, prices, self.ledger, self.store, plainly=given is not None)
                return await steps.keep(await steps.find(), terms)

    def _note(self, text: str) -> None:
        self.emit(Note(run_id=self.lease.run_id, at_ms=now_ms(), text=text))
