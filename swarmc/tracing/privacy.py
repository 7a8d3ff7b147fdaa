"""What may leave the machine, by privacy mode: one `Redactor` for notes, spans and bundles.

What each mode lets out of a run (each lets out no more than the one above it):

| mode                   | values: inputs, outputs, failures               | names: fields, models, ids | numbers |
|------------------------|-------------------------------------------------|----------------------------|---------|
| `public_ok`            | all, secrets cut out                            | all, secrets cut out       | all     |
| `no_pii`               | and without personal data                       | and without personal data  | all     |
| `private_repo_redacted`| and without paths; long text is a short preview | and without paths          | all     |
| `private_repo_allowed` | hash and length of each                         | hash and length of each    | all     |

*Secrets* are keys and tokens of known shapes, what follows `Bearer`, `password=` and the like, passwords
in URLs, private key blocks, fields whose name says that they hold one, and every text the caller names.
*Personal data* are e-mail addresses, telephone and card numbers, IBANs, social security numbers, IP
addresses, and fields whose name says so. Patterns cannot know the name of a person in running text:
where that matters, `private_repo_allowed` is the mode. *Numbers* are tokens, prices, times, scores and
counts of a run; a number within a value is part of the value.

A hash without `salt` can be tried out by who guesses the text; with one, only who has it can.
"""

import hashlib
import hmac
import json
import re
from typing import final

from pydantic import JsonValue

from swarmc.contracts.canonical import plain
from swarmc.contracts.graphs import Graph, LMCall, Node, Origin, Retry
from swarmc.contracts.manifest import PrivacyMode
from swarmc.tracing.patterns import PERSONAL_FIELD, SECRET_FIELD, without_paths, without_personal, without_secrets

PREVIEW_CHARS = 80
MAX_DEPTH = 64
CUT = "[cut]"

_ID = re.compile(r"sha256:[0-9a-f]{64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Ids that say nothing, and would not name the same thing if digits in them were taken for a telephone's."""

_STRICTNESS = (
    PrivacyMode.PUBLIC_OK,
    PrivacyMode.NO_PII,
    PrivacyMode.PRIVATE_REPO_REDACTED,
    PrivacyMode.PRIVATE_REPO_ALLOWED,
)


@final
class Redactor:
    """Lets out of texts, values and graphs what a privacy mode allows. Made by `of`.

    >>> Redactor.of(PrivacyMode.NO_PII).value({"ask": "mail ada@example.org", "key": "nsec1" + "q" * 58})
    {'ask': 'mail [email]', 'key': '[secret]'}
    """

    def __init__(self, mode: PrivacyMode, salt: bytes, known: tuple[str, ...]) -> None:
        self._level = _STRICTNESS.index(mode)
        self._salt = salt
        self._known = known
        self.mode = mode

    @classmethod
    def of(cls, mode: PrivacyMode, *, salt: bytes = b"", known: tuple[str, ...] = ()) -> "Redactor":
        """The redactor of a mode.

        Args:
            mode: What may leave.
            salt: Keys the hashes, so that nobody else can try out guesses.
            known: Texts that are secret whatever they look like, e.g. a configured API key.
        """
        return cls(mode, salt, tuple(sorted((text for text in known if text), key=len, reverse=True)))

    @property
    def hashes_only(self) -> bool:
        return self.mode is PrivacyMode.PRIVATE_REPO_ALLOWED

    def text(self, text: str) -> str:
        """A text of a run: a prompt, an answer, an error."""
        if self.hashes_only:
            return self.digest(text)
        clean = self.name(text)
        if self._level >= 2 and len(clean) > PREVIEW_CHARS:
            return f"{clean[:PREVIEW_CHARS]}… [{len(clean)} characters, {self.digest(text)}]"
        return clean

    def name(self, text: str) -> str:
        """A word that names something: as `text`, but never shortened."""
        if self.hashes_only:
            return self.digest(text)
        for secret in self._known:
            text = text.replace(secret, "[secret]")
        if _ID.fullmatch(text):
            return text
        text = without_secrets(text)
        if self._level >= 1:
            text = without_personal(text)
        return without_paths(text) if self._level >= 2 else text

    def value(self, value: JsonValue) -> JsonValue:
        """A user's own value, as `canonical.plain` data.

        Where hashes are all that leaves, the whole value becomes one text. Nesting beyond `MAX_DEPTH` is cut.
        """
        return self.digest(value) if self.hashes_only else self._value(value, MAX_DEPTH)

    def fields(self, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Values by name, e.g. the inputs of a predictor: the names are redacted too."""
        return {self.name(key): self._field(key, value) for key, value in fields.items()}

    def digest(self, value: JsonValue) -> str:
        """``sha256:<64 hex>:<bytes>`` of a text's UTF-8, or of another value's canonical form."""
        if not isinstance(value, str):
            whole = plain(_bounded(value, MAX_DEPTH))
            value = json.dumps(whole, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        data = value.encode("utf-8", "surrogatepass")
        hashed = hmac.new(self._salt, data, hashlib.sha256) if self._salt else hashlib.sha256(data)
        return f"sha256:{hashed.hexdigest()}:{len(data)}"

    def graph(self, graph: Graph) -> Graph:
        """The same run with what may leave of it. Its shape, numbers and times stay."""
        return graph.model_copy(
            update={
                "run_id": self.name(graph.run_id),
                "candidate_id": self._maybe(graph.candidate_id),
                "example_id": self._maybe(graph.example_id),
                "nodes": tuple(self._node(node) for node in graph.nodes),
            }
        )

    def _node(self, node: Node) -> Node:
        return node.model_copy(
            update={
                "name": self.name(node.name),
                "module": self.name(node.module),
                "signature": self._maybe(node.signature),
                "inputs": self.fields(node.inputs),
                "outputs": None if node.outputs is None else self.fields(node.outputs),
                "mapping": {self.name(key): self._origin(origin) for key, origin in node.mapping.items()},
                "calls": tuple(self._call(call) for call in node.calls),
                "failure": None if node.failure is None else self.text(node.failure),
            }
        )

    def _origin(self, origin: Origin) -> Origin:
        return origin.model_copy(update={"field": self.name(origin.field)})

    def _call(self, call: LMCall) -> LMCall:
        return call.model_copy(
            update={
                "request_id": self.name(call.request_id),
                "model": self.name(call.model),
                "venue": self.name(call.venue),
                "retries": tuple(self._retry(retry) for retry in call.retries),
                "failure": None if call.failure is None else self.text(call.failure),
            }
        )

    def _retry(self, retry: Retry) -> Retry:
        return retry.model_copy(update={"code": self.name(retry.code), "message": self.text(retry.message)})

    def _maybe(self, name: str | None) -> str | None:
        return None if name is None else self.name(name)

    def _field(self, key: str, value: JsonValue) -> JsonValue:
        if self.hashes_only:
            return self.digest(value)
        return self._keyed(key, value, MAX_DEPTH)

    def _keyed(self, key: str, value: JsonValue, depth: int) -> JsonValue:
        if value in (None, "", True, False):
            return value
        if SECRET_FIELD.search(key):
            return "[secret]"
        if self._level >= 1 and PERSONAL_FIELD.search(key):
            return "[personal]"
        return self._value(value, depth)

    def _value(self, value: JsonValue, depth: int) -> JsonValue:
        if depth == 0:
            return CUT
        match value:
            case str():
                return self.text(value)
            case {"$float": str(digits)} if len(value) == 1 and _is_number(digits):
                return value
            case dict():
                return {self.name(key): self._keyed(key, item, depth - 1) for key, item in value.items()}
            case list():
                return [self._value(item, depth - 1) for item in value]
            case int() if not isinstance(value, bool):
                return self._number(value)
            case _:
                return value

    def _number(self, value: int) -> JsonValue:
        digits = str(value)
        clean = self.name(digits)
        return value if clean == digits else clean


def _bounded(value: JsonValue, depth: int) -> JsonValue:
    if depth == 0:
        return CUT
    match value:
        case dict():
            return {key: _bounded(item, depth - 1) for key, item in value.items()}
        case list():
            return [_bounded(item, depth - 1) for item in value]
        case _:
            return value


def _is_number(digits: str) -> bool:
    try:
        float(digits)
    except ValueError:
        return False
    return True
