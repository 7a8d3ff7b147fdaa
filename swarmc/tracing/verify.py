"""Check a stranger's bundle: no network, no trust, no code of the stranger's. Begins where the chain ends.

What needs the compiler's arithmetic (means, intervals, promotion) is given to it as `Rules`.
"""

from collections.abc import Mapping
from pathlib import Path

from swarmc.contracts.bundle import Finding, Report, Sample
from swarmc.contracts.canonical import canonical_bytes, content_id
from swarmc.contracts.errors import BundleError
from swarmc.tracing.bundle import Bundle, read_bundle
from swarmc.tracing.evidence import Evidence, evidence_of
from swarmc.tracing.findings import Notes, Rescored, Rules
from swarmc.tracing.verify_claims import check_claims


def verify(path: Path, rules: Rules) -> Report:
    """Read a bundle and check all that can be checked of it.

    Args:
        path: The file.
        rules: The arithmetic.

    Returns:
        What holds, what does not (the first line first), and what could not be checked.
    """
    try:
        bundle = read_bundle(path)
    except BundleError as error:
        return Report(faults=(Finding(line=error.line, what=str(error)),))
    return check(bundle, rules, Rescored(why_not="answers were not scored again"))


def check(bundle: Bundle, rules: Rules, rescored: Rescored) -> Report:
    """Check a bundle whose chain holds.

    Args:
        bundle: As `read_bundle` gave it.
        rules: The arithmetic.
        rescored: Scores that were made anew.
    """
    evidence, notes = evidence_of(bundle), Notes()
    notes.held.append(f"the chain of {bundle.count} lines, root {bundle.root}")
    notes.faults += evidence.misshaped
    if notes.expect(evidence.manifest is not None, 0, "there is no manifest that can be read"):
        _documents(bundle, notes)
        _artifacts(evidence, notes)
        _samples(evidence, notes)
        _calls(bundle, notes)
        check_claims(evidence, notes, rules, rescored)
    return Report(
        run_id=bundle.header.run_id,
        root=bundle.root,
        lines=bundle.count,
        faults=tuple(sorted(notes.faults, key=lambda fault: fault.line)),
        checked=tuple(notes.held),
        unchecked=tuple(notes.open),
    )


def _documents(bundle: Bundle, notes: Notes) -> None:
    before, redacted = len(notes.faults), []
    for name, document in bundle.documents.items():
        data = document.bytes
        if data is None or document.redacted:
            redacted.append(name)
            continue
        right = content_id(data)
        notes.expect(
            right == document.sha256,
            bundle.line_of(name),
            f"the bytes of {name} hash to {right}, not {document.sha256}",
        )
    notes.done(before, f"the bytes of {len(bundle.documents) - len(redacted)} documents")
    if redacted:
        notes.open.append(f"the bytes of {', '.join(redacted)}: parts of them were withheld")


def _artifacts(evidence: Evidence, notes: Notes) -> None:
    """Every file that the manifest names is the one that is here."""
    manifest, before = evidence.manifest, len(notes.faults)
    assert manifest is not None
    absent = []
    for name, right in manifest.artifacts.items():
        document = evidence.bundle.documents.get(name)
        if document is None:
            absent.append(name)
        else:
            what = f"the manifest names {name} with the hash {right}, but here it is {document.sha256}"
            notes.expect(document.sha256 == right, evidence.line(name), what)
    notes.done(before, f"the manifest's hashes of {len(manifest.artifacts) - len(absent)} files")
    if absent:
        notes.open.append(f"files that the bundle does not hold: {', '.join(absent)}")


def _samples(evidence: Evidence, notes: Notes) -> None:
    bundle, before = evidence.bundle, len(notes.faults)
    by_split: dict[str, list[Sample]] = {}
    seen: dict[str, str] = {}
    for place, sample in enumerate(bundle.samples):
        line = bundle.line_of("data", place)
        by_split.setdefault(sample.split, []).append(sample)
        other = seen.setdefault(sample.example_id, sample.split)
        first = other == sample.split and len(seen) == place + 1
        notes.expect(first, line, f"example {sample.example_id} is already in {other}: splits share nothing")
        if sample.value is not None:
            right = content_id(canonical_bytes(sample.value))
            notes.expect(right == sample.example_id, line, f"the example hashes to {right}, not {sample.example_id}")
        notes.expect(sample.place == len(by_split[sample.split]) - 1, line, "the examples of a split are out of order")
    notes.done(before, f"the ids of {len(bundle.samples)} examples, none in two splits")
    _datasets(evidence, by_split, notes)


def _datasets(evidence: Evidence, by_split: Mapping[str, list[Sample]], notes: Notes) -> None:
    manifest, before, hidden = evidence.manifest, len(notes.faults), []
    assert manifest is not None
    line = evidence.line("manifest.json")
    for ref in manifest.datasets:
        samples = by_split.get(ref.name, [])
        ids = tuple(sample.example_id for sample in samples)
        if not notes.expect(
            ids == ref.example_ids, line, f"the {ref.name} examples are not those that the bundle holds"
        ):
            continue
        if any(sample.value is None for sample in samples):
            hidden.append(ref.name)
            continue
        right = content_id(b"\n".join(canonical_bytes(sample.value) for sample in samples))
        notes.expect(right == ref.dataset_id, line, f"the {ref.name} examples hash to {right}, not {ref.dataset_id}")
    strange = sorted(by_split.keys() - {ref.name for ref in manifest.datasets})
    notes.expect(not strange, evidence.line("data"), f"examples of splits that the manifest lacks: {strange}")
    notes.done(before, "which examples each split holds")
    if hidden:
        notes.open.append(f"the hash of the examples of {', '.join(hidden)}: they are given by their ids alone")


def _calls(bundle: Bundle, notes: Notes) -> None:
    before, hidden = len(notes.faults), 0
    for place, call in enumerate(bundle.calls):
        line, receipt = bundle.line_of("completion", place), call.receipt
        mine = (receipt.run_id == bundle.header.run_id) == (call.source != "reused")
        notes.expect(mine, line, f"a {call.source} completion cannot have a receipt of run {receipt.run_id!r}")
        if call.request is None or call.completion is None:
            hidden += 1
            continue
        asked, answered = (content_id(canonical_bytes(part)) for part in (call.request, call.completion))
        notes.expect(asked == receipt.request_id, line, f"the request hashes to {asked}, not {receipt.request_id}")
        right = answered == receipt.completion_id
        notes.expect(right, line, f"the completion hashes to {answered}, not {receipt.completion_id}")
        told = {"usage": receipt.usage.model_dump(mode="json"), "venue": receipt.venue, "model": receipt.model}
        for name, value in told.items():
            same = call.completion.get(name) == value
            notes.expect(same, line, f"the receipt's {name} is {value}, the completion's {call.completion.get(name)}")
        notes.expect(call.request.get("lane") == receipt.lane, line, "the receipt is of another lane than the request")
    moments = [call.receipt.settled_at_ms for call in bundle.calls]
    notes.expect(
        moments == sorted(moments), bundle.line_of("completion"), "the calls are not in the order of their time"
    )
    once = {(call.receipt.request_id, call.source == "repeat") for call in bundle.calls}
    repeats = sum(call.source == "repeat" for call in bundle.calls)
    doubled = len(bundle.calls) - len(once)
    notes.expect(doubled == 0 or repeats > 1, bundle.line_of("completion"), f"{doubled} completions are told twice")
    notes.done(before, f"requests, answers and receipts of {len(bundle.calls) - hidden} calls")
    if hidden:
        notes.open.append(f"requests and answers of {hidden} calls: they are given by their ids alone")
