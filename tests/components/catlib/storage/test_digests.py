"""Digests of local files: by content alone, and remembered while a file is untouched."""

import hashlib
import os
from pathlib import Path

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import digests
from components.catlib.storage.digests import content_digests

OLD = 1_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {"b/2.png": b"two", "a/1.png": b"one", "c.zip": b"three"}.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "data"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes digests be remembered however small the files; the list holds the names of files that were read."""
    names: list[str] = []

    def file_sha256(path: Path) -> str:
        names.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(digests, "file_sha256", file_sha256)
    monkeypatch.setattr(digests, "REMEMBERED_BYTES", 1)
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -60.0)
    return names


def test_they_are_name_size_and_digest_in_order(folder: Path, tmp_path: Path) -> None:
    assert content_digests(folder, tmp_path / "memory") == [
        ("a/1.png", 3, hashlib.sha256(b"one").hexdigest()),
        ("b/2.png", 3, hashlib.sha256(b"two").hexdigest()),
        ("c.zip", 5, hashlib.sha256(b"three").hexdigest()),
    ]
    assert content_digests(folder / "c.zip", tmp_path) == [(".", 5, hashlib.sha256(b"three").hexdigest())]
    assert content_digests(folder / "none", tmp_path) == []
    assert not (tmp_path / "memory").exists(), "these files are too small to remember"


def test_links_are_followed_once_and_hidden_files_do_not_count(folder: Path, tmp_path: Path) -> None:
    before = content_digests(folder, tmp_path)
    for name in (".DS_Store", ".git/index", "a/.1.png.partial"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"hidden")
    assert content_digests(folder, tmp_path) == before
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/3.png").write_bytes(b"four")
    (folder / "d").symlink_to(tmp_path / "elsewhere")
    (folder / "d/loop").symlink_to(folder)
    assert [name for name, _, _ in content_digests(folder, tmp_path)] == ["a/1.png", "b/2.png", "c.zip", "d/3.png"]
    linked = content_digests(folder, tmp_path)
    (tmp_path / "elsewhere/3.png").write_bytes(b"five")
    assert content_digests(folder, tmp_path) != linked


def test_an_untouched_file_is_read_once_and_a_touched_one_again_with_the_same_result(
    folder: Path, tmp_path: Path, read: list[str]
) -> None:
    first = content_digests(folder, tmp_path / "memory")
    assert sorted(read) == ["1.png", "2.png", "c.zip"]
    assert content_digests(folder, tmp_path / "memory") == first
    assert len(read) == 3
    os.utime(folder / "a/1.png", (OLD, OLD))
    assert content_digests(folder, tmp_path / "memory") == first
    assert read[3:] == ["1.png"]


@pytest.mark.parametrize("replaced", [False, True])
def test_another_content_of_the_same_size_and_time_is_seen(
    replaced: bool, folder: Path, tmp_path: Path, read: list[str]
) -> None:
    os.utime(folder / "c.zip", (OLD, OLD))
    first = content_digests(folder, tmp_path / "memory")
    target = tmp_path / "new" if replaced else folder / "c.zip"
    target.write_bytes(b"THREE")
    target.replace(folder / "c.zip")
    os.utime(folder / "c.zip", (OLD, OLD))
    assert content_digests(folder, tmp_path / "memory") != first


def test_a_file_that_has_just_changed_is_not_remembered(
    folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 60.0)
    for _ in range(2):
        content_digests(folder, tmp_path / "memory")
    assert len(read) == 6


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"c.zip": 3}', b'{"c.zip": [[1], null]}'])
def test_a_damaged_memory_counts_as_none(note: bytes, folder: Path, tmp_path: Path, read: list[str]) -> None:
    first = content_digests(folder, tmp_path / "memory")
    (file,) = (tmp_path / "memory").iterdir()
    file.write_bytes(note)
    assert content_digests(folder, tmp_path / "memory") == first
    assert len(read) == 6


def test_without_a_place_to_remember_files_are_read_again(folder: Path, tmp_path: Path, read: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        assert len(content_digests(folder, tmp_path / "file/memory")) == 3
    assert len(read) == 6


def test_a_file_that_cannot_be_read_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(digests, "file_sha256", refuse)
    with pytest.raises(UserError, match=r"data/(a/1|b/2|c)\.\w+ cannot be read \(Permission denied\)"):
        content_digests(folder, tmp_path)
