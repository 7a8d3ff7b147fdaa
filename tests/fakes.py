"""Fakes that keep the law: a venue that answers from a function, and a workbench on it. No network, real DSPy."""

import asyncio
import re
from collections.abc import Callable, Sequence

import dspy

from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.costs import Sizes, can_write
from swarmc.compiler.datasets import split_examples
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.planning import sized
from swarmc.compiler.portal import Portal
from swarmc.compiler.programs import load_program
from swarmc.compiler.workbench import Bench
from swarmc.contracts.completions import Completion, CompletionRequest, Sampling, Usage
from swarmc.contracts.errors import SandboxError
from swarmc.contracts.sandbox import CommandJob, CommandResult, Limit, Over
from swarmc.contracts.spec import CompileSpec

Answer = Callable[[CompletionRequest], dict[str, str]]
WANTED = re.compile(r"`\[\[ ## (\w+) ## \]\]`")


class AnsweringVenue:
    """Answers in ChatAdapter form with the values a function gives; counts what it was asked."""

    name = "answering"
    model = "answering-1"

    def __init__(self, answer: Answer, *, price_msats: int = 0, latency_s: float = 0.0) -> None:
        self.asked: list[CompletionRequest] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._answer = answer
        self._price_msats = price_msats
        self._latency_s = latency_s

    def quote(self, request: CompletionRequest) -> int:
        return self._price_msats

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._latency_s)
            values = self._answer(request)
        finally:
            self.in_flight -= 1
        text = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in values.items())
        usage = Usage(prompt_tokens=10, completion_tokens=3, cost_msats=self._price_msats)
        return Completion(text=f"{text}\n\n[[ ## completed ## ]]", model=self.model, usage=usage, venue=self.name)


class PretendedSandbox:
    """Runs a handful of commands in memory, as a sandbox would; counts the jobs it was asked."""

    sentence = "pretended"
    unenforced: Sequence[Limit] = ()

    def __init__(self) -> None:
        self.asked: list[CommandJob] = []

    async def run(self, job: CommandJob) -> Sequence[CommandResult]:
        self.asked.append(job)
        files, results, left_s = dict(job.files), list[CommandResult](), float(job.timeout_s)
        for program, *words in job.commands:
            if program not in ("cat", "cp", "echo", "false", "grep", "sleep", "true"):
                raise SandboxError(f"the command {program!r} is not in the sandbox")
            over: Over | None = "time" if program == "sleep" and float(words[0]) > left_s else None
            if program == "cp":
                files[words[1]] = files[words[0]]
            known = all(word in files for word in words) if program == "cat" else True
            found = words[0] in files.get(words[1], "") if program == "grep" else known and program != "false"
            said = "".join(files.get(word, "") for word in words) if program == "cat" else " ".join(words) + "\n"
            output = said if program in ("cat", "echo") else ""
            results.append(CommandResult(exit_code=137 if over else int(not found), output=output, over=over))
            if over or not found:
                break
        return results


def wanted_fields(request: CompletionRequest) -> list[str]:
    """The output fields that the last message asks for."""
    return [name for name in WANTED.findall(request.messages[-1].content) if name != "completed"]


def make_bench(venue: AnsweringVenue, examples: list[dspy.Example], concurrency: int = 16, **job: object) -> Bench:
    """A workbench; call it inside a running loop. `job` holds fields of the spec."""
    fields = {"program": "question -> answer", "dataset": {"source": "x.jsonl"}, "proposer": "none", **job}
    spec = CompileSpec.model_validate(fields)
    splits = split_examples(examples, spec.split, spec.seed)
    lm = lane_lm(venue, "swarm", Portal(), Sampling(temperature_ppm=0))
    adapter = make_adapter("chat", json_fallback=False)
    program, metric = load_program(spec.program), load_metric(spec.metric)
    evaluator = Evaluator(program, metric, splits.examples, {"swarm": lm}, adapter, concurrency)
    sizes = Sizes(**{name: ref.count for name, ref in splits.refs.items()}, predictors=len(program.predictors))
    return Bench(spec, splits, evaluator, lambda event: None, "run", sized(spec.search, sizes, writes=can_write(spec)))
