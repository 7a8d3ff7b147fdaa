"""Refine in a compile: found, dressed, saved, evaluated at once, replayed for nothing, and told of."""

import asyncio
import json
from contextlib import asynccontextmanager

import dspy
import pytest

from blocks.ledger import SqlLedger
from blocks.venues.llamacpp import LlamaCpp
from examples.ticket_routing.make_tickets import TEAMS, TOPICS, make_tickets
from examples.ticket_routing.program import TicketRouter
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.around import Around
from swarmc.compiler.costs import Known, Sizes, calls_per_run
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.metering import Metered, Purse, Remembered
from swarmc.compiler.portal import Portal
from swarmc.compiler.programs import load_program
from swarmc.compiler.refine import Refine
from swarmc.compiler.scope import scoped
from swarmc.compiler.telling import Teller
from swarmc.contracts.candidates import Candidate, Demo, PredictorChoice
from swarmc.contracts.completions import Sampling
from swarmc.contracts.errors import BudgetExhausted, VenueError
from swarmc.contracts.money import Account, Budget, BudgetPolicy
from swarmc.contracts.plan import Demand
from swarmc.contracts.spec import CompileSpec
from swarmc.tracing.graph import Graphs

MANY = [dspy.Example(question=f"q{i}", answer="yes").with_inputs("question") for i in range(24)]


def said_yes(args, prediction):
    return prediction.answer == "yes"


class OnlyForward(dspy.Module):
    def __init__(self):
        super().__init__()
        self.think = dspy.ChainOfThought("question -> topic")
        self.say = dspy.Predict("question, topic -> answer")

    def forward(self, question):
        return self.say(question=question, topic=self.think(question=question).topic)


refined = Refine(dspy.Predict("question -> answer"), reward_fn=said_yes, threshold=1.0, max_retries=4)
two_steps = Refine(OnlyForward(), reward_fn=said_yes, threshold=1.0)
with_fallback = Refine(dspy.Predict("question -> answer"), fallback_lm=dspy.LM("openai/expensive", api_key="a secret"))
NAMES = ("refined", "two_steps")


def third_time_lucky(request):
    """Says yes only to a sample that two hints came with; a greedy sample is always wrong."""
    heard = "Attempt 2:" in request.messages[-1].content
    return {"reasoning": "r", "topic": "t", "answer": "yes" if heard else "no"}


@asynccontextmanager
async def metered(path, venue, run_id, **budget):
    policy = BudgetPolicy(run=Budget(**budget))
    async with (
        SqlLedger.open(f"sqlite:///{path}/ledger.db") as ledger,
        ledger.open_run(run_id, spec_id="sha256:" + "0" * 64, name="test", budget=policy) as lease,
    ):
        purse = Purse(ledger, run_id, lease.epoch, "swarm", lambda event: None)
        remembered = Remembered(Metered(venue, purse), purse)
        yield remembered
        await remembered.drain(1)


def program(name):
    return f"{__file__}:{name}"


def test_predictors_inside_are_found_and_options_stay():
    loaded = load_program(program("refined"))
    assert loaded.predictors.keys() == {"module"}
    assert (loaded.module.config.max_retries, loaded.module.config.threshold) == (4, 1.0)
    assert load_program(program("two_steps")).predictors.keys() == {"module.think.predict", "module.say"}
    assert [load_program(program(name)).awaitable for name in NAMES] == [True, False]
    assert [load_program(program(name)).most_calls for name in NAMES] == [4, 6]
    assert "class OnlyForward" in load_program(program("two_steps")).source()


def test_what_was_compiled_is_saved_and_loaded_again_and_options_stay(tmp_path):
    loaded = load_program(program("refined"))
    choice = PredictorChoice(instruction="Say yes.", demos=(Demo(fields={"question": "q", "answer": "yes"}),))
    (tmp_path / "program.json").write_bytes(loaded.saved(Candidate(predictors={"module": choice})))
    assert json.loads((tmp_path / "program.json").read_text()).keys() == {"module", "metadata"}
    fresh = Refine(dspy.Predict("question -> answer"), reward_fn=said_yes, threshold=0.9, max_retries=7)
    fresh.load(tmp_path / "program.json")
    assert fresh.module.signature.instructions == "Say yes."
    assert (fresh.config.max_retries, fresh.config.threshold) == (7, 0.9)


def test_a_compile_takes_the_fallback_away_and_names_it():
    loaded = load_program(program("with_fallback"))
    assert loaded.own_models == ("self.fallback_lm",)
    assert loaded.module.config.fallback_lm is None
    assert with_fallback.config.fallback_lm is not None


@pytest.mark.parametrize(("name", "calls"), [("refined", 3), ("two_steps", 6)])
async def test_a_refined_program_is_evaluated_at_once_and_every_call_is_counted(venue_of, make_bench, name, calls):
    venue = venue_of(third_time_lucky, latency_s=0.002)
    bench = make_bench(venue, MANY, program=program(name), concurrency=8)
    evaluation = await bench.evaluate(bench.own, bench.ids("search"))
    assert evaluation.score.mean_ppm == 1_000_000
    assert {outcome.cost.calls for outcome in evaluation.outcomes} == {calls}
    assert venue.most_in_flight > 1


@pytest.mark.parametrize("name", NAMES)
async def test_a_demonstration_comes_from_the_attempt_that_was_accepted(venue_of, make_bench, name):
    bench = make_bench(venue_of(third_time_lucky), MANY, program=program(name))
    made = await bench.demonstrate(bench.own, bench.ids("train")[0])
    last = "module" if name == "refined" else "module.say"
    assert made.demos[last].fields["answer"] == "yes"
    assert all("hint_" not in demo.fields for demo in made.demos.values())


async def test_an_example_that_nothing_reaches_scores_0_with_the_reason(venue_of, make_bench):
    bench = make_bench(venue_of(lambda request: {"answer": "no"}), MANY, program=program("refined"))
    (outcome,) = (await bench.evaluate(bench.own, bench.ids("search")[:1])).outcomes
    assert (outcome.score_ppm, outcome.cost.calls) == (0, 4)
    assert "RefineFailed: Refine failed after 4 attempts" in outcome.failure


@pytest.mark.parametrize("name", NAMES)
async def test_a_run_that_is_made_again_replays_every_attempt_for_nothing(venue_of, make_bench, tmp_path, name):
    venue, found = venue_of(third_time_lucky, price_msats=7), []
    for run_id in ("killed", "again"):
        async with metered(tmp_path, venue, run_id) as lane:
            bench = make_bench(lane, MANY, program=program(name))
            ids = bench.ids("search")
            if run_id == "killed":
                await bench.evaluate(bench.own, ids[:5])
            found.append((await bench.evaluate(bench.own, ids)).canonical())
    assert found[0] == found[1]
    assert len(venue.asked) == len(bench.ids("search")) * (3 if name == "refined" else 6)


async def test_a_budget_that_runs_out_between_attempts_is_told_and_never_a_score(venue_of, make_bench, tmp_path):
    async with metered(tmp_path, venue_of(third_time_lucky), "run", max_calls=2) as lane:
        bench = make_bench(lane, MANY, program=program("kept"), concurrency=1)
        with pytest.raises(BudgetExhausted):
            await bench.evaluate(bench.own, bench.ids("search")[:1])


kept = Refine(dspy.Predict("question -> answer"), reward_fn=lambda args, said: 0.6, threshold=1.0)


async def test_a_venue_that_fails_between_attempts_is_an_error_of_the_evaluation(venue_of, make_bench, tmp_path):
    def down_for_samples(request):
        if request.rollout_id:
            raise VenueError("it is down")
        return {"answer": "no"}

    async with metered(tmp_path, venue_of(down_for_samples), "run") as lane:
        bench = make_bench(lane, MANY, program=program("kept"))
        with pytest.raises(VenueError, match="it is down"):
            await bench.evaluate(bench.own, bench.ids("search")[:2])


@pytest.mark.parametrize("name", NAMES)
async def test_a_told_run_has_its_attempts_with_their_predictors_below(venue_of, make_bench, name):
    fold = Graphs()
    bench = make_bench(venue_of(third_time_lucky), MANY, program=program(name))
    bench.evaluator.tell(Teller(fold.add, "run", name))
    await bench.evaluate(bench.own, bench.ids("search")[:3])
    assert not fold.dropped
    for graph in [finished.graph for finished in fold.finished()]:
        attempts = [node for node in graph.nodes if node.module == "Attempt"]
        assert [node.name for node in attempts] == ["attempt 1", "attempt 2", "attempt 3"]
        assert [node.outputs["score_ppm"] for node in attempts] == [0, 0, 1_000_000]
        said = [node for node in graph.nodes if node.name in ("module", "module.say")]
        assert [node.parents[-1] for node in said] == [node.id for node in attempts]


def test_a_plan_reckons_with_every_attempt():
    loaded = load_program(program("two_steps"))
    sizes = Sizes(train=1, search=1, validation=1, test=1, predictors=2, most_calls=loaded.most_calls)
    job = CompileSpec(program="x", dataset={"source": "x.jsonl"}, adapter={"json_fallback": False})  # type: ignore[arg-type]
    known = Known(sizes=sizes, demand=lambda search: Demand(), account=Account(run_id="r"))
    assert calls_per_run(job, known) == (1, 2, 6)


class Counted(Around):
    calls = 0

    async def complete(self, request):
        self.calls += 1
        return await self._venue.complete(request)


def right_team(args, prediction):
    """A rule that knows the words of each topic, as a check of an answer often knows more than its writer."""
    topic = next(topic for topic, words in TOPICS.items() if {*words.split()} & {*args["text"].split()})
    return prediction.team == TEAMS[topic]


@pytest.mark.slow
async def test_refine_lifts_a_weak_program_on_a_real_model():
    tickets = make_tickets()
    router = TicketRouter()
    router.route.demos = [dspy.Example(**ticket) for ticket in tickets[:4]]
    places = asyncio.Semaphore(8)

    async def right(module, ticket):
        async with places:
            with scoped():
                return (await module.acall(text=ticket["text"])).team == ticket["team"]

    async with LlamaCpp().open() as opened:
        venue, found = Counted(opened), []
        lm = lane_lm(venue, "swarm", Portal(), Sampling(temperature_ppm=0, max_tokens=48))
        with dspy.context(lm=lm, adapter=make_adapter("chat", json_fallback=False), disable_history=True):
            for module in (router, Refine(router, reward_fn=at_least_half, threshold=1.0, max_retries=5)):
                venue.calls = 0
                said = await asyncio.gather(*(right(module, ticket) for ticket in tickets[100:148]))
                found.append((sum(said), venue.calls))
    (alone, alone_calls), (lifted, lifted_calls) = found
    assert alone_calls == len(said) == 48
    assert lifted >= alone + 12, found
    assert lifted_calls <= 48 * 4, found


def at_least_half(args, prediction):
    """A wrong team is given rather than an error, when no attempt finds the right one."""
    return 1.0 if right_team(args, prediction) else 0.5
