"""Package: put all evidence of a run into one file that a stranger can check."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from swarmc.contracts.bundle import (
    Call,
    Document,
    End,
    Header,
    Kept,
    Kind,
    Purchase,
    Sample,
    SignedStatement,
    ledger_root,
)
from swarmc.contracts.canonical import ContentId, plain
from swarmc.contracts.errors import BundleError, SpecError, SwarmcError, boundary
from swarmc.contracts.events import Event
from swarmc.contracts.manifest import CompiledModuleManifest, PrivacyMode
from swarmc.contracts.money import Receipt, RunRecord
from swarmc.contracts.ports import Store
from swarmc.contracts.promotion import Promotion
from swarmc.contracts.spec import CompileSpec
from swarmc.tracing.bundle import BundleWriter, document_of
from swarmc.tracing.statements import Sign, problems_of, signed_statement
from swarmc.tracing.withholding import Guard, hashed
from tasks.load import read_inputs
from tasks.recall import Beginning

BEFORE: tuple[tuple[Kind, str, bool], ...] = (
    ("spec", "spec.json", False),
    ("beginning", "beginning.json", True),
    ("plan", "plan.json", True),
    ("program", "compiled.json", True),
    ("program", "program.json", False),
)
"""Kind, file and whether its bytes are canonical: what stands before the examples and the calls."""
AFTER: tuple[tuple[Kind, str, bool], ...] = (
    ("account", "account.json", True),
    ("study", "study.json", True),
)
OUTCOMES = ("search.json", "climb.json", "validation.json")
_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)


@dataclass(frozen=True)
class Packaging:
    """How a bundle is made.

    Attributes:
        guard: Knows what must not be told.
        kept: `all` or `hashes`; nothing for what the run's privacy mode allows.
        sign: Signs the statement; nothing for a bundle that nobody vouches for.
    """

    guard: Guard
    kept: Kept | None = None
    sign: Sign | None = None


@dataclass(frozen=True)
class Packaged:
    """What came of it.

    Attributes:
        path: The file.
        end: Its last line.
        size_bytes: Of the file.
        notes: What was withheld, and why.
    """

    path: Path
    end: End
    size_bytes: int
    notes: tuple[str, ...]


async def package(
    run: RunRecord, purchases: AsyncIterator[Purchase], store: Store, path: Path, packaging: Packaging
) -> Packaged:
    """Write the bundle of a run, in one pass; the file appears when it is whole.

    Args:
        run: As the ledger knows it.
        purchases: Everything that the run used, oldest first.
        store: Where its artifacts are.
        path: The file to write.
        packaging: What may be told, and who signs.

    Raises:
        SpecError: the run has no manifest.
        StoreError, LedgerError: what it recorded cannot be read.
        BundleError: the file cannot be written.
    """
    data = await store.read(f"runs/{run.run_id}/manifest.json")
    if data is None:
        raise SpecError(
            f"run {run.run_id} is {run.state} and has no manifest; a bundle tells a compile that was recorded"
        )
    manifest = CompiledModuleManifest.model_validate_json(data)
    spec = CompileSpec.model_validate_json(await _artifact(store, run.run_id, "spec.json"))
    kept = packaging.kept or ("all" if spec.privacy_mode is PrivacyMode.PUBLIC_OK else "hashes")
    with _written(path) as file:
        header = Header(run_id=run.run_id, created_at=manifest.created_at, kept=kept)
        one = _Package(BundleWriter(file, header), store, manifest, packaging, kept)
        await one.documents(BEFORE)
        await one.beginnings()
        one.samples(spec)
        receipts = await one.calls(purchases)
        await one.outcomes()
        await one.events()
        await one.documents(AFTER)
        await one.ending(receipts)
        end = one.writer.close()
        size_bytes = file.tell()
    return Packaged(path, end, size_bytes, tuple(one.notes))


class _Package:
    """One bundle in the making."""

    def __init__(
        self, writer: BundleWriter, store: Store, manifest: CompiledModuleManifest, packaging: Packaging, kept: Kept
    ) -> None:
        self.writer = writer
        self.notes: list[str] = []
        self._store = store
        self._manifest = manifest
        self._guard = packaging.guard
        self._sign = packaging.sign
        self._tells_all = kept == "all"

    async def documents(self, listed: Sequence[tuple[Kind, str, bool]]) -> None:
        """Files of the run, by kind, as far as it has them."""
        for kind, name, is_canonical in listed:
            data = await self._store.read(f"runs/{self._manifest.run_id}/{name}")
            if data is not None:
                self._document(kind, document_of(name, data, is_canonical=is_canonical))

    async def beginnings(self) -> None:
        """What the run began with: the promoted program, and what an earlier search had learned."""
        data = await self._store.read(f"runs/{self._manifest.run_id}/beginning.json")
        if data is None:
            return
        began = Beginning.model_validate_json(data)
        uris = {
            "incumbent.json": began.promotion.compiled_uri if began.promotion else None,
            "earlier.json": began.study_uri,
        }
        for name, uri in uris.items():
            if uri is not None:
                self._document("program", document_of(name, await self._store.get(uri), is_canonical=True))

    def samples(self, spec: CompileSpec) -> None:
        """Every example that the run used, by split and in order."""
        values = self._values(spec) if self._tells_all else {}
        for ref in self._manifest.datasets:
            for place, key in enumerate(ref.example_ids):
                value = values.get(key)
                told = value if isinstance(value, dict) and not self._guard.forbids(value) else None
                if value is not None and told is None:
                    self.notes.append(f"example {key} holds what must not be told; its hash stands for it")
                self.writer.add("data", Sample(example_id=key, split=ref.name, place=place, value=told))

    async def calls(self, purchases: AsyncIterator[Purchase]) -> list[Receipt]:
        """Every completion that the run used, and its receipt."""
        receipts, hidden = [], 0
        async for purchase in purchases:
            told, _ = self._guard.record(purchase.receipt.model_dump(mode="json"))
            receipts.append(Receipt.model_validate(told))
            request, completion = purchase.request.model_dump(mode="json"), purchase.completion.model_dump(mode="json")
            tells = self._tells_all and not self._guard.forbids([request, completion])
            hidden += self._tells_all and not tells
            call = Call(
                receipt=receipts[-1],
                source=purchase.source,
                request=request if tells else None,
                completion=completion if tells else None,
            )
            self.writer.add("completion", call)
        if hidden:
            self.notes.append(f"{hidden} calls hold what must not be told; their hashes stand for them")
        return receipts

    async def outcomes(self) -> None:
        """How the search went, and how the finalists did."""
        await self.documents([("outcome", name, True) for name in OUTCOMES])

    async def events(self) -> None:
        """What was told while it ran, if that was kept."""
        data = await self._store.read(f"runs/{self._manifest.run_id}/events.jsonl")
        for number, line in enumerate(data.split(b"\n") if data and self._tells_all else [], start=1):
            if not line.strip():
                continue
            try:
                event = _EVENTS.validate_json(line)
            except ValidationError as error:
                raise BundleError(f"events.jsonl, line {number} is no event: {error.error_count()} problems") from None
            if not self._guard.forbids(event.model_dump(mode="json")):
                self.writer.add("event", event)

    async def ending(self, receipts: list[Receipt]) -> None:
        """The manifest, what became of the winner, and who vouches for it."""
        self._document("manifest", document_of("manifest.json", self._manifest.canonical(), is_canonical=True))
        data = await self._store.read(f"runs/{self._manifest.run_id}/promotion.json")
        if data is not None:
            clean, _ = self._guard.record(json.loads(data))
            self.writer.add("promotion", Promotion.model_validate(clean))
        statement = await self._statement(ledger_root(receipts))
        if statement is not None:
            self.writer.add("statement", statement)

    async def _statement(self, root: ContentId) -> SignedStatement | None:
        """A new one where somebody signs; else the one that was signed when the run ended."""
        if self._sign is not None:
            return signed_statement(self._manifest, root, self._sign)
        data = await self._store.read(f"runs/{self._manifest.run_id}/statement.json")
        if data is None:
            return None
        signed = SignedStatement.model_validate_json(data)
        if problems_of(signed.statement, self._manifest, root):
            self.notes.append("the run's statement is left out: it is of receipts that this bundle withholds parts of")
            return None
        return signed

    def _document(self, kind: Kind, document: Document) -> None:
        clean = self._guard.document(document)
        if clean.redacted:
            self.notes.append(f"{clean.name}: replaced {', '.join(clean.redacted[:5])}")
        self.writer.add(kind, clean if self._tells_all else hashed(clean))

    def _values(self, spec: CompileSpec) -> dict[ContentId, object]:
        """The examples' values by their ids, read again from where the spec says they are."""
        try:
            splits = read_inputs(spec).splits
        except SwarmcError as error:
            self.notes.append(f"examples are given by their hashes: {error}")
            return {}
        found = {key: plain(dict(example)) for key, example in splits.examples.items()}
        absent = sum(key not in found for ref in self._manifest.datasets for key in ref.example_ids)
        if absent:
            self.notes.append(
                f"{absent} examples are not in {spec.dataset.source} any more; their hashes stand for them"
            )
        return dict(found)


async def _artifact(store: Store, run_id: str, name: str) -> bytes:
    data = await store.read(f"runs/{run_id}/{name}")
    if data is None:
        raise SpecError(f"run {run_id} recorded no {name}, so no bundle can be made of it")
    return data


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block ends well."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with boundary(BundleError, f"writing the bundle {path.name}", OSError):
        try:
            with draft.open("xb") as file:
                yield file
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
