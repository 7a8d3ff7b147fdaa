"""Recall: what is promoted under the compile's name, and what the last search of it learned."""

from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from swarmc.compiler.promoting import candidate_of
from swarmc.contracts.candidates import Candidate, PredictorInfo, Study
from swarmc.contracts.canonical import Contract
from swarmc.contracts.errors import StoreError
from swarmc.contracts.manifest import CompiledProgram
from swarmc.contracts.ports import Store
from swarmc.contracts.promotion import Promotion
from tasks.stage import live

T = TypeVar("T", bound=Contract)


class Beginning(Contract):
    """What a run began with, written down once: a run that is resumed begins with the same."""

    promotion: Promotion | None = None
    study_uri: str | None = None


@dataclass(frozen=True)
class Recalled:
    """What there was when the run began.

    Attributes:
        promotion: What is promoted under the name.
        incumbent: Its text, where the program can still run it.
        study: What the last search of this name learned.
    """

    promotion: Promotion | None = None
    incumbent: Candidate | None = None
    study: Study | None = None

    @property
    def sentence(self) -> str:
        """What a person should know of it; empty when there was nothing."""
        parts = []
        if self.promotion is not None:
            parts.append(f"promoted now: {self.promotion.compiled_id[:15]} of run {self.promotion.run_id[:8]}")
            if self.incumbent is None:
                parts.append("its predictors or fields are not this program's, so the two are not compared")
        if self.study is not None:
            parts.append("the search starts from what the last one learned")
        return "; ".join(parts)


@live("recall")
async def recall(store: Store, name: str, run_id: str, predictors: dict[str, PredictorInfo], *, warm: bool) -> Recalled:
    """Look up what the run begins with, and write it down for the case that it is resumed.

    Args:
        store: Where artifacts are.
        name: The compile's name.
        run_id: The run.
        predictors: The program's.
        warm: Whether the last search's study is wanted.

    Raises:
        StoreError: something is there, but cannot be read.
    """
    label = f"runs/{run_id}/beginning.json"
    known = await store.read(label)
    if known is None:
        beginning = await _look_up(store, name, warm=warm)
        await store.label(label, await store.put(beginning.canonical(), name="beginning.json"))
    else:
        beginning = _parsed(Beginning, known, label)
    incumbent = study = None
    if beginning.promotion is not None and (uri := beginning.promotion.compiled_uri) is not None:
        incumbent = candidate_of(_parsed(CompiledProgram, await store.get(uri), uri), predictors)
    if beginning.study_uri is not None:
        study = _parsed(Study, await store.get(beginning.study_uri), beginning.study_uri)
    return Recalled(beginning.promotion, incumbent, study)


def promotion_label(name: str) -> str:
    """Where it is written what runs under a name."""
    return f"promoted/{name}/promotion.json"


async def promotion_of(store: Store, name: str) -> Promotion | None:
    """What runs under a name now; nothing when nothing was promoted.

    Raises:
        StoreError: it cannot be read.
    """
    label = promotion_label(name)
    data = await store.read(label)
    return None if data is None else _parsed(Promotion, data, label)


def study_label(name: str) -> str:
    """Where the last search of a name left what it learned."""
    return f"studies/{name}.json"


async def _look_up(store: Store, name: str, *, warm: bool) -> Beginning:
    learned = await store.read(study_label(name)) if warm else None
    return Beginning(
        promotion=await promotion_of(store, name),
        # The same bytes have the same address, whatever the label names later.
        study_uri=await store.put(learned, name="study.json") if learned else None,
    )


def _parsed(kind: type[T], data: bytes, where: str) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise StoreError(
            f"{where} is no {kind.__name__} that this version reads ({error.error_count()} problems); "
            "remove it, or compile under another name"
        ) from None
