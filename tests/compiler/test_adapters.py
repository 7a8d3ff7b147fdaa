"""Our adapters write what DSPy's write."""

import dspy
import pytest

from swarmc.compiler.adapters import make_adapter

THEIRS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}
SIGNATURE = dspy.Signature("question, hint -> answer: float, why", "Answer well.")
DEMOS = [
    dspy.Example(question="1+1", hint="add", answer=2.0, why="sum"),
    dspy.Example(question="2+2", answer=4.0),
]


@pytest.mark.parametrize("kind", list(THEIRS))
@pytest.mark.parametrize("demos", [[], DEMOS[:1], DEMOS])
def test_messages_are_those_of_dspy_the_first_time_and_the_second(kind, demos):
    ours, theirs = make_adapter(kind, json_fallback=True), THEIRS[kind]()
    for question in ("3+3", "4+4"):
        inputs = {"question": question, "hint": "think"}
        assert ours.format(SIGNATURE, demos, inputs) == theirs.format(SIGNATURE, demos, inputs)


def test_another_instruction_or_another_demo_is_written_anew():
    adapter = make_adapter("chat", json_fallback=False)
    inputs = {"question": "3+3", "hint": "think"}
    seen = [
        str(adapter.format(signature, demos, inputs))
        for signature in (SIGNATURE, SIGNATURE.with_instructions("Answer badly."))
        for demos in ([], DEMOS[:1], DEMOS[1:], DEMOS)
    ]
    assert len(set(seen)) == len(seen)


def test_a_caller_that_changes_its_messages_changes_nobody_elses():
    adapter = make_adapter("chat", json_fallback=False)
    inputs = {"question": "3+3", "hint": "think"}
    first = adapter.format(SIGNATURE, DEMOS, inputs)
    for message in first:
        message["content"] = "changed"
    assert "changed" not in str(adapter.format(SIGNATURE, DEMOS, inputs))
