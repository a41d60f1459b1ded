"""Every store passes the same tests: a folder, a real S3 server, and one in memory that fails."""

import contextlib
import errno
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import Location, NotThere, Store, StoreSettings, is_remote, open_store, retrying
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.objects import Objects, S3Store
from components.catlib.storage.retrying import Unreachable
from components.catlib.storage.store import Locks
from tests.components.catlib.storage.store_tests import StoreTests
from tests.memory_stores import MemoryStore
from tests.object_stores import COMPLETE, SeaweedServer


class TestFolderStore(StoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FolderStore(str(tmp_path / "store"))

    def test_opening_a_folder_changes_nothing_in_it(self, tmp_path: Path) -> None:
        """What is half-written there may be a living process's, and a folder may be opened by many at once."""
        FolderStore(str(tmp_path / "new"))
        assert not (tmp_path / "new").exists()
        (tmp_path / ".a.partial").write_bytes(b"half")
        os.utime(tmp_path / ".a.partial", (0, 0))
        assert FolderStore(str(tmp_path)).entries() == []
        assert (tmp_path / ".a.partial").exists()

    def test_what_a_killed_process_left_is_cleared_away_after_a_day(self, tmp_path: Path) -> None:
        old, young, kept = (".a.partial", ".b.0123abcd.partial"), (".c.partial",), ("kept.partial", ".kept")
        for name in (*old, *young, *kept):
            (tmp_path / name).write_bytes(b"half")
        for name in (*old, *kept):
            os.utime(tmp_path / name, (time.time() - 90_000,) * 2)
        (tmp_path / ".folder.partial").mkdir()
        os.utime(tmp_path / ".folder.partial", (0, 0))
        FolderStore(str(tmp_path)).write("a", b"whole")
        assert {path.name for path in tmp_path.iterdir()} == {"a", ".folder.partial", *young, *kept}

    def test_what_a_living_process_writes_stays_however_old(self, tmp_path: Path) -> None:
        with FolderStore(str(tmp_path)).writing("a") as path:
            path.write_bytes(b"half")
            os.utime(path, (0, 0))
            FolderStore(str(tmp_path)).write("b", b"whole")
            assert path.read_bytes() == b"half"
        assert FolderStore(str(tmp_path)).read("a") == b"half"

    def test_two_writers_of_one_file_do_not_meet(self, tmp_path: Path) -> None:
        store = FolderStore(str(tmp_path))
        with store.writing("a") as first:
            first.write_bytes(b"first")
            with store.writing("a") as second:
                second.write_bytes(b"second")
                assert first.read_bytes() == b"first"
            assert store.read("a") == b"second"
        assert store.read("a") == b"first"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_files_that_vanish_while_they_are_listed_or_read_are_not_there(self, tmp_path: Path) -> None:
        """Many list, read and remove the files of one folder at once."""
        names = [f"{number % 7}/{number}" for number in range(200)]
        for name in names:
            FolderStore(str(tmp_path)).write(name, b"content")

        def remove(folder: Path) -> None:
            for name in names:
                FolderStore(str(folder)).remove(name)
            for parent in folder.iterdir():
                parent.rmdir()

        def look(folder: Path) -> None:
            store = FolderStore(str(folder))
            while (found := store.entries()) and not removing.done():
                with contextlib.suppress(NotThere):
                    assert store.read(found[-1].name) == b"content"

        with ThreadPoolExecutor(5) as pool:
            removing = pool.submit(remove, tmp_path)
            for looking in [pool.submit(look, tmp_path) for _ in range(4)]:
                looking.result()
            removing.result()

    def test_one_of_many_creators_wins_without_hard_links(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_links(*_: object) -> NoReturn:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
        self.test_a_file_is_created_once(store)
        self.test_one_of_many_creators_wins(store)

    def test_a_lock_is_held_by_one_and_ends_with_its_handle(self, tmp_path: Path) -> None:
        store = FolderStore(str(tmp_path / "store"))
        assert isinstance(store, Locks)
        with pytest.raises(FileNotFoundError):
            store.is_locked("a.lock")
        lock = store.lock("a.lock")
        assert lock is not None
        assert store.is_locked("a.lock")
        assert store.lock("a.lock") is None
        lock.close()
        assert not store.is_locked("a.lock")
        again = store.lock("a.lock")
        assert again is not None
        again.close()

    def test_names_stay_inside(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="outside"):
            FolderStore(str(tmp_path / "store")).write("../a", b"")


class TestS3Store(StoreTests):
    @pytest.fixture
    def store(self, object_store: SeaweedServer, request: pytest.FixtureRequest) -> Store:
        name = request.node.name.replace("[", "-").replace("]", "")
        settings = StoreSettings.from_environment(object_store.environment)
        return S3Store(Objects(settings, patience=5), Location("cat", f"stores/{name}"))


class TestMemoryStore(StoreTests):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


@pytest.mark.parametrize("fault", ["lost", "unanswered", "torn"])
class TestStoreThatFailsEveryOtherTime(StoreTests):
    """So every operation is safe to repeat, whether it was done or not."""

    @pytest.fixture
    def store(self, fault: str, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.001)
        return MemoryStore(itertools.cycle([fault, None]))


def test_a_store_that_stays_away_is_unreachable() -> None:
    store = MemoryStore(itertools.repeat("lost"), patience=0.5)
    with pytest.raises(Unreachable, match=r"The memory did not answer for \d s \(writing a: nobody there\); is it up"):
        store.write("a", b"")
    assert store.attempts > 1


def test_what_is_refused_is_not_asked_again() -> None:
    store = MemoryStore(["refused"])
    with pytest.raises(UserError, match=r"The memory refused \(writing a: no\)"):
        store.write("a", b"")
    assert store.attempts == 1


def test_an_address_opens_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    assert isinstance(open_store(str(tmp_path / "folder")), FolderStore)
    assert open_store("minio://cat/a/").address == "s3://cat/a"
    assert [is_remote(address) for address in ("s3://cat", "minio://cat", "https://cat", "cat", Path("s3:/cat"))] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_an_address_that_is_no_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor"):
        open_store("gs://bucket/checkpoints")
    with pytest.raises(UserError, match="not an object-store address"):
        open_store("s3://")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        open_store(str(tmp_path / "file"))


def test_settings_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    with pytest.raises(UserError, match="S3_ENDPOINT"):
        open_store("s3://cat/a")
