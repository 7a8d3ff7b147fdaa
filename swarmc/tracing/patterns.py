"""What secrets, personal data and paths look like. Every pattern is bounded: a text of a stranger costs linear time."""

import re
from collections.abc import Callable, Sequence

_HIDDEN = (
    r"pass(?:word|wd|phrase)?|pwd|secrets?|api[_-]?keys?|apikey|access[_-]?keys?|private[_-]?keys?|secret[_-]?keys?|"
    r"(?:access|auth|refresh|bearer|session|id|api|bot)[_-]?tokens?|token|credentials?|cookie|nsec|"
    r"mnemonic|seed[_-]?phrase|macaroon|client[_-]?secret|preimage"
)
SECRET_FIELD = re.compile(rf"(?i)(?:^|[_\-. ]|(?<=[a-z])(?=[A-Z]))(?:{_HIDDEN}|authorization)$")
"""A field's name that says that it holds a secret: `api_key`, `dbPassword`; not `prompt_tokens`."""

PERSONAL_FIELD = re.compile(
    r"(?i)(?:^|[_\-. ])(?:e[_-]?mail|phone|telephone|mobile|fax|ssn|passport|iban|"
    r"(?:first|last|full|sur|family|given|maiden|customer|patient|user)[_-]?name|surname|"
    r"(?:street|home|postal|mail|billing|shipping|ip)[_-]?address|address|birth(?:day|date)|date[_-]?of[_-]?birth|dob)"
    r"(?:[_-]?(?:number|address|no))?$"
)

_Needs = Sequence[Sequence[str]]
"""Of each group one must be in a text of ASCII, in lower case, or a pattern cannot match: to look for a word takes a
hundredth of the time that a pattern takes."""


def _either(names: str, ends: str) -> Sequence[str]:
    return [name + end for name in names.split() for end in ends]


_SECRETS: Sequence[tuple[re.Pattern[str], _Needs]] = [
    (re.compile(pattern), (needs,))
    for pattern, needs in (
        (
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)",
            ["private key"],
        ),
        (r"(?i)\b(?:nsec|ncryptsec)1[a-z0-9]{20,200}", ["sec1"]),
        (r"\b(?:sk|pk|rk)[-_](?:[a-z]{2,10}[-_]){0,3}[A-Za-z0-9_-]{16,200}", _either("sk pk rk", "-_")),
        (
            r"\b(?:gh[a-z]_[A-Za-z0-9]{20,255}|github_pat_[A-Za-z0-9_]{20,255}|glpat-[A-Za-z0-9_-]{16,100})",
            ["_", "glpat-"],
        ),
        (r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b", ["akia", "asia", "abia", "acca"]),
        (r"\bxox[a-z]-[A-Za-z0-9-]{10,200}", ["xox"]),
        (r"\bAIza[A-Za-z0-9_-]{30,60}", ["aiza"]),
        (
            r"\b(?:hf|npm|gsk|dop_v1|pypi|r8|shpat|lsv2_pt|tvly|xai)[_-][A-Za-z0-9_-]{20,255}",
            _either("hf npm gsk dop_v1 pypi r8 shpat lsv2_pt tvly xai", "_-"),
        ),
        (r"\beyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,8000}(?:\.[A-Za-z0-9_-]{0,4000})?", ["eyj"]),
        (r"\b[xyzt]prv[A-Za-z0-9]{90,120}\b", ["prv"]),
        (r"\b\d{8,10}:[A-Za-z0-9_-]{35}\b", [":"]),
    )
]
_ASSIGNED = (
    rf"(?i)((?<![A-Za-z0-9])(?:[A-Za-z0-9]{{1,20}}[_-]){{0,3}}(?:{_HIDDEN})[\"']?\s{{0,4}}(?:=>?|:|%3D)\s{{0,4}}"
)
_ASSIGNED_NEEDS = (
    [
        "pass",
        "pwd",
        "secret",
        "key",
        "token",
        "credential",
        "cookie",
        "nsec",
        "mnemonic",
        "seed",
        "macaroon",
        "preimage",
    ],
    ["=", ":", "%3d"],
)
_AFTER: Sequence[tuple[re.Pattern[str], _Needs]] = [
    (re.compile(pattern), needs)
    for pattern, needs in (
        (
            r"(?i)(\b(?:proxy-)?authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:[a-z]{1,20}\s{1,4})?)[^\s\"',;]{4,4000}",
            (["authorization"],),
        ),
        (r"(?i)(\bbearer\s{1,4})[A-Za-z0-9._~+/=-]{8,4000}", (["bearer"],)),
        (r"(://)(?:[^\s/?#:@]{0,200}:(?!\d{1,5}[/?#])\S{1,500}|[^\s/?#]{1,500})(?=@)", (["://"],)),
        (
            (
                r"(?i)(\b(?:mnemonic|(?:seed|recovery)[ _-]?(?:phrase|words)|passphrase)[\"']?\s{0,4}[:=]\s{0,4}[\"']?)"
                r"(?:[a-z]{3,8}[ ,]{1,3}){11,23}[a-z]{3,8}"
            ),
            (["mnemonic", "seed", "recovery", "passphrase"],),
        ),
        (_ASSIGNED + r"\\?[\"'])[^\"'\n]{1,4000}", _ASSIGNED_NEEDS),
        (_ASSIGNED + r")(?!\[secret\])[^\s\"',;&}]{3,4000}", _ASSIGNED_NEEDS),
    )
]

_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SSN = re.compile(r"\b\d{3}-\d{2}-\d{4}\b")
_IPV4 = re.compile(r"\b(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}\b")
_IPV6 = re.compile(r"(?i)(?<![\w:])(?:[0-9a-f]{1,4}:){3,7}(?:[0-9a-f]{1,4}|:[0-9a-f]{0,4})(?![\w:])")
_DIGITS = re.compile(r"(?<![\w.:])\+?\(?\d(?:[ ().\-/]{0,2}\d){7,18}(?![\w])")

_PATHS: Sequence[re.Pattern[str]] = [
    re.compile(pattern)
    for pattern in (
        r"(?i)\bfile://[^\s\"'<>|]{0,1000}",
        r"(?<![A-Za-z])[A-Za-z]:\\[^\s\"'<>|:]{0,1000}",
        r"\\\\[^\s\"'<>|:]{1,1000}",
        r"(?<![\w~.:/\\])~/[^\s\"'<>|:,;)\]]{0,1000}",
        r"(?<![\w~:/\\.])\.{0,2}/(?:[\w.@+\-]{1,255}/){1,40}[\w.@+\-]{0,255}",
        r"(?<![\w/.\-])(?:[\w.@+\-]{1,255}/){1,40}[\w.@+\-]{0,255}\.[A-Za-z]\w{0,7}\b",
        r"(?<![\w/])/(?:home|Users|root|var|tmp|etc|opt|srv|mnt|usr|private|workspace)\b[\w.@+\-/]{0,1000}",
    )
]


def without_secrets(text: str) -> str:
    """`text` with `[secret]` in place of every secret that can be known by its shape or its place."""
    low = _lower(text)
    for patterns, word in ((_SECRETS, "[secret]"), (_AFTER, r"\1[secret]")):
        for pattern, needs in patterns:
            if low is None or _may_match(low, needs):
                text, count = pattern.subn(word, text)
                low = _lower(text) if count else low
    return text


def without_personal(text: str) -> str:
    """`text` with a word in brackets in place of personal data that has a shape."""
    text = _EMAIL.sub("[email]", text)
    text = _SSN.sub("[number]", text)
    text = _IBAN.sub("[iban]", text)
    text = _IPV4.sub("[ip]", text)
    text = _IPV6.sub("[ip]", text)
    return _DIGITS.sub(_unless(_is_no_number_of_a_person, "[number]"), text)


def without_paths(text: str) -> str:
    """`text` with `[path]` in place of paths of files."""
    for pattern in _PATHS:
        text = pattern.sub("[path]", text)
    return text


def _lower(text: str) -> str | None:
    """Nothing beyond ASCII, where a pattern takes some letters for others."""
    return text.lower() if text.isascii() else None


def _may_match(low: str, needs: _Needs) -> bool:
    for words in needs:
        for word in words:
            if word in low:
                break
        else:
            return False
    return True


def _unless(excused: Callable[[str], bool], word: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[0] if excused(match[0]) else word


def _is_no_number_of_a_person(text: str) -> bool:
    """Dates, and plain numbers that are neither as long as a telephone number nor check as a card's."""
    digits = [letter for letter in text if letter.isdigit()]
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}(?:[ T]\d{2})?", text):
        return True
    if len(digits) == len(text):
        return not (10 <= len(digits) <= 13 or (len(digits) <= 19 and _checks(digits)))
    return len(digits) < 9


def _checks(digits: Sequence[str]) -> bool:
    """Luhn's sum, which card numbers have."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return len(digits) >= 13 and sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
