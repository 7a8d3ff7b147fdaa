"""Replay: compile a bundle again without a model, and say where the two part, if they do."""

import tempfile
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from blocks.ledger import SqlLedger
from blocks.stores import open_store
from flows.lanes import OpenLane, metered_lane, sampling_of
from flows.steps import Made, Steps, open_bench, prices_of
from swarmc.compiler.datasets import SPLITS, SplitName, Splits
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.metering import Purse
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.planning import Planned, effective_budget
from swarmc.compiler.portal import Portal
from swarmc.compiler.programs import load_program
from swarmc.compiler.quoting import Quoted
from swarmc.compiler.scope import current_scope
from swarmc.contracts.bundle import preview
from swarmc.contracts.candidates import DatasetRef, Pools, SearchResult, Validation
from swarmc.contracts.canonical import Contract, content_id
from swarmc.contracts.completions import CompletionRequest, Lane, Stage
from swarmc.contracts.errors import BundleError, SpecError, SwarmcError
from swarmc.contracts.money import BudgetPolicy, Claim, Granted
from swarmc.contracts.plan import Plan
from swarmc.contracts.ports import Ledger, RunLease, Store
from swarmc.contracts.spec import CompileSpec
from swarmc.contracts.transfer import Climb
from swarmc.tracing.bundle import read_bundle
from swarmc.tracing.evidence import Evidence, evidence_of
from swarmc.tracing.recorded import Answers, answers_of, first_difference
from tasks.load import Loaded
from tasks.recall import Beginning
from tasks.rescore import can_run, examples_of

EARLIER = "earlier"
"""The run of the replay's ledger that owns what the bundle's run had not bought itself."""


class Parting(Contract):
    """The first place where a replay is not what was recorded.

    Attributes:
        stage: Of the compile.
        what: What is different, in words.
        request_id: The first request that nobody had asked, when that is it.
        candidate: The instruction that the request carries, as far as the pools tell.
        request: Of the request's last message, a preview.
    """

    stage: Stage
    what: str
    request_id: str | None = None
    candidate: str = ""
    request: str = ""


class Replayed(Contract):
    """What a replay came to.

    Attributes:
        run_id: The run that was replayed.
        recorded_id: Its compiled program.
        compiled_id: The replay's; nothing when it did not come so far.
        parted: Where the two part; nothing when they are the same.
        calls: Completions that were read from the bundle.
    """

    run_id: str
    recorded_id: str
    compiled_id: str | None = None
    parted: Parting | None = None
    calls: int = 0

    @property
    def is_same(self) -> bool:
        return self.parted is None and self.compiled_id == self.recorded_id


async def replay_bundle(
    path: Path, *, program: str | None = None, metric: str | None = None, as_named: bool = False
) -> Replayed:
    """Compile again with the bundle's examples and answers, in a ledger and a store that are thrown away.

    No model is asked. The program and the metric are code, which a bundle does not hold and which runs
    here; so they are taken from the bundle's names only when its user says so.

    Args:
        path: The bundle.
        program: Where the program is here; as in a spec.
        metric: Where the metric is here.
        as_named: Import what the bundle names. For bundles of people whom you would let run a command here.

    Raises:
        BundleError: the bundle does not hold, or does not tell what a replay needs.
        SpecError: program or metric cannot be loaded, or nobody said that they may be.
    """
    evidence = evidence_of(read_bundle(path))
    spec = _spec_of(evidence, program, metric, as_named=as_named)
    loaded = _loaded(evidence, spec)
    with tempfile.TemporaryDirectory(prefix="swarmc-replay-") as name:
        ledger_url = f"sqlite:///{Path(name) / 'ledger.db'}"
        async with SqlLedger.open(ledger_url) as ledger, open_store(str(Path(name) / "artifacts")) as store:
            await _remember(evidence, ledger)
            began = await _beginning(evidence, store)
            await store.label(f"runs/{evidence.bundle.header.run_id}/beginning.json", began)
            return await _Replay(evidence, spec, loaded, ledger, store).run()


@final
class _Parted(SwarmcError):
    """The replay is not what was recorded."""

    def __init__(self, stage: Stage, what: str) -> None:
        super().__init__(what)
        self.parting = Parting(stage=stage, what=what)


@dataclass
class _Replay:
    """One replay: the pieces of a compile, and what was recorded of each."""

    evidence: Evidence
    spec: CompileSpec
    loaded: Loaded
    ledger: Ledger
    store: Store
    missed: list[tuple[Stage, CompletionRequest]] = field(default_factory=list)

    async def run(self) -> Replayed:
        evidence, run_id = self.evidence, self.evidence.bundle.header.run_id
        assert evidence.manifest is not None
        recorded_id = evidence.manifest.compiled_id or ""
        budget = effective_budget(self.spec)
        opening = self.ledger.open_run(run_id, spec_id=self.spec.spec_id, name=self.spec.name, budget=budget)
        compiled_id, parted = None, None
        async with opening as lease:
            try:
                compiled_id = await self._compiled(lease)
                if compiled_id != recorded_id:
                    parted = Parting(stage="record", what=f"compiled {compiled_id} instead of {recorded_id}")
            except _Parted as error:
                parted = error.parting
            except SwarmcError as error:
                if not self.missed:
                    raise
                parted = self._missing(*self.missed[0], str(error))
        total = (await self.ledger.account(run_id)).total
        calls = total.calls + total.reused
        return Replayed(run_id=run_id, recorded_id=recorded_id, compiled_id=compiled_id, parted=parted, calls=calls)

    async def _compiled(self, lease: RunLease) -> str:
        answers = answers_of(self.evidence.bundle)
        async with AsyncExitStack() as stack:
            lanes = self._lanes(answers, lease, stack)
            loaded, held = self.loaded, _Held(self.evidence)
            prices = prices_of(self.spec, loaded, {lane: one.quoted for lane, one in lanes.items()})
            bench = stack.enter_context(open_bench(self.spec, loaded, lanes, lambda _: None, lease.run_id))
            found = await Steps(bench, prices, self.ledger, self.store, plainly=True, hold=held).find()
            return loaded.program.describe().with_candidate(found.validation.winner).content_id

    def _lanes(self, answers: Answers, lease: RunLease, stack: AsyncExitStack) -> dict[Lane, OpenLane]:
        portal, lanes = Portal(), {}
        for lane, one in self.spec.lanes.items():
            venue = answers.venue(lane, lambda request: self.missed.append((current_scope().stage, request)))
            purse = Purse(self.ledger, lease.run_id, lease.epoch, lane, lambda _: None)
            remembered = metered_lane(venue, one.model_copy(update={"rate_per_s": None}), purse)
            stack.push_async_callback(remembered.drain, 0.0)
            sampling = sampling_of(one)
            lanes[lane] = OpenLane(lane_lm(remembered, lane, portal, sampling), Quoted(venue, sampling))
        return lanes

    def _missing(self, stage: Stage, request: CompletionRequest, why: str) -> Parting:
        nearest = answers_of(self.evidence.bundle).nearest(request)
        differs = f"; the nearest that was asked differs in {first_difference(request, nearest)}" if nearest else ""
        text = " ".join(" ".join(message.content for message in request.messages).split())
        pools = self.evidence.study.pools.instructions if self.evidence.study else {}
        carried = [one for texts in pools.values() for one in texts if " ".join(one.split()) in text]
        return Parting(
            stage=stage,
            what=f"{why}{differs}",
            request_id=request.request_id,
            candidate=preview(max(carried, key=len, default="")),
            request=preview(request.messages[-1].content),
        )


@dataclass(frozen=True)
class _Held:
    """What every step made, held to what was recorded of it."""

    evidence: Evidence

    def __call__(self, stage: Stage, made: Made) -> None:
        match made:
            case Pools():
                self._hold_pools(made)
            case SearchResult():
                _hold_search("search", made, self.evidence.searched)
            case Climb():
                _hold_search("climb", made.result, self.evidence.climbed and self.evidence.climbed.result)
                _hold("climb", "what the better lane said", made, self.evidence.climbed, Climb)
            case Planned():
                used = frozenset(call.receipt.lane for call in self.evidence.bundle.calls)
                recorded = self.evidence.plan
                _hold(stage, "the plan", _of(made.plan, used), recorded and _of(recorded, used), Plan)
            case Validation():
                _hold(stage, "the choice among the finalists", made, self.evidence.validation, Validation)

    def _hold_pools(self, pools: Pools) -> None:
        """Instructions and demonstrations are those that the recorded search began with."""
        study = self.evidence.study
        if study is None:
            return
        for name, texts in pools.instructions.items():
            before = study.pools.instructions.get(name, ())[: len(texts)]
            if before != texts:
                raise _Parted("propose", f"the instructions of {name!r} are others: {_unlike(texts, before)}")
        for name, sets in pools.demo_sets.items():
            if study.pools.demo_sets.get(name, ())[: len(sets)] != sets:
                raise _Parted("bootstrap", f"the demonstrations of {name!r} are others")


def _hold_search(stage: Stage, searched: SearchResult, recorded: SearchResult | None) -> None:
    if recorded is None or searched == recorded:
        return
    for new, old in zip(searched.trials, recorded.trials, strict=False):
        if new != old:
            raise _Parted(stage, f"trial {new.number} is {_brief(new)}, and was {_brief(old)}")
    counts = f"{len(searched.trials)} trials instead of {len(recorded.trials)}"
    raise _Parted(stage, f"the trials are the same, but the {stage}'s result is not ({counts})")


def _hold(stage: Stage, name: str, new: Contract, old: Contract | None, kind: type[Contract]) -> None:
    if old is None or new == old:
        return
    fields = [field for field in kind.model_fields if getattr(new, field) != getattr(old, field)]
    first = fields[0]
    raise _Parted(
        stage,
        f"{name} differs in {', '.join(fields)}: {getattr(new, first)!s:.300} instead of {getattr(old, first)!s:.300}",
    )


def _of(plan: Plan, used: Collection[str]) -> Plan:
    """The plan without prices of lanes in which nothing was bought: what they asked for was not recorded."""
    free = {"msats_low": 0, "msats_high": 0}
    stages = tuple(line if line.lane in used else line.model_copy(update=free) for line in plan.stages)
    return plan.model_copy(update={"stages": stages})


def _brief(trial: Contract) -> str:
    return preview(trial.canonical().decode())


def _unlike(new: tuple[str, ...], old: tuple[str, ...]) -> str:
    found = next(((a, b) for a, b in zip(new, old, strict=False) if a != b), None)
    return f"{preview(found[0])!r} instead of {preview(found[1])!r}" if found else f"{len(new)} instead of {len(old)}"


def _spec_of(evidence: Evidence, program: str | None, metric: str | None, *, as_named: bool) -> CompileSpec:
    spec = evidence.spec
    if spec is None or evidence.manifest is None:
        raise BundleError("the bundle tells no spec and no manifest, so there is nothing to replay")
    splits = {ref.name for ref in evidence.manifest.datasets if ref.example_ids}
    if "swarm" not in spec.lanes or splits != set(SPLITS):
        raise BundleError("the bundle tells no swarm lane, or not all four splits, so it is of no compile")
    if evidence.bundle.header.kept != "all":
        raise BundleError(
            "the bundle tells hashes only, without questions and answers; it can be checked, not replayed"
        )
    given = {name: value for name, value in (("program", program), ("metric", metric)) if value is not None}
    reason = can_run(spec.model_copy(update={name: _safe(name) for name in given}))
    if reason and not as_named:
        raise SpecError(
            f"{reason.partition(', which')[0]}, and a replay runs it here: say where it is with --program "
            "and --metric, or --as-named to import what the bundle names"
        )
    return spec.model_copy(update=given)


def _safe(name: str) -> str:
    """A value that needs nobody's leave, in place of one that the user gave."""
    return {"program": "question -> answer", "metric": "exact_match"}[name]


def _loaded(evidence: Evidence, spec: CompileSpec) -> Loaded:
    manifest = evidence.manifest
    assert manifest is not None
    program = load_program(spec.program)
    first = next(iter(program.predictors.values()))
    examples = examples_of(evidence, spec.dataset.inputs or first.inputs)
    refs: dict[SplitName, DatasetRef] = {ref.name: ref for ref in manifest.datasets}
    absent = [key for ref in refs.values() for key in ref.example_ids if key not in examples]
    if absent:
        raise BundleError(f"{len(absent)} examples are given by their hashes alone, first {absent[0]}; ask for them")
    metric = load_metric(spec.metric, [name for info in program.predictors.values() for name in info.outputs])
    return Loaded(program=program, metric=metric, splits=Splits(examples=examples, refs=refs, duplicates=0))


async def _beginning(evidence: Evidence, store: Store) -> str:
    """Put what the run began with into the replay's store; return its URI."""
    documents = evidence.bundle.documents
    uris: dict[str, str] = {}
    for name in ("incumbent.json", "earlier.json"):
        if (document := documents.get(name)) is not None and (data := document.bytes) is not None:
            uris[name] = await store.put(data, name=name)
    before = evidence.before
    if before is not None:
        before = before.model_copy(update={"compiled_uri": uris.get("incumbent.json"), "manifest_uri": None})
    beginning = Beginning(promotion=before, study_uri=uris.get("earlier.json"))
    return await store.put(beginning.canonical(), name="beginning.json")


async def _remember(evidence: Evidence, ledger: Ledger) -> None:
    """Put what the run had found bought into the replay's ledger, so that it is found again."""
    answers = answers_of(evidence.bundle)
    spec_id = content_id(EARLIER.encode())
    async with ledger.open_run(EARLIER, spec_id=spec_id, name=EARLIER, budget=BudgetPolicy()) as lease:
        for call in evidence.bundle.calls:
            receipt = call.receipt
            if call.source != "reused" or receipt.request_id not in answers.completions:
                continue
            claim = Claim(
                run_id=lease.run_id,
                epoch=lease.epoch,
                request_id=receipt.request_id,
                stage=receipt.stage,
                lane=receipt.lane,
                max_msats=receipt.usage.cost_msats,
            )
            answer = await ledger.reserve(claim)
            if isinstance(answer, Granted):
                request, completion = answers.requests[receipt.request_id], answers.completions[receipt.request_id]
                await ledger.settle(answer.reservation_id, request, completion)
