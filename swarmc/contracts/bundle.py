"""The bundle: one run's evidence as canonical JSON lines, each hashed over the line before it.

`docs/bundle.md` tells the format to people. What a line may hold is said here; reading and writing
are in `swarmc/tracing/bundle.py`, checking in `swarmc/tracing/verify.py`.
"""

from typing import Literal, get_args

from pydantic import Field, JsonValue, model_validator

from swarmc.contracts.canonical import CanonicalText, ContentId, Contract, canonical_bytes, content_id
from swarmc.contracts.completions import Completion, CompletionRequest
from swarmc.contracts.money import Receipt

BEFORE_ALL = "sha256:" + "0" * 64
"""What the first line is chained to."""

MAX_LINE_BYTES = 64 * 1024**2
MAX_LINES = 2_000_000
MAX_BUNDLE_BYTES = 4 * 1024**3
MAX_DEPTH = 100
"""Lists and objects within one another in a line."""
PREVIEW_CHARS = 2_000

Kind = Literal[
    "header",
    "spec",
    "beginning",
    "plan",
    "program",
    "data",
    "completion",
    "outcome",
    "event",
    "account",
    "study",
    "manifest",
    "promotion",
    "statement",
    "end",
]
"""What a line holds. Lines of one kind stand together, and the kinds stand in this order."""

KINDS: tuple[Kind, ...] = get_args(Kind)
Kept = Literal["all", "hashes"]
SplitName = Literal["train", "search", "validation", "test"]

HASHING = {
    "canonical": "UTF-8 JSON, keys sorted by code point, no white space, integers only; floats as {'$float': digits}",
    "line": "sha256 of the hash of the line before (64 zeros at first), a line feed, and the canonical form of "
    "{body, kind, number}",
    "root": "the hash of the last line before the end",
    "ids": "sha256 of canonical bytes: requests, completions, examples, candidates, compiled programs; files by bytes",
}
"""Written into every header, so that a bundle says itself how to check it."""


class Header(Contract):
    """The first line.

    Attributes:
        created_at: When the run began; Unix seconds.
        kept: `all`, or `hashes`: examples, prompts, answers and texts are given by their hashes alone.
        hashing: What is hashed how, for people.
    """

    format: Literal["swarmc-bundle"] = "swarmc-bundle"
    version: Literal[1] = 1
    run_id: str
    created_at: int = Field(ge=0)
    kept: Kept = "all"
    hashing: dict[str, str] = Field(default=HASHING)


class Document(Contract):
    """One of the run's files: its canonical value, or its text where it is no canonical JSON, or its hash alone.

    Attributes:
        name: The file's name, as the manifest has it.
        sha256: Of the file's bytes as they were recorded.
        redacted: Paths of fields in which a secret or a place of one machine was replaced; the hash is then of
            what stood there before and cannot be checked.
    """

    name: str
    sha256: ContentId
    size_bytes: int = Field(ge=0)
    value: JsonValue = None
    text: str | None = None
    redacted: tuple[str, ...] = ()

    @property
    def is_withheld(self) -> bool:
        return self.value is None and self.text is None

    @property
    def bytes(self) -> bytes | None:
        """The file's bytes, as far as the bundle has them."""
        if self.text is not None:
            return self.text.encode()
        return None if self.value is None else canonical_bytes(self.value)


class Sample(Contract):
    """One example that the run used. `value` is `canonical.plain` data; nothing when only its hash may be told."""

    example_id: ContentId
    split: SplitName
    place: int = Field(ge=0)
    value: dict[str, JsonValue] | None = None


Source = Literal["bought", "repeat", "reused"]


class Purchase(Contract):
    """A completion that a run used, with what was asked.

    Attributes:
        receipt: Of the purchase; of a `reused` one it is the earlier run's.
        source: Bought by this run; bought again by it although it was known (a reservation was thought dead);
            or read from what an earlier run had bought.
        completion: What this purchase brought.
    """

    receipt: Receipt
    source: Source
    request: CompletionRequest
    completion: Completion


class Call(Contract):
    """A purchase as a bundle holds it; without request and completion when only their hashes may be told."""

    receipt: Receipt
    source: Source
    request: dict[str, JsonValue] | None = None
    completion: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _has_both_or_none(self) -> "Call":
        if (self.request is None) != (self.completion is None):
            raise ValueError("a completion is given with its request, or neither is")
        return self


class Signature(Contract):
    """Somebody's word for some bytes. `public_key` and `signature` are hex."""

    scheme: str
    public_key: str
    signature: str


class SignedStatement(Contract):
    """An in-toto statement as canonical text, and who signed its DSSE encoding."""

    statement: CanonicalText
    signatures: tuple[Signature, ...] = ()


class End(Contract):
    """The last line: how many lines stand before it, and the hash of the last of them."""

    lines: int = Field(ge=1)
    root: ContentId


class Finding(Contract):
    """Something that does not hold, and the number of its line (0: the bundle as a whole)."""

    line: int
    what: str


class Report(Contract):
    """What a check of a bundle found.

    Attributes:
        run_id: The run, as the header names it; empty when not even that can be read.
        root: Of the chain: two bundles with one root hold the same.
        lines: How many were read.
        faults: What does not hold, the first line first; empty for a bundle that holds.
        checked: What was found to hold, in words.
        unchecked: What could not be checked, and why.
    """

    run_id: str = ""
    root: str = ""
    lines: int = 0
    faults: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.faults

    @property
    def first(self) -> Finding | None:
        """The first line that does not hold."""
        return self.faults[0] if self.faults else None


def preview(text: str) -> str:
    """A long text as people are shown it: its first and last thousand characters.

    >>> len(preview("x" * 5000))
    2003
    """
    half = PREVIEW_CHARS // 2
    return text if len(text) <= PREVIEW_CHARS else f"{text[:half]}...{text[-half:]}"


def line_hash(before: str, kind: str, number: int, body: JsonValue) -> str:
    """The hash of a line that stands after the line with the hash `before`."""
    line: JsonValue = {"body": body, "kind": kind, "number": number}
    return content_id(before.encode() + b"\n" + canonical_bytes(line))


def ledger_root(receipts: list[Receipt]) -> ContentId:
    """One hash over all receipts, in their order, one canonical form a line."""
    return content_id(b"\n".join(receipt.canonical() for receipt in receipts))
