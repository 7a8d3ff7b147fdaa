"""Privacy: what each mode lets out, and that a stricter one never lets out more."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmc.contracts.graphs import Graph
from swarmc.contracts.manifest import PrivacyMode
from swarmc.tracing.privacy import CUT, PREVIEW_CHARS, Redactor
from tests.tracing.drawn_graphs import a_graph, graphs

OPEN, NO_PII, REDACTED, CLOSED = (
    Redactor.of(mode)
    for mode in (
        PrivacyMode.PUBLIC_OK,
        PrivacyMode.NO_PII,
        PrivacyMode.PRIVATE_REPO_REDACTED,
        PrivacyMode.PRIVATE_REPO_ALLOWED,
    )
)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nabc\n-----END RSA PRIVATE KEY-----"
SECRETS = {
    "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp": "[secret]",
    "sk-proj-abcdefghijklmnopqrstuvwx": "[secret]",
    "sk-ant-api03-abcdefghijklmnop": "[secret]",
    "github_pat_11ABCDEFG0abcdefghijkl": "[secret]",
    "AKIAIOSFODNN7EXAMPLE": "[secret]",
    "xoxb-123456789012-abcdef": "[secret]",
    "AIzaSyA-1234567890abcdefghijklmnopqrs": "[secret]",
    JWT: "[secret]",
    PEM: "[secret]",
    PEM[:60]: "[secret]",
    "Authorization: Basic dXNlcjpwYXNz": "Authorization: Basic [secret]",
    "authorization: bearer abcdef123456": "authorization: bearer [secret]",
    "postgres://ada:p@ss/w@db.host/x": "postgres://[secret]@db.host/x",
    "https://token123@host/x?y=1": "https://[secret]@host/x?y=1",
    "https://h/x?api_key=abc123&y=1": "https://h/x?api_key=[secret]&y=1",
    "nostr+walletconnect://ab?relay=wss://r&secret=0123456789": "nostr+walletconnect://ab?relay=wss://r&secret=[secret]",
    "OPENAI_API_KEY=abcdef": "OPENAI_API_KEY=[secret]",
    'db_password: "two words"': 'db_password: "[secret]"',
    '{"clientSecret": "abc def"}': '{"clientSecret": "[secret]"}',
    "mnemonic: leader monkey parrot ring guide accident before fence cannon height naive bean": "mnemonic: [secret]",
}
HARMLESS = [
    "", "My invoice is wrong", "see https://example.org:8080/a?b=c", "https://medium.com/@ada/story", "and/or", "3/4",
    "prompt_tokens=120, total_tokens: 150", "The key to it is patience", "openai/gpt-4.1", "sha256:" + "1" * 64,
    "2+2=4", "2026-01-31", "12345678-1111-2222-3333-123456789012", "task-force", "a basic question",
    "price: 1,200", "🔑 漢字",
]  # fmt: skip


@pytest.mark.parametrize(("text", "left"), SECRETS.items())
def test_secrets_are_cut_out_in_every_mode(text: str, left: str) -> None:
    assert OPEN.text(text) == left
    assert OPEN.text(f"see {text} there") in (f"see {left} there", f"see {left}")
    assert "[secret]" in REDACTED.text(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert OPEN.text(text) == NO_PII.text(text) == REDACTED.text(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("mail ada.l+x@mail.example.org now", "mail [email] now"),
        ("call +49 (170) 123-4567 or 0170/1234567", "call [number] or [number]"),
        ("card 4111 1111 1111 1111.", "card [number]."),
        ("4111111111111111", "[number]"),
        ("DE89 3704 0044 0532 0130 00", "[iban]"),
        ("ssn 078-05-1120", "ssn [number]"),
        ("from 192.168.1.17 and 2001:db8:85a3:0:0:8a2e:370:7334", "from [ip] and [ip]"),
    ],
)
def test_personal_data_is_cut_out_where_it_may_not_leave(text: str, left: str) -> None:
    assert OPEN.text(text) == text
    assert NO_PII.text(text) == REDACTED.text(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("in /srv/ada/secret-project/main.rs:12", "in [path]:12"),
        ("C:\\Users\\ada\\x.txt", "[path]"),
        ("~/notes.md", "[path]"),
        ("open src/lib/parser.py, please", "open [path], please"),
        ("file:///etc/passwd", "[path]"),
        ("../up/x.go", "[path]"),
    ],
)
def test_paths_are_cut_out_of_private_repositories(text: str, left: str) -> None:
    assert NO_PII.text(text) == text
    assert REDACTED.text(text) == left


def test_long_text_of_a_private_repository_becomes_a_preview_with_length_and_hash() -> None:
    text = "word " * 100
    shown = REDACTED.text(text)
    assert shown.startswith(text[:PREVIEW_CHARS] + "… [500 characters, sha256:")
    assert REDACTED.name(text) == text
    # A secret on the edge of the preview is cut out before the text is.
    assert "sk-" not in REDACTED.text("x" * 70 + " sk-abcdefghijklmnopqrstuvwx " + "y" * 90)


def test_fields_whose_name_says_so_are_hidden_whatever_they_hold() -> None:
    value = {"api_key": "x", "dbPassword": ["y"], "email": 7, "user_name": "Ada", "prompt_tokens": 5, "token": None}
    shown = {**value, "api_key": "[secret]", "dbPassword": "[secret]"}
    assert OPEN.value(value) == shown
    assert NO_PII.value(value) == {**shown, "email": "[personal]", "user_name": "[personal]"}


def test_numbers_lists_and_tagged_floats_keep_their_shape() -> None:
    value = [1, True, None, {"$float": "1234567890123.5"}, {"$float": "0170 1234567"}, 4111111111111111, [["a"]]]
    assert OPEN.value(value) == value
    assert NO_PII.value(value) == [
        1,
        True,
        None,
        {"$float": "1234567890123.5"},
        {"$float": "[number]"},
        "[number]",
        [["a"]],
    ]


def test_nesting_without_end_is_cut_and_does_not_raise() -> None:
    value: list = []
    for _ in range(5000):
        value = [value]
    assert CUT in str(OPEN.value(value))
    assert CLOSED.value(value) == CLOSED.value(value)


def test_the_strictest_mode_gives_a_hash_that_only_the_salt_repeats() -> None:
    one, other = (Redactor.of(PrivacyMode.PRIVATE_REPO_ALLOWED, salt=salt) for salt in (b"a", b"b"))
    assert one.text("yes").endswith(":3")
    assert len({redactor.text("yes") for redactor in (one, other, CLOSED)}) == 3
    assert one.value({"b": 1, "a": "x"}) == one.value({"a": "x", "b": 1})
    assert CLOSED.text("yes") == "sha256:8a798890fe93817163b10b5f7bd2ca4d25d84c52739a645a889c173eee7d9d3d:3"


def test_a_text_that_the_caller_names_is_secret_whatever_it_looks_like() -> None:
    redactor = Redactor.of(PrivacyMode.PUBLIC_OK, known=("hunter2", "hunter2000", ""))
    assert redactor.value({"hunter2": "it is hunter2000"}) == {"[secret]": "it is [secret]"}


@settings(max_examples=100, deadline=None)
@given(text=st.text("ab1 @./:=\\-_+()\n", max_size=120) | st.text(max_size=80))
def test_to_redact_again_changes_nothing(text: str) -> None:
    for redactor in (OPEN, NO_PII):
        once = redactor.text(text)
        assert redactor.text(once) == once


@settings(max_examples=40, deadline=None)
@given(graph=graphs(st.text(max_size=15)))
def test_a_redacted_graph_keeps_its_shape_numbers_and_times(graph: Graph) -> None:
    for redactor in (OPEN, NO_PII, REDACTED, CLOSED):
        shown = redactor.graph(graph)
        for before, after in zip(graph.nodes, shown.nodes, strict=True):
            assert (before.id, before.parents, before.kind, before.usage) == (
                after.id,
                after.parents,
                after.kind,
                after.usage,
            )
            assert (before.started_ns, before.outputs is None) == (after.started_ns, after.outputs is None)


def test_links_between_fields_survive_the_strictest_mode() -> None:
    shown = CLOSED.graph(a_graph())
    ((name, origin),) = shown.nodes[2].mapping.items()
    assert name in shown.nodes[3].inputs
    assert origin.field in (shown.nodes[1].outputs or {})


@pytest.mark.parametrize(
    "text",
    ["a." * 30_000, "://" * 20_000, "-----BEGIN PRIVATE KEY-----" * 2000, "1 " * 30_000, "a@" * 30_000, "a-" * 30_000,
     "password=" * 7000, "/a" * 30_000, "eyJaaaaaaaa." * 5000, "A" * 60_000, "token:'" * 9000, "1:" * 30_000],
    ids=range(12),
)  # fmt: skip
def test_no_text_of_a_stranger_takes_long_to_redact(text: str) -> None:
    began = time.process_time()
    REDACTED.text(text)
    assert time.process_time() - began < 2
