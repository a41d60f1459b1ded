"""The fetch stage: artifacts of earlier runs, from folders and from a real object store."""

from pathlib import Path

import pytest

from components.catlib.artifacts import read_manifest, writing
from components.catlib.config import Pix2PixConfig
from components.catlib.errors import UserError
from components.catlib.storage import Storage
from components.fetch.stage import run
from tests.object_stores import SeaweedServer


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    with writing(tmp_path / "teacher", kind="teacher", config=Pix2PixConfig()) as writer:
        (writer.folder / "weights").write_bytes(b"weights")
    return tmp_path / "teacher"


def test_an_artifact_is_fetched_as_it_is(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run(address=str(teacher), kind="teacher", output=tmp_path / "out")
    assert read_manifest(tmp_path / "out").digest() == read_manifest(teacher).digest()
    assert (tmp_path / "out" / "weights").read_bytes() == b"weights"


def test_it_comes_from_the_store_as_well(
    teacher: Path, tmp_path: Path, object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    Storage().publish(teacher, "s3://cat/earlier/teacher")
    run(address="s3://cat/earlier/teacher", kind="teacher|distill", output=tmp_path / "out")
    assert read_manifest(tmp_path / "out").digest() == read_manifest(teacher).digest()


def test_an_earlier_artifact_of_its_kind_alone_is_replaced(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        run(address=str(teacher), kind="teacher", output=out)
        assert read_manifest(out).digest() == read_manifest(teacher).digest()
    with writing(tmp_path / "dataset", kind="dataset", config=Pix2PixConfig()):
        pass
    with pytest.raises(UserError, match="is a teacher artifact, not replaced by a dataset artifact"):
        run(address=str(tmp_path / "dataset"), kind="dataset", output=out)
    assert read_manifest(out).digest() == read_manifest(teacher).digest()


def test_what_is_no_such_artifact_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a teacher artifact, expected a distill artifact"):
        run(address=str(teacher), kind="distill", output=tmp_path / "out")
    (teacher / "weights").write_bytes(b"changed")
    with pytest.raises(UserError, match="was changed after it was written"):
        run(address=str(teacher), kind="teacher", output=tmp_path / "out")
    with pytest.raises(UserError, match=r"teacher\.published\.generator\.uri"):
        run(address="latest_net_G.pth", kind="teacher", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
