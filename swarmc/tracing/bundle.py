"""Write a bundle in one pass, and read a stranger's: the only place where its bytes are parsed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from swarmc.contracts.bundle import (
    BEFORE_ALL,
    KINDS,
    MAX_BUNDLE_BYTES,
    MAX_DEPTH,
    MAX_LINE_BYTES,
    MAX_LINES,
    Call,
    Document,
    End,
    Header,
    Kind,
    Sample,
    SignedStatement,
    line_hash,
)
from swarmc.contracts.canonical import Contract, canonical_bytes, content_id
from swarmc.contracts.errors import BundleError, boundary
from swarmc.contracts.events import Event
from swarmc.contracts.promotion import Promotion

T = TypeVar("T", bound=Contract)

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_DOCUMENTS = frozenset({"spec", "beginning", "plan", "program", "outcome", "account", "study", "manifest"})
_SHOWN_CHARS = 80


class BundleWriter:
    """Writes lines to an open file, each chained to the one before.

    Args:
        file: Opened for writing bytes.
        header: The first line.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._hash = BEFORE_ALL
        self._lines = 0
        self._kind: Kind = "header"
        self.add("header", header)

    def add(self, kind: Kind, body: Contract) -> None:
        """Write one line.

        Raises:
            BundleError: kinds out of order, or a body that is too large for a line.
        """
        number = self._lines + 1
        if KINDS.index(kind) < KINDS.index(self._kind):
            raise BundleError(f"a {kind} line cannot stand after a {self._kind} line", line=number)
        value = body.model_dump(mode="json")
        self._hash = line_hash(self._hash, kind, number, value)
        data = canonical_bytes({"body": value, "hash": self._hash, "kind": kind, "number": number}) + b"\n"
        if len(data) > MAX_LINE_BYTES:
            raise BundleError(
                f"line {number} ({kind}) would have {len(data)} bytes; a bundle's line has at most {MAX_LINE_BYTES}",
                line=number,
            )
        self._file.write(data)
        self._lines, self._kind = number, kind

    def close(self) -> End:
        """Write the last line."""
        end = End(lines=self._lines, root=self._hash)
        self.add("end", end)
        return end


class Line(NamedTuple):
    """A line whose bytes, place and hash are right. `body` is JSON that nobody has looked at yet."""

    number: int
    kind: Kind
    body: JsonValue
    hash: str


@dataclass
class Bundle:
    """A bundle whose chain holds and whose lines have the shape of their kind; nothing else is known of it.

    Attributes:
        documents: Files by name, and the number of the line each stands on.
        lines: The line numbers of samples and calls, in their order.
    """

    header: Header
    root: str = ""
    count: int = 0
    documents: dict[str, Document] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    promotion: Promotion | None = None
    statement: SignedStatement | None = None
    lines: dict[str, int] = field(default_factory=dict)

    def line_of(self, name: str, place: int = 0) -> int:
        """The line of a document by its name, or of the `place`th sample, call or event by its kind."""
        return self.lines.get(name, 0) + place


def read_bundle(path: Path) -> Bundle:
    """Read all of a bundle.

    Raises:
        BundleError: naming the first line that does not hold, and why.
    """
    lines = read_lines(path)
    first = next(lines)
    bundle, end = Bundle(_shaped(Header, first), root=first.hash, count=1), None
    for line in lines:
        bundle.count = line.number
        if line.kind == "end":
            end = _shaped(End, line)
            _check_end(end, bundle, line.number)
        else:
            _take(bundle, line)
            bundle.root = line.hash
    if end is not None:
        return bundle
    raise _fault(bundle.count + 1, "the bundle ends here without its last line, which tells count and root: it was cut")


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a bundle, each checked for its size, form, number, order and hash.

    Raises:
        BundleError: naming the first line that is not as it was written.
    """
    with boundary(BundleError, f"reading the bundle {path.name}", OSError):
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise BundleError(f"the bundle {path.name} has more than {MAX_BUNDLE_BYTES} bytes, which are not read")
        file = path.open("rb")
    before, kind, number = BEFORE_ALL, KINDS[0], 0
    with file:
        while data := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if kind == "end":
                raise _fault(number, "there is something after the bundle's last line")
            line = _parsed(data, number, before)
            if KINDS.index(line.kind) < KINDS.index(kind) or (number == 1) != (line.kind == "header"):
                raise _fault(number, f"a {line.kind} line cannot stand here; the kinds stand in the order {KINDS}")
            yield line
            before, kind = line.hash, line.kind
    if number == 0:
        raise _fault(1, "the file is empty")


def _parsed(data: bytes, number: int, before: str) -> Line:
    if number > MAX_LINES:
        raise _fault(number, f"more than {MAX_LINES} lines are not read")
    if not data.endswith(b"\n"):
        limit = f" or has more than {MAX_LINE_BYTES} bytes" if len(data) > MAX_LINE_BYTES else ""
        raise _fault(number, f"the line does not end{limit}")
    found = _json(data[:-1], number)
    if not isinstance(found, dict) or set(found) != {"body", "hash", "kind", "number"}:
        raise _fault(number, "a line has exactly the fields body, hash, kind and number")
    kind: Kind | None = next((known for known in KINDS if known == found["kind"]), None)
    if kind is None:
        raise _fault(number, f"{str(found['kind'])[:_SHOWN_CHARS]!r} is no kind of line")
    if found["number"] != number or isinstance(found["number"], bool):
        shown = str(found["number"])[:_SHOWN_CHARS]
        raise _fault(number, f"it says that it is line {shown}: a line was dropped, added or moved before it")
    right = line_hash(before, kind, number, found["body"])
    if found["hash"] != right:
        shown = str(found["hash"])[:_SHOWN_CHARS]
        raise _fault(
            number, f"its hash is {right}, not {shown}: this line, or its place after the line before, changed"
        )
    return Line(number, kind, found["body"], right)


def _json(data: bytes, number: int) -> JsonValue:
    try:
        value: JsonValue = json.loads(data.decode())
        written = canonical_bytes(value)
    except RecursionError:
        raise _fault(number, "nested too deeply") from None
    except ValueError as error:
        raise _fault(number, f"no canonical JSON: {str(error)[:_SHOWN_CHARS]}") from None
    if _is_deep(value):
        raise _fault(number, f"more than {MAX_DEPTH} lists and objects within one another")
    if written != data:
        raise _fault(number, "not in canonical form, so it is not what was hashed")
    return value


def _is_deep(value: JsonValue) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        within = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not within:
            return False
        level = [item for items in within for item in items]
    return True


def _take(bundle: Bundle, line: Line) -> None:
    """Put a line where it belongs."""
    match line.kind:
        case "data":
            bundle.samples.append(_shaped(Sample, line))
        case "completion":
            bundle.calls.append(_shaped(Call, line))
        case "event":
            bundle.events.append(_event(line))
        case "promotion":
            bundle.promotion = _only(_shaped(Promotion, line), bundle.promotion, line)
        case "statement":
            bundle.statement = _only(_shaped(SignedStatement, line), bundle.statement, line)
        case kind if kind in _DOCUMENTS:
            document = _shaped(Document, line)
            _only(document, bundle.documents.get(document.name), line)
            bundle.documents[document.name] = document
            bundle.lines[document.name] = line.number
        case _:
            raise _fault(line.number, f"a second {line.kind} line")
    bundle.lines.setdefault(line.kind, line.number)


def _only(new: T, before: T | None, line: Line) -> T:
    if before is not None:
        raise _fault(line.number, f"a second {line.kind} line of the same name")
    return new


def _event(line: Line) -> Event:
    try:
        return _EVENT.validate_python(line.body)
    except ValidationError as error:
        raise _misshaped(line, error) from None


def _shaped(kind: type[T], line: Line) -> T:
    try:
        return kind.model_validate(line.body)
    except (ValidationError, RecursionError) as error:
        raise _misshaped(line, error) from None


def _misshaped(line: Line, error: ValidationError | RecursionError) -> BundleError:
    if isinstance(error, RecursionError):
        return _fault(line.number, "nested too deeply")
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:_SHOWN_CHARS]
    return _fault(line.number, f"no {line.kind} as this version writes it: {where}: {first['msg'][:_SHOWN_CHARS]}")


def _check_end(end: End, bundle: Bundle, number: int) -> None:
    if end.lines != number - 1 or end.root != bundle.root:
        raise _fault(
            number,
            f"the end tells {end.lines} lines with root {end.root}, but there are {number - 1} with root {bundle.root}",
        )


def _fault(number: int, what: str) -> BundleError:
    return BundleError(f"line {number}: {what}", line=number)


def document_of(name: str, data: bytes, *, is_canonical: bool) -> Document:
    """A file as a document.

    Args:
        name: Its name.
        data: Its bytes.
        is_canonical: Whether they are the canonical form of a record, so that the value tells them.
    """
    identity, size = content_id(data), len(data)
    if is_canonical:
        return Document(name=name, sha256=identity, size_bytes=size, value=json.loads(data))
    return Document(name=name, sha256=identity, size_bytes=size, text=data.decode())
