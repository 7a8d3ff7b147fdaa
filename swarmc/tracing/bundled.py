"""A bundle's program runs as examples: from its events, or else read back from its completions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic import JsonValue, ValidationError

from swarmc.contracts.bundle import BEFORE_ALL, KINDS, Call, Document, Header, Sample, line_hash
from swarmc.contracts.candidates import Candidate, Outcome, Pools, RunCost, SearchResult, Validation
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.manifest import CompiledPredictor, CompiledProgram
from swarmc.contracts.promotion import Promotion
from swarmc.contracts.transfer import Climb
from swarmc.tracing.evidence import text_of as candidate_of
from swarmc.tracing.extraction import Found, Kind, Notes, Row, first_fault, value_of
from swarmc.tracing.prompts import Prompts, Step, text_of
from swarmc.tracing.runs import Events

Rescore = Callable[[str, Mapping[str, JsonValue], Mapping[str, JsonValue]], int | None]
"""The score that a metric gives an answer: its name, the example's fields as `canonical.plain` data, the outputs.

Nothing for a metric that is a stranger's code, or when it cannot be said.
"""

_BUNDLE_LINE = frozenset({"body", "hash", "kind", "number"})
Texts = frozenset[tuple[str, str]]


@dataclass
class _Known:
    """What the whole of a bundle tells of each of its runs."""

    run_id: str = ""
    metric: str = ""
    inputs: tuple[str, ...] = ()
    compiled: CompiledProgram | None = None
    samples: dict[str, Sample] = field(default_factory=dict)
    by_inputs: dict[Texts, str] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    choices: list[tuple[Pools, dict[str, tuple[int, int]]]] = field(default_factory=list)
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    validation: Validation | None = None
    promotion: Promotion | None = None
    has_runs: bool = False

    @property
    def best(self) -> str | None:
        """The candidate that runs now, or that won."""
        if self.validation is None:
            return None
        before = self.validation.incumbent
        if before is not None and self.promotion is not None and self.promotion.decision == "kept":
            return before.baseline.candidate_id
        return self.validation.winner.content_id


class Bundled:
    """The lines of a bundle.

    Args:
        notes: Takes problems and counts.
        rescore: Scores what the bundle has no score of.
    """

    def __init__(self, notes: Notes, rescore: Rescore | None = None) -> None:
        self._notes = notes
        self._rescore = rescore
        self._events = Events(notes)
        self._known = _Known()
        self._hash = BEFORE_ALL
        self._prompts: Prompts | None = None
        self._has_ended = False

    def look(self, line: int, row: Row) -> None:
        match row["kind"], row["body"]:
            case "event", {"kind": "program_started"}:
                self._known.has_runs = True
            case (("header" | "data" | "promotion"), body):
                self._note(str(row["kind"]), body)
            case _, {"name": str(name)} as body:
                self._document(line, name, body)

    def take(self, line: int, row: Row) -> Iterator[Found]:
        kind, body = row["kind"], row["body"]
        if not self._holds(line, row):
            return
        if kind == "event" and isinstance(body, dict):
            for found in self._events.take(line, body):
                yield self._joined(found)
        elif kind == "completion" and not self._known.has_runs:
            yield from self._call(line, body)
        elif kind not in KINDS:
            self._notes.ignore("line of an unknown kind")

    def end(self) -> Iterator[Found]:
        if self._hash != BEFORE_ALL and not self._has_ended:
            self._notes.problem(self._notes.lines, "the bundle ends here without its last line: it was cut")
        yield from self._events.end()

    def _holds(self, line: int, row: Row) -> bool:
        """Whether the line is as it was written; the next one is held against what this one says of itself."""
        number, said = row["number"], row["hash"]
        try:
            is_right = isinstance(number, int) and line_hash(self._hash, str(row["kind"]), number, row["body"]) == said
        except ValueError:
            is_right = False
        self._hash = str(said)
        self._has_ended = row["kind"] == "end"
        if not is_right:
            self._notes.problem(line, "its hash is wrong: it was changed, or a line before it was dropped")
        return is_right

    def _note(self, kind: str, body: JsonValue) -> None:
        known = self._known
        try:
            if kind == "header":
                known.run_id = Header.model_validate(body).run_id
            elif kind == "promotion":
                known.promotion = Promotion.model_validate(body)
            else:
                sample = Sample.model_validate(body)
                known.samples[sample.example_id] = sample
        except (ValidationError, RecursionError):
            return  # A line without its right shape has a wrong hash or is nobody's evidence; `take` tells.

    def _document(self, line: int, name: str, body: Row) -> None:
        readers = {
            "spec.json": self._spec,
            "compiled.json": self._program,
            "search.json": self._search,
            "climb.json": self._climb,
            "validation.json": self._validation,
        }
        read = readers.get(name)
        if read is None:
            return
        try:
            document = Document.model_validate(body)
            value = document.value if document.text is None else value_of(document.text)
            if value is not None:
                read(value)
        except (ValidationError, RecursionError) as error:
            self._notes.problem(line, f"no {name}: {first_fault(error)}")

    def _spec(self, value: JsonValue) -> None:
        match value:
            case {"metric": str(metric), "dataset": {"inputs": list(inputs)}}:
                self._known.metric, self._known.inputs = metric, tuple(map(str, inputs))

    def _program(self, value: JsonValue) -> None:
        self._known.compiled = CompiledProgram.model_validate(value)
        self._candidates(candidate_of(self._known.compiled))

    def _search(self, value: JsonValue) -> None:
        self._searched(SearchResult.model_validate(value))

    def _climb(self, value: JsonValue) -> None:
        self._searched(Climb.model_validate(value).result)

    def _searched(self, searched: SearchResult) -> None:
        self._candidates(*(candidate for candidate, _ in searched.finalists))
        if searched.study is not None:
            self._known.choices += [(searched.study.pools, one.choice) for one in searched.measured]

    def _validation(self, value: JsonValue) -> None:
        found = self._known.validation = Validation.model_validate(value)
        self._candidates(found.winner, *(candidate for candidate, _ in found.finalists))
        compared = [one for one in (found.comparison, found.incumbent) if one is not None]
        for evaluation in [one for pair in compared for one in (pair.winner, pair.baseline)]:
            for outcome in evaluation.outcomes:
                self._known.outcomes[evaluation.candidate_id, outcome.example_id] = outcome

    def _measured(self) -> None:
        """Every candidate that a search scored, from the pools that it chose from."""
        for pools, choice in self._known.choices:
            fits = all(
                0 <= i < len(pools.instructions.get(name, ())) and 0 <= d < len(pools.demo_sets.get(name, ()))
                for name, (i, d) in choice.items()
            )
            if fits:
                self._candidates(pools.candidate(choice))

    def _candidates(self, *candidates: Candidate) -> None:
        self._known.candidates |= {one.content_id: one for one in candidates}

    def _call(self, line: int, body: JsonValue) -> Iterator[Found]:
        call = self._notes.shaped(Call, body, line, "completion")
        if call is None:
            return
        if call.request is None or self._known.compiled is None:
            lacks = "completion that is told by its hash alone" if call.request is None else "completion of no program"
            self._notes.ignore(lacks)
            return
        request = self._notes.shaped(CompletionRequest, call.request, line, "request")
        completion = self._notes.shaped(Completion, call.completion, line, "completion")
        if request is None or completion is None:
            return
        step = self._read(request, completion)
        if step is None:
            self._notes.ignore("completion that is no predictor's answer")
            return
        used = completion.usage
        yield self._scored(
            step,
            Found(
                line=line,
                signature=step.signature,
                inputs=step.inputs,
                outputs=step.outputs,
                cost=RunCost(
                    calls=1,
                    prompt_tokens=used.prompt_tokens,
                    completion_tokens=used.completion_tokens,
                    msats=used.cost_msats,
                    latency_ms=completion.latency_ms,
                ),
                phase=call.receipt.stage,
                run_id=self._known.run_id,
            ),
        )

    def _read(self, request: CompletionRequest, completion: Completion) -> Step | None:
        if self._prompts is None:
            assert self._known.compiled is not None, "a call is read only of a known program"
            self._measured()
            self._prompts = Prompts(self._known.compiled, self._known.candidates)
            self._index()
        return self._prompts.read(request.messages, completion.text)

    def _scored(self, step: Step, found: Found) -> Found:
        """With candidate, example and score, as far as the bundle tells them."""
        known = self._known
        example_id = known.by_inputs.get(_texts(step.inputs, self._named()))
        best = known.best
        candidate_id = best if best in step.candidates else next(iter(step.candidates), None)
        if len(step.candidates) > 1 and candidate_id != best:
            candidate_id = None
        found = replace(found, candidate_id=candidate_id, run_example_id=example_id)
        outcome = known.outcomes.get((candidate_id or "", example_id or ""))
        if outcome is not None:
            found = replace(found, score_ppm=outcome.score_ppm, failure=outcome.failure)
        elif self._rescore is not None and example_id is not None and len(self._predictors()) == 1:
            score = self._rescore(known.metric, known.samples[example_id].value or {}, step.outputs)
            found = replace(found, score_ppm=score, scored_again=score is not None)
        return self._joined(found)

    def _joined(self, found: Found) -> Found:
        sample = self._known.samples.get(found.run_example_id or "")
        best = self._known.best
        return replace(
            found,
            is_best=best is not None and found.candidate_id == best,
            run_split=sample.split if sample else None,
        )

    def _index(self) -> None:
        """Examples by the texts of the program's inputs, as a prompt shows them."""
        names = self._named()
        for key, sample in self._known.samples.items():
            if sample.value is not None and all(name in sample.value for name in names):
                self._known.by_inputs.setdefault(frozenset((name, text_of(sample.value[name])) for name in names), key)

    def _named(self) -> tuple[str, ...]:
        predictors = self._predictors()
        first = tuple(one.name for one in predictors[0].inputs) if predictors else ()
        return self._known.inputs or first

    def _predictors(self) -> list[CompiledPredictor]:
        return list(self._known.compiled.predictors.values()) if self._known.compiled else []


def _texts(values: Mapping[str, JsonValue], names: tuple[str, ...]) -> Texts:
    return frozenset((name, text_of(values[name])) for name in names if name in values)


def bundles(rescore: Rescore | None = None) -> Kind:
    """The lines of bundles; scores that they lack come from `rescore`."""
    return Kind("bundle", lambda row: row.keys() == _BUNDLE_LINE, lambda notes: Bundled(notes, rescore))
