"""Bundles for tests: of a real compile with a real ledger and store, whose model answers from a function."""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from blocks.ledger import SqlLedger
from blocks.stores import open_store
from flows.lanes import OpenLane, metered_lane, sampling_of
from flows.steps import Steps, open_bench, prices_of
from swarmc.compiler.billing import Terms
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.metering import Purse
from swarmc.compiler.portal import Portal
from swarmc.compiler.quoting import Quoted
from swarmc.contracts.bundle import BEFORE_ALL, line_hash
from swarmc.contracts.canonical import canonical_bytes
from swarmc.contracts.completions import CompletionRequest, Lane
from swarmc.contracts.ports import Ledger, RunLease, Store
from swarmc.contracts.spec import CompileSpec
from swarmc.tracing.withholding import Guard
from tasks.load import read_inputs
from tasks.package import Packaging, package
from tests.fakes import AnsweringVenue

COLOURS = ("red", "green", "blue", "black")
BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Line = dict[str, Any]


def answer(request: CompletionRequest) -> dict[str, str]:
    """Right three times in four when the instruction says what to do, else once in three. A judge is always right."""
    if request.lane == "judge":
        expected, said = re.findall(r"^answer: (\w+)$", request.messages[-1].content, re.MULTILINE)
        return {"reason": f"{said} for {expected}", "score": str(float(said == expected))}
    asked = request.messages[-1].content
    right = asked.partition("label=")[2].split()[0]
    luck = hashlib.sha256(request.body).digest()[0]
    knows = "Classify" in request.messages[0].content
    return {"answer": right if luck < (192 if knows else 80) else "pink"}


def small_spec(directory: Path, **changes: object) -> CompileSpec:
    """A compile of some ninety calls."""
    rows = [{"question": f"number {i} label={COLOURS[i % 4]}", "answer": COLOURS[i % 4]} for i in range(60)]
    (directory / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {
        "name": "colours",
        "program": "question -> answer",
        "dataset": {"source": str(directory / "rows.jsonl"), "inputs": ["question"]},
        "split": {"train": 8, "search": 12, "validation": 10, "test": 20},
        "lanes": {"swarm": {"venue": "http://127.0.0.1:9/v1", "max_tokens": 64}},
        "adapter": {"json_fallback": False},
        "proposer": "template",
        "search": {"trials": 4, "minibatch": 8, "demo_sets": 3, "instructions": 3, "finalists": 2, "halving": 2},
    }
    return CompileSpec.model_validate(fields | changes)


async def small_bundle(directory: Path, spec: CompileSpec, packaging: Packaging, run_id: str = "run-1") -> Path:
    """Compile `spec` without Prefect and write its bundle."""
    ledger_url = f"sqlite:///{directory / 'ledger.db'}"
    async with SqlLedger.open(ledger_url) as ledger, open_store(str(directory / "artifacts")) as store:
        opening = ledger.open_run(run_id, spec_id=spec.spec_id, name=spec.name, budget=spec.budget)
        async with opening as lease:
            await _compiled(spec, ledger, lease, store)
            await ledger.finish_run(lease, "completed")
        path = directory / f"{run_id}.jsonl"
        await package(await ledger.find_run(run_id), ledger.purchases(run_id), store, path, packaging)
    return path


async def _compiled(spec: CompileSpec, ledger: Ledger, lease: RunLease, store: Store) -> None:
    loaded, lanes = read_inputs(spec), {lane: _lane(spec, ledger, lease, lane) for lane in spec.lanes}
    prices = prices_of(spec, loaded, {name: lane.quoted for name, lane in lanes.items()})
    with open_bench(spec, loaded, lanes, lambda _: None, lease.run_id) as bench:
        steps = Steps(bench, prices, ledger, store, plainly=True)
        await steps.keep(await steps.find(), Terms(1_000_000))


def _lane(spec: CompileSpec, ledger: Ledger, lease: RunLease, lane: Lane) -> OpenLane:
    venue, sampling = AnsweringVenue(answer, price_msats=3), sampling_of(spec.lanes[lane])
    purse = Purse(ledger, lease.run_id, lease.epoch, lane, lambda _: None)
    metered = metered_lane(venue, spec.lanes[lane], purse)
    return OpenLane(lane_lm(metered, lane, Portal(), sampling), Quoted(venue, sampling))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small compile; not to be written to."""
    directory = tmp_path_factory.mktemp("bundle")
    return asyncio.run(small_bundle(directory, small_spec(directory), Packaging(Guard())))


def forged(path: Path, change: Callable[[list[Line]], object]) -> Path:
    """A copy in which `change` altered the lines and every hash of the chain was made anew."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(lines)
    before, written = BEFORE_ALL, []
    for number, line in enumerate(lines, start=1):
        if line["kind"] == "end":
            line["body"] = {"lines": number - 1, "root": before}
        line |= {"number": number, "hash": line_hash(before, line["kind"], number, line["body"])}
        before = line["hash"]
        written.append(canonical_bytes(line) + b"\n")
    copy = path.with_name(f"forged-{hashlib.sha256(b''.join(written)).hexdigest()[:12]}.jsonl")
    copy.write_bytes(b"".join(written))
    return copy


def document(lines: list[Line], name: str) -> Line:
    """The body of a document's line."""
    return next(line["body"] for line in lines if isinstance(line["body"], dict) and line["body"].get("name") == name)


def of_kind(lines: list[Line], kind: str) -> list[Line]:
    """The bodies of all lines of a kind."""
    return [line["body"] for line in lines if line["kind"] == kind]


def rehash(lines: list[Line], *names: str) -> None:
    """Make the hashes of altered documents anew, in the manifest as well."""
    manifest = document(lines, "manifest.json")
    for name in (*names, "manifest.json"):
        body = document(lines, name)
        data = body["text"].encode() if body["text"] is not None else canonical_bytes(body["value"])
        if name != "manifest.json":
            manifest["value"]["artifacts"][name] = "sha256:" + hashlib.sha256(data).hexdigest()
        body["sha256"], body["size_bytes"] = "sha256:" + hashlib.sha256(data).hexdigest(), len(data)
