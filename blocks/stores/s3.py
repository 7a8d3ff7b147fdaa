"""Artifacts in a bucket of any S3 API: AWS, MinIO, Ceph, R2."""

import asyncio
import base64
import hashlib
import mimetypes
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, Self, final
from urllib.parse import quote

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator, model_validator

from blocks.stores.addresses import (
    MAX_OBJECT_BYTES,
    check_label,
    check_name,
    check_size,
    check_whole,
    identity_in,
    object_path,
)
from swarmc.contracts.canonical import content_id
from swarmc.contracts.errors import StoreError, boundary
from swarmc.contracts.ports import Store

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_ATTEMPTS = 5
_CONNECTIONS = 32  # as many threads as asyncio.to_thread starts at most
_UNDECIDED = frozenset(
    {
        "PreconditionFailed",  # the key is there
        "ConditionalRequestConflict",  # somebody else is writing it now
        "NotImplemented",  # the rest: a server that knows no condition on a put
        "InvalidArgument",
        "InvalidRequest",
    }
)
_ADVICE = {
    "NoSuchBucket": "create the bucket, or correct its name",
    "AccessDenied": "grant these credentials s3:GetObject and s3:PutObject under the prefix",
    "InvalidAccessKeyId": "correct the access key, or the endpoint it belongs to",
    "SignatureDoesNotMatch": "correct the secret key, or the region",
    "NoSuchKey": "was it removed, or kept in another store?",
}


class S3Store(Block):
    """Artifacts in a bucket of any S3 API. Credentials left empty come from the environment, as boto3 finds them."""

    _block_type_name = "swarmc S3 store"
    _block_type_slug = "swarmc-s3-store"
    _description = "Keeps swarmc's artifacts in an S3 bucket under the hash of their bytes."

    bucket: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$", description="Name of a bucket that exists")
    prefix: str = Field(default="", max_length=200, description="Path inside the bucket, e.g. `team/swarmc`")
    endpoint_url: str | None = Field(default=None, description="Address of the S3 API; empty for AWS")
    region: str | None = Field(default=None, description="Region, e.g. `eu-central-1`; empty for the environment's")
    access_key: str | None = Field(default=None, description="Access key id; empty for the environment's credentials")
    secret_key: SecretStr | None = Field(default=None, description="Secret access key that belongs to the access key")
    max_object_bytes: int = Field(
        default=MAX_OBJECT_BYTES, ge=1, description="Largest artifact, in bytes; each is held in memory whole"
    )

    @field_validator("prefix")
    @classmethod
    def _plain_prefix(cls, prefix: str) -> str:
        prefix = prefix.strip("/")
        if prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/")):
            raise ValueError(f"the prefix {prefix!r} has an empty, `.` or `..` part; give a path such as team/swarmc")
        return prefix

    @model_validator(mode="after")
    def _whole_credentials(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("give both the access key and the secret key, or neither to use the environment's")
        return self

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """The store, ready for use. The bucket is first spoken to when something is put, read or labelled.

        Raises:
            StoreError: the settings make no client (a malformed endpoint, an unknown profile).
        """
        client = await asyncio.to_thread(self._client)
        try:
            yield OpenBucket(client, bucket=self.bucket, prefix=self.prefix, max_object_bytes=self.max_object_bytes)
        finally:
            client.close()

    def _client(self) -> Any:
        import boto3.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=_CONNECTIONS,
            # boto3's own checksums need server features that some S3 APIs lack; each put carries a SHA-256 of ours
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        secret = self.secret_key.get_secret_value() if self.secret_key else None
        with boundary(StoreError, f"opening the S3 store s3://{self.bucket}", BotoCoreError, ValueError):
            session = boto3.session.Session(
                aws_access_key_id=self.access_key, aws_secret_access_key=secret, region_name=self.region
            )
            return session.client("s3", endpoint_url=self.endpoint_url, config=config)


@final
class OpenBucket:
    """The store port over a bucket.

    A put is one request that the server takes only if the key is free and the bytes have the
    SHA-256 sent with them. An object that is already there is kept if the server can show that
    checksum, and written again if it cannot. Its first name is its download name.

    Args:
        client: A boto3 S3 client; used from several threads.
        bucket: Name of the bucket.
        prefix: Path inside it, without slashes at its ends; may be empty.
        max_object_bytes: Larger objects are neither put nor read.
    """

    def __init__(self, client: Any, *, bucket: str, prefix: str = "", max_object_bytes: int = MAX_OBJECT_BYTES) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._max_object_bytes = max_object_bytes

    async def put(self, data: bytes, *, name: str) -> str:
        return await asyncio.to_thread(self._put, data, name)

    async def get(self, uri: str) -> bytes:
        return await asyncio.to_thread(self._get, uri)

    async def read(self, label: str) -> bytes | None:
        return await asyncio.to_thread(self._read, label)

    async def label(self, label: str, uri: str) -> str:
        return await asyncio.to_thread(self._label, label, uri)

    def _put(self, data: bytes, name: str) -> str:
        check_name(name)
        check_size(len(data), self._max_object_bytes, name)
        key = self._key(object_path(content_id(data)))
        uri = f"s3://{self._bucket}/{key}"
        with _service(f"keeping {name} ({len(data)} bytes) as {uri}"):
            self._send_once(key, data, name)
        return uri

    def _send_once(self, key: str, data: bytes, name: str) -> None:
        from botocore.exceptions import ClientError

        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        checked = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": checksum}
        wanted = {"Bucket": self._bucket, "Key": key, "Body": data, **checked, **_shown_as(name)}
        try:
            self._client.put_object(**wanted, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) not in _UNDECIDED:
                raise
            if not self._holds(key, len(data), checksum):
                self._client.put_object(**wanted)

    def _holds(self, key: str, size_bytes: int, checksum: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            head = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if _status(error) in (403, 404):  # 403: the key is missing, and we may not list the bucket
                return False
            raise
        return head["ContentLength"] == size_bytes and head.get("ChecksumSHA256") == checksum

    def _get(self, uri: str) -> bytes:
        identity = identity_in(uri, "s3")
        with _service(f"reading {uri} in {self._place()}"):
            data = self._whole(self._key(object_path(identity)), uri)
        check_whole(data, identity, uri)
        return data

    def _read(self, label: str) -> bytes | None:
        from botocore.exceptions import ClientError

        check_label(label)
        with _service(f"reading {label} in {self._place()}"):
            try:
                return self._whole(self._key(label), label)
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise

    def _whole(self, key: str, shown: str) -> bytes:
        answer = self._client.get_object(Bucket=self._bucket, Key=key)
        with closing(answer["Body"]) as body:
            check_size(answer.get("ContentLength", 0), self._max_object_bytes, shown)
            data = body.read(self._max_object_bytes + 1)
            body.read(1)  # at the end boto3 checks that as many bytes came as were announced
        check_size(len(data), self._max_object_bytes, shown)
        return data

    def _label(self, label: str, uri: str) -> str:
        check_label(label)
        source = {"Bucket": self._bucket, "Key": self._key(object_path(identity_in(uri, "s3")))}
        shown = _shown_as(label.rpartition("/")[2])
        with _service(f"labelling {uri} as {label} in {self._place()}"):
            self._client.copy_object(
                Bucket=self._bucket, Key=self._key(label), CopySource=source, MetadataDirective="REPLACE", **shown
            )
        return f"s3://{self._bucket}/{self._key(label)}"

    def _key(self, path: str) -> str:
        return self._prefix + path

    def _place(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"


def _shown_as(name: str) -> dict[str, str]:
    """What lets a browser show or save the object as `name`."""
    kind, _ = mimetypes.guess_type(name)
    return {
        "ContentType": kind or "application/octet-stream",
        "ContentDisposition": f"inline; filename*=UTF-8''{quote(name, safe='')}",
    }


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def _service(doing: str) -> Iterator[None]:
    from botocore import exceptions as boto

    passing = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError)
    with (
        boundary(StoreError, doing, boto.BotoCoreError),
        boundary(StoreError, f"{doing}; try again", *passing, retryable=True),
    ):
        try:
            yield
        except boto.ClientError as error:
            code, status = _code(error), _status(error)
            said = error.response.get("Error", {}).get("Message", "")
            advice = _ADVICE.get(code, "look it up in the server's log")
            retryable = status >= 500 or status == 429
            raise StoreError(
                f"{doing}: the server refused, {code} ({status}): {said}; {advice}", retryable=retryable
            ) from error
