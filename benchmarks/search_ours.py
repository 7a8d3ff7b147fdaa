"""Ours on a hidden world: bootstrap, propose and search over the same model, at a number of program runs."""

import asyncio
import time

from benchmarks.search_peers import GIVEN, TRAIN, VALIDATION, WARM_PPM, complete, examples_of
from benchmarks.worlds import Model, World, shown_by
from swarmc.compiler.datasets import split_examples
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.evaluation import Evaluator, make_adapter
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.portal import Portal
from swarmc.compiler.programs import load_program
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Pools
from swarmc.contracts.completions import Completion, CompletionRequest, Sampling
from swarmc.contracts.spec import CompileSpec

PER_TRIAL = 10
CONCURRENCY = 32


class WorldVenue:
    """A venue that answers in this process, after `latency_s`."""

    name = model = "world"

    def __init__(self, model: Model, latency_s: float) -> None:
        self._model = model
        self._latency_s = latency_s
        self._places = asyncio.Semaphore(CONCURRENCY)

    def quote(self, request: CompletionRequest) -> int:  # noqa: ARG002 - the port's
        """Free."""
        return 0

    async def complete(self, request: CompletionRequest) -> Completion:
        """As `complete`; an equal request that was answered before waits for nothing."""
        async with self._places:
            before = self._model.calls
            completion = complete(self._model, request)
            if self._latency_s and self._model.calls > before:
                await asyncio.sleep(self._latency_s)
            return completion


def run_ours(
    world: World, seed: int, runs: int, latency_s: float = 0.0, optimizer: str = "MIPROv2", **search: object
) -> dict:
    """One compile with `runs` program runs in the search; calls, kinds, wall seconds and the true score."""
    return asyncio.run(_run(world, seed, runs, latency_s, optimizer, search))


async def _run(world: World, seed: int, runs: int, latency_s: float, optimizer: str, search: dict) -> dict:
    model = Model(world, seed)
    bench = _bench(
        world, seed, WorldVenue(model, latency_s), {"trials": runs // PER_TRIAL, "minibatch": PER_TRIAL, **search}
    )
    made = OPTIMIZERS[optimizer]()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    demo_sets = await made.bootstrap(bench)
    pools = Pools(instructions=await made.propose(bench, demo_sets), demo_sets=demo_sets)
    before = model.calls
    result = await made.search(bench, pools, runs // PER_TRIAL)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    winner = result.finalists[0][0] if result.finalists else bench.own
    counted = {"calls": model.calls, "kinds": model.kinds, "tokens": model.tokens, "search_calls": model.calls - before}
    return {**counted, "wall_s": wall_s, "cpu_s": cpu_s, "true": _true(world, winner)}


def _bench(world: World, seed: int, venue: WorldVenue, search: dict) -> Bench:
    spec = CompileSpec.model_validate(
        {
            "program": "benchmarks.search_peers:TwoSteps" if world.family == "two" else "ticket -> label",
            "dataset": {"source": "x.jsonl"},
            "proposer": "lm",
            "split": {"train": TRAIN, "search": VALIDATION, "validation": 1, "test": GIVEN - TRAIN - VALIDATION - 1},
            "seed": seed,
            "search": {"sampler": "surrogate", **search},
        }
    )
    splits = split_examples(examples_of(world), spec.split, spec.seed)
    lm = lane_lm(venue, "swarm", Portal(), Sampling(temperature_ppm=0))
    warm = lane_lm(venue, "propose", Portal(), Sampling(temperature_ppm=2 * WARM_PPM))
    evaluator = Evaluator(
        load_program(spec.program),
        load_metric(spec.metric),
        splits.examples,
        {"swarm": lm, "propose": warm},
        make_adapter("chat", json_fallback=False),
        2 * CONCURRENCY,
    )
    return Bench(spec, splits, evaluator, lambda event: None, "benchmark")  # noqa: ARG005


def _true(world: World, winner: Candidate) -> float:
    found = winner.predictors if world.family == "two" else {"label": next(iter(winner.predictors.values()))}
    return world.true_score(
        [shown_by(world, s, found[s].instruction, [d.fields for d in found[s].demos]) for s in world.steps]
    )
