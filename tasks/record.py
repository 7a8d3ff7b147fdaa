"""Record: write down the compiled program, its evidence and its manifest, and where they are."""

from datetime import UTC, datetime

from swarmc.compiler.reports import final_report
from swarmc.compiler.workbench import Bench
from swarmc.contracts.candidates import SearchResult, Validation
from swarmc.contracts.canonical import Contract, content_id
from swarmc.contracts.manifest import CompiledModuleManifest, Scorecard
from swarmc.contracts.money import Account
from swarmc.contracts.ports import Store
from swarmc.contracts.spec import CompileSpec
from tasks.stage import stage, step


class Recorded(Contract):
    """What a compile leaves: its manifest, the URI of its bytes, and the address a person opens it at."""

    manifest: CompiledModuleManifest
    manifest_uri: str
    address: str


@step("record")
async def record(
    bench: Bench, searched: SearchResult, validation: Validation, account: Account, store: Store, created_at: datetime
) -> Recorded:
    """Put everything into the store; the manifest last, so that a manifest never names what is missing.

    Args:
        bench: The compile's workbench.
        searched: The search's trials.
        validation: The winner and its comparison.
        account: What the run bought.
        store: Where artifacts go.
        created_at: When the run began; part of the manifest, so that a resumed run writes the same.
    """
    async with stage("record", bench.run_id, bench.emit) as notes:
        files = _files(bench, searched, validation, account)
        manifest = _manifest(bench, searched, validation, account).with_details(
            artifacts={name: content_id(data) for name, data in files.items()},
            created_at=int(created_at.astimezone(UTC).timestamp()),
        )
        report = final_report(bench.job.name, manifest, account, bench.own, validation.winner)
        files |= {"report.md": report.encode(), "manifest.json": manifest.canonical()}
        uri = address = ""
        for name, data in files.items():
            uri = await store.put(data, name=name)
            address = await store.label(f"runs/{bench.run_id}/{name}", uri)
        notes.sentence = f"manifest {address}"
        notes.report = report
    return Recorded(manifest=manifest, manifest_uri=uri, address=address)


def _files(bench: Bench, searched: SearchResult, validation: Validation, account: Account) -> dict[str, bytes]:
    program = bench.evaluator.program
    compiled = program.describe().with_candidate(validation.winner)
    return {
        "program.json": program.saved(validation.winner),
        "compiled.json": compiled.canonical(),
        "search.json": searched.canonical(),
        "validation.json": validation.canonical(),
        "account.json": account.canonical(),
        "spec.json": _spec_bytes(bench.job),
    }


def _spec_bytes(spec: CompileSpec) -> bytes:
    # A database URL may hold a password; where things were kept is no part of what was asked.
    return spec.model_dump_json(indent=2, exclude={"ledger", "store"}).encode()


def _manifest(bench: Bench, searched: SearchResult, validation: Validation, account: Account) -> CompiledModuleManifest:
    program = bench.evaluator.program
    compared = validation.comparison
    total = account.total
    scorecard = Scorecard(
        proxy_score=next((score for candidate, score in searched.finalists if candidate == validation.winner), None),
        truth_score=compared.winner.score if compared else None,
        baseline_score=compared.baseline.score if compared else None,
        improvement=compared.improvement if compared else None,
        optimization_cost_msats=total.msats + total.lost_msats,
        iterations=len(searched.trials),
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
        details={"metric": bench.job.metric, "seed": bench.job.seed, "calls": total.calls, "search": searched.ended},
    )
