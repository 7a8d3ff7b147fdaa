"""The steps of a compile in their order, each by the plan that was made from what was known before it."""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import dspy
from prefect import Task

from flows.bills import play_of
from flows.lanes import OpenLane
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.billing import Terms, bill_of
from swarmc.compiler.costs import Known, Price, Sizes, can_write
from swarmc.compiler.datasets import SplitName
from swarmc.compiler.demands import transfer_cells
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metering import now_ms
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.planning import Planned, effective_budget, sized
from swarmc.compiler.promoting import few_examples_warning
from swarmc.compiler.quoting import Quoted, quotes
from swarmc.compiler.studies import without
from swarmc.compiler.verifying import surely_affordable
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Pools, SearchResult, Validation
from swarmc.contracts.completions import Lane, Stage
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.events import Emit, Note
from swarmc.contracts.metrics import JudgePart, MetricSpec
from swarmc.contracts.ports import Ledger, Store
from swarmc.contracts.spec import CompileSpec
from swarmc.contracts.transfer import Climb, Transfer
from swarmc.contracts.verification import Redundancy
from tasks.bootstrap import bootstrap
from tasks.climb import climb
from tasks.confirm import confirm
from tasks.load import Loaded
from tasks.plan import plan
from tasks.promote import promote
from tasks.propose import propose
from tasks.recall import Recalled, recall
from tasks.record import Costs, Found, Recorded, record
from tasks.search import search
from tasks.transfer import transfer
from tasks.validate import validate
from tasks.verify import verify

RUNS_PER_CALL_SLOT = 3
QUESTIONS: tuple[SplitName, ...] = ("search", "validation", "test")

P = ParamSpec("P")
R = TypeVar("R")
Made = Pools | SearchResult | Climb | Planned | Validation
Hold = Callable[[Stage, Made], None]
"""Told of what every step made; what it raises ends the compile."""


class Steps:
    """One compile, from what was promoted before to what is promoted now.

    Args:
        bench: The workbench.
        prices: What a completion costs in each lane.
        ledger: Where the account is.
        store: Where artifacts go.
        plainly: Run the tasks as plain functions: without retries, and without a Prefect server.
        hold: Told of what every step made.
    """

    def __init__(
        self,
        bench: Bench,
        prices: Mapping[Lane, Price],
        ledger: Ledger,
        store: Store,
        *,
        plainly: bool = False,
        hold: Hold = lambda stage, made: None,  # noqa: ARG005
    ) -> None:
        self._bench = bench
        self._prices = prices
        self._ledger = ledger
        self._store = store
        self._plainly = plainly
        self._hold = hold
        self._optimizer = OPTIMIZERS[bench.job.optimizer]()
        self._recalled = Recalled()
        self._done: tuple[Stage, ...] = ()
        self._planned: Planned | None = None
        self._cells: int | None = None
        self._whole = False

    async def find(self) -> Found:
        """Bootstrap, propose, search, climb, validate, verify.

        Raises:
            SwarmcError: as the steps do. A budget that runs out is none: what was found until then is.
        """
        bench, optimizer = self._bench, self._optimizer
        await self._begin()
        planned = await self._plan()
        demo_sets = await self._do(bootstrap, optimizer, bench, planned.calls("bootstrap"))
        planned = await self._plan("bootstrap")
        instructions = await self._do(propose, optimizer, bench, demo_sets, planned.calls("propose"))
        pools = Pools(instructions=instructions, demo_sets=demo_sets)
        self._hold("propose", pools)
        planned = await self._plan("propose")
        if (moved := await self._try_transfer(pools, planned)) is not None and moved.moves:
            bench.lane = moved.lane
            planned = await self._plan()
        searched = await self._do(search, optimizer, bench, pools, planned.calls("search"))
        self._hold("search", searched)
        planned = await self._plan("search")
        if (climbed := await self._climbed(pools, searched, planned)) is not None:
            self._hold("climb", climbed)
            planned = await self._plan("climb")
        self._hold("search", planned)
        finalists = _finalists(searched, climbed)
        calls = planned.calls("validate")
        validation = await self._do(validate, bench, finalists, self._recalled.incumbent, calls)
        validation = await self._verified(validation, planned)
        self._hold("validate", validation)
        return Found(pools, searched, validation, planned.plan, moved, climbed)

    async def keep(self, found: Found, terms: Terms) -> Recorded:
        """Record what was found, and let the winner run under the compile's name if it may.

        Args:
            found: What was found.
            terms: What the bill is written by.

        Raises:
            BudgetExhausted: nothing at all could be bought.
        """
        bench = self._bench
        account = await self._ledger.account(bench.run_id)
        if account.total.calls + account.total.reused == 0:
            raise BudgetExhausted("the budget did not allow a single call; raise it and run again", scope="run")
        bill = bill_of(account, terms, await play_of(self._ledger, account))
        created_at = (await self._ledger.find_run(bench.run_id)).created_at
        recorded = await self._do(record, bench, found, Costs(account, bill), self._store, created_at)
        return await self._do(promote, bench, found.validation, self._recalled, recorded, self._store)

    async def _try_transfer(self, pools: Pools, planned: Planned) -> Transfer | None:
        """Where the search runs; nothing when there is no choice, or the search is too small to ask."""
        bench, asked = self._bench, self._bench.job.transfer_test
        self._cells = transfer_cells(bench.job, bench.splits.refs["search"].count, planned.search.runs)
        if asked is None or not self._cells:
            return None
        return await self._do(transfer, bench, pools, asked)

    async def _climbed(self, pools: Pools, searched: SearchResult, planned: Planned) -> Climb | None:
        """How the better lane went on; nothing when there is none, or the search ran in it."""
        bench = self._bench
        if bench.lane != "swarm" or not planned.search.climb:
            return None
        test = await self._do(confirm, bench, searched)
        if test is not None and test.moves:
            self._whole = True
            planned = await self._plan()
        return await self._do(climb, self._optimizer, bench, pools, (searched, test), planned.calls("climb"))

    async def _verified(self, validation: Validation, planned: Planned) -> Validation:
        """The validation, with what its runs did not agree on answered by the premium lane, if there is one."""
        bench, job, found = self._bench, self._bench.job, validation.verification
        if found is None or not found.undecided or validation.comparison is None or "premium" not in job.lanes:
            return validation
        self._done += ("validate",)
        sure = surely_affordable(job, await self._known(), effective_budget(job))
        calls = planned.calls("verify")
        return await self._do(verify, bench, validation, self._recalled.incumbent, sure, calls)

    async def _do(self, step: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
        return await (step.fn if self._plainly else step)(*args, **kwargs)

    async def _begin(self) -> None:
        """What is promoted now, what was learned before, and what a person should know at once."""
        bench, job = self._bench, self._bench.job
        warm = job.start == "warm"
        self._recalled = await self._do(recall, self._store, job.name, bench.run_id, dict(bench.predictors), warm=warm)
        refs = bench.splits.refs
        if (study := self._recalled.study) is not None:
            # What is a question now must not be a demonstration that an earlier search brings along.
            seen = [bench.splits.examples[key] for split in QUESTIONS for key in refs[split].example_ids]
            bench.earlier = without(study, seen)
        for text in (self._recalled.sentence, few_examples_warning(refs["search"].count, refs["test"].count)):
            if text:
                bench.emit(Note(run_id=bench.run_id, at_ms=now_ms(), text=text))

    async def _plan(self, *over: Stage) -> Planned:
        """The plan, now that these stages are over as well."""
        self._done += over
        planned = self._planned = await self._do(plan, self._bench, await self._known())
        return planned

    async def _known(self) -> Known:
        sizes = sizes_of(self._bench)
        return Known(
            sizes=sizes,
            demand=lambda asked: self._optimizer.demand(asked, sizes.predictors, sizes.train),
            account=await self._ledger.account(self._bench.run_id),
            quotes=self._prices,
            done=frozenset(self._done),
            before=self._planned.search if self._planned else None,
            bootstrapped=self._bench.evaluator.demonstrated,
            programs=2 + (self._recalled.incumbent is not None),
            lane=self._bench.lane,
            cells=self._cells,
            whole=self._whole,
        )


def _finalists(searched: SearchResult, climbed: Climb | None) -> list[Candidate]:
    """Who meets on the validation examples: the best of the better lane, where a budget left any."""
    best = (climbed.result.finalists if climbed else ()) or searched.finalists
    return [candidate for candidate, _ in best]


@contextmanager
def open_bench(
    spec: CompileSpec, loaded: Loaded, lanes: Mapping[Lane, OpenLane], emit: Emit, run_id: str
) -> Iterator[Bench]:
    """The workbench of a compile, over open lanes."""
    lms: dict[Lane, dspy.LM] = {lane: one.lm for lane, one in lanes.items()}
    # Program runs wait here rather than in the lanes: a run between two of its calls leaves its place there free.
    places = RUNS_PER_CALL_SLOT * max(lane.concurrency for lane in spec.lanes.values())
    adapter = adapter_of(spec)
    evaluator = Evaluator(loaded.program, loaded.metric, loaded.splits.examples, lms, adapter, places)
    search = sized(spec.search, sizes_of(loaded), writes=can_write(spec))
    try:
        yield Bench(spec, loaded.splits, evaluator, emit, run_id, search)
    finally:
        evaluator.close()


def prices_of(spec: CompileSpec, loaded: Loaded, lanes: Mapping[Lane, Quoted]) -> dict[Lane, Price]:
    """What a completion costs in each lane, asked before anything is bought."""
    train = [loaded.splits.examples[key] for key in loaded.splits.ids("train")]
    demos = spec.search.max_bootstrapped_demos + spec.search.max_labeled_demos
    judges: list[JudgePart | Redundancy] = [*spec.metric.judges] if isinstance(spec.metric, MetricSpec) else []
    if spec.redundancy is not None and spec.redundancy.by == "judge":
        judges.append(spec.redundancy)
    return quotes(loaded.program, adapter_of(spec), train, demos, lanes, judges)


def adapter_of(spec: CompileSpec) -> dspy.Adapter:
    """How prompts are written and answers read."""
    return make_adapter(spec.adapter.kind, json_fallback=spec.adapter.json_fallback)


def sizes_of(loaded: Loaded | Bench) -> Sizes:
    """Of the splits and the program."""
    program = loaded.program if isinstance(loaded, Loaded) else loaded.evaluator.program
    counts = {name: ref.count for name, ref in loaded.splits.refs.items()}
    return Sizes(predictors=len(program.predictors), most_calls=program.most_calls, **counts)
