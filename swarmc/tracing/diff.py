"""Two texts of a program side by side: what they say, on which examples each is better, what they cost.

A side is a candidate of a bundle, or a compiled program alone. Scores are compared on the examples that
both were scored on, pair by pair.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from swarmc.contracts.bundle import preview
from swarmc.contracts.candidates import Candidate, Demo, Outcome, RunCost, Score
from swarmc.contracts.canonical import Contract
from swarmc.contracts.errors import BundleError, boundary
from swarmc.contracts.manifest import CompiledProgram
from swarmc.tracing.bundle import read_bundle
from swarmc.tracing.evidence import Evidence, chosen, evidence_of, text_of

Paired = Callable[[Sequence[int], Sequence[int]], Score]
"""The mean of paired differences, first minus second, with its interval."""

MAX_COMPILED_BYTES = 64 * 1024**2
ROLES = ("winner", "baseline", "incumbent")


class Side(Contract):
    """One text and what is known of it.

    Attributes:
        label: For people.
        candidate_id: Its id.
        text: Instructions and demonstrations by predictor.
        outcomes: On test examples, as far as they were recorded.
        scores: By split, the mean that was recorded.
        spent_msats: What its whole compile cost; nothing when the bundle does not say.
    """

    label: str
    candidate_id: str
    text: Candidate
    outcomes: tuple[Outcome, ...] = ()
    scores: dict[str, Score] = Field(default={})
    spent_msats: int | None = None

    @property
    def cost(self) -> RunCost:
        """What its recorded program runs took in all."""
        return sum((one.cost for one in self.outcomes), start=RunCost())


class TextDifference(Contract):
    """How one predictor's text differs.

    Attributes:
        instruction: Lines of a unified diff; empty when both say the same.
    """

    predictor: str
    instruction: tuple[str, ...] = ()
    demos_added: tuple[Demo, ...] = ()
    demos_removed: tuple[Demo, ...] = ()

    @property
    def is_same(self) -> bool:
        return not (self.instruction or self.demos_added or self.demos_removed)


class Duel(Contract):
    """One example under both."""

    example_id: str
    before_ppm: int
    after_ppm: int


class Difference(Contract):
    """From `before` to `after`.

    Attributes:
        texts: By predictor, those that differ.
        duels: Every example that both were scored on.
        improvement: After minus before over the duels; nothing without any.
    """

    before: Side
    after: Side
    texts: tuple[TextDifference, ...]
    duels: tuple[Duel, ...]
    improvement: Score | None

    @property
    def won(self) -> int:
        return sum(one.after_ppm > one.before_ppm for one in self.duels)

    @property
    def lost(self) -> int:
        return sum(one.after_ppm < one.before_ppm for one in self.duels)


def load_side(path: Path, which: str = "winner") -> Side:
    """A side from a file: the same text whatever file it is in.

    Args:
        path: A bundle (`.jsonl`), or a `compiled.json`.
        which: Of a bundle: `winner`, `baseline`, `incumbent`, or a candidate's id or the first letters of it.

    Raises:
        BundleError: it is neither, does not hold, or has no such candidate.
    """
    if path.suffix == ".json":
        return _compiled_side(path)
    return side_of(evidence_of(read_bundle(path)), which)


def side_of(evidence: Evidence, which: str) -> Side:
    """A candidate of a bundle. Raises as `load_side`."""
    texts = texts_in(evidence)
    roles = {name: one.candidate_id for name, one in evidence.evaluations().items()}
    if evidence.validation is not None:
        roles.setdefault("winner", evidence.validation.winner.content_id)
    wanted = roles.get(which, which).removeprefix("sha256:")
    found = [key for key in texts if key.removeprefix("sha256:").startswith(wanted)]
    if len(found) != 1:
        known = ", ".join([*roles, *(key[7:19] for key in texts)][:12])
        count = "no" if not found else f"{len(found)}"
        raise BundleError(f"{count} candidate of the bundle is {which!r}; it has {known}")
    key = found[0]
    run = evidence.bundle.header.run_id[:8]
    evaluation = next((one for one in evidence.evaluations().values() if one.candidate_id == key), None)
    role = next((name for name, told in roles.items() if told == key), key[7:15])
    return Side(
        label=f"{role} of {run}",
        candidate_id=key,
        text=texts[key],
        outcomes=evaluation.outcomes if evaluation else (),
        scores=scores_in(evidence, key),
        spent_msats=evidence.account.total.msats if evidence.account else None,
    )


def texts_in(evidence: Evidence) -> dict[str, Candidate]:
    """Every candidate of a bundle whose text it tells, by id."""
    validation, searches = evidence.validation, evidence.searches
    found = [one for searched in searches for one, _ in searched.finalists]
    found += [one for one, _ in (validation.finalists if validation else ())]
    if validation is not None:
        found.append(validation.winner)
    if evidence.incumbent is not None:
        found.append(text_of(evidence.incumbent))
    if evidence.study is not None and (own := chosen(evidence.study.pools)) is not None:
        found.append(own)
    for searched in searches:
        pools = searched.study.pools if searched.study else None
        told = [chosen(pools, one.choice) for one in searched.measured] if pools else []
        found += [one for one in told if one is not None]
    return {one.content_id: one for one in found}


def scores_in(evidence: Evidence, candidate_id: str) -> dict[str, Score]:
    """The means that a bundle tells of a candidate, by split."""
    searched, climbed, validation = evidence.searched, evidence.climbed, evidence.validation
    told = [("search", one.candidate_id, one.score) for one in (searched.measured if searched else ())]
    told += [("climb", one.candidate_id, one.score) for one in (climbed.result.measured if climbed else ())]
    told += [("validation", one.content_id, score) for one, score in (validation.finalists if validation else ())]
    told += [("test", one.candidate_id, one.score) for one in evidence.evaluations().values()]
    return {split: score for split, key, score in told if key == candidate_id}


def compare(before: Side, after: Side, paired: Paired) -> Difference:
    """From one side to the other.

    Args:
        before: What the other is held against.
        after: The other.
        paired: How a paired difference is measured.
    """
    names = list(dict.fromkeys([*before.text.predictors, *after.text.predictors]))
    texts = [_text_difference(name, before.text, after.text) for name in names]
    new = {one.example_id: one.score_ppm for one in after.outcomes}
    duels = tuple(
        Duel(example_id=one.example_id, before_ppm=one.score_ppm, after_ppm=new[one.example_id])
        for one in before.outcomes
        if one.example_id in new
    )
    improvement = paired([one.after_ppm for one in duels], [one.before_ppm for one in duels]) if duels else None
    differing = tuple(one for one in texts if not one.is_same)
    return Difference(before=before, after=after, texts=differing, duels=duels, improvement=improvement)


def rows_of(difference: Difference) -> list[tuple[str, str, str]]:
    """What a terminal shows: a name, before, after."""
    before, after = difference.before, difference.after
    rows = [("candidate", before.candidate_id[7:19], after.candidate_id[7:19])]
    splits = ("search", "validation", "test")
    rows += [(f"{split} score", _score(before, split), _score(after, split)) for split in splits]
    rows += [(name, _per_run(before, field), _per_run(after, field)) for name, field in _COSTS.items()]
    rows.append(("msats of its compile", _spent(before), _spent(after)))
    rows = [row for row in rows if row[1] or row[2]]
    if difference.improvement is not None:
        rows.append(("examples won", str(difference.lost), str(difference.won)))
        rows.append(("paired difference", "", str(difference.improvement)))
    return rows


def markdown(difference: Difference) -> str:
    """The report: texts, scores, cost, and who won where."""
    before, after = difference.before, difference.after
    parts = [
        f"# {_line(before.label)} against {_line(after.label)}",
        _table(("", before.label, after.label), rows_of(difference)),
    ]
    for text in difference.texts:
        parts.append(f"## Predictor `{_line(text.predictor)}`")
        if text.instruction:
            parts.append(_fenced("diff", preview("\n".join(text.instruction))))
        for word, demos in (("added", text.demos_added), ("removed", text.demos_removed)):
            parts += [f"Demonstrations {word}: {len(demos)}"] if demos else []
            parts += [_fenced("json", preview(demo.canonical().decode())) for demo in demos]
    if not difference.texts:
        parts.append("Both say the same.")
    decided = [one for one in difference.duels if one.before_ppm != one.after_ppm]
    if decided:
        rows = [(one.example_id[7:19], f"{one.before_ppm / 1e6:g}", f"{one.after_ppm / 1e6:g}") for one in decided]
        parts += ["## Examples that tell them apart", _table(("example", before.label, after.label), rows)]
    return "\n\n".join(parts) + "\n"


_COSTS: Mapping[str, str] = {
    "calls a run": "calls",
    "tokens in a run": "prompt_tokens",
    "tokens out a run": "completion_tokens",
    "msats a run": "msats",
    "milliseconds a run": "latency_ms",
}


def _score(side: Side, split: str) -> str:
    return str(side.scores.get(split, ""))


def _spent(side: Side) -> str:
    return "" if side.spent_msats is None else f"{side.spent_msats:,}"


def _per_run(side: Side, field: str) -> str:
    return f"{getattr(side.cost, field) / len(side.outcomes):,.1f}" if side.outcomes else ""


def _text_difference(name: str, before: Candidate, after: Candidate) -> TextDifference:
    old, new = before.predictors.get(name), after.predictors.get(name)
    said, says = (one.instruction.splitlines() if one else [] for one in (old, new))
    kept, demos = (tuple(one.demos) if one else () for one in (old, new))
    return TextDifference(
        predictor=name,
        instruction=tuple(difflib.unified_diff(said, says, "before", "after", lineterm="", n=2)),
        demos_added=tuple(demo for demo in demos if demo not in kept),
        demos_removed=tuple(demo for demo in kept if demo not in demos),
    )


def _compiled_side(path: Path) -> Side:
    with boundary(BundleError, f"reading {path.name}", OSError):
        if path.stat().st_size > MAX_COMPILED_BYTES:
            raise BundleError(f"{path.name} has more than {MAX_COMPILED_BYTES} bytes, which are not read")
        data = path.read_bytes()
    try:
        compiled = CompiledProgram.model_validate_json(data)
    except ValidationError:
        raise BundleError(f"{path.name} is no compiled.json; give one, or a bundle (.jsonl)") from None
    text = text_of(compiled)
    return Side(label=path.stem, candidate_id=text.content_id, text=text)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _line(text: str) -> str:
    """A text that stays in its line."""
    return " ".join(text.split())


def _fenced(language: str, text: str) -> str:
    """A block that its own text cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
