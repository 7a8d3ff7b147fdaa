"""Demonstration sets: made of what there is; where there is nothing, the program's own set goes on alone."""

import dspy
import pytest

from swarmc.compiler.demonstrations import bootstrap_pool, build_demo_sets
from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.contracts.candidates import Pools
from swarmc.contracts.errors import BudgetExhausted, VenueError
from tests.fakes import wanted_fields

MANY = [dspy.Example(question=f"q{i}", answer="yes").with_inputs("question") for i in range(60)]
OWN = dspy.Example(question="own?", hint="h")


class Chain(dspy.Module):
    """No label is a hint, so only a run that went well can demonstrate the first step."""

    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("question -> hint")
        self.second = dspy.Predict("question, hint -> answer")

    async def aforward(self, question):
        return await self.second.acall(question=question, hint=(await self.first.acall(question=question)).hint)


class ChainWithItsOwn(Chain):
    def __init__(self):
        super().__init__()
        self.first.demos = [OWN]


class Unlabelled(dspy.Module):
    """Its answer is made by code: no example's field is any predictor's output."""

    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("question -> hint")

    async def aforward(self, question):
        return dspy.Prediction(answer=(await self.step.acall(question=question)).hint)


def right(request):
    return dict.fromkeys(wanted_fields(request), "yes")


def wrong(request):
    return dict.fromkeys(wanted_fields(request), "no")


def unreadable(request):
    return {"nonsense": "?"}


async def sets_of(bench):
    return build_demo_sets(bench, await bootstrap_pool(bench))


@pytest.mark.parametrize("answer", [wrong, unreadable])
@pytest.mark.parametrize("program", ["Chain", "ChainWithItsOwn", "Unlabelled"])
async def test_a_predictor_without_labels_and_good_runs_keeps_its_own_set_alone(venue_of, make_bench, program, answer):
    bench = make_bench(venue_of(answer), MANY, program=f"{__file__}:{program}")
    sets = await sets_of(bench)
    name = next(iter(bench.predictors))
    assert sets[name] == (bench.own.predictors[name].demos,)
    assert sets.keys() == bench.predictors.keys()


async def test_a_predictor_in_between_is_demonstrated_by_runs_that_went_well(venue_of, make_bench):
    bench = make_bench(venue_of(right), MANY, program=f"{__file__}:Chain")
    sets = await sets_of(bench)
    assert all(len(found) > 2 for found in sets.values())
    assert all(demo.augmented for demos in sets["first"] for demo in demos)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
async def test_a_compile_goes_on_without_any_demonstration(venue_of, make_bench, name):
    bench = make_bench(
        venue_of(wrong), MANY, program=f"{__file__}:Unlabelled", instructions=["Way 1.", "Way 2."],
        search={"trials": 2, "minibatch": 8},
    )  # fmt: skip
    optimizer = OPTIMIZERS[name]()
    demo_sets = await optimizer.bootstrap(bench)
    assert demo_sets == {"step": ((),)}
    pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
    result = await optimizer.search(bench, pools)
    assert result.finalists


async def test_the_sets_are_the_same_for_the_same_seed_and_never_twice_the_same(venue_of, make_bench):
    found = [await sets_of(make_bench(venue_of(right), MANY, program=f"{__file__}:Chain")) for _ in range(2)]
    assert found[0] == found[1]
    for sets in found[0].values():
        assert len({repr(demos) for demos in sets}) == len(sets)
    other = await sets_of(make_bench(venue_of(right), MANY, program=f"{__file__}:Chain", seed=7))
    assert other != found[0]


async def test_no_demonstration_is_wanted_when_none_is_allowed(venue_of, make_bench):
    venue = venue_of(right)
    search = {"max_bootstrapped_demos": 0, "max_labeled_demos": 0}
    bench = make_bench(venue, MANY, program=f"{__file__}:Chain", search=search)
    assert await sets_of(bench) == {"first": ((),), "second": ((),)}
    assert venue.asked == []


async def test_a_budget_that_runs_out_leaves_fewer_and_a_venue_that_is_down_is_an_error(venue_of, make_bench):
    def breaking(error):
        def answer(request):
            raise error

        return answer

    bench = make_bench(venue_of(breaking(BudgetExhausted("no more", scope="run"))), MANY)
    assert await bootstrap_pool(bench) == []
    with pytest.raises(VenueError):
        await bootstrap_pool(make_bench(venue_of(breaking(VenueError("nobody there"))), MANY))
