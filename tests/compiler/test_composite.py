"""Composite metrics: proxies first, truths where these are satisfied, one score with a sentence from each part."""

import json
import re
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from swarmc.compiler.engine import lane_lm
from swarmc.compiler.judges import Judge
from swarmc.compiler.metrics import load_metric
from swarmc.compiler.portal import Portal
from swarmc.contracts.completions import CompletionRequest, Sampling
from swarmc.contracts.errors import MetricError
from swarmc.contracts.metrics import CommandPart, MetricSpec
from swarmc.contracts.sandbox import MIB, SandboxLimits
from swarmc.contracts.spec import CompileSpec
from tests.fakes import AnsweringVenue, PretendedSandbox, wanted_fields

EXAMPLE = dspy.Example(question="2+2?", answer="4", tests="assert x").with_inputs("question")
JUDGE = {"kind": "llm_judge"}
LENGTH = {"kind": "length", "min_bytes": 3}
DIFF = {"kind": "diff"}


def metric_of(*parts: dict[str, Any], **options: Any) -> Any:
    return load_metric(MetricSpec.model_validate({"parts": parts, **options}), ["answer"])


def judging(score: str = "0.5") -> tuple[AnsweringVenue, Judge]:
    venue = AnsweringVenue(lambda asked: {"reason": "it is short", "score": score})
    lm = lane_lm(venue, "judge", Portal(), Sampling())
    return venue, Judge(lambda lane: lm)


def said(answer: str) -> dspy.Prediction:
    return dspy.Prediction(answer=answer)


async def test_the_score_is_the_weighted_mean_and_every_part_says_why() -> None:
    venue, judge = judging("0.5")
    metric = metric_of(
        {**LENGTH, "weight_ppm": 250_000}, {**DIFF, "weight_ppm": 500_000}, {**JUDGE, "weight_ppm": 250_000}
    )
    score, feedback = await metric.assess(EXAMPLE, said("four"), judge)
    assert score == 375_000
    assert feedback.splitlines() == [
        "length 1.00: the answer has 4 bytes, as it may",
        "diff 0.00: answer: expected '4', and it says 'four'",
        "llm_judge 0.50: opinions 0.50, 0.50, 0.50: it is short",
    ]
    assert len(venue.asked) == 3


async def test_no_truth_is_asked_where_a_proxy_fails_and_the_score_says_so() -> None:
    venue, judge = judging("1")
    score, feedback = await metric_of(LENGTH, DIFF, JUDGE).assess(EXAMPLE, said("4"), judge)
    assert venue.asked == []
    assert score == 0
    assert "llm_judge not asked: length scored 0.00, below 0.50" in feedback
    assert "diff not asked: length scored 0.00" in feedback


async def test_a_failed_proxy_never_pays_off() -> None:
    _, judge = judging("0")
    parts = [{**LENGTH, "min_bytes": 1}, LENGTH, JUDGE]
    failed, _ = await metric_of(*parts).assess(EXAMPLE, said("4"), judge)
    passed, _ = await metric_of(*parts).assess(EXAMPLE, said("four"), judge)
    assert failed < passed


@pytest.mark.parametrize(
    ("own", "whole", "asked"), [(None, 500_000, 1), (None, 600_000, 0), (600_000, 0, 0), (0, 1_000_000, 1)], ids=str
)
async def test_a_proxy_is_held_to_its_own_threshold_or_to_the_metrics(own: Any, whole: int, asked: int) -> None:
    venue, judge = judging()
    half = {"kind": "keywords", "required": ["a", "b"], "threshold_ppm": own}
    await metric_of(half, JUDGE, proxy_threshold_ppm=whole, rollouts=1).assess(EXAMPLE, said("a"), judge)
    assert len(venue.asked) == asked


async def test_a_proxy_of_no_weight_decides_and_does_not_count() -> None:
    _, judge = judging()
    gate = {**LENGTH, "weight_ppm": 0}
    assert (await metric_of(gate, DIFF).assess(EXAMPLE, said(" 4 "), judge))[0] == 1_000_000


def half(example: dspy.Example, prediction: Any) -> dspy.Prediction:
    """A metric that this file is asked for by name."""
    return dspy.Prediction(score=0.5, feedback="half of it")


async def test_a_users_function_is_a_part_and_may_be_a_proxy() -> None:
    venue, judge = judging()
    part = {"kind": "function", "metric": f"{__file__}:half", "name": "mine"}
    score, feedback = await metric_of(part, {"kind": "function", "metric": "contains"}).assess(
        EXAMPLE, said("4!"), judge
    )
    assert (score, feedback) == (750_000, "mine 0.50: half of it\ncontains 1.00")
    proxy = {**part, "tier": "proxy", "threshold_ppm": 500_001}
    await metric_of(proxy, JUDGE).assess(EXAMPLE, said("4"), judge)
    assert venue.asked == []


async def test_commands_are_run_by_who_is_given_for_it() -> None:
    part = {"kind": "tests_pass", "commands": [["grep", "x", "a.txt"]], "files": {"a.txt": "answer.answer"}}
    sandbox = PretendedSandbox()
    metric = load_metric(MetricSpec.model_validate({"parts": [part]}), ["answer"], sandbox)
    _, judge = judging()
    assert (await metric.assess(EXAMPLE, said("x"), judge))[0] == 1_000_000
    assert (await metric.assess(EXAMPLE, said("y"), judge))[0] == 0


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"kind": "diff", "field": "answer", "expected": "gold"}, "the column 'gold'"),
        ({"kind": "function", "metric": f"{__file__}:broken"}, "'.*broken' of the metric raised ZeroDivisionError"),
        ({"kind": "function", "metric": f"{__file__}:absent"}, "absent"),
        ({"kind": "format", "pattern": "("}, "no regular expression"),
    ],
    ids=str,
)
def test_what_is_broken_is_found_before_anything_is_bought(part: dict, named: str) -> None:
    with pytest.raises(MetricError, match=named):
        metric_of(JUDGE, part).rehearse(EXAMPLE)


def broken(example: dspy.Example, prediction: Any) -> float:
    """A metric that fails."""
    return 1 / 0


def test_a_rehearsal_asks_no_model_and_runs_no_command() -> None:
    metric_of(LENGTH, DIFF, JUDGE).rehearse(EXAMPLE)


@given(st.text(max_size=30), st.permutations(range(4)))
async def test_the_score_is_the_same_in_whatever_order_the_parts_stand(text: str, order: list[int]) -> None:
    parts = [LENGTH, DIFF, {"kind": "keywords", "required": ["4", "x"], "weight_ppm": 300_000}, {"kind": "format"}]
    _, judge = judging()
    one, _ = await metric_of(*parts).assess(EXAMPLE, said(text), judge)
    two, _ = await metric_of(*(parts[at] for at in order)).assess(EXAMPLE, said(text), judge)
    assert one == two
    assert 0 <= one <= 1_000_000


def answer(request: CompletionRequest) -> dict[str, str]:
    """A program that is always wrong, and a judge who says so."""
    if "score" in wanted_fields(request):
        return {"reason": "it is no number", "score": "0.25"}
    return {"answer": "yes"}


async def test_feedback_of_every_part_reaches_whoever_reflects_and_costs_the_program_nothing(
    venue_of, make_bench
) -> None:
    examples = [dspy.Example(question=f"q{i}", answer=str(i)).with_inputs("question") for i in range(24)]
    metric = {"parts": [DIFF, JUDGE], "rollouts": 1}
    bench = make_bench(venue_of(answer, price_msats=3), examples, metric=metric, lanes={"swarm": {}, "judge": {}})
    attempt = await bench.attempt(bench.own, bench.ids("search")[0])
    assert attempt.score_ppm == 125_000
    assert "llm_judge 0.25: opinions 0.25: it is no number" in attempt.feedback
    assert "diff 0.00" in attempt.feedback
    assert (attempt.cost.calls, attempt.cost.msats) == (1, 3)


PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_what_the_page_shows_works() -> None:
    examples = list(Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE).examples())
    assert examples
    for example in examples:
        example.evaluate()
    whole, part = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert CompileSpec.model_validate_json(whole).judge_calls == 3
    assert MetricSpec.model_validate({"parts": [json.loads(part)]}).parts[0].kind == "tests_pass"


def test_the_page_names_every_limit_of_the_sandbox_as_it_is() -> None:
    page, limits = PAGE.read_text(encoding="utf-8"), SandboxLimits()
    assert [name for name in SandboxLimits.model_fields if f"`{name}`" not in page] == []
    for name, size in (("memory_bytes", limits.memory_bytes), ("output_bytes", limits.output_bytes)):
        assert f"| `{name}` | {size // MIB} MiB |" in page
    assert f"| `file_bytes` | {limits.file_bytes // MIB} MiB |" in page
    assert f"| `disk_bytes`, `files` | {limits.disk_bytes // MIB} MiB, {limits.files:,} |" in page
    assert f"| `processes` | {limits.processes} |" in page
    assert f"| {CommandPart.model_fields['timeout_s'].default} s |" in page
