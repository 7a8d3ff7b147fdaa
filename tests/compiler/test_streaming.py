"""DSPy's streaming over a metered lane: seen in pieces, paid for once, told of like any other call."""

import asyncio
import json
import re

import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider, StreamListener, StreamResponse
from hypothesis import given
from hypothesis import strategies as st

from blocks.ledger import SqlLedger
from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.engine import lane_lm, to_events, to_response
from swarmc.compiler.metering import Metered, Purse, Remembered
from swarmc.compiler.portal import Portal
from swarmc.compiler.scope import scoped
from swarmc.compiler.telling import Teller
from swarmc.contracts.completions import Completion, ToolCall, Usage
from swarmc.contracts.errors import VenueError
from swarmc.contracts.events import CallEnded, ModuleEnded, ModuleStarted
from swarmc.contracts.money import Budget, BudgetPolicy

ANSWER = "It is *blue*, [mostly]: {see} 3 of 4."
AS_WRITTEN = {
    "chat": f"[[ ## answer ## ]]\n{ANSWER}\n\n[[ ## completed ## ]]",
    "json": json.dumps({"answer": ANSWER}),
    "xml": f"<answer>\n{ANSWER}\n</answer>",
}


class Says:
    """A venue that always says the same."""

    name = model = "says"

    def __init__(self, text=AS_WRITTEN["chat"], error=None):
        self.text, self.error, self.asked = text, error, []
        self.answered = asyncio.Event()

    def quote(self, request):
        return 7

    async def complete(self, request):
        self.asked.append(request)
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        self.answered.set()
        return Completion(text=self.text, model=self.model, usage=Usage(completion_tokens=9, cost_msats=7))


class OnlyForward(dspy.Module):
    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.step(question=question)


class SaysWhatGoesOn(StatusMessageProvider):
    def lm_start_status_message(self, instance, inputs):
        return "asking"

    def lm_end_status_message(self, outputs):
        return "answered"


@pytest.fixture
async def lane(tmp_path):
    """Makes a metered lane of a venue; `told` and `account` say what it did."""

    class Lane:
        def __init__(self):
            self.told = []

        def lm(self, venue):
            purse = Purse(ledger, "run", lease.epoch, "swarm", self.told.append)
            return lane_lm(Remembered(Metered(venue, purse), purse), "swarm", Portal())

        async def total(self):
            return (await ledger.account("run")).total

    policy = BudgetPolicy(run=Budget(max_calls=1))
    async with (
        SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger,
        ledger.open_run("run", spec_id="sha256:" + "0" * 64, name="test", budget=policy) as lease,
    ):
        yield Lane()


async def streamed(lm, program, adapter="chat", pause_s=0.0, **options):
    """Everything a streamed program yields, its answer listened to."""
    listeners = [StreamListener(signature_field_name="answer")]
    with dspy.context(lm=lm, adapter=make_adapter(adapter, json_fallback=False)):
        stream = dspy.streamify(program, stream_listeners=listeners, **options)
        seen = []
        async for value in stream(question="What colour is the sky?"):
            seen.append(value)
            await asyncio.sleep(pause_s)
        return seen


def pieces(seen):
    return [value.chunk for value in seen if isinstance(value, StreamResponse)]


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_field_comes_in_pieces_that_make_up_the_answer(lane, adapter, is_async):
    program = dspy.Predict("question -> answer") if is_async else OnlyForward()
    seen = await streamed(lane.lm(Says(AS_WRITTEN[adapter])), program, adapter, is_async_program=is_async)
    assert isinstance(seen[-1], dspy.Prediction)
    assert seen[-1].answer == ANSWER
    assert len(pieces(seen)) > 1
    written = "".join(pieces(seen))
    assert (json.loads(written) if adapter == "json" else written) == ANSWER


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_streamed_call_is_metered_and_told_and_a_replay_streams_for_nothing(lane, is_async):
    venue = Says()
    lm = lane.lm(venue)
    first = await streamed(lm, OnlyForward() if not is_async else dspy.Predict("question -> answer"))
    again = await streamed(lm, OnlyForward() if not is_async else dspy.Predict("question -> answer"))
    assert pieces(first) == pieces(again) != []
    assert len(venue.asked) == 1
    total = await lane.total()
    assert (total.calls, total.msats, total.reserved) == (1, 7, 0)
    assert [(event.source, event.usage.cost_msats) for event in lane.told] == [("bought", 7), ("replayed", 7)]


async def test_a_streamed_predictor_is_told_of_as_the_parent_of_its_call(lane):
    lm, told = lane.lm(Says()), lane.told
    with scoped("serve") as scope:
        Teller(told.append, "run", "p").started(scope, {"question": "?"}, None, None)
        await streamed(lm, dspy.Predict("question -> answer"), is_async_program=True)
    started, call, ended = told[1:]
    assert isinstance(started, ModuleStarted)
    assert isinstance(call, CallEnded)
    assert isinstance(ended, ModuleEnded)
    assert (call.parent_id, call.stage) == (started.call_id, "serve")
    assert ended.outputs == {"answer": ANSWER}


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.timeout(30)
async def test_status_messages_come_around_the_pieces_even_to_a_slow_reader(lane, is_async):
    program = dspy.Predict("question -> answer") if is_async else OnlyForward()
    options = {"is_async_program": is_async, "status_message_provider": SaysWhatGoesOn()}
    seen = await streamed(lane.lm(Says()), program, pause_s=0.005, **options)
    kinds = [type(value) for value in seen]
    assert [value.message for value in seen if isinstance(value, StatusMessage)] == ["asking", "answered"]
    assert kinds[0] is StatusMessage
    assert kinds[-1] is dspy.Prediction


async def test_a_program_is_streamed_to_synchronous_code_in_a_thread(lane):
    lm = lane.lm(Says())

    def read():
        with dspy.context(lm=lm, adapter=make_adapter("chat", json_fallback=False)):
            listeners = [StreamListener(signature_field_name="answer")]
            program = dspy.streamify(OnlyForward(), stream_listeners=listeners, async_streaming=False)
            return list(program(question="?"))

    assert "".join(pieces(await asyncio.to_thread(read))) == ANSWER


async def test_a_reader_who_leaves_early_has_paid_and_the_answer_is_kept(lane):
    venue = Says("[[ ## answer ## ]]\n" + "word " * 200 + "\n\n[[ ## completed ## ]]")
    reader = asyncio.create_task(streamed(lane.lm(venue), dspy.Predict("question -> answer"), pause_s=60))
    await asyncio.wait_for(venue.answered.wait(), 10)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    total = await lane.total()
    assert (total.calls, total.msats, total.reserved, total.lost) == (1, 7, 0, 0)


async def test_what_the_budget_refuses_is_not_streamed(lane):
    venue = Says()
    lm = lane.lm(venue)
    await streamed(lm, dspy.Predict("question -> answer"), is_async_program=True)
    with pytest.raises(dspy.LMError, match="the budget of run is 1 calls"):
        await streamed(lm, dspy.Predict("question -> answer, reason"), is_async_program=True)
    assert len(venue.asked) == 1


async def test_a_too_long_prompt_is_what_dspy_knows_as_such_when_streamed(lane):
    too_long = VenueError("5,000 tokens do not fit into 4,096", fault="context")
    with pytest.raises(dspy.ContextWindowExceededError):
        await streamed(lane.lm(Says(error=too_long)), dspy.Predict("question -> answer"), is_async_program=True)


@given(st.text(), st.text())
def test_pieces_make_up_the_whole_text_and_reasoning(text, reasoning):
    call = ToolCall(id="1", name="look_up", arguments='{"topic": "x"}')
    whole = Completion(text=text, model="m", reasoning=reasoning, tool_calls=(call,))
    events = list(to_events(to_response(whole)))
    assert (events[0].type, events[-1].type) == ("start", "end")
    deltas = [event.delta for event in events[1:-1]]
    assert "".join(delta.text for delta in deltas if delta.type == "text") == whole.text
    assert "".join(delta.text for delta in deltas if delta.type == "thinking") == whole.reasoning
    assert [json.loads(delta.input) for delta in deltas if delta.type == "tool_call"] == [{"topic": "x"}]
    assert all(len(re.findall(r"\w+", delta.text)) <= 1 for delta in deltas if delta.type == "text")
