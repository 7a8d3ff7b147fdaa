"""Demonstration sets: sampled from successful program runs and from labels, the same way for every seed.

After `create_n_fewshot_demo_sets` of DSPy's MIPROv2 (Opsahl-Ong et al. 2024), but from one shared
pool of runs that were awaited together, instead of one sequential bootstrap per set.
"""

import random
from collections.abc import Collection, Mapping, Sequence

from swarmc.compiler.evaluation import gather_or_cancel
from swarmc.contracts.candidates import Candidate, Demo, Demonstration, PredictorChoice
from swarmc.contracts.canonical import ppm
from swarmc.contracts.errors import BudgetExhausted
from swarmc.contracts.ports import Workbench

MOST_DISTINCT = 8
"""Sets whose worth of runs is bootstrapped; further sets mix the same runs anew, for nothing."""

DemoSets = dict[str, tuple[tuple[Demo, ...], ...]]


async def bootstrap_pool(bench: Workbench, fresh: int | None = None) -> list[Demonstration]:
    """Run the teacher on train examples, all at once; keep the runs that scored well, in train order.

    The teacher is the program with labelled demonstrations of other examples. A budget that runs
    out leaves fewer demonstrations.

    Args:
        bench: Where it runs.
        fresh: Sets to make, beside those that an earlier search brings (one is of labels alone); without it all.
    """
    spec = bench.spec
    if spec.max_bootstrapped_demos == 0:
        return []
    mixed = spec.demo_sets if fresh is None else max(0, fresh - 1)
    wanted = list(bench.ids("train"))[: min(mixed, MOST_DISTINCT) * spec.max_bootstrapped_demos]
    runs = await gather_or_cancel(_attempt(bench, example_id) for example_id in wanted)
    threshold = ppm(spec.bootstrap_threshold)
    return [run for run in runs if run is not None and run.demos and run.score_ppm >= threshold]


def build_demo_sets(bench: Workbench, pool: Sequence[Demonstration], fresh: int | None = None) -> DemoSets:
    """The program's own demonstrations, one set of labels only, then random mixtures, distinct as far as they go.

    Args:
        bench: Whose.
        pool: Program runs to mix.
        fresh: Sets beside the program's own; without it as many as the pool's plan allows.
    """
    sets: dict[str, list[tuple[Demo, ...]]] = {name: [choice.demos] for name, choice in bench.own.predictors.items()}
    rng = random.Random(f"demos:{bench.seed}")
    for number in range(1, bench.spec.demo_sets if fresh is None else fresh + 1):
        drawn = _draw(bench, [] if number == 1 else pool, rng)
        for name in sets:
            demos = drawn.get(name, ())
            if demos and demos not in sets[name]:
                sets[name].append(demos)
    return {name: tuple(found) for name, found in sets.items()}


async def _attempt(bench: Workbench, example_id: str) -> Demonstration | None:
    try:
        return await bench.demonstrate(_teacher(bench, example_id), example_id)
    except BudgetExhausted:
        return None


def _teacher(bench: Workbench, example_id: str) -> Candidate:
    """The program with labelled demonstrations, never the example that it is about to answer."""
    rng = random.Random(f"teacher:{bench.seed}")
    others = list(bench.ids("train"))
    rng.shuffle(others)
    chosen = [key for key in others if key != example_id][: bench.spec.max_labeled_demos]
    predictors = {}
    for name, own in bench.own.predictors.items():
        labelled = tuple(demo for key in chosen if (demo := bench.labelled(key).get(name)))
        predictors[name] = PredictorChoice(instruction=own.instruction, demos=own.demos or labelled)
    return Candidate(predictors=predictors)


def _draw(bench: Workbench, pool: Sequence[Demonstration], rng: random.Random) -> Mapping[str, tuple[Demo, ...]]:
    """One demonstration set for every predictor: some program runs, filled up with labels of other examples."""
    spec = bench.spec
    size = rng.randint(1, spec.max_bootstrapped_demos) if pool and spec.max_bootstrapped_demos else 0
    runs = rng.sample(list(pool), min(size, len(pool)))
    used = {run.example_id for run in runs}
    rest = [key for key in bench.ids("train") if key not in used]
    fill = rng.sample(rest, min(max(0, spec.max_labeled_demos - len(runs)), len(rest)))
    drawn = {}
    for name in bench.predictors:
        demos = [run.demos[name] for run in runs if name in run.demos]
        labelled = [demo for key in fill if (demo := bench.labelled(key).get(name))]
        drawn[name] = (*demos, *(labelled or _spare(pool, used, len(fill), name, rng)))
    return drawn


def _spare(
    pool: Sequence[Demonstration], used: Collection[str], count: int, name: str, rng: random.Random
) -> list[Demo]:
    """For a predictor that no label fits (a step in between): further program runs instead."""
    others = [run.demos[name] for run in pool if run.example_id not in used and name in run.demos]
    return rng.sample(others, min(count, len(others)))
