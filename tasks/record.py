"""Record: write down the compiled program, its evidence and its manifest, and where they are."""

from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import JsonValue

from swarmc.compiler.reports import final_report, search_files
from swarmc.compiler.workbench import Bench
from swarmc.contracts.bill import Bill
from swarmc.contracts.candidates import Pools, SearchResult, Study, Validation
from swarmc.contracts.canonical import Contract, content_id
from swarmc.contracts.manifest import CompiledModuleManifest, Scorecard
from swarmc.contracts.money import Account
from swarmc.contracts.plan import Plan
from swarmc.contracts.ports import Store
from swarmc.contracts.promotion import Promotion
from swarmc.contracts.spec import CompileSpec
from swarmc.contracts.transfer import Climb, Transfer, how_ended, proxy_score
from tasks.recall import study_label
from tasks.stage import stage, step

MOST_NAMED = 20


class Recorded(Contract):
    """What a compile leaves.

    Attributes:
        manifest: Of the compiled program.
        manifest_uri: Of the manifest's bytes.
        address: Where a person opens the manifest.
        uris: By file name, of everything that was put into the store.
        promotion: What became of the winner.
        bill: What it cost, and what it would have cost.
    """

    manifest: CompiledModuleManifest
    manifest_uri: str
    address: str
    uris: dict[str, str]
    promotion: Promotion | None = None
    bill: Bill | None = None


@dataclass(frozen=True)
class Found:
    """What a compile found, and by which plan."""

    pools: Pools
    searched: SearchResult
    validation: Validation
    plan: Plan
    transfer: Transfer | None = None
    climbed: Climb | None = None

    @property
    def study(self) -> Study | None:
        """What a later search starts from: of both lanes, where the better one went on."""
        return (self.climbed.result if self.climbed else self.searched).study


@dataclass(frozen=True)
class Costs:
    """What a run bought, and its bill."""

    account: Account
    bill: Bill


@step("record")
async def record(bench: Bench, found: Found, costs: Costs, store: Store, created_at: datetime) -> Recorded:
    """Put everything into the store; the manifest last, so that a manifest never names what is missing.

    Args:
        bench: The compile's workbench.
        found: What the compile found.
        costs: What the run bought, and its bill.
        store: Where artifacts go.
        created_at: When the run began; part of the manifest, so that a resumed run writes the same.
    """
    async with stage("record", bench.run_id, bench.emit) as notes:
        searched, validation = found.searched, found.validation
        files = {**_files(bench, found, costs), **search_files(searched, found.pools)}
        manifest = _manifest(bench, found, costs).with_details(
            artifacts={name: content_id(data) for name, data in files.items()},
            created_at=int(created_at.astimezone(UTC).timestamp()),
        )
        report = final_report(bench.job.name, manifest, costs.account, costs.bill, (bench.own, validation.winner))
        files |= {"report.md": report.encode(), "manifest.json": manifest.canonical()}
        uris, address = {}, ""
        for name, data in files.items():
            uris[name] = await store.put(data, name=name)
            address = await store.label(f"runs/{bench.run_id}/{name}", uris[name])
        if found.study is not None:
            await store.label(study_label(bench.job.name), uris["study.json"])
        notes.sentence = f"manifest {address}"
        notes.report = report
    return Recorded(manifest=manifest, manifest_uri=uris["manifest.json"], address=address, uris=uris, bill=costs.bill)


def _files(bench: Bench, found: Found, costs: Costs) -> dict[str, bytes]:
    program, winner = bench.evaluator.program, found.validation.winner
    told: dict[str, Contract | None] = {
        "study.json": found.study,
        "compiled.json": program.describe().with_candidate(winner),
        "search.json": found.searched,
        "validation.json": found.validation,
        "account.json": costs.account,
        "bill.json": costs.bill,
        "plan.json": found.plan,
        "transfer.json": found.transfer,
        "climb.json": found.climbed,
    }
    files = {name: one.canonical() for name, one in told.items() if one is not None}
    return {**files, "program.json": program.saved(winner), "spec.json": _spec_bytes(bench.job)}


def _spec_bytes(spec: CompileSpec) -> bytes:
    # A database URL may hold a password; where things were kept is no part of what was asked.
    return spec.model_dump_json(indent=2, exclude={"ledger", "store", "sinks", "identity"}).encode()


def _manifest(bench: Bench, found: Found, costs: Costs) -> CompiledModuleManifest:
    program, searched, validation = bench.evaluator.program, found.searched, found.validation
    compared = validation.comparison
    total = costs.account.total
    scorecard = Scorecard(
        proxy_score=proxy_score(validation.winner, searched, found.climbed),
        truth_score=compared.winner.score if compared else None,
        baseline_score=compared.baseline.score if compared else None,
        improvement=compared.improvement if compared else None,
        optimization_cost_msats=total.msats + total.lost_msats,
        premium_cost_msats=costs.bill.premium_msats,
        iterations=len(searched.trials),
        verification=validation.verification.counts if validation.verification and compared else None,
    )
    verdict = compared.verdict if compared else "not measured: the budget ran out"
    manifest = CompiledModuleManifest.new(program.signature_name).with_optimizer(bench.job.optimizer)
    manifest = manifest.with_artifact(program.describe().with_candidate(validation.winner))
    manifest = manifest.with_trainset(bench.splits.refs["train"]).with_scorecard(scorecard)
    manifest = manifest.with_compatibility(bench.job.compatibility)
    return manifest.with_details(
        run_id=bench.run_id,
        spec_id=bench.job.spec_id,
        verdict=verdict,
        datasets=tuple(bench.splits.refs.values()),
        details={
            "metric": bench.job.metric_name,
            "seed": bench.job.seed,
            "calls": total.calls,
            "search": how_ended(searched, found.climbed),
            **_how_verified(found),
            **({"sandbox": bench.sandbox} if bench.sandbox else {}),
        },
    )


def _how_verified(found: Found) -> dict[str, JsonValue]:
    """What a person should know of how the scores came about; nothing where one run in one lane was believed."""
    said: dict[str, JsonValue] = {}
    if (known := found.validation.verification) is not None:
        said["redundancy"] = str(known.asked)
        if against := known.dissenters:
            named = [f"{one.voice} in {one.dissents} of {one.runs} runs" for one in against[:MOST_NAMED]]
            more = [f"and {len(against) - MOST_NAMED} more"] if len(against) > MOST_NAMED else []
            said["dissent"] = ", ".join([*named, *more])
    if found.transfer is not None:
        said["transfer"] = found.transfer.reason
        said["search_lane"] = found.transfer.lane
    if (climbed := found.climbed) is not None and climbed.test is not None:
        said["climb"] = climbed.test.reason
        said["search_lane"] = climbed.test.lane
    return said
