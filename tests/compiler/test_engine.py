"""The DSPy engine: every kind of program, one completion a call."""

import asyncio

import dspy
import pytest

from swarmc.compiler.engine import lane_lm, to_request, to_response
from swarmc.compiler.portal import Portal
from swarmc.compiler.scope import scoped
from swarmc.contracts.canonical import unplain
from swarmc.contracts.completions import Completion, Sampling, ToolCall, Usage
from swarmc.contracts.errors import ProgramError, VenueError, first_swarmc_error

CANNED = {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": "{}", "reasoning": "because"}


def canned(request):
    import re

    wanted = re.findall(r"`\[\[ ## (\w+) ## \]\]`", request.messages[-1].content)
    return {name: CANNED.get(name, "yes") for name in wanted if name != "completed"}


def look_up(topic: str) -> str:
    """Look a topic up."""
    return topic.upper()


class OnlyForward(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.ChainOfThought("question -> answer")
        self.second = dspy.Predict("answer -> verdict")

    def forward(self, question):
        return self.second(answer=self.first(question=question).answer)


class SynchronousInside(dspy.Module):
    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("question -> answer")

    async def aforward(self, question):
        return self.step(question=question)


async def test_predict_chain_of_thought_and_react_are_answered(venue_of):
    lm = lane_lm(venue_of(canned), "swarm", Portal())
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        assert (await dspy.Predict("question -> answer").acall(question="?")).answer == "yes"
        assert (await dspy.ChainOfThought("question -> answer").acall(question="?")).reasoning == "because"
        assert (await dspy.ReAct("question -> answer", tools=[look_up]).acall(question="?")).answer == "yes"


async def test_a_program_with_only_forward_is_answered_from_a_thread(venue_of):
    venue = venue_of(canned)
    with dspy.context(lm=lane_lm(venue, "swarm", Portal()), adapter=dspy.ChatAdapter()):
        prediction = await asyncio.to_thread(OnlyForward(), question="?")
    assert prediction.verdict == "yes"
    assert len(venue.asked) == 2


async def test_a_synchronous_call_on_the_loop_is_refused_instead_of_hanging(venue_of):
    with (
        dspy.context(lm=lane_lm(venue_of(canned), "swarm", Portal())),
        pytest.raises(Exception, match="await its `acall`") as caught,
    ):
        await SynchronousInside().acall(question="?")
    assert isinstance(first_swarmc_error(caught.value), ProgramError)


async def test_repeated_samples_of_a_prompt_are_different_requests(venue_of):
    venue = venue_of(canned)
    with dspy.context(lm=lane_lm(venue, "swarm", Portal())):
        for rollout_id in (0, 1):
            with scoped("search", rollout_id):
                await dspy.Predict("question -> answer").acall(question="?")
    first, second = venue.asked
    assert first.request_id != second.request_id
    assert first.messages == second.messages


async def test_a_lane_gives_what_a_call_leaves_open(venue_of):
    venue = venue_of(canned)
    lm = lane_lm(venue, "swarm", Portal(), Sampling(temperature_ppm=0, max_tokens=48))
    with dspy.context(lm=lm):
        await dspy.Predict("question -> answer").acall(question="?")
        await dspy.Predict("question -> answer", temperature=0.7).acall(question="?")
    assert [asked.sampling.temperature_ppm for asked in venue.asked] == [0, 700_000]
    assert {asked.sampling.max_tokens for asked in venue.asked} == {48}


async def test_a_too_long_prompt_is_what_dspy_knows_as_such():
    class TooLong:
        name = model = "short"

        def quote(self, request):
            return 0

        async def complete(self, request):
            raise VenueError("5,000 tokens do not fit into 4,096", fault="context")

    with dspy.context(lm=lane_lm(TooLong(), "swarm", Portal())), pytest.raises(dspy.ContextWindowExceededError):
        await dspy.Predict("question -> answer").acall(question="?")


def test_tool_calls_go_out_and_come_back():
    call = ToolCall(id="call_1", name="look_up", arguments='{"topic": "x"}')
    response = to_response(
        Completion(text="", model="m", tool_calls=(call,), finish_reason="tool_calls", usage=Usage())
    )
    assert response.tool_calls[0].input == {"topic": "x"}
    history = (dspy.lm15.Message.user("hi"), response.message)
    again = to_request(dspy.lm15.Request(model="m", messages=history), "swarm", 0, Sampling())
    assert again.messages[1].tool_calls == (call,)


def test_arguments_that_are_no_json_reach_the_tool_as_they_are():
    call = ToolCall(id="1", name="look_up", arguments="{not json")
    response = to_response(Completion(text="", model="m", tool_calls=(call,)))
    assert response.tool_calls[0].input == {"_unparsed": "{not json"}


def test_settings_of_a_provider_are_kept_exactly():
    config = dspy.lm15.Config(temperature=0.25, frequency_penalty=0.5, stop=("END",))
    request = dspy.lm15.Request(model="m", messages=(dspy.lm15.Message.user("hi"),), config=config)
    sampling = to_request(request, "swarm", 0, Sampling()).sampling
    assert (sampling.temperature_ppm, sampling.stop) == (250_000, ("END",))
    import json

    assert unplain(json.loads(sampling.extensions)) == {"frequency_penalty": 0.5}
