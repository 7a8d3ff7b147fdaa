"""MIPROv2's own ways; the law of all optimizers is in tests/conformance."""

import dspy
import pytest

from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.contracts.candidates import Pools
from swarmc.contracts.spec import SearchSpec

SEARCH = {"trials": 24, "minibatch": 10, "instructions": 2, "demo_sets": 3, "max_bootstrapped_demos": 2, "halving": 3}
SEARCH["sampler"] = "tpe"


def numbered(count=120):
    return [dspy.Example(question=f"q{i}", answer=str(i % 2)).with_inputs("question") for i in range(count)]


async def searched(venue, make_bench, runs=None, **changes):
    bench = make_bench(venue, numbered(), instructions=["Do it.", "Do it well."], search={**SEARCH, **changes})
    bench.spec = bench.spec.model_copy(update={"runs": runs or bench.spec.runs})
    optimizer = OPTIMIZERS["MIPROv2"]()
    demo_sets = await optimizer.bootstrap(bench)
    pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
    return bench, await optimizer.search(bench, pools)


def yes(_request):
    return {"answer": "1"}


async def test_the_best_few_are_scored_on_all_search_examples(venue_of, make_bench):
    bench, result = await searched(venue_of(yes), make_bench)
    assert len(result.finalists) == bench.spec.finalists
    assert {score.count for _, score in result.finalists} == {len(bench.ids("search"))}


async def test_a_combination_that_is_asked_again_gets_further_examples(venue_of, make_bench):
    _, result = await searched(venue_of(yes), make_bench)
    counts: dict[str, list[int]] = {}
    for trial in result.trials:
        counts.setdefault(trial.candidate_id, []).append(trial.score.count)
    repeated = [seen for seen in counts.values() if len(seen) > 1]
    assert repeated
    assert all(seen == sorted(set(seen)) or seen[-1] == 36 for seen in repeated)


async def test_trials_overlap(venue_of, make_bench):
    venue = venue_of(yes, latency_s=0.01)
    await searched(venue, make_bench, parallel_trials=4, minibatch=4)
    assert venue.most_in_flight > 4


def test_the_search_has_sensible_defaults():
    spec = SearchSpec()
    assert spec.sampler == "surrogate"
    assert spec.parallel_trials > 1


@pytest.mark.parametrize("runs", [1, 7, 45, 118, 310])
async def test_whole_minibatches_and_halving_stay_within_the_runs(venue_of, make_bench, runs):
    venue = venue_of(yes)
    _, result = await searched(venue, make_bench, runs=runs, max_bootstrapped_demos=0)
    assert 0 < len(venue.asked) <= runs
    assert sum(one.score.count for one in result.measured) == len(venue.asked)
