"""Addresses: the hash in a URI is the hash of the bytes, and nothing else gets through."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.stores import addresses
from swarmc.contracts.canonical import content_id
from swarmc.contracts.errors import StoreError


@given(data=st.binary(max_size=50), root=st.text(max_size=30).filter(lambda text: "\n" not in text))
def test_a_uri_gives_back_the_hash_it_was_made_of(data: bytes, root: str) -> None:
    identity = content_id(data)
    assert addresses.identity_in(f"s3://{root}/{addresses.object_path(identity)}", "s3") == identity


@given(uri=st.text(max_size=200))
def test_any_other_text_is_refused_with_its_value(uri: str) -> None:
    with pytest.raises(StoreError) as caught:
        addresses.identity_in(uri, "file")
    assert repr(uri) in str(caught.value)


@given(label=st.text(max_size=60))
def test_a_label_that_passes_stays_below_the_root(label: str) -> None:
    try:
        addresses.check_label(label)
    except StoreError:
        return
    assert not label.startswith(("/", "objects/", "tmp/"))
    assert not {"", ".", ".."} & set(label.split("/"))


def test_ordinary_labels_and_names_pass() -> None:
    for label in ("runs/abc/manifest.json", "latest", "a..b/...c/.hidden", "läufe/ü.json", "my objects/x"):
        addresses.check_label(label)
    for name in ("manifest.json", ".hidden", "a b.txt", "x" * 255, "content"):
        addresses.check_name(name)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(addresses).failed == 0
