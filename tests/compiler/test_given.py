"""Objects in place of names: the same objects are the same request, others are another."""

import linecache

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.given import given_examples, given_metric, given_program, name_of
from swarmc.contracts.errors import MetricError, ProgramError

SOURCE = """
class Says(dspy.Module):
    def __init__(self, word):
        super().__init__()
        self.say = dspy.Predict(dspy.Signature("question -> answer", word))

    def forward(self, question):
        return self.say(question=question){change}

def right(example, prediction):
    return prediction.answer == example.answer{change}
"""


def written(change="", *, readable=True, cell="cell-1"):
    """A class and a function as a notebook's cell, or a bare interpreter, defines them."""
    text = SOURCE.format(change=change)
    if readable:
        linecache.cache[f"<{cell}>"] = (len(text), None, text.splitlines(keepends=True), f"<{cell}>")
    names = {"dspy": dspy, "__name__": "typed"}
    exec(compile(text, f"<{cell}>" if readable else "<typed>", "exec"), names)
    return names["Says"], names["right"]


@pytest.mark.parametrize("signature", ["question -> answer", "a: int, b -> c: bool, d: float"])
def test_a_predict_of_a_plain_signature_is_called_by_it(signature):
    assert given_program(dspy.Predict(signature), None).reference == signature


@pytest.mark.parametrize(
    "module",
    [
        dspy.ChainOfThought("question -> answer"),
        dspy.Predict(dspy.Signature("question -> answer", "Shout.")),
        dspy.Predict("question -> answer", temperature=0.5),
        dspy.Predict("question -> answer: list[str]"),
    ],
)
def test_other_modules_are_called_by_the_hash_of_their_text(module):
    reference = given_program(module, None).reference
    assert reference == given_program(module.deepcopy(), None).reference
    assert " given in Python, " in reference
    assert not set(":>") & set(reference)


def test_changed_code_or_text_is_another_program_and_metric():
    (first, scores), (same, scores_same) = written(), written(cell="cell-2")
    changed, scores_changed = written("  # again", cell="cell-3")
    names = [given_program(kind("Say."), None).reference for kind in (first, same, changed)]
    assert names[0] == names[1] != names[2]
    assert given_program(first("Shout."), None).reference not in names
    metrics = [given_metric(one, None).name for one in (scores, scores_same, scores_changed)]
    assert metrics[0] == metrics[1] != metrics[2]


def test_code_that_cannot_be_read_needs_a_name():
    program, metric = written(readable=False)
    with pytest.raises(ProgramError, match="give the compile a `name`"):
        given_program(program("Say."), None)
    with pytest.raises(MetricError, match="give the compile a `name`"):
        given_metric(metric, None)
    named = given_program(program("Say."), "mine")
    assert named.reference == given_program(program("Say."), "mine").reference
    assert named.reference != given_program(program("Say."), "another").reference
    assert given_metric(metric, "mine").name == given_metric(metric, "mine").name


def test_a_compile_is_called_by_its_program():
    assert name_of(given_program(written()[0]("Say."), None)) == "Says"
    assert name_of(given_program(dspy.Predict("question -> answer"), None)) == "question - answer"


@given(st.permutations(range(6)))
def test_examples_are_called_the_same_in_any_order(order):
    rows = [dspy.Example(question=str(number), answer="yes").with_inputs("question") for number in range(6)]
    program = given_program(dspy.Predict("question -> answer"), None)
    spec, marked = given_examples([rows[number] for number in order], program)
    assert spec == given_examples(rows, program)[0]
    assert spec != given_examples(rows[1:], program)[0]
    assert [one.inputs().toDict() for one in marked] == [{"question": str(number)} for number in order]
