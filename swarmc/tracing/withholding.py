"""What a bundle must not tell: secrets, and places of one machine. They are replaced, or a whole body is withheld."""

import json
import re
from collections.abc import Iterable

from pydantic import JsonValue

from swarmc.contracts.bundle import Document
from swarmc.contracts.canonical import canonical_bytes, content_id

REDACTED = "[REDACTED]"
SECRET = re.compile(
    r"\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{20,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bxox[abprs]-[\w-]{10,}|\bnsec1[02-9ac-hj-np-z]{58}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|nostr\+walletconnect://\S+|(?<=://)[^/\s:@\"]*:[^/\s@\"]+(?=@)"
    r"|(?<=[?&])(?:api[_-]?key|key|token|secret|password|access[_-]?token)=[^&\s\"]+",
    re.IGNORECASE,
)
"""Keys of providers, forges, clouds and wallets; user and password of a URL; keys in a URL's query.

Narrower than `patterns.without_secrets`: whatever is withheld here cannot be checked nor replayed, and a
ticket that says "password: forgotten" holds no secret.
"""

TEXTS = frozenset(
    {"instruction", "instructions", "demos", "demo_sets", "fields", "failure", "inputs", "outputs", "cut", "reason"}
)
"""Fields of documents below which texts may quote an example; given by their hashes where examples are."""

_WHOLE_PATH = re.compile(r"(?:file://)?(?:/|~/|[A-Za-z]:\\)(?:[^\s]*[/\\])?(?P<last>[^/\\\s]*)")
_OF_PLACES = frozenset({"source", "program", "metric", "venue", "model", "manifest_uri", "compiled_uri", "study_uri"})
_USERS_OWN = frozenset({"fields", "demos"})
_LEAST_PLACE_CHARS = 4


class Guard:
    """Knows this machine's secrets and places.

    Args:
        secrets: Values that must not be told, such as those of environment variables that hold keys.
        places: Directories of this machine, such as the home.
    """

    def __init__(self, secrets: Iterable[str] = (), places: Iterable[str] = ()) -> None:
        kept = sorted({text for text in secrets if len(text) >= 8}, key=len, reverse=True)
        here = sorted(
            {p.rstrip("/") for p in places if len(p.rstrip("/")) >= _LEAST_PLACE_CHARS}, key=len, reverse=True
        )
        self._secrets = [re.compile(re.escape(text)) for text in kept]
        self._places = [re.compile(rf"(?<![\w.~}}]){re.escape(place)}(?![\w-])") for place in here]

    def forbids(self, value: JsonValue) -> bool:
        """Whether `value` holds anything that must not be told."""
        text = canonical_bytes(value).decode()
        return any(pattern.search(text) for pattern in (SECRET, *self._secrets, *self._places))

    def document(self, document: Document) -> Document:
        """The document with secrets and places replaced, and the paths of the fields where that was done."""
        found: list[str] = []
        if document.text is None:
            value = self._cleaned(document.value, "", found)
            return document.model_copy(update={"value": value, "redacted": tuple(found)}) if found else document
        parsed = json.loads(document.text)
        cleaned = self._cleaned(parsed, "", found)
        if not found:
            return document
        text = json.dumps(cleaned, indent=2, ensure_ascii=False)
        return document.model_copy(update={"text": text, "redacted": tuple(found)})

    def record(self, value: JsonValue) -> tuple[JsonValue, tuple[str, ...]]:
        """A JSON value with secrets and places replaced, and where."""
        found: list[str] = []
        return self._cleaned(value, "", found), tuple(found)

    def _cleaned(self, value: JsonValue, path: str, found: list[str]) -> JsonValue:
        match value:
            case dict():
                return {key: self._cleaned(item, f"{path}.{key}".strip("."), found) for key, item in value.items()}
            case list():
                return [self._cleaned(item, f"{path}.{place}".strip("."), found) for place, item in enumerate(value)]
            case str():
                clean = self._text(value, path.split("."))
                if clean != value:
                    found.append(path)
                return clean
            case _:
                return value

    def _text(self, text: str, path: list[str]) -> str:
        whole = _WHOLE_PATH.fullmatch(text)
        if whole and path[-1] in _OF_PLACES and not _USERS_OWN & set(path):
            return f"[elsewhere]/{whole['last']}"
        text = SECRET.sub(REDACTED, text)
        for pattern in self._secrets:
            text = pattern.sub(REDACTED, text)
        for pattern in self._places:
            text = pattern.sub("[elsewhere]", text)
        return text


def hashed(document: Document) -> Document:
    """The document with the hash of each text that may quote an example in its place; numbers and ids stay.

    A document that is no JSON value of ours (a saved DSPy state) is withheld as a whole.
    """
    if document.value is None and document.name != "spec.json":
        return document.model_copy(update={"text": None})
    if document.text is not None:
        text = json.dumps(_hashed(json.loads(document.text)), indent=2, ensure_ascii=False)
        return document.model_copy(update={"text": text, "redacted": (*document.redacted, "texts")})
    return document.model_copy(update={"value": _hashed(document.value), "redacted": (*document.redacted, "texts")})


def _hashed(value: JsonValue, *, within: bool = False) -> JsonValue:
    match value:
        case dict():
            return {
                key: {name: content_id(canonical_bytes(one)) for name, one in item.items()}
                if key == "fields" and isinstance(item, dict)
                else _hashed(item, within=within or key in TEXTS)
                for key, item in value.items()
            }
        case list():
            return [_hashed(item, within=within) for item in value]
        case str() if within and value:
            return content_id(value.encode())
        case _:
            return value
