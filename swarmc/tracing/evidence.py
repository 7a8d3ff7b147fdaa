"""What a bundle says, as the records of a compile: read once, for checking, comparing and asking."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from swarmc.contracts.bundle import Document, Finding
from swarmc.contracts.candidates import (
    Candidate,
    Comparison,
    DatasetRef,
    Evaluation,
    Pools,
    PredictorChoice,
    SearchResult,
    Study,
    Validation,
)
from swarmc.contracts.manifest import CompiledModuleManifest, CompiledProgram
from swarmc.contracts.money import Account
from swarmc.contracts.plan import Plan
from swarmc.contracts.promotion import Promotion
from swarmc.contracts.spec import CompileSpec
from swarmc.contracts.transfer import Climb
from swarmc.tracing.bundle import Bundle

T = TypeVar("T", bound=BaseModel)

_SHOWN_CHARS = 100


@dataclass
class Evidence:
    """A bundle's documents as records; `None` where there is none, or where it is withheld.

    Attributes:
        before: What was promoted when the run began.
        incumbent: Its program.
        misshaped: Documents that are no record of their name.
    """

    bundle: Bundle
    manifest: CompiledModuleManifest | None = None
    spec: CompileSpec | None = None
    compiled: CompiledProgram | None = None
    searched: SearchResult | None = None
    climbed: Climb | None = None
    validation: Validation | None = None
    study: Study | None = None
    account: Account | None = None
    plan: Plan | None = None
    before: Promotion | None = None
    incumbent: CompiledProgram | None = None
    misshaped: list[Finding] = field(default_factory=list)

    @property
    def searches(self) -> list[SearchResult]:
        """The search, and how the better lane went on."""
        return [*([self.searched] if self.searched else []), *([self.climbed.result] if self.climbed else [])]

    def line(self, name: str) -> int:
        """The line on which a document stands."""
        return self.bundle.line_of(name)

    def is_whole(self, *names: str) -> bool:
        """Whether these documents are there as they were recorded: nothing withheld, nothing replaced."""
        documents = [self.bundle.documents.get(name) for name in names]
        return all(one is not None and not one.redacted and not one.is_withheld for one in documents)

    def split(self, name: str) -> DatasetRef | None:
        """The examples of a split, as the manifest names them."""
        refs = self.manifest.datasets if self.manifest else ()
        return next((ref for ref in refs if ref.name == name), None)

    def comparisons(self) -> dict[str, Comparison]:
        """The winner against the uncompiled program and against what was promoted, as far as they were made."""
        found = self.validation
        pairs = {"baseline": found.comparison, "incumbent": found.incumbent} if found else {}
        return {name: compared for name, compared in pairs.items() if compared is not None}

    def evaluations(self) -> dict[str, Evaluation]:
        """Every evaluation whose outcomes are recorded, by the role of its candidate."""
        compared = self.comparisons()
        found = {name: one.baseline for name, one in compared.items()}
        return {"winner": next(iter(compared.values())).winner, **found} if compared else {}


def evidence_of(bundle: Bundle) -> Evidence:
    """Read the documents of a bundle as the records that they are named as."""
    found = Evidence(bundle)
    found.manifest = _record(found, "manifest.json", CompiledModuleManifest)
    found.spec = _record(found, "spec.json", CompileSpec)
    found.compiled = _record(found, "compiled.json", CompiledProgram)
    found.searched = _record(found, "search.json", SearchResult)
    found.climbed = _record(found, "climb.json", Climb)
    found.validation = _record(found, "validation.json", Validation)
    found.study = _record(found, "study.json", Study)
    found.account = _record(found, "account.json", Account)
    found.plan = _record(found, "plan.json", Plan)
    found.before = _before(found)
    found.incumbent = _record(found, "incumbent.json", CompiledProgram)
    return found


def text_of(compiled: CompiledProgram) -> Candidate:
    """A compiled program's instructions and demonstrations, whose hash does not depend on where the program lies."""
    return Candidate(
        predictors={
            name: PredictorChoice(instruction=one.instruction, demos=one.demos)
            for name, one in compiled.predictors.items()
        }
    )


def chosen(pools: Pools, choice: Mapping[str, tuple[int, int]] | None = None) -> Candidate | None:
    """The candidate of a choice, or of all firsts; nothing when a stranger's pools have no such choice."""
    try:
        return pools.candidate(dict.fromkeys(pools.instructions, (0, 0)) if choice is None else dict(choice))
    except (KeyError, IndexError):
        return None


def _record(found: Evidence, name: str, kind: type[T]) -> T | None:
    return _read(found, name, lambda document: _validated(kind, document))


def _validated(kind: type[T], document: Document) -> T:
    if document.text is not None:
        return kind.model_validate_json(document.text)
    return kind.model_validate(document.value)


def _before(found: Evidence) -> Promotion | None:
    def promotion(document: Document) -> Promotion | None:
        value = document.value.get("promotion") if isinstance(document.value, dict) else None
        return None if value is None else Promotion.model_validate(value)

    return _read(found, "beginning.json", promotion)


def _read(found: Evidence, name: str, reading: Callable[[Document], T | None]) -> T | None:
    document = found.bundle.documents.get(name)
    if document is None or document.is_withheld:
        return None
    try:
        return reading(document)
    except (ValidationError, RecursionError) as error:
        reason = str(error).replace("\n", " ")[:_SHOWN_CHARS]
        found.misshaped.append(Finding(line=found.line(name), what=f"{name} is no such record: {reason}"))
        return None
