"""Studies: what one search hands to the next, matched by text, never more than half a pool."""

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.optimizers import OPTIMIZERS
from swarmc.compiler.studies import (
    earlier_choices,
    expect_earlier,
    study_of,
    with_earlier_demo_sets,
    with_earlier_instructions,
    without,
)
from swarmc.compiler.surrogate import AdditiveLogistic
from swarmc.contracts.candidates import Demo, Effect, Pools, Study
from swarmc.contracts.canonical import plain
from tests.fakes import wanted_fields

EXAMPLES = [dspy.Example(question=f"q{i}", answer=str(i % 2)).with_inputs("question") for i in range(60)]


def demo(**fields):
    return (Demo(fields=fields),)


def one(count, best=(), effects=(), demo_sets=((),)):
    pools = Pools(instructions={"self": tuple(f"Way {i}." for i in range(count))}, demo_sets={"self": demo_sets})
    return Study(pools=pools, effects=effects, best=tuple({"self": choice} for choice in best))


def effect(mean, **at):
    return Effect(predictor="self", mean=mean, sd=300, runs=10, **at)


def bench_after(study, make_bench, venue_of, **search):
    bench = make_bench(venue_of(lambda request: {"answer": "1"}), EXAMPLES, search=search)
    bench.earlier = study
    return bench


async def compiled(bench):
    optimizer = OPTIMIZERS["MIPROv2"]()
    demo_sets = await optimizer.bootstrap(bench)
    pools = Pools(instructions=await optimizer.propose(bench, demo_sets), demo_sets=demo_sets)
    return await optimizer.search(bench, pools)


async def test_the_finalists_texts_come_first_then_the_best_by_effect_and_never_more_than_half(venue_of, make_bench):
    effects = [effect(mean, instruction=i) for i, mean in enumerate([0, 900, 100, -500, 700, 800])]
    study = one(6, best=[(2, 0)], effects=tuple(effects))
    bench = bench_after(study, make_bench, venue_of, instructions=6)
    found = with_earlier_instructions(bench, {"self": ("Own.", "Fresh.", "Way 5.")})
    assert found["self"] == ("Own.", "Way 2.", "Way 1.", "Way 5.", "Fresh.")


async def test_what_did_harm_is_left(venue_of, make_bench):
    study = one(3, effects=(effect(-100, instruction=1), effect(0, instruction=2)))
    bench = bench_after(study, make_bench, venue_of, instructions=6)
    assert with_earlier_instructions(bench, {"self": ("Own.", "Fresh.")})["self"] == ("Own.", "Fresh.")


@pytest.mark.parametrize(
    "stale",
    [demo(question="q", label="x"), demo(answer="1"), demo(question="q"), demo(question="q", answer="1", why="")],
)
async def test_demonstrations_whose_fields_do_not_fit_any_more_are_left(venue_of, make_bench, stale):
    fitting = demo(question="q7", answer="1")
    study = one(1, best=[(0, 1), (0, 2)], demo_sets=((), stale, fitting))
    bench = bench_after(study, make_bench, venue_of, demo_sets=6)
    assert with_earlier_demo_sets(bench, {"self": ((),)})["self"] == ((), fitting)


async def test_a_predictor_that_is_new_gets_nothing_and_one_that_is_gone_gives_nothing(venue_of, make_bench):
    study = one(3, best=[(1, 0)], effects=(effect(500, instruction=1),))
    bench = bench_after(study, make_bench, venue_of)
    assert with_earlier_instructions(bench, {"other": ("Own.",)}) == {"other": ("Own.",)}
    pools = Pools(instructions={"other": ("Own.", "Way 1.")}, demo_sets={"other": ((),)})
    model = AdditiveLogistic([(2, 1)])
    expect_earlier(model, study, pools)
    model.fit()
    assert list(model.means([(0, 0), (1, 0)])) == [0, 0]
    assert earlier_choices(study, pools) == []


@given(st.permutations(range(5)), st.lists(st.integers(-2_000, 2_000), min_size=5, max_size=5))
def test_effects_follow_their_texts_wherever_these_stand_now(order, means):
    study = one(5, best=[(3, 0)], effects=tuple(effect(mean, instruction=i) for i, mean in enumerate(means)))
    pools = Pools(instructions={"self": tuple(f"Way {i}." for i in order)}, demo_sets={"self": ((),)})
    model = AdditiveLogistic([(5, 1)])
    expect_earlier(model, study, pools)
    model.fit()
    expected = [round(model.kept * means[i]) for i in order]
    assert [round(1_000 * value) for value in model.means([(at, 0) for at in range(5)])] == expected
    assert earlier_choices(study, pools) == [{"self": (order.index(3), 0)}]
    again = study_of(model, pools)
    assert {(one.instruction, one.mean) for one in again.effects} == set(enumerate(expected))


async def test_a_study_that_was_written_down_and_read_again_leads_to_the_same_search(venue_of, make_bench):
    async def searched(earlier):
        return await compiled(bench_after(earlier, make_bench, venue_of, trials=8, minibatch=10))

    study = (await searched(None)).study
    read = Study.model_validate_json(study.canonical())
    assert (await searched(study)).canonical() == (await searched(read)).canonical()
    assert study.effects
    assert study.spreads["drift"] > 0


async def test_a_study_that_holds_nothing_changes_nothing(venue_of, make_bench):
    nothing = Study(pools=Pools(instructions={"self": ()}, demo_sets={"self": ()}))
    found = []
    for earlier in (None, nothing):
        venue = venue_of(lambda request: dict.fromkeys(wanted_fields(request), request.request_id[-1]))
        bench = make_bench(venue, EXAMPLES, search={"trials": 8, "minibatch": 10}, proposer="lm")
        bench.earlier = earlier
        result = await compiled(bench)
        found.append((result.trials, result.finalists, {request.request_id for request in venue.asked}))
    assert found[0] == found[1]


@pytest.mark.parametrize(("brought", "asked"), [(0, 8), (1, 7), (2, 2), (6, 2)])
async def test_only_a_few_are_made_anew_where_the_study_brings_as_many(venue_of, make_bench, brought, asked):
    sets = ((), *(demo(question=f"q{i}", answer=str(i)) for i in range(brought)))
    effects = [effect(100, **{part: at}) for part in ("instruction", "demos") for at in range(1, brought + 1)]
    venue = venue_of(lambda request: dict.fromkeys(wanted_fields(request), request.request_id))
    search = {"instructions": 8, "demo_sets": 9, "max_bootstrapped_demos": 2}
    bench = make_bench(venue, EXAMPLES, proposer="lm", search=search)
    bench.earlier = one(brought + 1, effects=tuple(effects), demo_sets=sets)
    optimizer = OPTIMIZERS["MIPROv2"]()
    demand = optimizer.demand(bench.spec, 1, len(bench.ids("train")))
    demo_sets = await optimizer.bootstrap(bench)
    ran = len(venue.asked) - 1  # One asks for a summary of the data.
    assert ran == (min(8, asked) - 1 if brought else 8) * 2
    assert ran <= demand.bootstrap_runs
    found = await optimizer.propose(bench, demo_sets)
    assert len(venue.asked) - ran == asked + 1 <= demand.proposals
    assert len(found["self"]) == 1 + asked + min(brought, 4)


async def test_where_the_study_fills_the_plan_nothing_is_bootstrapped(venue_of, make_bench):
    venue = venue_of(lambda request: {"answer": "1"})
    fitting = demo(question="q7", answer="7")
    bench = make_bench(venue, EXAMPLES, search={"demo_sets": 2})
    bench.earlier = one(1, best=[(0, 1)], demo_sets=((), fitting))
    assert (await OPTIMIZERS["MIPROv2"]().bootstrap(bench))["self"] == ((), fitting)
    assert venue.asked == []


SEEN = [dspy.Example(question=f"q{i}", answer="1").with_inputs("question") for i in range(4)]


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=8, unique_by=tuple), st.data())
def test_no_set_that_is_left_shows_a_seen_example_and_all_else_still_points_to_its_text(sets, data):
    demo_sets = tuple(tuple(Demo(fields={"question": f"q{i}", "answer": "0"}) for i in numbers) for numbers in sets)
    places = st.integers(0, len(sets) - 1)
    best = data.draw(st.lists(st.tuples(st.just(0), places), max_size=3))
    effects = [effect(at, demos=at) for at in range(len(sets))]
    effects += [effect(100 + at, demos=at, instruction=0) for at in range(len(sets))]
    study = one(1, best=best, effects=(*effects, effect(7, instruction=0)), demo_sets=demo_sets)
    left = without(study, SEEN)
    clean = [at for at, numbers in enumerate(sets) if min(numbers, default=9) >= len(SEEN)]
    pool = left.pools.demo_sets["self"]
    assert pool == tuple(demo_sets[at] for at in clean)
    told = {(one.mean, one.instruction): pool[one.demos] for one in left.effects if one.demos is not None}
    assert told == {key: demo_sets[at] for at in clean for key in [(at, None), (100 + at, 0)]}
    assert [pool[one["self"][1]] for one in left.best] == [demo_sets[at] for _, at in best if at in clean]
    assert left.effects[-1] == effect(7, instruction=0)
    assert without(study, []) == study


def test_an_example_is_known_by_its_inputs_as_plain_values_whatever_else_the_demonstration_shows():
    price, several = demo(question="q", price=plain(0.5), answer="?"), demo(question="q", price=1, answer="?")
    study = one(1, demo_sets=((), price, several, demo(price=plain(0.5))))
    seen = dspy.Example(question="q", price=0.5, answer="0").with_inputs("question", "price")
    assert without(study, [seen]).pools.demo_sets["self"] == ((), several, demo(price=plain(0.5)))
    assert without(study, [dspy.Example(answer="?").with_inputs()]) == study
    with pytest.raises(ValueError, match="with_inputs"):
        without(study, [dspy.Example(question="q")])


def test_a_finalist_keeps_what_it_chose_for_the_predictors_whose_sets_are_left():
    sets = {"first": ((), demo(question="q0", hint="h")), "second": (demo(hint="h", answer="1"), ())}
    pools = Pools(instructions={"first": ("A.",), "second": ("B.",)}, demo_sets=sets)
    study = Study(pools=pools, best=({"first": (0, 1), "second": (0, 1)}, {"first": (0, 0), "second": (0, 0)}))
    left = without(study, SEEN)
    assert left.best == ({"second": (0, 1)}, {"first": (0, 0), "second": (0, 0)})
    assert left.pools.demo_sets == {**sets, "first": ((),)}
