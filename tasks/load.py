"""Load what is compiled: the program, the metric, the examples, split once and for all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import dspy

from swarmc.compiler.commands import NotHere
from swarmc.compiler.composite import Composite
from swarmc.compiler.datasets import Splits, load_examples, split_examples
from swarmc.compiler.metrics import Scorer, load_metric
from swarmc.compiler.programs import Program, load_program
from swarmc.compiler.reports import load_report
from swarmc.contracts.events import Emit
from swarmc.contracts.ports import Sandbox
from swarmc.contracts.spec import CompileSpec
from tasks.stage import live, stage


@dataclass(frozen=True)
class Loaded:
    """Live objects: a program, a metric and the examples."""

    program: Program
    metric: Scorer
    splits: Splits


def read_inputs(spec: CompileSpec) -> Loaded:
    """Load everything that `spec` names and rehearse the metric; nothing is bought, and no command is run.

    Raises:
        ProgramError, DatasetError, MetricError: with what is wrong and what to do.
    """
    program = load_program(spec.program)
    metric = load_metric(spec.metric, program.outputs, NotHere())
    return gather(spec, program, load_examples(spec.dataset, program.inputs), metric)


def gather(spec: CompileSpec, program: Program, examples: Sequence[dspy.Example], metric: Scorer) -> Loaded:
    """Split the examples and rehearse the metric on one of them. Raises as `read_inputs`."""
    splits = split_examples(examples, spec.split, spec.seed)
    metric.rehearse(splits.examples[splits.ids("train")[0]])
    return Loaded(program=program, metric=metric, splits=splits)


@live("load")
async def load(
    spec: CompileSpec,
    venues: dict[str, str],
    run_id: str,
    emit: Emit,
    loaded: Loaded | None = None,
    sandbox: Sandbox | None = None,
) -> Loaded:
    """Load program, metric and examples, and show what was loaded.

    Args:
        spec: What was asked for.
        venues: By lane, the sentence that says where its calls run.
        run_id: The run.
        emit: Where to tell.
        loaded: What the spec names, where it came as objects.
        sandbox: Where commands of the metric run, if it has some.

    Raises:
        SandboxError: a command cannot be run.
    """
    async with stage("load", run_id, emit) as notes:
        loaded = loaded or read_inputs(spec)
        if sandbox is not None:
            loaded = await _with_commands(spec, loaded, sandbox)
        counts = ", ".join(f"{ref.count} {name}" for name, ref in loaded.splits.refs.items())
        notes.sentence = f"{spec.program}: {counts} examples"
        warnings = [
            f"predictor {name!r} had a language model of its own; its calls go through the swarm lane here"
            for name in loaded.program.own_models
        ]
        if sandbox is not None:
            warnings.append(f"commands of the metric run in {sandbox.sentence}")
        notes.report = load_report(spec, loaded.splits, venues, warnings)
    return loaded


async def _with_commands(spec: CompileSpec, loaded: Loaded, sandbox: Sandbox) -> Loaded:
    """The same with a metric that may run its commands, each of which was begun once."""
    metric = load_metric(spec.metric, loaded.program.outputs, sandbox)
    assert isinstance(metric, Composite)
    await metric.rehearse_commands(loaded.splits.examples[loaded.splits.ids("train")[0]])
    return replace(loaded, metric=metric)
