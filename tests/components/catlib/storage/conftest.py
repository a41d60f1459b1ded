"""Fixtures of the tests of storage."""

from pathlib import Path

import pytest

from components.catlib import artifacts
from components.catlib.config import PruneConfig
from components.catlib.storage import Storage
from tests.object_stores import SeaweedServer


@pytest.fixture
def store(object_store: SeaweedServer, tmp_path: Path) -> Storage:
    return Storage(object_store.environment, patience=5, cache=tmp_path / "cache")


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """A place in the object store of the test's own."""
    return f"s3://cat/{request.node.name}".replace("[", "-").replace("]", "")


def make_artifact(folder: Path, files: dict[str, bytes], *, request: str = "request") -> Path:
    with artifacts.writing(folder, kind="prune", config=PruneConfig()) as writer:
        for name, content in files.items():
            path = writer.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    artifacts.stamp(folder, request)
    return folder
