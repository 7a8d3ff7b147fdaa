"""The plan: how much is tried, how many calls each stage may ask for, and what they may cost.

A search that is cut short by its plan ends the same way every time; one that runs into a budget
ends where the answers happened to be. So everything is planned to fit: validation is set aside
first, what is left goes to the search, and the pools are no larger than the search can tell apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swarmc.compiler.costs import Known, Line, Sizes, can_write, lines_of, over, price_of
from swarmc.compiler.demands import climb_runs
from swarmc.compiler.presets import PRESETS, Preset, preset_of
from swarmc.compiler.rooms import Room, rooms
from swarmc.contracts.completions import Stage
from swarmc.contracts.money import Budget, BudgetPolicy
from swarmc.contracts.plan import Plan
from swarmc.contracts.spec import CompileSpec, PlannedSearch, SearchSpec

SHARES = ((1.0, 20), (0.75, 20), (0.5, 20), (0.35, 20), (0.25, 20), (0.15, 20), (0.1, 20), (0.05, 10), (0.0, 3))
"""Shares of the validation and test examples that a plan tries, largest first, each with the fewest that it takes."""
SEARCH_SHARE = 0.4
MOST_RUNS = 50_000
FEWEST_FINALISTS = 2
MADE_BY: dict[Stage, tuple[str, ...]] = {
    "bootstrap": ("demo_sets",),
    "propose": ("instructions",),
    "search": ("runs", "reflections"),
    "climb": ("climb",),
}
"""By stage, the sizes that cannot be planned again once it is over."""


@dataclass(frozen=True)
class Planned:
    """A search with every size decided, and the plan that shows it."""

    search: PlannedSearch
    plan: Plan

    def calls(self, stage: Stage) -> int:
        """Most completions of a stage."""
        return sum(line.calls_high for line in self.plan.stages if line.stage == stage)


def effective_budget(job: CompileSpec) -> BudgetPolicy:
    """The budget of a run: what is asked for in `budget`, and `search.calls` and `search.budget_msats` as its caps."""
    run, search = job.budget.run, job.search
    caps = Budget(max_calls=_least(run.max_calls, search.calls), max_msats=_least(run.max_msats, search.budget_msats))
    return job.budget.model_copy(update={"run": caps})


def make_plan(job: CompileSpec, known: Known) -> Planned:
    """The largest search that fits into the budgets with its validation; one run when nothing fits.

    Args:
        job: What was asked for.
        known: What is known by now. Asked again later, with more known, the plan may change.
    """
    fitting = _Fitting(job, known, _wanted(job, known))
    wanted, fitted = fitting.wanted, fitting.fitted()
    lines = tuple(lines_of(job, known, fitted))
    by_hand = max((len(texts) for texts in job.instructions.values()), default=0)
    texts = 1 + by_hand + (0 if job.proposer == "none" else fitted.instructions)
    plan = Plan(
        stages=(*over(known), *(line.shown for line in lines)),
        runs=fitted.runs,
        combinations=(texts * fitted.demo_sets) ** known.sizes.predictors,
        cut=tuple(_cuts(job, wanted, fitted)),
    )
    return Planned(fitted, plan)


def sized(asked: SearchSpec, sizes: Sizes, *, writes: bool) -> PlannedSearch:
    """The search as it would be without any cap.

    Args:
        asked: What was asked for.
        sizes: Of splits and program.
        writes: There is a model that writes instructions.
    """
    if asked.trials is None:
        preset = PRESETS[asked.auto]
        runs = preset.runs * (sizes.predictors + 1) // 2
    else:
        runs = asked.trials * min(asked.minibatch, sizes.search)
        preset = preset_of(runs)
        if asked.sampler == "tpe":  # The best few are scored on all search examples besides.
            runs += min(asked.halving, asked.trials) * sizes.search
    return _planned(asked, sizes, preset, runs, writes=writes)


def _planned(asked: SearchSpec, sizes: Sizes, preset: Preset, runs: int, *, writes: bool) -> PlannedSearch:
    def chosen(name: str) -> int:
        said = getattr(asked, name)
        return getattr(preset, name) if said is None else said

    habits = {name: getattr(asked, name) for name in SearchSpec.model_fields if name in PlannedSearch.model_fields}
    return PlannedSearch.model_validate(
        {
            **habits,
            "runs": max(1, runs),
            "instructions": chosen("instructions"),
            "demo_sets": chosen("demo_sets"),
            "finalists": chosen("finalists"),
            "reflections": chosen("reflections") if writes else 0,
            "validation": sizes.validation,
            "test": sizes.test,
        }
    )


def _wanted(job: CompileSpec, known: Known) -> PlannedSearch:
    """What would be done without caps; `calls` and `budget_msats` want as much as they allow, of what costs nothing
    no more than `heavy`."""
    writes = can_write(job)
    for_money = job.search.budget_msats is not None and price_of("swarm", known).high > 0
    if job.search.budget_msats is not None and not for_money:
        return _planned(job.search, known.sizes, PRESETS["heavy"], PRESETS["heavy"].runs, writes=writes)
    if job.search.calls is not None or for_money:
        return _planned(job.search, known.sizes, PRESETS["heavy"], MOST_RUNS, writes=writes)
    return sized(job.search, known.sizes, writes=writes)


class _Fitting:
    """Shrinks a search until every cap holds: the runs first, validation when too little is left for them."""

    def __init__(self, job: CompileSpec, known: Known, wanted: PlannedSearch) -> None:
        self._job = job
        self._known = known
        self._asked = wanted
        self.wanted = self._climbing(wanted)
        self._rooms = tuple(rooms(effective_budget(job), known.account, known.done))

    def fitted(self) -> PlannedSearch:
        all_of_it = self._with_made(self.wanted)
        if self._fits(all_of_it):
            return all_of_it
        best: PlannedSearch | None = None
        for share in SHARES:
            found = self._most_runs(*share)
            if found is not None and (best is None or found.runs > best.runs):
                best = found
            if found is not None and self._is_enough(found):
                return found
        return best or self._at(1, *SHARES[-1])

    def _most_runs(self, share: float, least: int) -> PlannedSearch | None:
        """The largest search that fits with this share of the validation examples; nothing when one run does not."""
        low, high = 0, self.wanted.runs
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(self._at(middle, share, least)):
                low = middle
            else:
                high = middle - 1
        return self._at(low, share, least) if low else None

    def _is_enough(self, found: PlannedSearch) -> bool:
        """The search gets its share of the calls, or all that it wants: then validation need not shrink further."""
        lines = list(lines_of(self._job, self._known, found))
        search = sum(line.calls for line in lines if line.shown.stage in ("search", "climb"))
        return found.runs >= self.wanted.runs // 2 or search >= SEARCH_SHARE * sum(line.calls for line in lines)

    def _at(self, runs: int, share: float, least: int) -> PlannedSearch:
        """The search at this size: pools that so many runs can tell apart, and a share of the validation examples."""
        wanted, small, sizes = self._asked, preset_of(runs), self._known.sizes
        smaller = wanted.model_copy(
            update={
                "runs": runs,
                "instructions": min(wanted.instructions, small.instructions),
                "demo_sets": min(wanted.demo_sets, small.demo_sets),
                "finalists": min(wanted.finalists, small.finalists),
                "reflections": min(wanted.reflections, small.reflections),
                "validation": _some(sizes.validation, share, least),
                "test": _some(sizes.test, share, least),
            }
        )
        return self._with_made(self._climbing(smaller))

    def _climbing(self, search: PlannedSearch) -> PlannedSearch:
        """The search with its climb, which leaves half as many finalists to be told apart."""
        known, before = self._known, self._known.before
        runs = min(search.runs, before.runs) if before is not None and "search" in known.done else search.runs
        climb = 0 if known.lane != "swarm" else runs if known.whole else climb_runs(self._job, runs)
        few = climb and self._job.search.finalists is None
        finalists = min(search.finalists, max(FEWEST_FINALISTS, -(-search.finalists // 2))) if few else search.finalists
        return search.model_copy(update={"climb": climb, "finalists": finalists})

    def _with_made(self, search: PlannedSearch) -> PlannedSearch:
        """What a stage that is over has made is not planned again."""
        before, kept = self._known.before, {}
        for stage, names in MADE_BY.items():
            if before is not None and stage in self._known.done:
                kept |= {name: getattr(before, name) for name in names}
        return search.model_copy(update=kept)

    def _fits(self, search: PlannedSearch) -> bool:
        lines = list(lines_of(self._job, self._known, search))
        return all(_holds(room, lines) for room in self._rooms)


def _holds(room: Room, lines: Sequence[Line]) -> bool:
    """Whether everything that is still to come, as expected, fits into a cap."""
    own = [line for line in lines if room.covers(line.shown.stage, line.shown.lane)]
    calls, msats = sum(line.calls for line in own), sum(line.msats for line in own)
    return (room.calls is None or calls <= room.calls) and (room.msats is None or msats <= room.msats)


def _cuts(job: CompileSpec, wanted: PlannedSearch, fitted: PlannedSearch) -> Iterator[str]:
    """What is smaller than it was asked for, in words."""
    names = {
        "runs": "program runs in the search",
        "climb": "program runs in the validation lane after it",
        "instructions": "instructions a predictor",
        "demo_sets": "demonstration sets a predictor",
        "validation": "validation examples",
        "test": "test examples",
    }
    open_ended = job.search.calls is not None or job.search.budget_msats is not None
    for name, words in names.items():
        have, had = getattr(fitted, name), getattr(wanted, name)
        asked = name in ("validation", "test") or getattr(job.search, name, None) is not None or not open_ended
        if have < had and asked:
            yield f"{words}: {have:,} of {had:,}, so that the budget holds"


def _some(count: int, share: float, least: int) -> int:
    return min(count, max(least, round(count * share)))


def _least(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)
