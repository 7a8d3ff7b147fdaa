"""Ours on a hidden world: bootstrap, propose and search, in this process or over HTTP as a compile runs them.

Over HTTP every call goes the whole way: engine, memory, retries, limits, meter, a SQLite ledger on
disk, the OpenAI-compatible venue, a socket. In this process the same model answers a venue that is a
function; calls and scores are equal (`tests/test_benchmarks.py`), only time is not.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import dspy

from benchmarks.search_model import WARM, Model
from benchmarks.search_peers import TRAIN, VALIDATION, complete, examples_of
from benchmarks.search_server import Door, WorldServer
from benchmarks.worlds import GIVEN, World, shown_by
from blocks.ledger import SqlLedger
from blocks.venues.openai_compatible import OpenAIVenue
from flows.lanes import calm_interpreter, metered_lane
from flows.steps import RUNS_PER_CALL_SLOT
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.around import Around
from swarmc.compiler.costs import Known, Sizes, can_write
from swarmc.compiler.datasets import split_examples
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metering import Purse
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.planning import effective_budget, make_plan, sized
from swarmc.compiler.portal import Portal
from swarmc.compiler.programs import load_program
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Pools, Study
from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Completion, CompletionRequest, Lane, Sampling
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.money import Account, BudgetPolicy
from swarmc.contracts.ports import Optimizer
from swarmc.contracts.spec import CompileSpec, LaneSpec

CONCURRENCY = 32
MINIBATCH = 35
LEARNED_RUNS = 600
LANES: tuple[Lane, ...] = ("swarm", "propose")


@dataclass(frozen=True)
class Compile:
    """One compile of ours.

    Attributes:
        door: The world.
        runs: Program runs in the search.
        optimizer: Its registered name.
        search: Fields of the spec's search.
        warm: Start from what a compile of the world before its change learned in `LEARNED_RUNS` runs.
        cap: Most calls that the ledger lets through; 0 for no cap.
        planned: Let the plan fit the search to `cap`; otherwise `runs` are tried until the ledger refuses.
    """

    door: Door
    runs: int
    optimizer: str = "MIPROv2"
    search: Mapping[str, Any] = field(default_factory=dict)
    warm: bool = False
    cap: int = 0
    planned: bool = False

    def job(self) -> CompileSpec:
        """As a spec."""
        search = dict(self.search) | ({"calls": self.cap} if self.planned else self._trials())
        return CompileSpec.model_validate(
            {
                "program": "benchmarks.search_peers:TwoSteps" if self.door.family == "two" else "ticket -> label",
                "dataset": {"source": "x.jsonl"},
                "proposer": "lm",
                "adapter": {"json_fallback": False},
                "split": {
                    "train": TRAIN,
                    "search": VALIDATION,
                    "validation": 1,
                    "test": GIVEN - TRAIN - VALIDATION - 1,
                },
                "seed": self.door.seed,
                "search": search,
                "budget": {"run": {"max_calls": self.cap}} if self.cap and not self.planned else {},
            }
        )

    def _trials(self) -> dict[str, int]:
        return {"trials": -(-self.runs // MINIBATCH), "minibatch": MINIBATCH}


class InProcess:
    """A venue that answers at once."""

    name = model = "world"

    def __init__(self, model: Model) -> None:
        self._model = model

    def quote(self, request: CompletionRequest) -> int:  # noqa: ARG002 - the port's
        """Free."""
        return 0

    async def complete(self, request: CompletionRequest) -> Completion:
        """The world's answer."""
        return complete(self._model, request)


class Sampled(Around):
    """Sends the number of the sample as the request's seed, so that the server can tell samples apart."""

    async def complete(self, request: CompletionRequest) -> Completion:
        """As the venue inside."""
        if request.rollout_id:
            seeded = request.sampling.model_copy(update={"seed": request.rollout_id})
            request = request.model_copy(update={"sampling": seeded})
        return await self._venue.complete(request)


def run_ours(asked: Compile, server: WorldServer | None = None) -> dict:
    """Compile; the counts, wall seconds (of it all and of the search), and the true score.

    Args:
        asked: What.
        server: Where the world is served; `None` answers in this process, without latency.
    """
    earlier = learned(asked.door.family, asked.door.number, asked.door.seed) if asked.warm else None
    return asyncio.run(_run(asked, server, earlier))[0]


@lru_cache(maxsize=2)
def learned(family: str, number: int, seed: int) -> Study | None:
    """What a cold compile of a world learned."""
    return asyncio.run(_run(Compile(Door(family, number, seed), LEARNED_RUNS), None, None))[1]


async def _run(asked: Compile, server: WorldServer | None, earlier: Study | None) -> tuple[dict, Study | None]:
    model = asked.door.model()
    job = asked.job()
    lanes = _in_process(model) if server is None else _over_http(asked.door, server, effective_budget(job))

    def counts() -> dict:
        return model.counts() if server is None else server.stats(asked.door)

    async with lanes as lms:
        bench = _bench(asked, job, lms, earlier)
        row, winner, study = await _compiled(bench, OPTIMIZERS[asked.optimizer](), counts)
    return {**counts(), **row, "true": _true(asked.door.world, winner)}, study


async def _compiled(
    bench: Bench, optimizer: Optimizer, counts: Callable[[], dict]
) -> tuple[dict, Candidate, Study | None]:
    """The stages as the flow runs them; a budget that ends one of them ends the compile with the program's own text."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    row = {"search_calls": 0, "search_wall_s": 0.0, "ended": "budget"}
    winner, study = bench.own, None
    try:
        demo_sets = await optimizer.bootstrap(bench)
        pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
        before = await asyncio.to_thread(counts)
        search_s = time.perf_counter()
        result = await optimizer.search(bench, pools)
        row = {"search_wall_s": time.perf_counter() - search_s, "ended": result.ended}
        row["search_calls"] = (await asyncio.to_thread(counts))["calls"] - before["calls"]
        winner, study = result.finalists[0][0] if result.finalists else bench.own, result.study
    except BudgetExhausted:
        pass
    took = {"wall_s": time.perf_counter() - began_s, "cpu_s": time.process_time() - cpu_s}
    return {**row, **took, "runs_planned": bench.spec.runs}, winner, study


def _bench(asked: Compile, job: CompileSpec, lms: Mapping[Lane, dspy.LM], earlier: Study | None) -> Bench:
    splits = split_examples(examples_of(asked.door.world), job.split, job.seed)
    program = load_program(job.program)
    adapter = make_adapter("chat", json_fallback=False)
    slots = RUNS_PER_CALL_SLOT * CONCURRENCY
    evaluator = Evaluator(program, load_metric(job.metric), splits.examples, lms, adapter, slots)
    predictors = len(program.predictors)
    sizes = Sizes(**{name: ref.count for name, ref in splits.refs.items()}, predictors=predictors)
    if asked.planned:
        optimizer = OPTIMIZERS[asked.optimizer]()
        known = Known(sizes, lambda s: optimizer.demand(s, predictors, sizes.train), Account(run_id="benchmark"))
        spec = make_plan(job, known).search
    else:
        spec = sized(job.search, sizes, writes=can_write(job)).model_copy(update={"runs": asked.runs})
    return Bench(job, splits, evaluator, _ignore, "benchmark", spec, earlier)


@asynccontextmanager
async def _in_process(model: Model) -> AsyncIterator[dict[Lane, dspy.LM]]:
    portal = Portal()
    yield {lane: lane_lm(InProcess(model), lane, portal, _sampling(lane)) for lane in LANES}


@asynccontextmanager
async def _over_http(door: Door, server: WorldServer, budget: BudgetPolicy) -> AsyncIterator[dict[Lane, dspy.LM]]:
    """Lanes as `flows.lanes` opens them, over a ledger on disk."""
    calm_interpreter()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            SqlLedger.open(f"sqlite:///{folder}/ledger.db") as ledger,
            ledger.open_run("benchmark", spec_id="sha256:" + "0" * 64, name="benchmark", budget=budget) as lease,
            OpenAIVenue(base_url=server.base_url, model=door.name) as venue,
        ):
            portal, sampled = Portal(), Sampled(venue)
            opened = {}
            for lane in LANES:
                purse = Purse(ledger, lease.run_id, lease.epoch, lane, _ignore)
                opened[lane] = metered_lane(sampled, LaneSpec(concurrency=CONCURRENCY), purse)
            yield {lane: lane_lm(venue, lane, portal, _sampling(lane)) for lane, venue in opened.items()}
            for remembered in opened.values():
                await remembered.drain(1)


def _ignore(event: object) -> None:
    """Nobody listens."""


def _sampling(lane: Lane) -> Sampling:
    return Sampling(temperature_ppm=0 if lane == "swarm" else round(2 * WARM * PPM))


def _true(world: World, winner: Candidate) -> float:
    found = winner.predictors if world.family == "two" else {"label": next(iter(winner.predictors.values()))}
    return world.true_score(
        [shown_by(world, s, found[s].instruction, [d.fields for d in found[s].demos]) for s in world.steps]
    )
