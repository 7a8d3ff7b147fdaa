"""Compile a DSPy program: bootstrap, propose, search, validate, record, over metered models."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import dspy
from prefect import flow
from prefect.runtime import flow_run

from blocks.ledger.find import find_ledger
from blocks.sinks import ArtifactSink
from blocks.stores import find_store
from flows.lanes import calm_interpreter, find_venues, open_lanes
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metering import now_ms
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.planning import Plan, Sizes, affordable_trials, calls_per_run, plan
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Pools, SearchResult, Validation
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import BudgetExhausted, SwarmcError
from swarmc.contracts.events import Emit, Note, RunOpened
from swarmc.contracts.ports import Ledger, RunLease, Sink, Store
from swarmc.contracts.spec import CompileSpec
from swarmc.tracing.stream import open_stream
from tasks.bootstrap import bootstrap
from tasks.load import Loaded, load
from tasks.propose import propose
from tasks.record import Recorded, record
from tasks.search import search
from tasks.validate import validate

MAX_OPENINGS = 50
FENCE_WAIT_S = 15.0
RUNS_PER_CALL_SLOT = 3

watchers: ContextVar[tuple[Sink, ...]] = ContextVar("watchers", default=())
"""Further sinks for runs of this process, e.g. the terminal's."""


def _run_name() -> str:
    """What the run is called in lists: the spec's own name, and the first letters of the run's id."""
    spec = flow_run.get_parameters().get("spec", {})
    name = spec["name"] if isinstance(spec, dict) else spec.name
    return f"{name} {str(flow_run.get_id())[:8]}"


@flow(name="compile-program", flow_run_name=_run_name, persist_result=True, validate_parameters=True)
async def compile_program(spec: CompileSpec, continue_run: str | None = None) -> Recorded:
    """Find the instructions and demonstrations with which a DSPy program scores best, within a budget.

    Every model call is reserved, paid and stored in the ledger before it is used, so a run that is
    killed continues where it was and pays for nothing twice. The result is a manifest with scores,
    their intervals, and the compiled program as JSON that plain DSPy loads.

    Args:
        spec: What to compile, on which examples, with which models, at what cost.
        continue_run: Id of an earlier run whose account and budget this run goes on with. Leave it
            empty, except to continue a run that this Prefect server does not know.
    """
    run_id = continue_run or str(flow_run.get_id())
    if spec.budget.run.max_calls == 0:
        raise BudgetExhausted(
            "the budget is 0 calls, so nothing can be tried; raise `budget.run.max_calls`", scope="run"
        )
    async with (
        find_ledger(spec.ledger) as ledger,
        _opened(ledger, run_id, spec) as lease,
        find_store(spec.store) as store,
        open_stream((ArtifactSink(), *watchers.get())) as stream,
    ):
        stream.emit(RunOpened(run_id=run_id, at_ms=now_ms(), epoch=lease.epoch, recovered=lease.recovered))
        recorded = await _Compile(spec, ledger, lease, store, stream.emit).run()
        await ledger.finish_run(lease, "completed", manifest_uri=recorded.manifest_uri)
        return recorded


@asynccontextmanager
async def _opened(ledger: Ledger, run_id: str, spec: CompileSpec) -> AsyncIterator[RunLease]:
    """The run, taken for this process; how it ends is written down."""
    opening = ledger.open_run(run_id, spec_id=spec.spec_id, name=spec.name, budget=spec.budget, wait_s=FENCE_WAIT_S)
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

    async def run(self) -> Recorded:
        calm_interpreter()
        found = await find_venues(self.spec.lanes)
        sentences = {lane: venue.sentence for lane, venue in found.items()}
        self._note("; ".join(f"lane {lane}: {sentence}" for lane, sentence in sentences.items()))
        loaded = await load(self.spec, sentences, self.lease.run_id, self.emit)
        async with (
            open_lanes(self.spec.lanes, found, self.ledger, self.lease, self.emit) as lms,
            self._bench(loaded, lms) as bench,
        ):
            return await self._steps(bench)

    @asynccontextmanager
    async def _bench(self, loaded: Loaded, lms: dict[Lane, dspy.LM]) -> AsyncIterator[Bench]:
        adapter = make_adapter(self.spec.adapter.kind, json_fallback=self.spec.adapter.json_fallback)
        # Program runs wait here rather than in the lanes: a run between two of its calls leaves its place there free.
        places = RUNS_PER_CALL_SLOT * max(lane.concurrency for lane in self.spec.lanes.values())
        evaluator = Evaluator(loaded.program, loaded.metric, loaded.splits.examples, lms, adapter, places)
        try:
            yield Bench(self.spec, loaded.splits, evaluator, self.emit, self.lease.run_id)
        finally:
            evaluator.close()

    async def _steps(self, bench: Bench) -> Recorded:
        optimizer = OPTIMIZERS[self.spec.optimizer]()
        sizes = _sizes(bench)
        planned = plan(self.spec.search, sizes, self.spec.search.trials, sizes.predictors)
        demo_sets = await bootstrap(optimizer, bench, planned.bootstrap)
        instructions = await propose(optimizer, bench, demo_sets, planned.propose)
        trials, planned = await self._replan(sizes)
        pools = Pools(instructions=instructions, demo_sets=demo_sets)
        searched = await search(optimizer, bench, pools, trials, planned.search)
        finalists = [candidate for candidate, _ in searched.finalists]
        validation = await validate(bench, finalists, planned.validate)
        return await self._record(bench, searched, validation)

    async def _replan(self, sizes: Sizes) -> tuple[int, Plan]:
        """Trials that the budget has room for, now that it is known what a program run costs."""
        account = await self.ledger.account(self.lease.run_id)
        search_spec = self.spec.search
        trials = affordable_trials(search_spec, sizes, self.spec.budget, account)
        if trials < search_spec.trials:
            self._note(f"the budget has room for {trials} of {search_spec.trials} trials, with validation set aside")
        return trials, plan(search_spec, sizes, trials, calls_per_run(search_spec, sizes, account))

    async def _record(self, bench: Bench, searched: SearchResult, validation: Validation) -> Recorded:
        account = await self.ledger.account(self.lease.run_id)
        if account.total.calls + account.total.reused == 0:
            raise BudgetExhausted("the budget did not allow a single call; raise it and run again", scope="run")
        created_at = (await self.ledger.find_run(self.lease.run_id)).created_at
        return await record(bench, searched, validation, account, self.store, created_at)

    def _note(self, text: str) -> None:
        self.emit(Note(run_id=self.lease.run_id, at_ms=now_ms(), text=text))


def _sizes(bench: Bench) -> Sizes:
    counts = {name: ref.count for name, ref in bench.splits.refs.items()}
    return Sizes(predictors=len(bench.predictors), **counts)
