"""Truths that ask no model: an answer against the example's own, and commands on it in somebody's sandbox."""

import time
from collections.abc import Sequence
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.compiler.answers import Answered
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.truths import diff, run_commands, similarity_ppm, try_commands
from swarmc.contracts.errors import MetricError
from swarmc.contracts.metrics import CommandPart, DiffPart, MetricSpec
from swarmc.contracts.sandbox import CommandJob, CommandResult, Limit

METHODS = ["exact", "normalised", "token_f1", "ratio"]


@pytest.mark.parametrize(
    ("method", "said", "wanted", "score"),
    [
        ("exact", "a b", "a b", 1), ("exact", "A b", "a b", 0),
        ("normalised", " A\n b", "a b", 1), ("normalised", "ab", "a b", 0),
        ("token_f1", "the red cat", "a red cat", 2 / 3), ("token_f1", "cat cat", "cat", 2 / 3),
        ("token_f1", "", "cat", 0), ("token_f1", "!", "!!", 0), ("token_f1", "Cat!", "cat", 1),
        ("ratio", "abcd", "bcde", 0.75), ("ratio", "", "a", 0), ("ratio", "", "", 1),
        ("python_ast", "x=1  # one", "x = 1", 1), ("python_ast", "x=2", "x = 1", 0), ("python_ast", "x=", "x = 1", 0),
        ("python_ast", "```python\nx = 1\n```", "x = 1", 1),
    ],
    ids=str,
)  # fmt: skip
def test_each_method_says_how_alike_two_texts_are(method: str, said: str, wanted: str, score: float) -> None:
    assert similarity_ppm(method, said, wanted) == round(score * 1_000_000)


@given(st.sampled_from(METHODS), st.text(max_size=30), st.text(max_size=30))
def test_likeness_is_bounded_and_whole_for_the_same_text(method: str, one: str, two: str) -> None:
    assert 0 <= similarity_ppm(method, one, two) <= 1_000_000
    assert similarity_ppm(method, one, one) == 1_000_000


@pytest.mark.parametrize(
    "said", [" 1 2 3" * 400, "a" * 100_000, "the \n" * 30_000, " " * 400, "x"], ids=lambda t: t[:5]
)
def test_no_answer_keeps_a_comparison_for_long(said: str) -> None:
    began = time.process_time()
    assert 0 <= similarity_ppm("ratio", said, "the quick brown fox " * 20) < 1_000_000
    assert time.process_time() - began < 5


def answered(example: dict[str, Any], *outputs: str, **said: Any) -> Answered:
    return Answered(dspy.Example(question="?", **example).with_inputs("question"), dspy.Prediction(**said), outputs)


def test_a_diff_says_what_was_expected() -> None:
    opinion = diff(DiffPart(), answered({"team": "sales"}, team="billing"))
    assert (opinion.score_ppm, opinion.feedback) == (0, "team: expected 'sales', and it says 'billing'")


def test_a_diff_of_several_labels_is_their_mean() -> None:
    opinion = diff(DiffPart(), answered({"a": "1", "b": "2", "id": 7}, "a", "b", a="1", b="3"))
    assert opinion.score_ppm == 500_000
    assert "a is as expected" in opinion.feedback


def test_an_output_that_is_missing_scores_nothing() -> None:
    assert diff(DiffPart(), answered({"a": "1"})).feedback == "nothing was given for a"


def test_one_output_is_compared_with_a_column_of_another_name() -> None:
    assert diff(DiffPart(field="answer", expected="gold"), answered({"gold": "x"}, "answer", answer="X")).score_ppm


@pytest.mark.parametrize(
    ("part", "example", "named"),
    [
        (DiffPart(), {}, "has none among"),
        (DiffPart(), {"id": 1}, "has none among"),
        (DiffPart(field="answer"), {"gold": "x"}, "the column 'answer'; an example has only question, gold"),
        (DiffPart(method="python_ast"), {"answer": "x ="}, "which it is not"),
    ],
    ids=str,
)
def test_an_example_without_an_answer_to_compare_with_is_an_error(part: DiffPart, example: Any, named: str) -> None:
    with pytest.raises(MetricError, match=named):
        diff(part, answered(example, "answer", answer="x"))


FILES = {"solution.py": "answer.code", "test_it.py": "example.tests"}
COMMANDS = CommandPart(commands=(("python", "test_it.py"), ("ruff", "check")), files=FILES, timeout_s=9)


class Sandbox:
    """Says how commands ended without running any; keeps what it was asked."""

    def __init__(self, *results: CommandResult | Exception) -> None:
        self.asked: list[CommandJob] = []
        self._results = results

    sentence = "nothing is run"
    unenforced: Sequence[Limit] = ()

    async def run(self, job: CommandJob) -> Sequence[CommandResult]:
        self.asked.append(job)
        for result in self._results:
            if isinstance(result, Exception):
                raise result
        return [result for result in self._results if isinstance(result, CommandResult)]


def solved(**said: Any) -> Answered:
    return answered({"tests": "assert True", "code": "the gold answer"}, "code", **said)


async def test_commands_see_the_answer_and_never_the_examples_own() -> None:
    sandbox = Sandbox(CommandResult(exit_code=0), CommandResult(exit_code=0))
    assert (await run_commands(COMMANDS, solved(code="x = 1"), sandbox)).score_ppm == 1_000_000
    assert sandbox.asked[0].files == {"solution.py": "x = 1", "test_it.py": "assert True"}
    opinion = await run_commands(COMMANDS, solved(), sandbox)
    assert (opinion.score_ppm, opinion.feedback) == (0, "nothing was given for code")
    assert len(sandbox.asked) == 1


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([CommandResult(exit_code=1, output="E   1 == 2\n")], "`python test_it.py` ended with 1:\nE 1 == 2"),
        ([CommandResult(exit_code=0), CommandResult(exit_code=2)], "`ruff check` ended with 2"),
        ([CommandResult(exit_code=137, over="time")], "`python test_it.py` did not end within 9 s"),
        (
            [CommandResult(exit_code=137, over="memory", output="line 3\n")],
            "`python test_it.py` was ended because it took more memory than it may:\nline 3",
        ),
        (
            [CommandResult(exit_code=0, over="disk")],
            "`python test_it.py` was ended because it wrote more files than it may",
        ),
    ],
    ids=str,
)  # fmt: skip
async def test_a_command_that_fails_is_named_with_its_last_words(results: Any, said: str) -> None:
    opinion = await run_commands(COMMANDS, solved(code="x"), Sandbox(*results))
    assert (opinion.score_ppm, opinion.feedback) == (0, said)


@pytest.mark.parametrize("broken", [OSError("no such sandbox"), CommandResult(exit_code=0)], ids=str)
async def test_a_sandbox_that_does_not_work_is_an_error_and_no_score(broken: Any) -> None:
    with pytest.raises(MetricError, match=r"running|ran 1 of 2"):
        await run_commands(COMMANDS, solved(code="x"), Sandbox(broken))


async def test_a_column_that_is_missing_is_an_error_and_no_score() -> None:
    with pytest.raises(MetricError, match=r"example\.tests"):
        await run_commands(COMMANDS, answered({}, "code", code="x"), Sandbox())


async def test_every_command_is_tried_by_itself_on_the_examples_own_answer_before_it_is_needed() -> None:
    sandbox = Sandbox(CommandResult(exit_code=1))
    await try_commands(COMMANDS, answered({"tests": "assert True"}, "code"), sandbox)
    assert [job.commands for job in sandbox.asked] == [(command,) for command in COMMANDS.commands]
    assert sandbox.asked[0].files == {"solution.py": "", "test_it.py": "assert True"}
    with pytest.raises(MetricError, match=r"example\.tests"):
        await try_commands(COMMANDS, answered({}, "code"), sandbox)


def test_commands_are_not_run_where_there_is_no_sandbox() -> None:
    with pytest.raises(MetricError, match=r"needs a sandbox, and there is none here\..* `load_metric"):
        load_metric(MetricSpec(parts=(COMMANDS,)))
