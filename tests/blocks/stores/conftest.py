"""A real S3 API on loopback, and stores over it and over a directory."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import boto3.session
import pytest
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server

from blocks.stores import DirectoryStore, S3Store
from swarmc.contracts.ports import Store

Serve = Callable[[Callable[..., Any]], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def endpoint_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def client(endpoint_url: str) -> Iterator[Any]:
    """A plain S3 client, for looking at what a store did and for doing harm."""
    session = boto3.session.Session(aws_access_key_id="tester", aws_secret_access_key="secret", region_name="us-east-1")
    client = session.client("s3", endpoint_url=endpoint_url)
    yield client
    client.close()


@pytest.fixture
def configuration(endpoint_url: str, client: Any) -> S3Store:
    """A fresh bucket's configuration."""
    bucket = f"artifacts-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    return S3Store(
        bucket=bucket,
        prefix="team/swarmc",
        endpoint_url=endpoint_url,
        region="us-east-1",
        access_key="tester",
        secret_key="secret",  # type: ignore[arg-type]
        max_object_bytes=100_000,
    )


@pytest.fixture
async def bucket(configuration: S3Store) -> AsyncIterator[Store]:
    async with configuration.open() as store:
        yield store


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Store]:
    async with DirectoryStore(path=tmp_path / "store", max_object_bytes=100_000).open() as store:
        yield store


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Serve a WSGI application on a free loopback port while the context is open; gives its address."""

    @contextmanager
    def _serve(application: Callable[..., Any]) -> Iterator[str]:
        server = make_server("127.0.0.1", 0, application, threaded=True)
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return _serve
