"""Artifacts and files by address, with a real S3 server behind it."""

import tempfile
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest

from components.catlib import storage
from components.catlib.artifacts import replacing_folder
from components.catlib.disk import temporary_folder
from components.catlib.errors import UserError
from components.catlib.storage import Storage
from tests.components.catlib.storage.conftest import make_artifact
from tests.object_stores import SECRET_KEY, SeaweedServer
from tests.small_disks import mounted


def put(store: Storage, address: str, content: bytes, path: Path) -> None:
    path.write_bytes(content)
    store.upload_file(path, address)


def test_local_folders_are_used_where_they_are(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": b"1"})
    local = Storage({})
    assert local.fetch(str(folder), tmp_path / "unused", "prune") == folder
    assert local.find(str(folder), "request") == local.manifest(str(folder))
    assert local.find(str(folder), "another") is None
    (folder / "a").unlink()
    assert local.find(str(folder), "request") is None


def test_an_artifact_goes_there_and_back(store: Storage, address: str, tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": b"1", "folder/b": b"2"})
    store.publish(folder, address)
    fetched = store.fetch(address, tmp_path / "fetched", "prune")
    assert (fetched / "folder/b").read_bytes() == b"2"
    assert store.find(address, "request") == store.manifest(address, "prune") == store.manifest(str(folder))
    assert sorted(store.file_names(address)) == ["a", "folder/b", "manifest.json"]
    store.remove(address)
    assert store.find(address, "request") is None
    assert store.file_names(address) == []


def test_a_local_folder_is_removed_if_it_is_there(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": b"1"})
    for _ in range(2):
        Storage({}).remove(str(folder))
        assert not folder.exists()


def test_files_and_trees_are_copied_here_once(
    object_store: SeaweedServer, store: Storage, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    for name in ("tree/x/1.png", "tree/2.png", "tree2"):
        put(store, f"{address}/{name}", name.encode(), tmp_path / "file")
    tree = storage.local_copy(f"{address}/tree")
    assert sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.png")) == ["2.png", "x/1.png"]
    assert (tree / "x/1.png").read_bytes() == b"tree/x/1.png"
    assert storage.local_copy(f"{address}/tree") == tree
    assert storage.local_copy(f"{address}/tree/2.png").read_bytes() == b"tree/2.png"
    assert storage.local_copy("some/folder") == Path("some/folder")
    with pytest.raises(UserError, match="There is nothing at"):
        storage.local_copy(f"{address}/none")


def test_a_fingerprint_tells_one_content_from_another(store: Storage, address: str, tmp_path: Path) -> None:
    for place in (address, str(tmp_path / "folder")):
        seen = [store.fingerprint(place)]
        for content in (b"first", b"other"):
            if storage.is_remote(place):
                put(store, f"{place}/file", content, tmp_path / "file")
            else:
                Path(place).mkdir(exist_ok=True)
                (Path(place) / "file").write_bytes(content)
            seen.append(store.fingerprint(place))
        assert seen[0] == []
        assert seen[1] != seen[2]
        assert store.fingerprint(f"{place}/file")


def test_a_bucket_is_made_once(store: Storage) -> None:
    assert store.make_bucket("s3://another") is True
    assert store.make_bucket("s3://another") is False


def test_a_link_needs_no_credentials(store: Storage, address: str, tmp_path: Path) -> None:
    store.publish(make_artifact(tmp_path / "artifact", {"report.html": b"<p>"}), address)
    link = store.link(f"{address}/report.html", lifetime=timedelta(days=1))
    assert SECRET_KEY not in link
    with urllib.request.urlopen(link) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"<p>", "text/html")


def test_a_file_is_told_from_a_folder(store: Storage, address: str, tmp_path: Path) -> None:
    put(store, f"{address}/folder/file", b"1", tmp_path / "file")
    places = (f"{address}/folder/file", f"{address}/folder", f"{address}/none", "s3://cat", "s3://cat/")
    assert [store.is_file(place) for place in places] == [True, False, False, False, False]


def test_a_whole_bucket_is_no_file_to_keep(store: Storage) -> None:
    with pytest.raises(UserError, match="give the address of a file in it"):
        store.cached("s3://cat")


def test_an_artifact_that_does_not_fit_here_is_a_sentence(store: Storage, address: str, tmp_path: Path) -> None:
    store.publish(make_artifact(tmp_path / "artifact", {"a": bytes(2**20), "b": bytes(2**20)}), address)
    words = r"cannot be written \(the disk is full: 2.1 MB are needed, .* are free\); make room there"
    with mounted(tmp_path / "disk", "size=1m"):
        with pytest.raises(UserError, match=words), replacing_folder(tmp_path / "disk/a") as folder:
            store.fetch(address, folder)
        assert list((tmp_path / "disk").iterdir()) == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
            with pytest.raises(UserError, match=f"{words}, or set TMPDIR"), temporary_folder("prune-") as folder:
                store.fetch(address, folder / "teacher")
