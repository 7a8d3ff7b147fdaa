"""The law of every registered store: what is put comes back whole, once, under names that stay inside."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3.session
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from blocks.stores import STORES
from swarmc.contracts.canonical import content_id
from swarmc.contracts.errors import StoreError
from swarmc.contracts.ports import Store

MAX_OBJECT_BYTES = 200_000
KEYS = {"aws_access_key_id": "tester", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
HOSTILE_LABELS = [
    "", "/", "/etc/passwd", "..", "../out", "runs/../../out", "runs/./x", "runs//x", "runs/", ".", "a\\..\\b", "a\0b",
    "line\nbreak", "objects/sha256/ab", "Objects/x", "tmp/x", "x" * 256, "/".join(["x" * 100] * 9), "\ud800",
]  # fmt: skip
HOSTILE_NAMES = ["", ".", "..", "a/b", "/etc/passwd", "a\\b", "a\0b", "x" * 256, "\ud800"]
DIGEST_PATH = f"objects/sha256/ab/{'cd' * 31}/content"
HOSTILE_URIS = [
    "", "content", "sha256:" + "ab" * 32, "/etc/passwd", "file:///etc/passwd", "s3://bucket/key",
    f"https://host/{DIGEST_PATH}", f"file:///x/{DIGEST_PATH}/../../passwd", f"s3://b/{DIGEST_PATH.upper()}",
]  # fmt: skip
patient = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
file_names = st.text(st.characters(exclude_categories=["C"], exclude_characters="/\\"), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def endpoint_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.session.Session(**KEYS).client("s3", endpoint_url=url)
    client.create_bucket(Bucket="conformance")
    client.close()
    yield url
    server.stop()


def _s3_settings(endpoint_url: str) -> dict:
    keys = {"access_key": "tester", "secret_key": "secret", "region": "us-east-1"}
    return {"bucket": "conformance", "prefix": f"a prefix/é {uuid.uuid4()}", "endpoint_url": endpoint_url, **keys}


@pytest.fixture(params=sorted(STORES))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    settings_of = {
        "directory": lambda: {"path": tmp_path / "a store é%20"},
        "s3": lambda: _s3_settings(request.getfixturevalue("endpoint_url")),
    }
    configured = STORES[request.param](**settings_of[request.param](), max_object_bytes=MAX_OBJECT_BYTES)
    async with configured.open() as store:
        yield store


@patient
@given(data=st.binary(max_size=3000), name=file_names.filter(lambda name: name not in (".", "..")))
async def test_what_is_put_comes_back_to_the_byte(store: Store, data: bytes, name: str) -> None:
    uri = await store.put(data, name=name)
    assert content_id(data).removeprefix("sha256:") in uri.replace("/", "")
    assert await store.get(uri) == data


async def test_the_largest_object_allowed_comes_back(store: Store) -> None:
    data = os.urandom(MAX_OBJECT_BYTES)
    assert await store.get(await store.put(data, name="large.bin")) == data


async def test_an_object_over_the_limit_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=f"large.bin has {MAX_OBJECT_BYTES + 1} bytes.*max_object_bytes"):
        await store.put(bytes(MAX_OBJECT_BYTES + 1), name="large.bin")


async def test_the_same_bytes_have_one_uri_whatever_their_name(store: Store) -> None:
    first = await store.put(b"{}", name="manifest.json")
    assert await store.put(b"{}", name="report.json") == first
    assert await store.put(b"{}", name="manifest.json") == first
    assert await store.put(b"[]", name="manifest.json") != first


async def test_many_writers_of_the_same_bytes_all_succeed(store: Store) -> None:
    data = os.urandom(MAX_OBJECT_BYTES)
    uris = await asyncio.gather(*(store.put(data, name=f"copy-{number % 4}.bin") for number in range(16)))
    assert len(set(uris)) == 1
    assert await store.get(uris[0]) == data


async def test_a_label_can_be_set_moved_and_set_again(store: Store) -> None:
    first = await store.put(b"first", name="manifest.json")
    second = await store.put(b"second", name="manifest.json")
    for uri in (first, first, second, first):
        assert (await store.label("runs/abc/manifest.json", uri)).endswith("/runs/abc/manifest.json")
    assert (await store.get(first), await store.get(second)) == (b"first", b"second")


async def test_a_missing_object_is_named_in_the_error(store: Store) -> None:
    uri = await store.put(b"here", name="here.txt")
    missing = uri[: -len("0/content")] + ("1" if uri[-len("0/content")] == "0" else "0") + "/content"
    with pytest.raises(StoreError) as caught:
        await store.get(missing)
    assert missing in str(caught.value)
    assert not caught.value.retryable
    with pytest.raises(StoreError) as caught:
        await store.label("runs/abc/manifest.json", missing)
    assert missing in str(caught.value)


async def test_a_label_is_read_back_and_one_that_was_never_set_is_nothing(store: Store) -> None:
    assert await store.read("promoted/a name/promotion.json") is None
    for data in (b"one", b"two"):
        uri = await store.put(data, name="promotion.json")
        await store.label("promoted/a name/promotion.json", uri)
        assert await store.read("promoted/a name/promotion.json") == data


async def test_a_label_that_leaves_the_store_or_hits_its_objects_is_refused(store: Store) -> None:
    uri = await store.put(b"{}", name="manifest.json")
    for label in HOSTILE_LABELS:
        with pytest.raises(StoreError, match="cannot be a label"):
            await store.label(label, uri)
        with pytest.raises(StoreError, match="cannot be a label"):
            await store.read(label)


async def test_a_name_that_is_no_file_name_is_refused(store: Store) -> None:
    for name in HOSTILE_NAMES:
        with pytest.raises(StoreError, match="cannot be named"):
            await store.put(b"{}", name=name)


async def test_a_uri_that_put_never_returned_is_refused(store: Store) -> None:
    for uri in HOSTILE_URIS:
        with pytest.raises(StoreError, match="is no object of this store"):
            await store.get(uri)
        with pytest.raises(StoreError, match="is no object of this store"):
            await store.label("runs/abc/manifest.json", uri)


@pytest.mark.parametrize("kind", sorted(STORES))
def test_every_setting_of_a_store_is_described(kind: str) -> None:
    undescribed = [name for name, field in STORES[kind].model_fields.items() if not field.description]
    assert undescribed == []
