"""The S3 store against a real S3 API: what lies in the bucket, and what a server may do wrong."""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from pydantic import ValidationError

from blocks.stores import S3Store
from swarmc.contracts.errors import StoreError
from swarmc.contracts.ports import Store

Serve = Callable[[Callable[..., Any]], AbstractContextManager[str]]
SECRET = "do-not-show-me-anywhere"


def _key(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]


async def test_the_bucket_shows_the_bytes_their_type_and_their_name(
    bucket: Store, configuration: S3Store, client: Any
) -> None:
    uri = await bucket.put(b"{}", name="mänifest.json")
    found = client.get_object(Bucket=configuration.bucket, Key=_key(uri))
    assert found["Body"].read() == b"{}"
    assert found["ContentType"] == "application/json"
    assert found["ContentDisposition"] == "inline; filename*=UTF-8''m%C3%A4nifest.json"
    assert _key(uri).startswith("team/swarmc/objects/sha256/44/136fa355")


async def test_the_server_was_given_the_checksum_of_the_bytes(
    bucket: Store, configuration: S3Store, client: Any
) -> None:
    uri = await bucket.put(b"checked", name="checked.txt")
    head = client.head_object(Bucket=configuration.bucket, Key=_key(uri), ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(b"checked").digest()).decode()


async def test_bytes_that_are_there_are_not_written_again(bucket: Store, configuration: S3Store, client: Any) -> None:
    client.put_bucket_versioning(Bucket=configuration.bucket, VersioningConfiguration={"Status": "Enabled"})
    await asyncio.gather(*(bucket.put(b"once", name=f"{number}.txt") for number in range(8)))
    await bucket.put(b"once", name="again.txt")
    assert len(client.list_object_versions(Bucket=configuration.bucket)["Versions"]) == 1


@pytest.mark.parametrize("harm", [b"artifacT", b"art", b"", b"artifact and more"])
async def test_a_damaged_object_is_named_and_putting_it_again_repairs_it(
    bucket: Store, configuration: S3Store, client: Any, harm: bytes
) -> None:
    uri = await bucket.put(b"artifact", name="a.txt")
    client.put_object(Bucket=configuration.bucket, Key=_key(uri), Body=harm)
    with pytest.raises(StoreError, match="is damaged") as caught:
        await bucket.get(uri)
    assert uri in str(caught.value)
    assert await bucket.put(b"artifact", name="a.txt") == uri
    assert await bucket.get(uri) == b"artifact"


async def test_a_label_is_an_object_of_its_own_and_moves(bucket: Store, configuration: S3Store, client: Any) -> None:
    for data in (b"{}", b"[]"):
        address = await bucket.label("runs/abc/manifest.json", await bucket.put(data, name="x.bin"))
        assert address == f"s3://{configuration.bucket}/team/swarmc/runs/abc/manifest.json"
        found = client.get_object(Bucket=configuration.bucket, Key=_key(address))
        assert (found["Body"].read(), found["ContentType"]) == (data, "application/json")


async def test_an_object_over_the_limit_is_refused_before_it_is_read(
    bucket: Store, configuration: S3Store, client: Any
) -> None:
    uri = await bucket.put(b"small", name="small.txt")
    client.put_object(Bucket=configuration.bucket, Key=_key(uri), Body=bytes(150_000))
    with pytest.raises(StoreError, match="has 150000 bytes, over this store's limit of 100000"):
        await bucket.get(uri)


async def test_a_server_without_conditional_puts_serves_all_the_same(configuration: S3Store, serve: Serve) -> None:
    moto = DomainDispatcherApplication(create_backend_app)
    refused = []

    def without_conditions(environ: dict, start_response: Callable) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT" and "HTTP_IF_NONE_MATCH" in environ:
            refused.append(environ["PATH_INFO"])
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            start_response("501 Not Implemented", [("Content-Type", "application/xml")])
            return [b"<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>"]
        return moto(environ, start_response)

    with serve(without_conditions) as url:
        async with configuration.model_copy(update={"endpoint_url": url}).open() as store:
            uris = {await store.put(b"{}", name="manifest.json") for _ in range(2)}
            assert [await store.get(uri) for uri in uris] == [b"{}"]
    assert len(refused) == 2


async def test_an_answer_that_breaks_off_may_be_tried_again(configuration: S3Store, serve: Serve) -> None:
    def half(_environ: dict, start_response: Callable) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "1000")])
        return [bytes(500)]

    with serve(half) as url:
        async with configuration.model_copy(update={"endpoint_url": url}).open() as store:
            with pytest.raises(StoreError, match=r"reading s3://.*try again") as caught:
                await store.get(f"s3://{configuration.bucket}/objects/sha256/ab/{'cd' * 31}/content")
    assert caught.value.retryable


async def test_a_bucket_that_does_not_exist_is_said_with_what_to_do(configuration: S3Store) -> None:
    async with configuration.model_copy(update={"bucket": "never-made"}).open() as store:
        with pytest.raises(StoreError, match=r"s3://never-made/.*NoSuchBucket.*create the bucket") as caught:
            await store.put(b"{}", name="manifest.json")
    assert not caught.value.retryable


async def test_a_malformed_endpoint_is_said_when_the_store_is_opened(configuration: S3Store) -> None:
    with pytest.raises(StoreError, match=r"opening the S3 store.*not an address"):
        async with configuration.model_copy(update={"endpoint_url": "not an address"}).open():
            pass


def test_the_secret_is_shown_nowhere() -> None:
    store = S3Store(bucket="artifacts", access_key="tester", secret_key=SECRET)  # type: ignore[arg-type]
    assert SECRET not in f"{store!r} {store} {store.model_dump()} {store.model_dump_json()}"
    assert S3Store.model_json_schema()["secret_fields"] == ["secret_key"]


@pytest.mark.parametrize(
    "wrong",
    [{"bucket": "a/b"}, {"bucket": ""}, {"prefix": "a/../b"}, {"prefix": "a//b"}, {"access_key": "alone"},
     {"secret_key": SECRET}, {"max_object_bytes": 0}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_without_showing_the_secret(wrong: dict) -> None:
    with pytest.raises(ValidationError) as caught:
        S3Store(**{"bucket": "artifacts", **wrong})
    assert SECRET not in str(caught.value)
