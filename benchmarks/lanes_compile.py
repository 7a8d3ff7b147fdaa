"""One compile over a hidden world's lanes: three models of the same tickets, in this process, at fixed prices a call.

The premium model is the world itself. The other two see the same tickets with the same labels; their
hidden weights (rules, demonstrations, pairs) are those of the premium model, correlated as said and as
widely spread, and they are right less often: by 0.3 logits the better one, by 0.6 the cheap one. Which
tickets are hard, for whatever prompt, is correlated on its own, because a model may find hard what another
finds hard and yet like other prompts. Repeated samples of a prompt differ as two prompts of equal worth do
(correlated .6).

A compile is the whole flow from bootstrap to the bill, with a SQLite ledger and a store on disk.
"""

import asyncio
import json
import math
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.search_model import Model
from benchmarks.search_peers import complete, examples_of
from benchmarks.worlds import CORRELATION, GIVEN, NORMAL, Shown, World, normal_of, shown_by
from blocks.ledger import SqlLedger
from blocks.stores import open_store
from flows.bills import terms_of
from flows.lanes import OpenLane, calm_interpreter, metered_lane, sampling_of
from flows.steps import Steps, open_bench, prices_of
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.metering import Purse
from swarmc.compiler.planning import effective_budget
from swarmc.compiler.portal import Portal
from swarmc.compiler.quoting import Quoted
from swarmc.contracts.candidates import Candidate
from swarmc.contracts.canonical import PPM
from swarmc.contracts.completions import Completion, CompletionRequest, Lane, Usage
from swarmc.contracts.money import Account, AccountLine
from swarmc.contracts.ports import Ledger, RunLease, Store
from swarmc.contracts.spec import CompileSpec
from swarmc.contracts.transfer import Transfer
from tasks.load import read_inputs
from tasks.record import Found, Recorded

Quality = Literal["cheap", "better", "premium"]
Kind = Literal["premium", "lanes", "knew"]
Moved = Literal["early", "late", ""]

PRICES_MSATS: Mapping[Quality, int] = {"cheap": 10, "better": 50, "premium": 200}
BETTER_CORRELATION = 0.95
WEAKER: Mapping[str, float] = {"cheap": 0.6, "better": 0.3}
RUNS_PER_TRIAL = 35
SPLIT = {"train": 100, "search": 240, "validation": 20, "test": 40}
NOWHERE = "http://127.0.0.1:9/v1"
LANES: Mapping[Kind, Mapping[Lane, Quality]] = {
    "premium": {"swarm": "premium", "propose": "premium"},
    "lanes": {
        "swarm": "cheap",
        "teacher": "cheap",
        "propose": "better",
        "validation": "better",
        "premium": "premium",
    },
    "knew": {"swarm": "better", "teacher": "cheap", "propose": "better", "validation": "better", "premium": "premium"},
}
"""By kind of compile, who answers in each lane. One that knew searches in the better model from the start."""


@dataclass(frozen=True)
class Task:
    """One compile.

    Attributes:
        kind: Which lanes; see `LANES`.
        family: The world's.
        number: The world's.
        seed: Of the compile, and of what proposers draw.
        effects: Correlation of the cheap model's weights with the premium one's, in thousandths.
        hardness: The same of its tickets' difficulties.
        runs: Program runs of the search, about.
    """

    kind: Kind
    family: str
    number: int
    seed: int
    effects: int = 0
    hardness: int = 0
    runs: int = 1_470

    @property
    def place(self) -> tuple[str, int]:
        return self.family, self.number


@dataclass(frozen=True)
class Row:
    """What a compile came to.

    Attributes:
        true: The winner's true score with the premium model.
        calls: Bought, by who answered.
        msats: By the bill, at `PRICES_MSATS`.
        out_msats: Of `msats`, what finding out took that served nothing else: the early test in the lane that the
            search did not run in, and where a search was not borne out, all of it.
        moved: The search moved up before it began, or after it ended, or not at all.
        correlation: What the early test found, over its runs; nothing where it found none.
        borne_out: What the test after the search found, over its texts; nothing where it was not made.
        decided: Test examples that agreement decided.
        verified: Those that the premium lane answered.
    """

    true: float
    calls: Mapping[Quality, int]
    msats: int
    out_msats: int = 0
    moved: Moved = ""
    correlation: float | None = None
    borne_out: float | None = None
    decided: int = 0
    verified: int = 0

    def at(self, prices_msats: Mapping[Quality, int]) -> int:
        """What these calls cost at other prices; no budget binds, so prices change no call."""
        return sum(calls * prices_msats[who] for who, calls in self.calls.items())


class OtherModel(World):
    """A world's tickets as another model sees them.

    Args:
        premium: The world.
        who: Part of the name that its draws come from.
        effects: Correlation of its weights with the world's.
        hardness: Correlation of the tickets' difficulties.
        weaker: Logits by which it is right less often.
    """

    def __init__(self, premium: World, who: str, effects: float, hardness: float, weaker: float) -> None:
        super().__init__(premium.family, premium.number, f"{premium.name}-{who}")
        self._hardness = hardness
        self._premium = premium.name
        self.come_from(premium, effects)
        self._base -= weaker
        self._profile.cache_clear()

    def _append_given(self, past: World) -> None:
        """The tickets are the past's own; nothing is appended."""
        self.labels, self.texts, self.given = past.labels, past.texts, past.given
        fresh = math.sqrt(1 - self._hardness**2)
        self._difficulty = self._hardness * past._difficulty + fresh * self._difficulty

    def is_right(self, step: int, shown: Shown, text_key: str, ticket: int, penalty: float) -> bool:
        """As the world's, but for the draw that all prompts share on a ticket: it is as correlated as hardness is."""
        p = float(self._chance(step, shown, np.array([ticket]), penalty)[0])
        old, new, own = (
            normal_of(*w, step, ticket)
            for w in ((self._premium, "ticket"), (self.name, "ticket"), (self.name, text_key))
        )
        shared = self._hardness * old + math.sqrt(1 - self._hardness**2) * new
        return NORMAL.cdf(math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own) < p


class SampledModel(Model):
    """A world's model of which every sample is another draw; the plain one is the world's own."""

    _sample = 0

    def answer(self, messages: Sequence[tuple[str, str]], *, warm: bool, sample: int = 0) -> str:
        """As the model inside; see there."""
        self._sample = sample
        return super().answer(messages, warm=warm, sample=sample)

    def _shown(self, messages: Sequence[tuple[str, str]], field: str) -> tuple[Shown, str]:
        shown, key = super()._shown(messages, field)
        return shown, f"{key}:{self._sample}" if self._sample else key


class PricedVenue:
    """A venue that answers at once, at one price a call."""

    name = "world"

    def __init__(self, who: Quality, model: Model) -> None:
        self.model = who
        self._model = model
        self._price_msats = PRICES_MSATS[who]

    def quote(self, request: CompletionRequest) -> int:  # noqa: ARG002 - the port's
        """The price, in msats."""
        return self._price_msats

    async def complete(self, request: CompletionRequest) -> Completion:
        """The world's answer, and what it cost."""
        usage = Usage(prompt_tokens=1, completion_tokens=1, cost_msats=self._price_msats)
        said = complete(self._model, request)
        return said.model_copy(update={"model": self.model, "venue": self.name, "usage": usage})


@lru_cache(maxsize=4)
def models_of(family: str, number: int, effects: int, hardness: int) -> dict[Quality, World]:
    """The three models of a world; see `Task` for the arguments."""
    premium = World(family, number)
    better = OtherModel(premium, "better", BETTER_CORRELATION, BETTER_CORRELATION, WEAKER["better"])
    name = f"cheap-{effects}-{hardness}"
    cheap = OtherModel(premium, name, effects / 1_000, hardness / 1_000, WEAKER["cheap"])
    return {"premium": premium, "better": better, "cheap": cheap}


def agreement(one: World, other: World, texts: int = 60) -> float:
    """Correlation of two models' true scores over random prompts of up to five rules and four demonstrations."""
    rng, scores = random.Random(f"agreement:{one.name}"), []
    for _ in range(texts):
        prompt = []
        for step in one.steps_range:
            demos = tuple((ticket, True) for ticket in rng.sample(range(GIVEN), rng.randint(0, 4)))
            prompt.append(Shown(frozenset(one.fresh_rules(rng, step)), demos))
        scores.append((one.true_score(prompt), other.true_score(prompt)))
    return float(np.corrcoef(np.array(scores).T)[0, 1])


def job_of(task: Task, source: Path) -> CompileSpec:
    """The compile as its user would ask for it, over examples in `source`."""
    lanes: dict[str, dict] = {lane: {"venue": NOWHERE, "model": who} for lane, who in LANES[task.kind].items()}
    lanes["propose"]["temperature"] = 1.0
    asked = {
        "name": "lanes",
        "program": "benchmarks.search_peers:TwoSteps" if task.family == "two" else "ticket -> label",
        "dataset": {"source": str(source), "inputs": ["ticket"]},
        "split": SPLIT,
        "seed": task.seed,
        "lanes": lanes,
        "adapter": {"json_fallback": False},
        "search": {"trials": -(-task.runs // RUNS_PER_TRIAL), "minibatch": RUNS_PER_TRIAL},
    }
    if task.kind != "premium":
        asked["redundancy"] = {"agree": 3, "of": 5, "by": "answer"}
    return CompileSpec.model_validate(asked)


def run_task(task: Task) -> Row:
    """Compile, and look up what the winner is worth."""
    calm_interpreter()
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(task, Path(folder)))


async def _run(task: Task, folder: Path) -> Row:
    worlds = models_of(*task.place, task.effects, task.hardness)
    rows = [json.dumps(dict(example)) for example in examples_of(worlds["premium"])]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    job = job_of(task, folder / "rows.jsonl")
    models = {who: SampledModel(world, task.seed) for who, world in worlds.items()}
    venues: dict[Lane, PricedVenue] = {lane: PricedVenue(who, models[who]) for lane, who in LANES[task.kind].items()}
    async with (
        SqlLedger.open(f"sqlite:///{folder}/ledger.db") as ledger,
        open_store(str(folder / "artifacts")) as store,
        ledger.open_run("run", spec_id=job.spec_id, name=job.name, budget=effective_budget(job)) as lease,
    ):
        found, recorded = await _compiled(job, ledger, lease, store, venues)
        return _row(task, worlds["premium"], found, recorded, await ledger.account("run"))


async def _compiled(
    job: CompileSpec, ledger: Ledger, lease: RunLease, store: Store, venues: Mapping[Lane, PricedVenue]
) -> tuple[Found, Recorded]:
    """The flow's steps over lanes as `flows.lanes` opens them."""
    portal, lanes = Portal(), {}
    async with AsyncExitStack() as stack:
        for lane, one in job.lanes.items():
            metered = metered_lane(venues[lane], one, Purse(ledger, lease.run_id, lease.epoch, lane, _ignore))
            stack.push_async_callback(metered.drain, 1.0)
            sampling = sampling_of(one)
            lanes[lane] = OpenLane(lane_lm(metered, lane, portal, sampling), Quoted(venues[lane], sampling))
        loaded = read_inputs(job)
        quoted = {lane: one.quoted for lane, one in lanes.items()}
        with open_bench(job, loaded, lanes, _ignore, lease.run_id) as bench:
            steps = Steps(bench, prices_of(job, loaded, quoted), ledger, store, plainly=True)
            found = await steps.find()
            return found, await steps.keep(found, terms_of(job, quoted, {}))


def _row(task: Task, world: World, found: Found, recorded: Recorded, account: Account) -> Row:
    calls: Counter[Quality] = Counter()
    for lane, tally in account.by_lane().items():
        calls[LANES[task.kind][lane]] += tally.calls + tally.lost
    verification = found.validation.verification
    counts = verification.counts if verification else None
    row = Row(
        true=_true(world, found.validation.winner),
        calls=dict(calls),
        msats=recorded.bill.msats if recorded.bill else account.total.msats,
        out_msats=sum(line.tally.msats for line in account.lines if _was_for_finding_out(line, found)),
        moved=_moved(found),
        correlation=_correlation(found.transfer),
        borne_out=_correlation(found.climbed.test if found.climbed else None),
        decided=counts.decided if counts else 0,
        verified=counts.verified if counts else 0,
    )
    if row.at(PRICES_MSATS) != row.msats:
        raise RuntimeError(f"{task}: the bill says {row.msats} msats, its calls {row.at(PRICES_MSATS)}")
    return row


def _moved(found: Found) -> Moved:
    if found.transfer is not None and found.transfer.moves:
        return "early"
    return "late" if found.climbed is not None and found.climbed.whole else ""


def _was_for_finding_out(line: AccountLine, found: Found) -> bool:
    if found.transfer is None or line.stage != "search":
        return False
    return {"early": line.lane == "swarm", "late": True, "": line.lane == "validation"}[_moved(found)]


def _correlation(test: Transfer | None) -> float | None:
    measured = test.correlation if test else None
    return measured.mean_ppm / PPM if measured else None


def _true(world: World, winner: Candidate) -> float:
    found = winner.predictors if world.family == "two" else {"label": next(iter(winner.predictors.values()))}
    return world.true_score(
        [shown_by(world, s, found[s].instruction, [demo.fields for demo in found[s].demos]) for s in world.steps]
    )


def _ignore(event: object) -> None:
    """Nobody listens."""
