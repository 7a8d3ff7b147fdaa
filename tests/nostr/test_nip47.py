"""NIP-47 on paper: addresses, what wallets say of themselves, requests and answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmc.contracts.relay import NostrEvent, UnsignedNote
from swarmc.nostr.encryption import decrypt_any, encrypt_as
from swarmc.nostr.events import sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.nip47 import (
    Transaction,
    answered_request,
    parse_uri,
    read_info,
    read_notification,
    read_response,
    read_transaction,
    request_note,
)

SERVICE = SecretKey(b"\x11" * 32)
SECRET = "cd" * 32
US = SecretKey.parse(SECRET)
RELAY = "relay=wss%3A%2F%2Frelay.example.org"
URI = f"nostr+walletconnect://{SERVICE.pubkey}?{RELAY}&secret={SECRET}"


def info(content: str = "pay_invoice lookup_invoice", *tags: tuple[str, ...], key: SecretKey = SERVICE) -> NostrEvent:
    return sign_note(UnsignedNote(kind=13194, created_at=1, tags=tags, content=content), key)


def note(body: object, *, kind: int = 23195, author: SecretKey = SERVICE, tags=None) -> NostrEvent:
    text = body if isinstance(body, str) else json.dumps(body)
    named = (("p", US.pubkey), ("e", "ab" * 32)) if tags is None else tags
    content = encrypt_as("nip44", text, author, US.pubkey)
    return sign_note(UnsignedNote(kind=kind, created_at=1, tags=named, content=content), author)


def test_an_address_is_read_with_all_its_relays_each_once():
    text = f"{URI}&relay=ws://127.0.0.1:7000/&relay=wss://relay.example.org&lud16=me@example.org"
    uri = parse_uri(text)
    assert uri.service == SERVICE.pubkey
    assert uri.relays == ("wss://relay.example.org", "ws://127.0.0.1:7000")
    assert (uri.key, uri.lud16) == (US, "me@example.org")
    assert SECRET not in repr(uri)


@pytest.mark.attack("E4")
@pytest.mark.parametrize(
    "text",
    [
        "",
        URI.replace("nostr+walletconnect", "https"),
        URI.replace("nostr+walletconnect:", ""),
        URI.replace(SERVICE.pubkey, SERVICE.pubkey[:-1]),
        URI.replace(SERVICE.pubkey, SECRET[:60] + "zzzz"),
        URI.replace("wss", "https"),
        URI.replace("relay.example.org", "me:word@relay.example.org"),
        URI.replace("relay.example.org", "relay.example.org:port"),
        URI.replace(RELAY, ""),
        URI.replace(f"secret={SECRET}", ""),
        URI.replace(SECRET, SECRET[:-1]),
        URI.replace(SECRET, "00" * 32),
        f"{URI}&secret={SECRET}",
        URI + "".join(f"&relay=wss://r{i}.example.org" for i in range(25)),
        URI + "&x=" + "y" * 9000,
        URI.replace("//", "//["),
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(text):
    with pytest.raises(ValueError, match=r"wallet|secret key|Nostr") as caught:
        parse_uri(text)
    assert SECRET[:16] not in str(caught.value)
    assert "word" not in str(caught.value)


@given(st.text())
def test_no_text_breaks_the_reader_of_addresses(text):
    for given_text in (text, f"nostr+walletconnect://{text}", URI.replace(SERVICE.pubkey, text), f"{URI}&{text}"):
        try:
            parse_uri(given_text)
        except ValueError as error:
            assert SECRET not in str(error)  # noqa: PT017 - most texts are refused, some are not


@pytest.mark.parametrize(
    ("tags", "schemes"),
    [
        ((), ("nip04",)),
        ((("encryption", "nip04"),), ("nip04",)),
        ((("encryption", "nip04 nip44_v2"),), ("nip44", "nip04")),
        ((("encryption", "nip44_v2,nip04"),), ("nip44", "nip04")),
        ((("encryption", "nip44_v2 rot13"),), ("nip44",)),
    ],
)
def test_a_wallet_without_the_tag_speaks_nip_04_and_nip_44_goes_first(tags, schemes):
    told = read_info(
        info("pay_invoice  x\nlookup_invoice", *tags, ("notifications", "payment_received")), SERVICE.pubkey
    )
    assert told is not None
    assert (told.schemes, told.methods) == (schemes, ("pay_invoice", "x", "lookup_invoice"))
    assert told.notifications == ("payment_received",)


def test_what_another_says_of_a_wallet_is_nothing():
    assert read_info(info(key=US), SERVICE.pubkey) is None
    assert read_info(info("pay_invoice", ("encryption", "rot13")), SERVICE.pubkey) is None
    assert read_info(note({}), SERVICE.pubkey) is None


@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
def test_a_request_can_be_read_by_the_wallet_alone_and_ends(scheme):
    uri = parse_uri(URI)
    asked = request_note(uri, "pay_invoice", {"invoice": "lnbc1"}, scheme=scheme, now_s=100, until_s=130)
    text, found = decrypt_any(asked.content, SERVICE, US.pubkey)
    assert found == scheme
    assert json.loads(text) == {"method": "pay_invoice", "params": {"invoice": "lnbc1"}}
    assert (asked.kind, asked.created_at) == (23194, 100)
    word = {"nip44": "nip44_v2", "nip04": "nip04"}[scheme]
    assert asked.tags == (("p", SERVICE.pubkey), ("encryption", word), ("expiration", "130"))


def test_a_result_and_a_fault_are_read():
    uri = parse_uri(URI)
    result = read_response(note({"result_type": "get_balance", "result": {"balance": 1}}), uri)
    assert (result.method, result.result, result.fault, result.request_id) == (
        "get_balance",
        {"balance": 1},
        None,
        "ab" * 32,
    )
    for code, read in (("QUOTA_EXCEEDED", "QUOTA_EXCEEDED"), ("NEW_WORD", "OTHER"), (7, "OTHER"), (None, "OTHER")):
        body = {"result_type": "pay_invoice", "error": {"code": code, "message": "no\x1b[31m"}, "result": None}
        fault = read_response(note(body), uri).fault
        assert fault is not None
        assert (fault.code, fault.message) == (read, "no [31m")


@pytest.mark.attack("E6")
def test_only_the_wallet_s_answer_to_us_about_one_request_is_an_answer():
    uri, body, right = parse_uri(URI), {}, (("p", US.pubkey), ("e", "ab" * 32))
    assert answered_request(note(body), uri) == "ab" * 32
    assert answered_request(note(body, author=US), uri) is None
    assert answered_request(note(body, kind=23194), uri) is None
    for tags in (
        (),
        right[:1],
        right[1:],
        (*right, ("e", "cd" * 32)),
        (("p", SERVICE.pubkey), right[1]),
        (("p",), ("e",)),
    ):
        assert answered_request(note(body, tags=tags), uri) is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"result_type":"x"}',
        '{"result_type":7,"result":{}}',
        '{"result_type":"x","result":[]}',
        '{"result_type":"x","error":"no","result":{}}',
        "[" * 5000,
    ],
)
def test_a_true_answer_that_cannot_be_read_is_told_apart_from_a_refusal(body):
    with pytest.raises(ValueError, match=r"."):
        read_response(note(body or " "), parse_uri(URI))


def test_notifications_of_the_wallet_are_read_and_those_of_others_are_not():
    uri, body = parse_uri(URI), {"notification_type": "payment_received", "notification": {"payment_hash": "ab" * 32}}
    told = read_notification(note(body, kind=23197, tags=(("p", US.pubkey),)), uri)
    assert told is not None
    assert (told.what, told.body) == ("payment_received", {"payment_hash": "ab" * 32})
    assert read_notification(note(body, kind=23197, tags=(("p", US.pubkey),), author=US), uri) is None
    assert read_notification(note(body, kind=23195, tags=(("p", US.pubkey),)), uri) is None
    assert read_notification(note(body, kind=23197, tags=()), uri) is None
    assert read_notification(note("[]", kind=23197, tags=(("p", US.pubkey),)), uri) is None


def test_a_transaction_is_settled_by_its_state_or_where_there_is_none_by_its_time():
    assert read_transaction({"state": "settled", "amount": 5, "fees_paid": 1, "type": "incoming"}) == Transaction(
        payment_hash="", direction="incoming", settled=True, amount_msats=5, fee_msats=1
    )
    assert read_transaction({"settled_at": 7}).settled
    assert not read_transaction({"state": "pending", "settled_at": 7}).settled
    assert not read_transaction({"settled_at": 0}).settled
    assert read_transaction({"state": "failed"}).failed


@pytest.mark.parametrize(
    "body", [{"amount": 1.5}, {"amount": "5"}, {"amount": -1}, {"amount": True}, {"amount": 2**63}, {"preimage": 7}]
)
def test_a_transaction_with_a_field_that_cannot_be_is_refused(body):
    with pytest.raises(ValueError, match=next(iter(body))):
        read_transaction(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_no_answer_breaks_the_reader(body):
    try:
        response = read_response(note(json.dumps(body)), parse_uri(URI))
        read_transaction(response.result)
    except ValueError:
        return
