"""Every store passes the same tests: a folder, a real S3 server, and one in memory that fails."""

import itertools
import time
from pathlib import Path

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import Location, Store, StoreSettings, is_remote, open_store, retrying
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.objects import Objects, S3Store
from components.catlib.storage.retrying import Unreachable
from tests.components.catlib.storage.store_tests import StoreTests
from tests.memory_stores import MemoryStore
from tests.object_stores import COMPLETE, SeaweedServer


class DatedStoreTests(StoreTests):
    """Tests of a store that knows when a file was written, from which the command `gc` learns its age."""

    def test_a_file_has_the_time_of_its_last_change(self, store: Store) -> None:
        store.write("a", b"1")
        (listed,), found = store.entries(), store.entry("a")
        assert found is not None
        assert abs(found.modified - time.time()) < 5
        assert listed == found


class TestFolderStore(DatedStoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FolderStore(str(tmp_path / "store"))

    def test_what_a_killed_process_left_is_cleared_away(self, tmp_path: Path) -> None:
        for name in (".a.partial", "kept.partial", ".kept"):
            (tmp_path / name).write_bytes(b"half")
        (tmp_path / ".folder.partial").mkdir()
        FolderStore(str(tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == [".folder.partial", ".kept", "kept.partial"]

    def test_names_stay_inside(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="outside"):
            FolderStore(str(tmp_path / "store")).write("../a", b"")


class TestS3Store(DatedStoreTests):
    @pytest.fixture
    def store(self, object_store: SeaweedServer, request: pytest.FixtureRequest) -> Store:
        name = request.node.name.replace("[", "-").replace("]", "")
        settings = StoreSettings.from_environment(object_store.environment)
        return S3Store(Objects(settings, patience=5), Location("cat", f"stores/{name}"))


class TestMemoryStore(DatedStoreTests):
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
