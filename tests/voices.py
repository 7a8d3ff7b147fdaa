"""Voices: a market of five providers of which one may lie, a better lane and a premium one, and a compile over them."""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from blocks.ledger import SqlLedger
from blocks.stores import open_store
from flows.bills import terms_of
from flows.lanes import OpenLane, metered_lane, sampling_of
from flows.steps import Steps, open_bench, prices_of
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.metering import Purse
from swarmc.compiler.planning import effective_budget
from swarmc.compiler.portal import Portal
from swarmc.compiler.quoting import Quoted
from swarmc.contracts.candidates import Validation
from swarmc.contracts.completions import Completion, CompletionRequest, Lane
from swarmc.contracts.events import Event
from swarmc.contracts.money import Account
from swarmc.contracts.ports import Ledger, RunLease, Store
from swarmc.contracts.spec import CompileSpec
from tasks.load import read_inputs
from tasks.package import Packaging, package
from tasks.record import Recorded
from tests.bundles import COLOURS, small_spec
from tests.fakes import AnsweringVenue

FIVE = 5
LIAR = "swarm:npub1liar"
PRICES: Mapping[Lane, int] = {"swarm": 10, "validation": 50, "premium": 1_000, "judge": 5}
LABEL = re.compile(r"label=(\w+)")
Lie = Callable[[str, str, int], str]
"""From the question, the right answer and a number that the request decides, to what is said instead."""


def draw(*parts: object) -> int:
    """0 to 255, decided by the parts."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[0]


LIES: Mapping[str, Lie] = {
    "wrong": lambda question, right, luck: COLOURS[(COLOURS.index(right) + 1) % 4],
    "echo": lambda question, right, luck: question,
    "random": lambda question, right, luck: COLOURS[luck % 4],
    "late": lambda question, right, luck: "the answer to what was asked before",
}


def knows(request: CompletionRequest, of_256: int) -> str:
    """Right so often, by prompt and question alone: honest voices of one model say the same, whichever sample it is."""
    asked = request.messages[-1].content
    taught = 60 if "Classify" in request.messages[0].content else 0
    lucky = draw(request.messages[0].content, asked) < of_256 + taught
    return LABEL.findall(asked)[-1] if lucky else "pink"


class Voices(AnsweringVenue):
    """Five providers of one model, asked in turn over the samples of a question. The first may lie."""

    def __init__(self, lie: str = "", of_256: int = 150, price_msats: int = 50, latency_s: float = 0.0) -> None:
        super().__init__(self._say, price_msats=price_msats, latency_s=latency_s)
        self._lie = lie
        self._of_256 = of_256

    def voice(self, request: CompletionRequest) -> int:
        return (draw(*(message.content for message in request.messages)) + request.rollout_id) % FIVE

    async def complete(self, request: CompletionRequest) -> Completion:
        number = self.voice(request)
        who = LIAR if self._lie and not number else f"swarm:npub1honest{number}"
        return (await super().complete(request)).model_copy(update={"venue": who})

    def _say(self, request: CompletionRequest) -> dict[str, str]:
        asked = request.messages[-1].content
        if self._lie and self.voice(request) == 0:
            right = LABEL.findall(asked)[-1]
            return {"answer": LIES[self._lie](asked[:60], right, draw(request.body))}
        return {"answer": knows(request, self._of_256)}


class Divided(AnsweringVenue):
    """A model that says another thing in every sample of one question in three, and the same in the others."""

    def __init__(self, price_msats: int = 50, latency_s: float = 0.0) -> None:
        super().__init__(self._say, price_msats=price_msats, latency_s=latency_s)

    def _say(self, request: CompletionRequest) -> dict[str, str]:
        number = int(re.findall(r"number (\d+)", request.messages[-1].content)[-1])
        return {"answer": f"guess {request.rollout_id}" if number % 3 == 0 else knows(request, 190)}


def right(request: CompletionRequest) -> dict[str, str]:
    """The answer of one who knows."""
    return {"answer": LABEL.findall(request.messages[-1].content)[-1]}


def lanes_spec(directory: Path, *lanes: Lane, **changes: object) -> CompileSpec:
    """A small compile with these lanes beside the swarm's, each with a model of its own."""
    own = {lane: {"venue": "http://127.0.0.1:9/v1", "model": lane, "max_tokens": 64} for lane in ("swarm", *lanes)}
    return small_spec(directory, **{"lanes": own, "redundancy": {"agree": 3, "of": 5}, **changes})


@dataclass
class Compiled:
    """What a compile left."""

    recorded: Recorded
    validation: Validation
    account: Account
    events: list[Event]
    report: str

    def msats(self, lane: Lane) -> int:
        return self.account.by_lane()[lane].msats if lane in self.account.by_lane() else 0


async def compiled(
    directory: Path, spec: CompileSpec, venues: Mapping[Lane, AnsweringVenue], run_id: str = "run-1"
) -> Compiled:
    """Compile without Prefect, with a ledger and a store in `directory`."""
    events: list[Event] = []
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(SqlLedger.open(f"sqlite:///{directory / 'ledger.db'}"))
        store = await stack.enter_async_context(open_store(str(directory / "artifacts")))
        opening = ledger.open_run(run_id, spec_id=spec.spec_id, name=spec.name, budget=effective_budget(spec))
        lease = await stack.enter_async_context(opening)
        recorded = await _run(spec, ledger, lease, store, (venues, events))
        account = await ledger.account(run_id)
    artifacts = directory / "artifacts/runs" / run_id
    validation = Validation.model_validate_json((artifacts / "validation.json").read_bytes())
    return Compiled(recorded, validation, account, events, (artifacts / "report.md").read_text())


async def bundled(directory: Path, packaging: Packaging, run_id: str = "run-1") -> Path:
    """The bundle of a compile that ended."""
    async with (
        SqlLedger.open(f"sqlite:///{directory / 'ledger.db'}") as ledger,
        open_store(str(directory / "artifacts")) as store,
    ):
        path = directory / f"{run_id}.jsonl"
        await package(await ledger.find_run(run_id), ledger.purchases(run_id), store, path, packaging)
    return path


async def _run(
    spec: CompileSpec,
    ledger: Ledger,
    lease: RunLease,
    store: Store,
    around: tuple[Mapping[Lane, AnsweringVenue], list[Event]],
) -> Recorded:
    venues, events = around
    portal, lanes = Portal(), {}
    async with AsyncExitStack() as stack:
        for lane, one in spec.lanes.items():
            purse = Purse(ledger, lease.run_id, lease.epoch, lane, events.append)
            metered = metered_lane(venues[lane], one, purse)
            stack.push_async_callback(metered.drain, 0.0)
            sampling = sampling_of(one)
            lanes[lane] = OpenLane(lane_lm(metered, lane, portal, sampling), Quoted(venues[lane], sampling))
        loaded = read_inputs(spec)
        quoted = {name: lane.quoted for name, lane in lanes.items()}
        prices = prices_of(spec, loaded, quoted)
        with open_bench(spec, loaded, lanes, events.append, lease.run_id) as bench:
            steps = Steps(bench, prices, ledger, store, plainly=True)
            return await steps.keep(await steps.find(), terms_of(spec, quoted, {}))
