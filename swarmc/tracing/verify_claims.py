"""What a run claims, held to what it recorded: texts, scores, money, the manifest, the promotion, signatures."""

import json
from collections import Counter

from swarmc.contracts.bundle import ledger_root
from swarmc.contracts.candidates import Comparison, Outcome
from swarmc.contracts.canonical import plain, unplain
from swarmc.contracts.manifest import CompiledPredictor
from swarmc.contracts.money import Tally
from swarmc.contracts.transfer import Climb, how_ended, proxy_score
from swarmc.contracts.verification import Verification
from swarmc.tracing.evidence import Evidence, chosen, text_of
from swarmc.tracing.findings import Notes, Rescored, Rules
from swarmc.tracing.statements import bytes_to_sign, problems_of
from swarmc.tracing.verify_searches import check_searches

_SUMMED = ("calls", "prompt_tokens", "completion_tokens", "msats")
_MEANWHILE = "promoted another program meanwhile"


def check_claims(evidence: Evidence, notes: Notes, rules: Rules, rescored: Rescored) -> None:
    """Every claim that the documents of a bundle make of one another."""
    _texts(evidence, notes)
    _saved(evidence, notes)
    check_searches(evidence, notes)
    _scores(evidence, notes, rules)
    _groups(evidence, notes)
    _rescored(evidence, notes, rules, rescored)
    _account(evidence, notes)
    _manifest(evidence, notes)
    _origin(evidence, notes)
    _promotion(evidence, notes, rules)
    _events(evidence, notes)
    _statement(evidence, notes, rules)


def _texts(evidence: Evidence, notes: Notes) -> None:
    """The compiled program is the manifest's and wears the winner's text."""
    manifest, compiled, validation = evidence.manifest, evidence.compiled, evidence.validation
    assert manifest is not None
    before, line = len(notes.faults), evidence.line("compiled.json")
    if compiled is None or not evidence.is_whole("compiled.json"):
        notes.open.append("the id of the compiled program: parts of it were withheld")
    else:
        right = compiled.content_id
        what = f"the compiled program hashes to {right}, but the manifest says {manifest.compiled_id}"
        notes.expect(right == manifest.compiled_id, line, what)
        notes.done(before, f"the compiled program's id, {right}")
    if compiled is None or validation is None:
        return
    before = len(notes.faults)
    if evidence.is_whole("compiled.json") == evidence.is_whole("validation.json"):
        notes.expect(
            text_of(compiled) == validation.winner, line, "the compiled program does not wear the winner's text"
        )
    first = next(iter(compiled.predictors.values()), None)
    same = (
        first is not None and manifest.instruction == first.instruction and manifest.demo_count == compiled.demo_count
    )
    notes.expect(same, evidence.line("manifest.json"), "instruction or demo_count are not the compiled program's")
    notes.expect(manifest.program == compiled.program, evidence.line("manifest.json"), "it names another program")
    notes.done(before, "that the compiled program wears the winner's text")


def _saved(evidence: Evidence, notes: Notes) -> None:
    """The state that DSPy loads has the compiled program's instructions and demonstrations."""
    document, compiled = evidence.bundle.documents.get("program.json"), evidence.compiled
    if document is None or document.text is None or compiled is None:
        notes.open.append("the saved DSPy state: it is not told in full")
        return
    before, line = len(notes.faults), evidence.line("program.json")
    state = _parsed(document.text)
    for name, predictor in compiled.predictors.items():
        # DSPy writes a module that is one predictor without the predictor's name.
        saved = state.get(name, state if len(compiled.predictors) == 1 else None)
        notes.expect(
            _is_dressed(saved, predictor),
            line,
            f"the saved state of {name!r} has another instruction or demonstrations",
        )
    notes.done(before, "that the saved DSPy state is the compiled program")


def _is_dressed(saved: object, predictor: CompiledPredictor) -> bool:
    if not isinstance(saved, dict) or not isinstance(saved.get("signature"), dict):
        return False
    demos = saved.get("demos")
    if not isinstance(demos, list) or not all(isinstance(demo, dict) for demo in demos):
        return False
    told = [{name: plain(value) for name, value in demo.items() if name != "augmented"} for demo in demos]
    right = [{name: plain(unplain(value)) for name, value in demo.fields.items()} for demo in predictor.demos]
    return saved["signature"].get("instructions") == predictor.instruction and told == right


def _parsed(text: str) -> dict[str, object]:
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _scores(evidence: Evidence, notes: Notes, rules: Rules) -> None:
    """Means, intervals and differences follow from the outcomes, which are of the test examples."""
    if evidence.validation is None or not (compared := evidence.comparisons()):
        notes.open.append("scores on test examples: there are none")
        return
    before, line = len(notes.faults), evidence.line("validation.json")
    test = evidence.split("test")
    for name, one in evidence.evaluations().items():
        if notes.expect(bool(one.outcomes), line, f"the {name} has a score without outcomes"):
            right = rules.mean([outcome.score_ppm for outcome in one.outcomes])
            notes.expect(right == one.score, line, f"the {name}'s outcomes give {right}, not {one.score}")
        ids = tuple(outcome.example_id for outcome in one.outcomes)
        is_test = test is not None and bool(ids) and ids == test.example_ids[: len(ids)]
        notes.expect(is_test, line, f"the {name} was not scored on the first test examples in their order")
    for name, one in compared.items():
        _difference(name, one, notes, rules, line)
    _compared(evidence, notes)
    notes.done(before, "test scores, their intervals and the paired differences, from each example's outcome")


def _difference(name: str, one: Comparison, notes: Notes, rules: Rules, line: int) -> None:
    ids = [[outcome.example_id for outcome in side.outcomes] for side in (one.winner, one.baseline)]
    if notes.expect(ids[0] == ids[1] and bool(ids[0]), line, f"winner and {name} were scored on different examples"):
        right = rules.paired(*([outcome.score_ppm for outcome in side.outcomes] for side in (one.winner, one.baseline)))
        notes.expect(right == one.improvement, line, f"the difference to the {name} is {right}, not {one.improvement}")


def _compared(evidence: Evidence, notes: Notes) -> None:
    """Each evaluation is of the candidate that it is said to be of."""
    validation, line = evidence.validation, evidence.line("validation.json")
    if validation is None or not evidence.is_whole("validation.json"):
        notes.open.append("whose scores they are: the texts of the candidates were withheld")
        return
    winner = validation.winner.content_id
    for name, one in evidence.comparisons().items():
        same = one.winner.candidate_id == winner
        notes.expect(same, line, f"the comparison with the {name} is of {one.winner.candidate_id}, not of {winner}")
    if validation.finalists:
        first = validation.finalists[0][0].content_id
        notes.expect(first == winner, line, "the winner is not the first of the finalists")
        means = [score.mean_ppm for _, score in validation.finalists]
        notes.expect(means == sorted(means, reverse=True), line, "the finalists are not in the order of their scores")
    if evidence.study is not None and evidence.is_whole("study.json") and validation.comparison is not None:
        own = chosen(evidence.study.pools)
        told, right = validation.comparison.baseline.candidate_id, own.content_id if own else "nothing"
        notes.expect(told == right, line, f"the baseline is {told}, but the uncompiled program is {right}")


def _verification(evidence: Evidence) -> Verification | None:
    """How far the scores are verified; nothing where there are no scores, or one run of an example was believed."""
    return evidence.validation.verification if evidence.validation and evidence.validation.comparison else None


def _groups(evidence: Evidence, notes: Notes) -> None:
    """What was agreed on follows from the votes, and every outcome from that, or from the premium lane."""
    found, before, line = _verification(evidence), len(notes.faults), evidence.line("validation.json")
    if found is None:
        return
    asked = evidence.spec.redundancy if evidence.spec else found.asked
    notes.expect(found.asked == asked, line, f"the runs agreed by {found.asked}, but the spec asks for {asked}")
    strange = set(found.verified) - set(found.undecided)
    notes.expect(not strange, line, f"{len(strange)} verified examples were not undecided")
    groups = {(group.candidate_id, group.example_id): group for group in found.groups}
    for group in found.groups:
        what = f"{group.candidate_id} on {group.example_id}: {group.agreeing} of {len(group.votes)} runs"
        right = group.agreeing >= found.asked.agree and len(group.votes) <= found.asked.of
        notes.expect(right == group.decided, line, f"{what} agree, which is {'' if right else 'not '}{found.asked}")
    for name, one in evidence.evaluations().items():
        for outcome in one.outcomes:
            told = groups.get((one.candidate_id, outcome.example_id))
            if (
                not notes.expect(told is not None, line, f"{name} on {outcome.example_id}: no runs are told")
                or not told
            ):
                continue
            stands = next((vote.score_ppm for vote in told.votes if vote.camp == told.camp), None)
            fits = outcome.example_id in found.verified or stands == outcome.score_ppm
            notes.expect(fits, line, f"{name} on {outcome.example_id} scores {outcome.score_ppm}, its runs {stands}")
    notes.done(before, f"{len(found.groups)} groups of runs: {found.counts}")


def _rescored(evidence: Evidence, notes: Notes, rules: Rules, rescored: Rescored) -> None:
    """Outcomes made anew from the recorded answers are those that were recorded."""
    before, line, count = len(notes.faults), evidence.line("validation.json"), 0
    for name, one in evidence.evaluations().items():
        for outcome in one.outcomes:
            right = rescored.outcomes.get((one.candidate_id, outcome.example_id))
            if right is not None:
                count += 1
                what = (
                    f"{name} on {outcome.example_id}: the recorded answers give {_brief(right)}, not {_brief(outcome)}"
                )
                notes.expect(right == outcome, line, what)
    validation, ref = evidence.validation, evidence.split("validation")
    for candidate, score in validation.finalists if validation and ref else ():
        ids = ref.example_ids[: score.count] if ref else ()
        known = [one for key in ids if (one := rescored.outcomes.get((candidate.content_id, key))) is not None]
        if known and len(known) == score.count:
            count += len(known)
            right = rules.mean([one.score_ppm for one in known])
            notes.expect(
                right == score, line, f"finalist {candidate.content_id}: its answers give {right}, not {score}"
            )
    if count:
        notes.done(before, f"{count} scores and costs against the recorded answers, with the built-in metric")
    if rescored.why_not:
        notes.open.append(f"scores against the recorded answers: {rescored.why_not}")


def _account(evidence: Evidence, notes: Notes) -> None:
    """The sums of the account are those of the receipts."""
    account, before = evidence.account, len(notes.faults)
    line = evidence.line("account.json")
    if not notes.expect(account is not None, 0, "there is no account that can be read") or account is None:
        return
    notes.expect(account.run_id == evidence.bundle.header.run_id, line, f"the account is of run {account.run_id!r}")
    sums: Counter[tuple[str, str, str]] = Counter()
    for call in evidence.bundle.calls:
        if call.source != "reused":
            usage, where = call.receipt.usage, (call.receipt.stage, call.receipt.lane)
            counts = (1, usage.prompt_tokens, usage.completion_tokens, usage.cost_msats)
            sums.update({(*where, name): count for name, count in zip(_SUMMED, counts, strict=True)})
    told = {(one.stage, one.lane): one.tally for one in account.lines}
    unsettled = account.total.reserved + account.total.lost
    for stage, lane in sorted({key[:2] for key in sums} | told.keys()):
        tally = told.get((stage, lane), Tally())
        for name in _SUMMED:
            value, right = getattr(tally, name), sums[stage, lane, name]
            fits = value == right or (unsettled and value < right)
            notes.expect(bool(fits), line, f"{stage} in {lane}: the account says {value} {name}, the receipts {right}")
    reused = sum(call.source == "reused" for call in evidence.bundle.calls)
    told_reused = account.total.reused
    notes.expect(reused == told_reused, line, f"the account says {told_reused} reused, but {reused} are here")
    notes.done(before, f"the account: {account.total.calls} calls and {account.total.msats} msats by their receipts")
    if unsettled:
        notes.open.append(f"{unsettled} calls that were in flight or lost when the account was made")


def _manifest(evidence: Evidence, notes: Notes) -> None:
    """The manifest's numbers are those of the documents."""
    manifest, before, line = evidence.manifest, len(notes.faults), evidence.line("manifest.json")
    assert manifest is not None
    card, compared = manifest.scorecard, evidence.comparisons().get("baseline")
    expected: dict[str, tuple[object, object]] = {
        "run_id": (manifest.run_id, evidence.bundle.header.run_id),
        "created_at": (manifest.created_at, evidence.bundle.header.created_at),
    }
    if evidence.validation is not None:
        expected |= {
            "truth_score": (card.truth_score, compared.winner.score if compared else None),
            "baseline_score": (card.baseline_score, compared.baseline.score if compared else None),
            "improvement": (card.improvement, compared.improvement if compared else None),
            "verification": (card.verification, found.counts if (found := _verification(evidence)) else None),
            "verdict": (manifest.verdict, compared.verdict if compared else "not measured: the budget ran out"),
        }
    if evidence.account is not None:
        total = evidence.account.total
        expected["optimization_cost_msats"] = (card.optimization_cost_msats, total.msats + total.lost_msats)
        expected["details.calls"] = (manifest.details.get("calls"), total.calls)
    if (searched := evidence.searched) is not None:
        expected["iterations"] = (card.iterations, len(searched.trials))
        expected["details.climb"] = (manifest.details.get("climb"), _what_better_lane_said(evidence.climbed))
        expected["details.search"] = (manifest.details.get("search"), how_ended(searched, evidence.climbed))
        told = ("search.json", "validation.json", *(["climb.json"] if evidence.climbed else []))
        if evidence.validation is not None and evidence.is_whole(*told):
            winner = evidence.validation.winner
            right = proxy_score(winner, searched, evidence.climbed)
            expected["proxy_score"] = (card.proxy_score, right)
    if (train := evidence.split("train")) is not None:
        expected["trainset_id"] = (manifest.trainset_id, train.dataset_id)
    _equal(expected, line, notes, "the manifest says")
    notes.done(before, f"{len(expected)} fields of the manifest")


def _what_better_lane_said(climbed: Climb | None) -> str | None:
    return climbed.test.reason if climbed is not None and climbed.test is not None else None


def _origin(evidence: Evidence, notes: Notes) -> None:
    """The spec is the one that the manifest was made for."""
    manifest, spec, before = evidence.manifest, evidence.spec, len(notes.faults)
    assert manifest is not None
    if spec is None:
        notes.open.append("what was asked for: the spec is not in the bundle")
        return
    expected: dict[str, tuple[object, object]] = {
        "optimizer": (manifest.optimizer, spec.optimizer),
        "seed": (manifest.details.get("seed"), spec.seed),
        "compatibility": (manifest.compatibility, spec.compatibility),
    }
    if evidence.is_whole("spec.json"):
        expected["spec_id"] = (manifest.spec_id, spec.spec_id)
        expected["metric"] = (manifest.details.get("metric"), spec.metric_name)
    else:
        notes.open.append("the spec's id: parts of it were withheld")
    _equal(expected, evidence.line("manifest.json"), notes, "the manifest says")
    notes.done(before, "that the manifest is of this spec")


def _promotion(evidence: Evidence, notes: Notes, rules: Rules) -> None:
    """The decision follows from the comparisons."""
    promotion, validation, manifest = evidence.bundle.promotion, evidence.validation, evidence.manifest
    if promotion is None or validation is None or manifest is None:
        notes.open.append("what became of the winner: the bundle does not say")
        return
    before, line = len(notes.faults), evidence.bundle.line_of("promotion")
    expected: dict[str, tuple[object, object]] = {
        "run_id": (promotion.run_id, manifest.run_id),
        "compiled_id": (promotion.compiled_id, manifest.compiled_id),
        "incumbent_id": (promotion.incumbent_id, evidence.before.compiled_id if evidence.before else None),
    }
    _equal(expected, line, notes, "the promotion says")
    search = evidence.split("search")
    unchanged = evidence.before is not None and evidence.before.compiled_id == promotion.compiled_id
    promote, reason = rules.decide(validation, search.count if search else 0, unchanged)
    overtaken = promote and promotion.decision == "kept" and _MEANWHILE in promotion.reason
    if overtaken:
        notes.open.append("that another run promoted a program meanwhile")
    else:
        right = "promoted" if promote else "kept"
        what = f"the comparisons say {right} ({reason}), not {promotion.decision} ({promotion.reason})"
        notes.expect((promotion.decision, promotion.reason) == (right, reason), line, what)
    notes.done(before, f"the decision: {promotion.decision}")


def _events(evidence: Evidence, notes: Notes) -> None:
    before, run_id = len(notes.faults), evidence.bundle.header.run_id
    for place, event in enumerate(evidence.bundle.events):
        line = evidence.bundle.line_of("event", place)
        notes.expect(event.run_id == run_id, line, f"the event is of run {event.run_id!r}")
    if evidence.bundle.events:
        notes.done(before, f"whose events they are ({len(evidence.bundle.events)})")


def _statement(evidence: Evidence, notes: Notes, rules: Rules) -> None:
    """The statement says what the bundle says, and was signed by whom it names."""
    signed, manifest = evidence.bundle.statement, evidence.manifest
    if signed is None or manifest is None:
        notes.open.append("who vouches for it: the bundle is not signed")
        return
    before, line = len(notes.faults), evidence.bundle.line_of("statement")
    root = ledger_root([call.receipt for call in evidence.bundle.calls])
    for what in problems_of(signed.statement, manifest, root):
        notes.expect(False, line, what)
    vouching = []
    for one in signed.signatures:
        good = rules.signed(bytes_to_sign(signed.statement.encode()), one) if rules.signed else None
        if good is None:
            notes.open.append(f"a signature of scheme {_shown(one.scheme)!r}: nothing here can check it")
        elif notes.expect(good, line, f"the signature of {_shown(one.public_key)} is not one of this statement"):
            vouching.append(one.public_key)
    notes.done(before, f"the statement, signed by {', '.join(vouching) or 'nobody who could be checked'}")


def _equal(expected: dict[str, tuple[object, object]], line: int, notes: Notes, who: str) -> None:
    for name, (told, right) in expected.items():
        notes.expect(told == right, line, f"{who} {name} {_shown(told)}, but it is {_shown(right)}")


def _brief(outcome: Outcome) -> str:
    cost = outcome.cost
    what = f"{outcome.score_ppm} ppm for {cost.calls} calls, {cost.msats} msats, {cost.latency_ms} ms"
    return f"{what} ({_shown(outcome.failure)})" if outcome.failure else what


def _shown(value: object) -> str:
    return str(value)[:200]
