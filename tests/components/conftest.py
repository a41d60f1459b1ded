"""Fixtures of the tests of stages and library."""

from collections.abc import Iterator

import pytest

from tests.object_stores import SeaweedServer, seaweed_server


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running S3 server with the bucket `cat`."""
    from components.catlib.storage import Storage

    with seaweed_server(tmp_path_factory.mktemp("store") / "data") as server:
        Storage(server.environment).make_bucket("s3://cat")
        yield server
