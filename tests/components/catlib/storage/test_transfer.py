"""Artifacts, published to and fetched from every kind of store."""

import json
import os
from pathlib import Path

import pytest

from components.catlib import artifacts
from components.catlib.errors import UserError
from components.catlib.storage import Location, NotThere, Store, StoreSettings, transfer
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.objects import Objects, S3Store
from tests.components.catlib.storage.conftest import make_artifact
from tests.memory_stores import MemoryStore
from tests.object_stores import SeaweedServer


@pytest.fixture(params=["folder", "objects", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, object_store: SeaweedServer) -> Store:
    match request.param:
        case "folder":
            return FolderStore(str(tmp_path / "store"))
        case "objects":
            name = request.node.name.replace("[", "-").replace("]", "")
            return S3Store(Objects(StoreSettings.from_environment(object_store.environment)), Location("cat", name))
        case _:
            return MemoryStore()


def test_an_artifact_comes_back_as_it_was(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 5 * 2**20)
    files = {"big.bin": os.urandom(12 * 2**20 + 7), "sub/folder/page.html": b"<p>", "empty": b""}
    folder = make_artifact(tmp_path / "artifact", files)
    transfer.publish(folder, store)
    fetched = transfer.fetch(store, tmp_path / "fetched", "prune")
    assert {
        path.relative_to(fetched).as_posix(): path.read_bytes() for path in fetched.rglob("*") if path.is_file()
    } == {**files, "manifest.json": (folder / "manifest.json").read_bytes()}
    assert transfer.manifest(store, "prune") == artifacts.read_manifest(folder)


def test_a_wrong_kind_or_a_missing_artifact_is_one_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an artifact: it has no manifest"):
        transfer.fetch(store, tmp_path / "fetched", "teacher")
    transfer.publish(make_artifact(tmp_path / "artifact", {}), store)
    with pytest.raises(UserError, match="is a prune artifact, expected a teacher artifact"):
        transfer.fetch(store, tmp_path / "fetched", "teacher")
    assert not (tmp_path / "fetched").exists()


def test_a_complete_artifact_is_found_by_its_request_only(store: Store, tmp_path: Path) -> None:
    assert transfer.find(store, "request") is None
    transfer.publish(make_artifact(tmp_path / "artifact", {"a": b"1", "b": b"2"}), store)
    found = transfer.find(store, "request")
    assert found is not None
    assert set(found.files) == {"a", "b"}
    assert transfer.find(store, "another") is None
    store.remove("b")
    assert transfer.find(store, "request") is None


def test_half_a_first_upload_is_no_artifact(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = make_artifact(tmp_path / "new", {"a": b"new", "b": b"new"})
    write = store.write

    def die_at_b(name: str, source: bytes | Path) -> None:
        if name == "b":
            raise KeyboardInterrupt
        write(name, source)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "write", die_at_b)
        transfer.publish(new, store)
    assert transfer.find(store, "request") is None
    with pytest.raises(UserError, match="was the stage that writes it interrupted"):
        transfer.manifest(store)
    transfer.publish(new, store)
    assert sorted(entry.name for entry in store.entries()) == ["a", "b", "manifest.json"]
    assert (transfer.fetch(store, tmp_path / "fetched") / "b").read_bytes() == b"new"


def test_files_changed_behind_the_manifest_are_noticed(store: Store, tmp_path: Path) -> None:
    transfer.publish(make_artifact(tmp_path / "artifact", {"a": b"right", "b": b"right"}), store)
    store.write("a", b"wrong")
    with pytest.raises(UserError, match=r"/a does not match its checksum"):
        transfer.fetch(store, tmp_path / "fetched")
    store.remove("a")
    with pytest.raises(NotThere, match="There is no "):
        transfer.fetch(store, tmp_path / "fetched again")


def test_a_manifest_cannot_write_outside_its_folder(store: Store, tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": b"1"})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../outside"] = manifest["files"]["a"]
    store.write("manifest.json", json.dumps(manifest).encode())
    with pytest.raises(UserError, match="outside its folder"):
        transfer.fetch(store, tmp_path / "fetched")


def test_an_object_cannot_be_written_outside_the_folder_either(tmp_path: Path) -> None:
    store = MemoryStore()
    store.write("../outside", b"1")
    with pytest.raises(UserError, match="leads out of the folder"):
        transfer.download(store, {"../outside": 1}, tmp_path / "folder")
    assert not (tmp_path / "outside").exists()


def test_a_damaged_manifest_is_made_anew(store: Store, tmp_path: Path) -> None:
    store.write("manifest.json", b"{")
    assert transfer.find(store, "request") is None
    transfer.publish(make_artifact(tmp_path / "artifact", {"a": b"1"}), store)
    assert transfer.find(store, "request") is not None


def test_a_store_that_forgets_what_it_took_is_found_out(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": b"1", "b": b"2"})
    mark, listing, manifest = None, None, None
    store = MemoryStore([mark, listing, manifest, "forgotten"])
    transfer.publish(folder, store)
    assert len(store.files) == 2
    assert transfer.find(store, "request") is None
    with pytest.raises(NotThere):
        transfer.fetch(store, tmp_path / "fetched")


@pytest.mark.parametrize("attempts", range(6))
def test_an_upload_that_is_refused_leaves_no_artifact(tmp_path: Path, attempts: int) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": b"1", "b": b"2"})
    store = MemoryStore([None] * attempts + ["refused"])
    with pytest.raises(UserError, match="refused"):
        transfer.publish(folder, store)
    assert store.files.keys() <= {"a", "b"}
