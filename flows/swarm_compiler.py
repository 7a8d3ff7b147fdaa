"""The library's door: compile a DSPy program from a script or a notebook, with no Prefect server and no flow run.

It is here and not in `swarmc/`, because it opens what the steps of a compile need (ledger, store,
venues) and calls the steps themselves, and imports go down only. Importing it starts nothing.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import dspy
import pydantic
from rich.console import Console

from blocks.ledger.find import find_ledger
from blocks.sinks import TerminalSink
from blocks.stores import find_store
from flows.compile import Given, compile_metered
from flows.present import present_result
from swarmc.compiler.commands import NotHere
from swarmc.compiler.datasets import load_examples
from swarmc.compiler.given import given_examples, given_metric, given_program, name_of
from swarmc.compiler.metrics import MetricFunction, Scorer, load_metric
from swarmc.compiler.programs import Program, load_program
from swarmc.compiler.promoting import candidate_of
from swarmc.contracts.completions import Lane
from swarmc.contracts.errors import SpecError, StoreError, boundary
from swarmc.contracts.manifest import CompiledModuleManifest, CompiledProgram, Scorecard
from swarmc.contracts.metrics import MetricSpec
from swarmc.contracts.money import Account, BudgetPolicy
from swarmc.contracts.ports import Venue
from swarmc.contracts.promotion import Promotion
from swarmc.contracts.spec import CompileSpec, DatasetSpec, LaneSpec, SearchSpec
from tasks.load import gather
from tasks.record import Recorded

Models = str | LaneSpec | Venue | tuple[Venue, LaneSpec]
"""What a lane may be: a venue's name, its configuration, an open venue, or an open venue and its limits."""

Trainset = Sequence[dspy.Example] | DatasetSpec | str


@dataclass(frozen=True)
class CompileResult:
    """What a compile found.

    Attributes:
        program: The compiled program, a copy; it asks the model that `dspy.configure` names.
        manifest: What it is and what it scored.
        account: What the run bought.
        promotion_result: What became of the winner under the compile's name.
        address: Where a person opens the manifest.
        saved: The program as the JSON that plain DSPy loads.
    """

    program: dspy.Module
    manifest: CompiledModuleManifest
    account: Account
    promotion_result: Promotion | None
    address: str
    saved: bytes = field(repr=False)

    @property
    def scorecard(self) -> Scorecard:
        """Scores before and after, with their intervals."""
        return self.manifest.scorecard

    def save(self, path: str | Path) -> None:
        """Write the program to a `.json` file that `program.load(path)` of plain DSPy reads.

        Raises:
            SpecError: the file's name does not end in `.json`, so that DSPy would not read it.
            StoreError: it cannot be written.
        """
        path = Path(path).expanduser()
        if path.suffix != ".json":
            raise SpecError(f"cannot save the program as {path}: DSPy loads it from a file whose name ends in .json")
        with boundary(StoreError, f"saving the program to {path}", OSError):
            path.write_bytes(self.saved)


@dataclass(frozen=True, kw_only=True)
class SwarmCompiler:
    """Compiles DSPy programs on metered models; the same loop as the flow `compile_program`.

    Called again with the same arguments after a kill, it continues the unfinished run and pays for
    nothing twice. A step that fails is not tried again, as a server would: call again.

    Attributes:
        lanes: Models by lane, or the one for all: see `Models`. `swarm` is needed; `validation`,
            `propose` and `teacher` default to it. Open venues are left open.
        budget: Caps in calls and msats by run, stage and lane.
        metric: A function of (example, prediction), a name as in a spec, or parts to weigh.
        search: How much to try: `light`, `medium`, `heavy`, or all of it.
        optimizer: How to search.
        seed: All randomness of the compile comes from it.
        ledger: As in a spec; empty for the one in `$SWARMC_HOME`.
        store: As in a spec; empty for the one in `$SWARMC_HOME`.
        name: What to call the compile; nothing for the program's own name. It stands for code that
            cannot be read.
        options: Further fields of a `CompileSpec`: `split`, `adapter`, `instructions`, `start` and so on.
        quiet: Show nothing on the terminal.
        fresh: Begin a new run even where an unfinished one could be continued.
    """

    lanes: Mapping[Lane, Models] | Models
    budget: BudgetPolicy | Mapping[str, object] = field(default_factory=BudgetPolicy)
    metric: MetricFunction | MetricSpec | str = "exact_match"
    search: SearchSpec | Mapping[str, object] | str = field(default_factory=SearchSpec)
    optimizer: str = "MIPROv2"
    seed: int = 0
    ledger: str | None = None
    store: str | None = None
    name: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    quiet: bool = False
    fresh: bool = False

    def compile(self, program: object, trainset: Trainset) -> CompileResult:
        """As `acompile`, where no event loop runs. Ctrl-C ends it and loses nothing."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise SpecError("an event loop is running here, as in a notebook: `await compiler.acompile(...)` instead")
        try:
            return asyncio.run(self.acompile(program, trainset))
        except KeyboardInterrupt:
            if not self.quiet:
                Console(stderr=True).print("\nstopped. What was paid for is kept; run the same again to continue.")
            raise

    async def acompile(self, program: object, trainset: Trainset) -> CompileResult:
        """Find the instructions and demonstrations with which the program scores best, within the budget.

        Args:
            program: A `dspy.Module`, its class, a function that makes one, a signature, or a reference
                as in a spec. It stays as it is.
            trainset: Examples, which are split into four parts that share none; or where they are, as in a spec.

        Raises:
            SpecError: something that was given is not what it must be.
            BudgetExhausted: the budget allows no call at all.
            SwarmcError: as of `compile_program`.
        """
        spec, given = self._asked(program, trainset)
        console = Console(quiet=self.quiet)
        sinks = () if self.quiet else (TerminalSink(console),)
        async with find_ledger(spec.ledger) as ledger:
            earlier = None if self.fresh else await ledger.unfinished_run(spec.spec_id)
            run_id = earlier.run_id if earlier else str(uuid.uuid4())
            recorded = await compile_metered(spec, run_id, replace(given, sinks=sinks))
            account = await ledger.account(run_id)
        present_result(console, recorded, account)
        return await _result(spec, _to_dress(given.loaded.program, program), recorded, account)

    def _asked(self, program: object, trainset: Trainset) -> tuple[CompileSpec, Given]:
        """The request as a spec, and the objects in it."""
        found = load_program(program) if isinstance(program, str) else given_program(program, self.name)
        metric, called = self._metric(found)
        if isinstance(trainset, str | DatasetSpec):
            dataset = DatasetSpec(source=trainset) if isinstance(trainset, str) else trainset
            examples = load_examples(dataset, found.inputs)
        else:
            dataset, examples = given_examples(trainset, found)
        lanes, venues = self._lanes()
        fields = {
            "name": self.name or name_of(found),
            "program": found.reference,
            "dataset": dataset,
            "metric": called,
            "lanes": lanes,
            "budget": self.budget,
            "search": {"auto": self.search} if isinstance(self.search, str) else self.search,
            "optimizer": self.optimizer,
            "seed": self.seed,
            "ledger": self.ledger,
            "store": self.store,
        }
        if twice := sorted(fields.keys() & self.options.keys()):
            raise SpecError(f"`options` has {', '.join(twice)}, for which the compiler has arguments of their own")
        spec = _checked({**fields, **self.options})
        return spec, Given(gather(spec, found, examples, metric), venues)

    def _metric(self, program: Program) -> tuple[Scorer, str | MetricSpec]:
        """What scores, and what a spec calls it."""
        if isinstance(self.metric, str | MetricSpec):
            return load_metric(self.metric, program.outputs, NotHere()), self.metric
        metric = given_metric(self.metric, self.name)
        return metric, metric.name

    def _lanes(self) -> tuple[dict[Lane, LaneSpec], dict[Lane, Venue]]:
        """The lanes as a spec has them, and the open venues among them."""
        named: Mapping[Lane, Models] = self.lanes if isinstance(self.lanes, Mapping) else {"swarm": self.lanes}
        specs: dict[Lane, LaneSpec] = {}
        venues: dict[Lane, Venue] = {}
        for lane, one in named.items():
            if lane not in get_args(Lane):
                raise SpecError(f"`lanes` names {lane!r}; lanes are {', '.join(get_args(Lane))}")
            match one:
                case str():
                    specs[lane] = LaneSpec(venue=one)
                case LaneSpec():
                    specs[lane] = one
                case (venue, LaneSpec() as limits):
                    venues[lane] = _port(lane, venue)
                    specs[lane] = limits.model_copy(update=_shape(venues[lane]))
                case _:
                    venues[lane] = _port(lane, one)
                    specs[lane] = LaneSpec.model_validate(_shape(venues[lane]))
        return specs, venues


def _port(lane: str, value: object) -> Venue:
    """The value, if it is an open venue."""
    asked: Any = value
    if not (callable(getattr(asked, "complete", None)) and callable(getattr(asked, "quote", None))):
        raise SpecError(
            f"the lane {lane!r} is a {type(value).__name__}; give a venue's name such as `openai/gpt-4o-mini` or "
            "`practice`, a LaneSpec, an open venue, or (open venue, LaneSpec)"
        )
    return asked


def _shape(venue: Venue) -> dict[str, str]:
    return {"venue": f"open {venue.name}", "model": venue.model}


def _checked(fields: Mapping[str, object]) -> CompileSpec:
    try:
        return CompileSpec.model_validate(fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "what was given"
        raise SpecError(f"{where}: {first['msg']} (it is {first['input']!r:.80})") from None


def _to_dress(program: Program, given: object) -> Program:
    """The program with the models that its user gave to its predictors: the compile alone must not ask them."""
    return replace(program, module=given) if isinstance(given, dspy.Module) else program


async def _result(spec: CompileSpec, program: Program, recorded: Recorded, account: Account) -> CompileResult:
    async with find_store(spec.store) as store:
        compiled = await store.get(recorded.uris["compiled.json"])
        saved = await store.get(recorded.uris["program.json"])
    winner = candidate_of(CompiledProgram.model_validate_json(compiled), program.predictors)
    assert winner is not None
    return CompileResult(
        program=program.dressed(winner),
        manifest=recorded.manifest,
        account=account,
        promotion_result=recorded.promotion,
        address=recorded.address,
        saved=saved,
    )
