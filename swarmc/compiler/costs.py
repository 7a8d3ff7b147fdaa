"""Costs: how many calls each stage may ask for in each lane, and what they may cost."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from swarmc.compiler.demands import ASKED_EXAMPLES, ASKED_TEXTS, bootstrap_calls, group_runs, transfer_cells
from swarmc.contracts.completions import Lane, Stage
from swarmc.contracts.money import Account, Budget, Tally
from swarmc.contracts.plan import Demand, StagePlan
from swarmc.contracts.spec import CompileSpec, PlannedSearch

FALLBACK_CALLS = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many examples each split has, and how many predictors the program.

    `most_calls` is how often these may be called in one run, where that is known to be more than once each.
    """

    train: int
    search: int
    validation: int
    test: int
    predictors: int
    most_calls: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """Msats of one completion in a lane: at least, as expected, at most."""

    low: int = 0
    expected: int = 0
    high: int = 0


FREE = Price()


@dataclass(frozen=True)
class Known:
    """What a plan is made from, beside what was asked for.

    Attributes:
        sizes: Of splits and program.
        demand: What the optimizer asks for, given a search's sizes.
        account: What the run bought so far.
        quotes: By lane, the least and the most that a completion costs; lanes without one use `swarm`.
        done: Stages that are over: what they bought counts, not what they were planned for.
        before: The plan that the stages in `done` followed.
        bootstrapped: Program runs that bootstrap made.
        programs: Programs that meet on the test examples: the winner, the baseline, and the incumbent if any.
        lane: Where the search runs.
        cells: Program runs in each lane that the search is preceded by, to see whether the cheap one predicts the
            better one; nothing before that is settled.
        whole: The better lane did not bear the search out, so it is searched from the start.
    """

    sizes: Sizes
    demand: Callable[[PlannedSearch], Demand]
    account: Account
    quotes: Mapping[Lane, Price] = field(default_factory=dict)
    done: frozenset[Stage] = frozenset()
    before: PlannedSearch | None = None
    bootstrapped: int = 0
    programs: int = 2
    lane: Lane = "swarm"
    cells: int | None = None
    whole: bool = False


@dataclass(frozen=True)
class Line:
    """A stage's plan, and what it will take as expected."""

    shown: StagePlan
    calls: int
    msats: int


def lines_of(job: CompileSpec, known: Known, search: PlannedSearch) -> Iterator[Line]:
    """The stages that are not over, in the order of the compile."""
    demand = known.demand(search)
    least, expected, most = calls_per_run(job, known)
    # An incumbent meets the finalists, and the winner on the test examples.
    incumbents = known.programs - 2
    together = (search.finalists + incumbents) * search.validation + known.programs * search.test
    at_least = search.validation + search.test

    def runs(stage: Stage, lane: Lane, low: int, high: int) -> Line:
        return _line(job, known, stage, lane, (low * least, high * expected, high * most))

    def written(stage: Stage, high: int) -> Line:
        return _line(job, known, stage, "propose", (0, high, high))

    def judged(stage: Stage, high: int, groups: int = 0) -> Line:
        # All of them are expected: a program that gets better passes more proxies, and gives answers not judged before.
        compared = job.redundancy.comparisons if job.redundancy else 0
        most = high * job.judge_calls + groups * compared
        return _line(job, known, stage, "judge", (0, most, most))

    few, many = group_runs(job)
    searched = _searched(job, known, search)
    # What the test runs is met again in a climb, and is none of a whole search.
    climbed = search.climb + (ASKED_TEXTS * ASKED_EXAMPLES if known.whole else 0)
    verified = known.programs * search.test if job.redundancy and "premium" in job.lanes else 0
    found = [
        runs("bootstrap", "teacher", demand.bootstrap_runs, demand.bootstrap_runs),
        judged("bootstrap", demand.bootstrap_runs),
        written("propose", demand.proposals if can_write(job) else 0),
        *(runs("search", lane, low, high) for lane, (low, high) in searched.items()),
        judged("search", sum(high for _, high in searched.values())),
        written("search", demand.writings),
        runs("climb", "validation", 0, climbed),
        judged("climb", climbed),
        written("climb", demand.writings if known.whole else 0),
        runs("validate", "validation", few * at_least, many * together),
        judged("validate", many * together, together),
        _capped(job, runs("verify", "premium", 0, verified)),
        judged("verify", verified),
    ]
    for line in found:
        if line.shown.stage not in known.done and line.shown.calls_high:
            yield line


def can_write(job: CompileSpec) -> bool:
    """There is a model that writes instructions."""
    return job.proposer == "lm"


def _searched(job: CompileSpec, known: Known, search: PlannedSearch) -> dict[Lane, tuple[int, int]]:
    """Program runs of the search by lane, at least and at most, with those of the test that it is preceded by."""
    counts: dict[Lane, tuple[int, int]] = {known.lane: (min(search.runs, known.sizes.search), search.runs)}
    cells = transfer_cells(job, known.sizes.search, search.runs) if known.cells is None else known.cells
    asked = job.transfer_test
    lanes: tuple[Lane, ...] = ("swarm", asked.against) if asked is not None and cells else ()
    for lane in lanes:
        low, high = counts.get(lane, (0, 0))
        counts[lane] = (low, high + cells)
    return counts


def _capped(job: CompileSpec, line: Line) -> Line:
    """The line within the caps of its lane and its stage, which end the stage and nothing else."""
    own = (job.budget.lanes.get(line.shown.lane, Budget()), job.budget.stages.get(line.shown.stage, Budget()))
    shown, calls, msats = line.shown, line.calls, line.msats
    for cap in own:
        calls, msats = _within(calls, cap.max_calls), _within(msats, cap.max_msats)
        high, high_msats = _within(shown.calls_high, cap.max_calls), _within(shown.msats_high, cap.max_msats)
        shown = shown.model_copy(update={"calls_high": high, "msats_high": high_msats})
    return Line(shown, calls, msats)


def _within(count: int, cap: int | None) -> int:
    return count if cap is None else min(count, cap)


def over(known: Known) -> Iterator[StagePlan]:
    """What the stages that are over asked for."""
    for line in known.account.lines:
        tally = line.tally
        calls, msats = tally.calls + tally.reused + tally.lost, tally.msats + tally.lost_msats
        if line.stage in known.done and calls:
            yield StagePlan(
                stage=line.stage,
                lane=line.lane,
                calls_low=calls,
                calls_high=calls,
                msats_low=msats,
                msats_high=msats,
            )


def _line(job: CompileSpec, known: Known, stage: Stage, lane: Lane, calls: tuple[int, int, int]) -> Line:
    low, expected, high = calls
    booked: Lane = lane if lane in job.lanes else "swarm"
    price = price_of(booked, known)
    shown = StagePlan(
        stage=stage,
        lane=booked,
        calls_low=low,
        calls_high=high,
        msats_low=low * price.low,
        msats_high=high * price.high,
    )
    return Line(shown, expected, expected * price.expected)


def calls_per_run(job: CompileSpec, known: Known) -> tuple[int, int, int]:
    """Completions of one program run: at least, as bootstrap needed on average (rounded up), at most.

    Before anything ran, every predictor is expected to be called once.
    """
    sizes = known.sizes
    most = max(sizes.most_calls, sizes.predictors)
    again = FALLBACK_CALLS if job.adapter.json_fallback and job.adapter.kind == "chat" else 1
    runs, seen = known.bootstrapped, bootstrap_calls(known.account, judged=False)
    if "bootstrap" not in known.done or not runs or not seen:
        return 1, sizes.predictors, most * again
    expected = max(-(-seen // runs), 1)
    return max(1, min(seen // runs, sizes.predictors)), expected, max(expected, most) * again


def price_of(lane: Lane, known: Known) -> Price:
    """The quote, with what the lane's completions cost so far as what is expected."""
    quote = known.quotes.get(lane, known.quotes.get("swarm", FREE))
    bought = known.account.by_lane().get(lane, Tally())
    if not bought.calls:
        return Price(quote.low, quote.high, quote.high)
    return Price(quote.low, -(-bought.msats // bought.calls), max(quote.high, -(-bought.msats // bought.calls)))
