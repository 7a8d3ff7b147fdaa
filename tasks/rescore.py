"""Rescore: make the outcomes of a bundle anew from its recorded answers, where that runs no stranger's code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import dspy

from swarmc.compiler.adapters import make_adapter
from swarmc.compiler.agreement import Panel, with_answers
from swarmc.compiler.engine import lane_lm
from swarmc.compiler.evaluation import Evaluator
from swarmc.compiler.metrics import BUILT_IN, load_metric
from swarmc.compiler.portal import Portal
from swarmc.compiler.programs import Program, load_program
from swarmc.compiler.verifying import ask_premium
from swarmc.contracts.candidates import Candidate, Evaluation, Outcome
from swarmc.contracts.canonical import ppm, unplain
from swarmc.contracts.completions import Lane, Sampling
from swarmc.contracts.errors import BundleError, SwarmcError, boundary
from swarmc.contracts.spec import CompileSpec
from swarmc.tracing.evidence import Evidence, text_of
from swarmc.tracing.findings import Rescored
from swarmc.tracing.recorded import answers_of

CONCURRENCY = 32
_FIELD = r"[a-z_]\w*(\s*:\s*(str|int|float|bool))?"
PLAIN_SIGNATURE = re.compile(rf"\s*{_FIELD}(\s*,\s*{_FIELD})*\s*->\s*{_FIELD}(\s*,\s*{_FIELD})*\s*")
"""Signatures that name no type beside these four: DSPy would import a module to find another."""


def can_run(spec: CompileSpec) -> str:
    """Why program or metric of a stranger's spec would run somebody's code; empty when they are ours."""
    if not PLAIN_SIGNATURE.fullmatch(spec.program):
        return f"the program {spec.program!r} is code, which a check does not run; see `swarmc replay`"
    names = (spec.metric,) if isinstance(spec.metric, str) else spec.metric.functions
    if code := [name for name in names if name not in BUILT_IN]:
        return f"the metric {code[0]!r} is code, which a check does not run; see `swarmc replay`"
    if not isinstance(spec.metric, str) and spec.metric.commands:
        return "the metric runs commands, which a check does not do; see `swarmc replay`"
    return ""


def examples_of(evidence: Evidence, inputs: Sequence[str]) -> dict[str, dspy.Example]:
    """The examples of a bundle by their ids, as far as it tells them, with these input fields."""
    return {
        sample.example_id: dspy.Example({key: unplain(value) for key, value in sample.value.items()}).with_inputs(
            *inputs
        )
        for sample in evidence.bundle.samples
        if sample.value is not None
    }


async def rescore(evidence: Evidence) -> Rescored:
    """The outcomes that the recorded answers give, of every candidate on the examples of which a score is claimed.

    Args:
        evidence: Of a bundle whose chain holds.

    Returns:
        By candidate and example; or the reason why there are none.
    """
    spec = evidence.spec
    if spec is None or evidence.validation is None or not evidence.is_whole("validation.json"):
        return Rescored(why_not="spec or validation are not told in full")
    if reason := can_run(spec):
        return Rescored(why_not=reason)
    try:
        # A stranger's texts go through DSPy, which may raise anything.
        with boundary(BundleError, "scoring the recorded answers again"):
            return await _rescored(evidence, spec, load_program(spec.program))
    except SwarmcError as error:
        return Rescored(why_not=str(error))


@dataclass(frozen=True)
class _Claim:
    """A candidate whose score on examples is claimed."""

    candidate: Candidate
    ids: tuple[str, ...]


async def _rescored(evidence: Evidence, spec: CompileSpec, program: Program) -> Rescored:
    first = next(iter(program.predictors.values()))
    examples = examples_of(evidence, spec.dataset.inputs or first.inputs)
    outputs = [name for info in program.predictors.values() for name in info.outputs]
    answers, portal = answers_of(evidence.bundle), Portal()
    lms: dict[Lane, dspy.LM] = {
        lane: lane_lm(
            answers.venue(lane, lambda _: None),
            lane,
            portal,
            Sampling(
                temperature_ppm=None if one.temperature is None else ppm(one.temperature), max_tokens=one.max_tokens
            ),
        )
        for lane, one in spec.lanes.items()
    }
    adapter = make_adapter(spec.adapter.kind, json_fallback=spec.adapter.json_fallback)
    evaluator = Evaluator(program, load_metric(spec.metric, outputs), examples, lms, adapter, CONCURRENCY)
    found: dict[tuple[str, str], Outcome] = {}
    why_not = ""
    try:
        for claim in _claims(evidence, program):
            ids = [key for key in claim.ids if key in examples]
            if len(ids) < len(claim.ids):
                why_not = "some examples are given by their hashes alone"
            if not ids:
                continue
            evaluation = await _evaluated(evaluator, evidence, spec, _Claim(claim.candidate, tuple(ids)))
            found |= {(evaluation.candidate_id, one.example_id): one for one in evaluation.outcomes}
    except SwarmcError as error:
        why_not = str(error)
    finally:
        evaluator.close()
    return Rescored(found, why_not)


async def _evaluated(evaluator: Evaluator, evidence: Evidence, spec: CompileSpec, claim: _Claim) -> Evaluation:
    """A claim's outcomes as the compile came to them: by one run, or by what several agreed on and the premium lane."""
    if spec.redundancy is None:
        return await evaluator.evaluate(claim.candidate, claim.ids, lane="validation")
    agreed = await Panel(evaluator, spec.redundancy).evaluate(claim.candidate, claim.ids)
    verification = evidence.validation.verification if evidence.validation else None
    verified = [key for key in (verification.verified if verification else ()) if key in claim.ids]
    answered = await ask_premium(evaluator, [claim.candidate], verified, len(verified))
    return with_answers(agreed.evaluation, answered.outcomes.get(claim.candidate.content_id, {}))


def _claims(evidence: Evidence, program: Program) -> list[_Claim]:
    """Whose scores are claimed, and on which examples."""
    validation, ref = evidence.validation, evidence.split("validation")
    assert validation is not None
    known = [validation.winner, text_of(program.describe()), *(candidate for candidate, _ in validation.finalists)]
    texts = {one.content_id: one for one in known}
    claims = [
        _Claim(texts[one.candidate_id], tuple(outcome.example_id for outcome in one.outcomes))
        for one in evidence.evaluations().values()
        if one.candidate_id in texts
    ]
    if ref is not None:
        claims += [_Claim(one, ref.example_ids[: score.count]) for one, score in validation.finalists]
    return claims
