"""A store is found by its address, by the name it was saved under, or at home."""

from pathlib import Path
from typing import Any

import pytest

from blocks.stores import STORES, DirectoryStore, S3Store, find_store, open_store, read_uri
from swarmc.contracts.errors import StoreError


async def test_a_plain_path_opens_a_directory(tmp_path: Path) -> None:
    async with open_store(str(tmp_path / "a b")) as store:
        uri = await store.put(b"{}", name="manifest.json")
    assert uri.startswith((tmp_path / "a b").as_uri())


async def test_a_file_uri_opens_the_same_directory(tmp_path: Path) -> None:
    async with open_store(str(tmp_path / "a b")) as store:
        uri = await store.put(b"{}", name="manifest.json")
    async with open_store((tmp_path / "a b").as_uri()) as store:
        assert await store.get(uri) == b"{}"


async def test_an_s3_uri_opens_a_bucket_with_credentials_of_the_environment(
    endpoint_url: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_bucket(Bucket="of-the-environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    async with open_store("s3://of-the-environment/some/prefix/") as store:
        uri = await store.put(b"{}", name="manifest.json")
        assert await store.get(uri) == b"{}"
    assert await read_uri(uri) == b"{}"
    assert uri.startswith("s3://of-the-environment/some/prefix/objects/sha256/")


@pytest.mark.parametrize(
    "address", ["", "gs://bucket", "file://", "file://host/srv", "s3://", "s3:///x", "s3://b", "s3://ok/../x", "\0"]
)
async def test_an_address_that_names_no_store_is_refused_with_its_value(address: str) -> None:
    with pytest.raises(StoreError) as caught:
        async with open_store(address):
            pass
    assert repr(address) in str(caught.value)


async def test_a_uri_alone_is_enough_to_read_an_object(tmp_path: Path) -> None:
    async with open_store(str(tmp_path / "a b#é%20")) as store:
        uri = await store.put(b"{}", name="manifest.json")
    assert await read_uri(uri) == b"{}"


@pytest.mark.parametrize(
    "uri", ["", "/etc/passwd", "file:///etc/passwd", f"gs://b/objects/sha256/ab/{'cd' * 31}/content"]
)
async def test_a_uri_of_no_store_is_refused(uri: str) -> None:
    with pytest.raises(StoreError):
        await read_uri(uri)


async def test_without_a_name_the_store_is_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMC_HOME", str(tmp_path))
    async with find_store(None) as store:
        uri = await store.put(b"{}", name="manifest.json")
    assert uri.startswith((tmp_path / "artifacts" / "objects").as_uri())


async def test_any_other_name_is_an_address(tmp_path: Path) -> None:
    async with find_store(str(tmp_path / "here")) as store:
        uri = await store.put(b"{}", name="manifest.json")
    assert await read_uri(uri) == b"{}"


def test_every_store_has_a_block_name_of_its_own() -> None:
    slugs = {kind.get_block_type_slug() for kind in STORES.values()}
    assert slugs == {"swarmc-directory-store", "swarmc-s3-store"}


@pytest.mark.slow
@pytest.mark.usefixtures("on_server")
async def test_a_saved_store_is_found_by_its_name_with_its_secret(tmp_path: Path, configuration: S3Store) -> None:
    await DirectoryStore(path=tmp_path / "saved").asave("mine", overwrite=True)
    await configuration.asave("theirs", overwrite=True)
    for reference in ("swarmc-directory-store/mine", "swarmc-s3-store/theirs"):
        async with find_store(reference) as store:
            assert await store.get(await store.put(b"{}", name="manifest.json")) == b"{}"
    with pytest.raises(StoreError, match=r"swarmc-s3-store/nobodys.*Unable to find"):
        async with find_store("swarmc-s3-store/nobodys"):
            pass
