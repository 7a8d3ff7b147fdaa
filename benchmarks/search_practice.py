"""A real model: ticket routing on the practice model in llama.cpp, DSPy's MIPROv2 tuned by hand against ours.

Both are given the seven instructions of `examples/ticket_routing/compile.json` (the practice model
cannot write any; DSPy's proposer gets them from a model that recites them), the same 80 train and
100 scored tickets, and the same venue. Equal requests are answered from memory and counted once.
The score is that of the winner on the example's 140 test tickets.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import dspy

from benchmarks.search_peers import quiet
from blocks.venues.llamacpp import LlamaCpp
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.around import Around
from swarmc.compiler.costs import Sizes, can_write
from swarmc.compiler.datasets import load_examples, split_examples
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.planning import sized
from swarmc.compiler.portal import Portal
from swarmc.compiler.programs import load_program, to_demo
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import Candidate, Pools, PredictorChoice
from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Completion, CompletionRequest, Sampling
from swarmc.contracts.ports import Venue
from swarmc.contracts.spec import CompileSpec

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/ticket_routing"
SPLIT = {"train": 80, "search": 100, "validation": 80, "test": 140}
SETS = {"max_bootstrapped_demos": 2, "max_labeled_demos": 8}
RUNS = (100, 200, 350)
IN_FLIGHT = 8
SAMPLING = Sampling(temperature_ppm=0, max_tokens=48)


class Counted(Around):
    """Answers equal requests from memory, and counts the others."""

    def __init__(self, venue: Venue) -> None:
        super().__init__(venue)
        self.calls = 0
        self._asked: dict[str, asyncio.Task[Completion]] = {}

    async def complete(self, request: CompletionRequest) -> Completion:
        """As the venue inside."""
        key = request.request_id
        if key not in self._asked:
            self.calls += 1
            self._asked[key] = asyncio.ensure_future(self._venue.complete(request))
        return await asyncio.shield(self._asked[key])

    def forget(self) -> None:
        """Begin anew."""
        self.calls = 0
        self._asked.clear()


class Reciting:
    """A DSPy engine that proposes given instructions, one after another, whatever it is asked."""

    def __init__(self, instructions: Sequence[str]) -> None:
        self._next = itertools.cycle(instructions)

    def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        asked = "".join(part.text for part in request.messages[-1].parts if isinstance(part, dspy.lm15.TextPart))
        text = next(self._next) if "proposed_instruction" in asked else "Tickets go to teams."
        name = "proposed_instruction" if "proposed_instruction" in asked else _wanted(asked)
        part = dspy.lm15.TextPart(f"[[ ## {name} ## ]]\n{text}\n\n[[ ## completed ## ]]")
        message = dspy.lm15.Message("assistant", (part,))
        usage = dspy.lm15.Usage(input_tokens=0, output_tokens=0)
        return dspy.lm15.Response(id=None, model="reciting", message=message, finish_reason="stop", usage=usage)


def _wanted(asked: str) -> str:
    """The first field that an answer must have."""
    return asked.rpartition("starting with the field `[[ ## ")[2].partition(" ## ]]")[0] or "summary"


def practice_rows(sizes: Sequence[int] = RUNS) -> list[dict]:
    """Rows of `who`, `calls`, `score` and `wall_s`: DSPy's, then ours by its program runs."""
    return asyncio.run(_rows(sizes))


async def _rows(sizes: Sequence[int]) -> list[dict]:
    async with LlamaCpp().open() as venue:
        practice = Practice(venue)
        found = [await practice.row("MIPROv2 tuned by hand", practice.theirs)]
        ours = [await practice.row(f"ours, {runs} runs", partial(practice.ours, runs)) for runs in sizes]
    return [*found, *ours]


class Practice:
    """The example on one open venue.

    Args:
        venue: Where its calls run.
    """

    def __init__(self, venue: Venue) -> None:
        asked = json.loads((EXAMPLE / "compile.json").read_text())
        kept = {key: asked[key] for key in ("program", "metric", "dataset", "adapter", "instructions", "proposer")}
        self._job = CompileSpec.model_validate({**kept, "split": SPLIT, "search": {**SETS, "trials": 3}})
        self._metric = load_metric(self._job.metric)
        self._program = load_program(self._job.program)
        examples = load_examples(self._job.dataset, self._job.dataset.inputs)
        self._splits = split_examples(examples, self._job.split, self._job.seed)
        self._venue = Counted(venue)
        self._lm = lane_lm(self._venue, "swarm", Portal(), SAMPLING)
        self._evaluator = Evaluator(
            self._program,
            self._metric,
            self._splits.examples,
            {"swarm": self._lm},
            make_adapter("chat", json_fallback=False),
            IN_FLIGHT,
        )

    async def row(self, who: str, compiled: Callable[[], Awaitable[Candidate]]) -> dict:
        """Compile, with nothing remembered, and score the winner on the test tickets."""
        self._venue.forget()
        began_s = time.perf_counter()
        winner = await compiled()
        calls, wall_s = self._venue.calls, time.perf_counter() - began_s
        tested = await self._evaluator.evaluate(winner, self._splits.ids("test"))
        return {"who": who, "calls": calls, "score": tested.score.mean, "wall_s": wall_s}

    async def ours(self, runs: int) -> Candidate:
        """The winner of our MIPROv2."""
        sizes = Sizes(**{name: ref.count for name, ref in self._splits.refs.items()}, predictors=1)
        asked = self._job.search.model_copy(update={"trials": -(-runs // self._job.search.minibatch)})
        spec = sized(asked, sizes, writes=can_write(self._job)).model_copy(update={"runs": runs})
        bench = Bench(self._job, self._splits, self._evaluator, lambda event: None, "practice", spec)  # noqa: ARG005
        optimizer = OPTIMIZERS["MIPROv2"]()
        demo_sets = await optimizer.bootstrap(bench)
        pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
        return (await optimizer.search(bench, pools)).finalists[0][0]

    async def theirs(self) -> Candidate:
        """The winner of DSPy's, in a thread whose calls come back to this loop."""
        compiled = await asyncio.to_thread(self._compile_theirs)
        return Candidate(
            predictors={
                name: PredictorChoice(
                    instruction=predictor.signature.instructions,
                    demos=tuple(to_demo(dict(demo)) for demo in predictor.demos),
                )
                for name, predictor in compiled.named_predictors()
            }
        )

    def _right(self, example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float:  # noqa: ARG002
        return self._metric.score_ppm(example, prediction) / PPM

    def _compile_theirs(self) -> dspy.Module:
        data = {name: [self._splits.examples[key] for key in self._splits.ids(name)] for name in ("train", "search")}
        instructions = self._job.instructions["*"]
        reciting = dspy.LM("reciting", engine=Reciting(instructions), cache=False)
        with dspy.context(lm=self._lm, adapter=dspy.ChatAdapter(), disable_history=True), quiet():
            mipro = dspy.MIPROv2(
                metric=self._right,
                auto=None,
                num_candidates=len(instructions) + 1,
                num_threads=IN_FLIGHT,
                seed=1,
                prompt_model=reciting,
                **SETS,
            )
            return mipro.compile(
                self._program.module.deepcopy(),
                trainset=data["train"],
                valset=data["search"],
                num_trials=18,
                minibatch_full_eval_steps=9,
            )
