"""BOLT-11: the specification's own invoices, round trips, another implementation, and what strangers write."""

import hashlib
import json
import pickle
import random
import secrets
from pathlib import Path

import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pynostr.bech32 import Encoding, bech32_encode, convertbits

from swarmc.contracts.wallet import Invoice, Network
from swarmc.nostr.invoices import MAX_INVOICE_LETTERS, MAX_MSATS, Node, decode_invoice, make_invoice

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/bolt11.json").read_text(encoding="utf-8"))
SPEC_KEY = bytes.fromhex("e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734")
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HASH = "ab" * 32
PREFIXES = {"bitcoin": "lnbc", "testnet": "lntb", "signet": "lntbs", "regtest": "lnbcrt"}
P, S, D, X, N, H, NINE = 1, 16, 13, 6, 19, 23, 5
NEEDED = [(P, b"\xab" * 32), (S, b"\x11" * 32), (D, b"tea")]

networks = st.sampled_from(list(PREFIXES))
round_amounts = st.integers(1, 21_000).map(lambda milli_bitcoin: milli_bitcoin * 10**8)
amounts = st.one_of(st.none(), st.integers(1, MAX_MSATS), st.integers(1, 10**5), round_amounts)
descriptions = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def written(prefix: str, fields: list[tuple[int, bytes | list[int]]], *, mirrored: bool = False) -> str:
    """An invoice by another way of writing it, of fields (bytes, or 5-bit values as they are) of any kind."""
    values = [1496314658 >> 5 * place & 31 for place in reversed(range(7))]
    for kind, content in fields:
        packed = convertbits(content, 8, 5) if isinstance(content, bytes) else content
        assert packed is not None
        values += [kind, len(packed) >> 5, len(packed) & 31, *packed]
    data = convertbits(values, 5, 8)
    assert data is not None
    digest = hashlib.sha256(prefix.encode() + bytes(data)).digest()
    signature = PrivateKey(SPEC_KEY).sign_recoverable(digest, hasher=None)
    if mirrored:
        mirror = ORDER - int.from_bytes(signature[32:64], "big")
        signature = signature[:32] + mirror.to_bytes(32, "big") + bytes([signature[64] ^ 1])
    return bech32_encode(prefix, values + (convertbits(signature, 8, 5) or []), Encoding.BECH32)


@pytest.fixture
def node() -> Node:
    return Node(SPEC_KEY, "regtest")


def an_invoice(node: Node, amount_msats: int | None = 1234, description: str = "a job") -> Invoice:
    return make_invoice(node, HASH, amount_msats, created_at=1_700_000_000, expiry_s=600, description=description)


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["what"][:40])
def test_the_specification_s_invoices_say_what_it_says_of_them(vector: dict[str, object]) -> None:
    text = str(vector["bolt11"])
    expected = {name: value for name, value in vector.items() if name != "what"}
    assert decode_invoice(text).model_dump() == {**expected, "bolt11": text.lower()}


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["what"][:40])
def test_the_specification_s_invalid_invoices_are_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="invoice"):
        decode_invoice(vector["bolt11"])


@given(
    networks,
    amounts,
    descriptions,
    st.integers(0, 2**35 - 1),
    st.integers(1, 10**9),
    st.binary(min_size=32, max_size=32),
)
def test_what_is_written_is_read(
    network: Network, amount: int | None, description: str, created_at: int, expiry_s: int, payment_hash: bytes
) -> None:
    node = Node(SPEC_KEY, network)
    terms = {"created_at": created_at, "expiry_s": expiry_s, "description": description}
    invoice = make_invoice(node, payment_hash.hex(), amount, **terms)
    assert decode_invoice(invoice.bolt11) == invoice
    assert (invoice.amount_msats, invoice.payee, invoice.network) == (amount, node.pubkey, network)
    assert decode_invoice(f" LIGHTNING:{invoice.bolt11.upper()}\n") == invoice


@pytest.mark.parametrize(
    ("amount_msats", "prefix"),
    [
        (None, "lnbcrt1"),
        (1, "lnbcrt10p1"),
        (100, "lnbcrt1n1"),
        (1000, "lnbcrt10n1"),
        (1_234_567, "lnbcrt12345670p1"),
        (250_000_000, "lnbcrt2500u1"),
        (2_000_000_000, "lnbcrt20m1"),
        (100_000_000_000, "lnbcrt11"),
        (MAX_MSATS, "lnbcrt210000001"),
    ],
)
def test_an_amount_is_written_in_the_shortest_way(node: Node, amount_msats: int | None, prefix: str) -> None:
    assert an_invoice(node, amount_msats).bolt11.startswith(prefix)


@pytest.mark.parametrize(
    "prefix",
    f"lnbc{'9' * 19} lnbc{'9' * 4000} "
    "lnbc01 lnbc00 lnbc0 lnbc010u lnbc1x lnbc-1m lnbc1.5m lnbc1mm lnbcm lnbc11p lnbc5p lnbc1٣u lnbc21000001 "
    "lnsb10u lnxx10u bc10u ln10u LNBC".split(),
)
def test_an_amount_or_a_network_that_nobody_can_ask_for_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="invoice"):
        decode_invoice(written(prefix, NEEDED))


def test_a_description_that_is_too_long_is_carried_as_its_hash(node: Node) -> None:
    fits, over = "é" * 319 + "x", "é" * 320
    assert decode_invoice(an_invoice(node, description=fits).bolt11).description == fits
    invoice = decode_invoice(an_invoice(node, description=over).bolt11)
    assert (invoice.description, invoice.description_hash) == ("", hashlib.sha256(over.encode()).hexdigest())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (NEEDED[1:], "payment hash"),
        ([NEEDED[0], NEEDED[2]], "payment secret"),
        (NEEDED[:2], "description"),
        ([*NEEDED, (H, b"\x22" * 32)], "description"),
        ([*NEEDED[:2], (D, b"\xff\xfe")], "UTF-8"),
        ([*NEEDED, (X, [31] * 1023)], "expires later"),
        ([*NEEDED, (X, [31] * 11)], "expires later"),
        ([*NEEDED, (NINE, [1])], "feature 0"),
        ([*NEEDED, (NINE, [16] + [0] * 1022)], "feature 5114"),
        ([*NEEDED, (N, b"\x02" * 33)], "signed it"),
    ],
)
def test_an_invoice_that_lacks_or_demands_something_is_refused(fields: list, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_invoice(written("lnbc10u", fields))


def test_of_a_field_that_comes_twice_the_first_counts() -> None:
    fields = [(P, b"\x01" * 31), *NEEDED, (P, b"\x02" * 32), (D, b"coffee"), (X, [5]), (X, [6]), (31, b"unknown")]
    invoice = decode_invoice(written("lnbc10u", fields))
    assert (invoice.payment_hash, invoice.description) == (HASH, "tea")
    assert invoice.expires_at - invoice.created_at == 5


def test_a_payee_who_is_named_must_have_signed_in_the_one_right_way() -> None:
    named = [*NEEDED, (N, PrivateKey(SPEC_KEY).public_key.format())]
    assert decode_invoice(written("lnbc10u", named)) != decode_invoice(written("lnbc10u", NEEDED))
    assert decode_invoice(written("lnbc10u", NEEDED, mirrored=True)).payment_hash == HASH
    with pytest.raises(ValueError, match="high S"):
        decode_invoice(written("lnbc10u", named, mirrored=True))


@pytest.mark.parametrize("announced", [1, 31, 1023])
def test_a_field_that_goes_on_beyond_the_end_is_refused(announced: int) -> None:
    text = written("lnbc10u", NEEDED)
    values = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".index(letter) for letter in text[len("lnbc10u1") : -6]]
    for tail in ([D], [D, 0], [D, announced >> 5, announced & 31]):
        with pytest.raises(ValueError, match="ends within"):
            decode_invoice(bech32_encode("lnbc10u", values[:-104] + tail + values[-104:], Encoding.BECH32))


@given(st.data())
@settings(max_examples=200)
def test_a_changed_letter_is_never_overlooked(data: st.DataObject) -> None:
    text = an_invoice(Node(SPEC_KEY, "regtest")).bolt11
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters(codec="utf-8"))
    changed = text[:place] + letter + text[place + 1 :]
    if changed.strip() != text:
        with pytest.raises(ValueError, match=r"invoice"):
            decode_invoice(changed)


@given(st.one_of(st.text(max_size=400), st.text("lnbcrt01qpzry9x8gf2tvdw0s3jn54khce6mua7lupm", max_size=400)))
def test_no_text_raises_anything_but_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="invoice"):
        decode_invoice(text)


def fault(text: str) -> ValueError | None:
    """What reading it raises, unless that is something worse, which fails the test."""
    try:
        decode_invoice(text)
    except ValueError as error:
        return error
    return None


@given(st.lists(st.tuples(st.integers(0, 31), st.lists(st.integers(0, 31), max_size=60)), max_size=8), amounts)
@settings(max_examples=200)
def test_no_fields_raise_anything_but_a_value_error(fields: list, amount: int | None) -> None:
    prefix = "lntb" if amount is None else f"lntb{amount}n"
    # Exactly that type: pydantic's own would be many lines.
    assert type(fault(written(prefix, [*fields, *NEEDED]))) in (ValueError, type(None))


@pytest.mark.parametrize("size", [MAX_INVOICE_LETTERS + 1, 10**7])
def test_a_text_that_is_too_long_is_not_read_at_all(size: int) -> None:
    with pytest.raises(ValueError, match="letters is not read"):
        decode_invoice("lnbc1" + "q" * size)


def test_damaged_invoices_with_a_right_checksum_are_read_or_refused() -> None:
    source = random.Random(7)
    text = an_invoice(Node(SPEC_KEY, "regtest")).bolt11
    prefix, _, letters = text.rpartition("1")
    values = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".index(letter) for letter in letters[:-6]]
    for _ in range(200):
        damaged = list(values)
        for _ in range(source.randint(1, 4)):
            damaged[source.randrange(len(damaged))] = source.randrange(32)
        damaged = damaged[: source.randint(0, len(damaged))] if source.random() < 0.3 else damaged
        assert type(fault(bech32_encode(prefix, damaged, Encoding.BECH32))) in (ValueError, type(None))


@pytest.mark.parametrize(
    "terms",
    [
        {"payment_hash": "AB" * 32},
        {"payment_hash": "ab" * 31},
        {"amount_msats": 0},
        {"amount_msats": -1},
        {"amount_msats": MAX_MSATS + 1},
        {"created_at": -1},
        {"created_at": 2**35},
        {"expiry_s": 0},
        {"expiry_s": 2**53},
        {"description": "\ud800"},
    ],
)
def test_terms_that_no_invoice_can_have_are_refused(node: Node, terms: dict) -> None:
    good = {"payment_hash": HASH, "amount_msats": 1, "created_at": 1, "expiry_s": 1, "description": ""}
    make_invoice(node, **good)
    with pytest.raises(ValueError, match=r"invoice|hash|half"):
        make_invoice(node, **{**good, **terms})


@pytest.mark.parametrize("secret", [b"", b"\1" * 31, b"\1" * 33, bytes(32), b"\xff" * 32])
def test_what_is_no_key_makes_no_node_and_is_not_repeated(secret: bytes) -> None:
    with pytest.raises(ValueError, match="key is") as caught:
        Node(secret, "regtest")
    assert secret.hex() not in str(caught.value) or not secret


def test_a_node_shows_its_key_to_nobody(node: Node) -> None:
    assert SPEC_KEY.hex() not in f"{node!r} {node}"
    with pytest.raises(TypeError):
        pickle.dumps(node)


@pytest.mark.parametrize("amount_msats", [1, 999, 1_000, 123_457, 250_000_000, 100_000_000_000])
def test_another_implementation_reads_what_we_write(amount_msats: int) -> None:
    bolt11 = pytest.importorskip("bolt11")
    node = Node(secrets.token_bytes(32), "regtest")
    invoice = an_invoice(node, amount_msats, "für dich")
    theirs = bolt11.decode(invoice.bolt11)
    assert (theirs.payment_hash, theirs.amount_msat, theirs.description) == (HASH, amount_msats, "für dich")
    assert (theirs.payee, theirs.date, theirs.expiry) == (node.pubkey, invoice.created_at, 600)


@pytest.mark.parametrize("currency", ["bc", "tb", "bcrt", "tbs"])
@pytest.mark.parametrize("amount_msats", [None, 1000, 123_450])
def test_we_read_what_another_implementation_writes(currency: str, amount_msats: int | None) -> None:
    bolt11 = pytest.importorskip("bolt11")
    said = {"payment_hash": HASH, "payment_secret": "11" * 32, "description": "für dich", "expire_time": 90}
    tags = bolt11.Tags([bolt11.Tag(bolt11.TagChar[name], value) for name, value in said.items()])
    amount = None if amount_msats is None else bolt11.MilliSatoshi(amount_msats)
    theirs = bolt11.encode(bolt11.Bolt11(currency, 1_700_000_000, tags, amount), SPEC_KEY.hex())
    ours = decode_invoice(theirs)
    assert (ours.payment_hash, ours.amount_msats, ours.description) == (HASH, amount_msats, "für dich")
    assert (ours.expires_at, ours.payee) == (1_700_000_090, Node(SPEC_KEY, "bitcoin").pubkey)
    assert PREFIXES[ours.network] == f"ln{currency}"
