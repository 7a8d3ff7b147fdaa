"""What swarmc costs on top of a model: CPU per call, calls per second, a search above the physical limit.

    python benchmarks/overhead.py [--quick]

Every figure comes from the same counting server in the same run. Each client runs in a process of
its own, so that its CPU time is its own. The peer is DSPy's native engine (`dspy.LM`, cache off).
Ours is the whole lane: engine, memory, retries, limits, meter and a SQLite ledger on disk.
"""

import argparse
import asyncio
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

CONCURRENCY = 32
DEMOS = 4
CLIENTS = ("engine", "ours", "native")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls and rounds")
    parser.add_argument("--child", choices=["ours", "engine", "native", "search", "silent"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, help=argparse.SUPPRESS)
    parser.add_argument("--latency-ms", type=float, default=50, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(asyncio.run(_child(arguments))))
        return
    for line in _table(quick=arguments.quick):
        print(line, flush=True)


def _table(*, quick: bool) -> Iterator[str]:
    calls, rounds = (1_000, 2) if quick else (4_000, 5)
    yield "| measure | measured | demanded |"
    yield "|---|---|---|"
    with counting_server(latency_ms=50) as port:
        found = [{child: _run(child, port, calls)["cpu_ms"] for child in CLIENTS} for _ in range(rounds)]
        yield _cpu_row("our engine with DSPy's adapter", "engine", found)
        yield _cpu_row("our engine with our adapter, as a compile runs it", "ours", found)
        fast = [_run("ours", port, calls, concurrency=64)["per_s"] for _ in range(rounds)]
        yield f"| calls per second of one process, 50 ms, 64 in flight | {statistics.median(fast):.0f} | at least 500 |"
        told = [_run("search", port, 0, latency_ms=50) for _ in range(rounds)]
        silent = [_run("silent", port, 0, latency_ms=50) for _ in range(rounds)]
        yield _search_row(told[0], "50 ms", "25 %")
        yield _told_row(told, silent)
    with counting_server(latency_ms=1_000) as port:
        yield _search_row(_run("search", port, 0, latency_ms=1_000), "1 s", "10 %")


def _cpu_row(what: str, child: str, found: list[dict[str, float]]) -> str:
    ratios = [round_[child] / round_["native"] for round_ in found]
    ours_ms, native_ms = (statistics.median(round_[name] for round_ in found) for name in (child, "native"))
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| client CPU per call, {what}: {ours_ms:.2f} ms, native {native_ms:.2f} ms | {ratio} | at most 0.50 |"


def _search_row(found: dict, latency: str, demanded: str) -> str:
    what = f"search above latency x calls / concurrency, {latency} ({found['calls']} calls)"
    return f"| {what} | {found['above']:.0%} | at most {demanded} |"


def _told_row(told: list[dict], silent: list[dict]) -> str:
    """What it costs to tell of everything: each search's best of the rounds, as other work only adds."""
    wall, cpu = (min(one[key] for one in told) / min(one[key] for one in silent) - 1 for key in ("wall_s", "cpu_ms"))
    what = "a search told of to terminal, page and event log, against one that nobody hears of, 50 ms"
    return f"| {what}: wall clock ({cpu:+.0%} CPU) | {wall:+.1%} | below +3 % |"


def _run(child: str, port: int, calls: int, *, concurrency: int = CONCURRENCY, latency_ms: float = 50) -> dict:
    command = [sys.executable, __file__, "--child", child, "--port", str(port), "--calls", str(calls)]
    command += ["--concurrency", str(concurrency), "--latency-ms", str(latency_ms)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def counting_server(latency_ms: float, *extra: str) -> Iterator[int]:
    """The server of `counting_server.py` on a free loopback port; ended by its own process id."""
    command = [sys.executable, str(ROOT / "benchmarks/counting_server.py"), "--port", "0"]
    server = subprocess.Popen([*command, "--latency-ms", str(latency_ms), *extra], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.wait(10)


async def _child(arguments: argparse.Namespace) -> dict:
    if arguments.child == "native":
        return await _calls_per_cpu(native_lm(arguments.port), arguments)
    told = arguments.child == "search"
    async with our_lane(arguments.port, arguments.concurrency, told=told) as (lm, events, emit):
        if arguments.child in ("ours", "engine"):
            return await _calls_per_cpu(lm, arguments)
        return await _search(lm, events, emit if told else None, arguments)


async def _calls_per_cpu(lm: object, arguments: argparse.Namespace) -> dict:
    """CPU milliseconds per `Predict` call and calls per second, after a warm-up."""
    import dspy

    from swarmc.compiler.adapters import make_adapter

    predict = dspy.Predict("question -> answer")
    predict.demos = [dspy.Example(question=f"what is {i}? " * 10, answer="yes") for i in range(DEMOS)]
    places = asyncio.Semaphore(arguments.concurrency)

    async def one(number: int) -> None:
        async with places:
            await predict.acall(question=f"question {number} label=red")

    kind = make_adapter if arguments.child == "ours" else _dspy_adapter
    with dspy.context(lm=lm, adapter=kind("chat", json_fallback=False), disable_history=True):
        await asyncio.gather(*(one(-i - 1) for i in range(4 * arguments.concurrency)))
        cpu_s, wall_s = _cpu_s(), time.perf_counter()
        await asyncio.gather(*(one(i) for i in range(arguments.calls)))
        cpu_s, wall_s = _cpu_s() - cpu_s, time.perf_counter() - wall_s
    return {"cpu_ms": 1_000 * cpu_s / arguments.calls, "per_s": arguments.calls / wall_s}


def _dspy_adapter(_kind: str, *, json_fallback: bool) -> object:
    import dspy

    return dspy.ChatAdapter(use_json_adapter_fallback=json_fallback)


async def _search(lm: object, events: list, emit: object, arguments: argparse.Namespace) -> dict:
    """How far a whole search stage is above the time that its calls must take."""
    import dspy

    from flows.steps import RUNS_PER_CALL_SLOT
    from swarmc.compiler.adapters import make_adapter
    from swarmc.compiler.costs import Sizes
    from swarmc.compiler.datasets import split_examples
    from swarmc.compiler.evaluation import Evaluator
    from swarmc.compiler.metrics import load_metric
    from swarmc.compiler.optimizers import OPTIMIZERS
    from swarmc.compiler.planning import sized
    from swarmc.compiler.programs import load_program
    from swarmc.compiler.telling import Teller
    from swarmc.compiler.workbench import Bench
    from swarmc.contracts.candidates import Pools
    from swarmc.contracts.spec import CompileSpec

    instructions = [f"Answer in the manner number {i}." for i in range(12)]
    spec = CompileSpec.model_validate(
        {
            "program": "question -> answer",
            "dataset": {"source": "x.jsonl"},
            "instructions": instructions,
            "proposer": "none",
            "search": {"trials": 24, "minibatch": 35, "demo_sets": 6, "halving": 4},
        }
    )
    examples = [dspy.Example(question=f"q{i} label=red", answer="red").with_inputs("question") for i in range(400)]
    splits = split_examples(examples, spec.split, 0)
    evaluator = Evaluator(
        load_program(spec.program),
        load_metric("exact_match"),
        splits.examples,
        {"swarm": lm},
        make_adapter("chat", json_fallback=False),
        RUNS_PER_CALL_SLOT * arguments.concurrency,
    )
    if emit is not None:
        evaluator.tell(Teller(emit, "run", spec.program))  # As a compile does.
    sizes = Sizes(**{name: ref.count for name, ref in splits.refs.items()}, predictors=1)
    bench = Bench(spec, splits, evaluator, emit or events.append, "run", sized(spec.search, sizes, writes=False))
    optimizer = OPTIMIZERS["MIPROv2"]()
    demo_sets = await optimizer.bootstrap(bench)
    pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
    before = _bought(events)
    cpu_s, wall_s = _cpu_s(), time.perf_counter()
    await optimizer.search(bench, pools)
    cpu_s, wall_s = _cpu_s() - cpu_s, time.perf_counter() - wall_s
    calls = _bought(events) - before
    limit_s = calls * arguments.latency_ms / 1_000 / arguments.concurrency
    cpu_ms = 1_000 * cpu_s / calls
    return {"calls": calls, "wall_s": wall_s, "cpu_ms": cpu_ms, "above": wall_s / limit_s - 1}


def _bought(events: list) -> int:
    return sum(event.kind == "call_ended" and event.source == "bought" for event in events)


def native_lm(port: int) -> object:
    """The peer: DSPy's own client, no cache, no history."""
    import dspy

    base = f"http://127.0.0.1:{port}/v1"
    return dspy.LM("openai/counting", api_base=base, api_key="none", cache=False, temperature=0, max_tokens=64)


@asynccontextmanager
async def our_lane(port: int, concurrency: int, *, told: bool) -> object:
    """Ours: the whole lane over a ledger on disk, told of to the sinks of a compile or to nobody."""
    from rich.console import Console

    from blocks.ledger import SqlLedger
    from blocks.sinks import TerminalSink
    from blocks.sinks.artifacts import ArtifactSink
    from blocks.sinks.event_log import EventLog
    from blocks.venues.openai_compatible import OpenAIVenue
    from flows.lanes import calm_interpreter, metered_lane
    from swarmc.compiler.engine import lane_lm
    from swarmc.compiler.metering import Purse
    from swarmc.compiler.portal import Portal
    from swarmc.contracts.completions import Sampling
    from swarmc.contracts.money import BudgetPolicy
    from swarmc.contracts.spec import LaneSpec
    from swarmc.tracing.stream import open_stream

    calm_interpreter()
    events = []
    with tempfile.TemporaryDirectory() as folder:
        heard = (TerminalSink(Console(file=io.StringIO())), ArtifactSink(), EventLog(Path(folder) / "events.jsonl"))
        async with (
            open_stream(heard if told else ()) as stream,
            SqlLedger.open(f"sqlite:///{folder}/ledger.db") as ledger,
            ledger.open_run("run", spec_id="sha256:" + "0" * 64, name="benchmark", budget=BudgetPolicy()) as lease,
            OpenAIVenue(base_url=f"http://127.0.0.1:{port}/v1", model="counting") as venue,
        ):

            def emit(event: object) -> None:
                events.append(event)
                stream.emit(event)

            purse = Purse(ledger, "run", lease.epoch, "swarm", emit)
            lane = metered_lane(venue, LaneSpec(concurrency=concurrency), purse)
            yield lane_lm(lane, "swarm", Portal(), Sampling(temperature_ppm=0, max_tokens=64)), events, emit


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
