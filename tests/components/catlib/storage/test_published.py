"""An artifact in a store is replaced by one write of its manifest, while others read it and others replace it."""

import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from components.catlib import artifacts
from components.catlib.config import DatasetConfig
from components.catlib.errors import UserError
from components.catlib.storage import NotThere, Storage, Store, published, transfer
from tests.components.catlib.storage.conftest import make_artifact
from tests.components.catlib.storage.test_transfer import store as store
from tests.memory_stores import MemoryStore

OLD = {"a": b"old", "same": b"same", "gone": b"old"}
NEW = {"a": b"new", "same": b"same", "sub/b": b"new"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "old", OLD)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "new", NEW)


def content(store: Store, folder: Path) -> dict[str, bytes]:
    """What a reader gets: the files, all verified."""
    fetched = transfer.fetch(store, folder)
    return {path.relative_to(fetched).as_posix(): path.read_bytes() for path in fetched.rglob("*") if path.is_file()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(store: Store) -> list[str]:
    return sorted(entry.name for entry in store.entries())


class Hooked:
    """A store that calls a function before each of its operations."""

    def __init__(self, store: Store, before: Callable[[str, str], None]) -> None:
        self._store, self._before = store, before
        self.address, self.server = store.address, store.server

    def __getattr__(self, operation: str) -> Any:
        function = getattr(self._store, operation)

        def call(*given: Any, **named: Any) -> Any:
            self._before(operation, given[0] if given else "")
            return function(*given, **named)

        return call


def test_a_first_artifact_lies_under_plain_names(store: Store, old: Path) -> None:
    transfer.publish(old, store)
    assert names(store) == ["a", "gone", "manifest.json", "same"]
    assert store.read("manifest.json") == (old / "manifest.json").read_bytes()


def test_a_new_artifact_replaces_the_old_one_and_nothing_else(
    store: Store, old: Path, new: Path, tmp_path: Path
) -> None:
    transfer.publish(old, store)
    store.write("notes.txt", b"mine")
    same = store.entry("same")
    transfer.publish(new, store)
    (folder,) = {name.partition("/")[0] for name in names(store) if name.startswith(".")}
    assert names(store) == [f"{folder}/a", f"{folder}/sub/b", "manifest.json", "notes.txt", "same"]
    assert store.entry("same") == same, "equal content is not written again"
    assert content(store, tmp_path / "fetched") == files_of(new), "a local copy knows nothing of the store's names"
    assert transfer.manifest(store).digest() == artifacts.read_manifest(new).digest()
    assert transfer.find(store, "request") is not None


def test_replacing_goes_on_for_ever_without_leaving_anything(store: Store, tmp_path: Path) -> None:
    for i in range(4):
        folder = make_artifact(tmp_path / f"{i}", {"a": f"{i}".encode(), "b": b"b"})
        transfer.publish(folder, store)
        assert content(store, tmp_path / f"fetched-{i}") == files_of(folder)
        assert len(names(store)) == 3


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, UserError])
def test_at_every_moment_of_replacing_there_is_a_whole_artifact(
    old: Path, new: Path, tmp_path: Path, interruption: type[BaseException]
) -> None:
    """A reader looks before each operation; the publisher is stopped at each, and the next one clears up."""
    wholes = (files_of(old), files_of(new))
    for stop in itertools.count():
        inner = MemoryStore()
        transfer.publish(old, inner)
        counter = itertools.count()

        def look(operation: str, name: str, inner: Store = inner, counter: Any = counter, stop: int = stop) -> None:
            number = next(counter)
            assert content(inner, tmp_path / f"{interruption.__name__}-{stop}-{number}") in wholes
            if number == stop:
                raise interruption(f"at {operation} {name}")

        try:
            transfer.publish(new, Hooked(inner, look))
            if next(counter) <= stop:
                break
        except interruption:
            pass
        assert content(inner, tmp_path / f"{interruption.__name__}-{stop}") in wholes
        transfer.publish(new, inner)
        assert content(inner, tmp_path / f"{interruption.__name__}-{stop}-again") == files_of(new)
        assert len([name for name in names(inner) if not name.endswith("/publishing")]) == 4, names(inner)
    assert stop > 8


@pytest.mark.parametrize("moment", range(12))
def test_a_reader_begins_again_when_the_artifact_is_replaced_under_it(
    old: Path, new: Path, tmp_path: Path, moment: int
) -> None:
    store = MemoryStore()
    transfer.publish(old, store)
    counter = itertools.count()

    def replace(operation: str, name: str) -> None:
        if next(counter) == moment:
            transfer.publish(new, store)

    fetched = content(Hooked(store, replace), tmp_path / "fetched")
    assert fetched in (files_of(old), files_of(new))
    if 1 <= moment <= 2:
        assert fetched == files_of(new), "an old object was gone"


def test_a_search_begins_again_as_well(old: Path, new: Path) -> None:
    store = MemoryStore()
    transfer.publish(old, store)

    def replace(operation: str, name: str) -> None:
        if operation == "entries":
            transfer.publish(new, store)

    found = transfer.find(Hooked(store, replace), "request")
    assert found is not None
    assert set(found.files) == set(NEW)


@pytest.mark.parametrize("published_before", [True, False])
def test_of_two_publishers_the_last_one_wins_whole(
    old: Path, new: Path, tmp_path: Path, published_before: bool
) -> None:
    """The second publisher does all its work before every single operation of the first one."""
    earlier = make_artifact(tmp_path / "earlier", {"a": b"earlier", "same": b"same", "gone": b"earlier"})
    for moment in itertools.count():
        store = MemoryStore()
        if published_before:
            transfer.publish(earlier, store)
        counter = itertools.count()

        def between(operation: str, name: str, store: Store = store, counter: Any = counter, at: int = moment) -> None:
            if next(counter) == at:
                transfer.publish(new, store)

        transfer.publish(old, Hooked(store, between))
        if next(counter) <= moment:
            break
        fetched = content(store, tmp_path / f"{published_before}-{moment}")
        assert fetched in (files_of(old), files_of(new))
        transfer.publish(old, store)
        assert len(names(store)) == 4, "the next publication clears up"
    assert moment > 6


def test_many_publishers_and_readers_at_once(store: Store, tmp_path: Path) -> None:
    folders = [make_artifact(tmp_path / f"{i}", {"a": b"%d" % i, "b": b"%d" % i, "same": b"same"}) for i in range(4)]
    wholes = [files_of(folder) for folder in folders]
    transfer.publish(folders[0], store)
    failures: list[BaseException] = []

    def publish(folder: Path) -> None:
        try:
            for _ in range(3):
                transfer.publish(folder, store)
        except BaseException as error:
            failures.append(error)

    def read(reader: int) -> None:
        try:
            for i in range(4):
                assert content(store, tmp_path / f"reader-{reader}-{i}") in wholes
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=[folder]) for folder in folders[1:]]
    threads += [threading.Thread(target=read, args=[reader]) for reader in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert content(store, tmp_path / "at the end") in wholes
    transfer.publish(folders[0], store)
    assert len(names(store)) == 4


def test_a_publisher_that_was_killed_counts_for_a_day(old: Path, new: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    transfer.publish(old, store)
    fresh, dead = (f"{text}/publishing" for text in (_folder_of(0), _folder_of(-2 * artifacts.ABANDONED_SECONDS)))
    for mark in (fresh, dead):
        store.write(mark, b"")
        store.write(mark.replace("publishing", "a"), b"half")
    transfer.publish(new, store)
    assert {fresh, "a", "gone"} <= set(names(store)), "somebody may still need them"
    store.remove(fresh)
    transfer.publish(new, store)
    assert len(names(store)) == 4
    assert content(store, tmp_path / "fetched") == files_of(new)


def _folder_of(age: float) -> str:
    return f".{time.strftime('%Y%m%dT%H%M%S', time.gmtime(time.time() + age))}-0123abcd"


def test_another_kind_is_not_replaced(store: Store, old: Path, tmp_path: Path) -> None:
    transfer.publish(old, store)
    before = {entry.name: store.read(entry.name) for entry in store.entries()}
    with artifacts.writing(tmp_path / "dataset", kind="dataset", config=DatasetConfig()):
        pass
    with pytest.raises(UserError, match="is a prune artifact, not replaced by a dataset artifact"):
        transfer.publish(tmp_path / "dataset", store)
    assert {entry.name: store.read(entry.name) for entry in store.entries()} == before


def test_a_store_that_refuses_to_say_what_is_there_is_not_written_to(old: Path, new: Path) -> None:
    store = MemoryStore()
    transfer.publish(old, store)
    before = dict(store.files)

    def refuse(operation: str, name: str) -> None:
        if (operation, name) == ("read", "manifest.json"):
            raise UserError("refused")

    with pytest.raises(UserError, match="refused"):
        transfer.publish(new, Hooked(store, refuse))
    assert store.files == before


def test_what_cannot_be_cleared_away_is_a_warning(
    old: Path, new: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    transfer.publish(old, store)

    def refuse(operation: str, name: str) -> None:
        if operation == "remove":
            raise UserError("You may not delete.")

    transfer.publish(new, Hooked(store, refuse))
    assert "objects of an earlier artifact stay there: You may not delete." in caplog.text
    assert content(store, tmp_path / "fetched") == files_of(new)


@pytest.mark.parametrize(
    "store_entry",
    [{"folders": {"a": "../elsewhere"}}, {"folders": {"a": ".."}}, {"folders": 1}, {"further": {}}, "text"],
)
def test_a_manifest_cannot_point_elsewhere(new: Path, store_entry: object, tmp_path: Path) -> None:
    store = MemoryStore()
    transfer.publish(new, store)
    manifest = json.loads(store.read("manifest.json"))
    store.write("manifest.json", json.dumps({**manifest, "store": store_entry}).encode())
    with pytest.raises(UserError, match=r"manifest.json (names the folder|is damaged)"):
        transfer.fetch(store, tmp_path / "fetched")


def test_files_of_a_replaced_artifact_are_found_under_their_names(
    old: Path, new: Path, tmp_path: Path, object_store: Any, address: str
) -> None:
    store = Storage(object_store.environment, patience=5, cache=tmp_path / "cache")
    for folder in (old, new):
        store.publish(folder, address)
    for name, expected in NEW.items():
        assert store.is_file(f"{address}/{name}")
        assert store.cached(f"{address}/{name}").read_bytes() == expected
        fetched = store.fetch_files(f"{address}/{name}", tmp_path / "files" / name.replace("/", "-"))
        assert fetched.read_bytes() == expected
        link = store.link(f"{address}/{name}", lifetime=timedelta(hours=1))
        with urllib.request.urlopen(link) as answer:
            assert answer.read() == expected
    assert not store.is_file(f"{address}/gone")


def test_the_old_objects_of_a_store_are_gone_for_readers_who_ask_by_name(old: Path, new: Path) -> None:
    store = MemoryStore()
    for folder in (old, new):
        transfer.publish(folder, store)
    assert published.find_file(store, "gone") is None
    with pytest.raises(NotThere):
        store.read("gone")


class Garbling(MemoryStore):
    """A store that returns other bytes in some of its answers.

    Attributes:
        garbled: Numbers of the answers in which a name in the manifest is another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.garbled: set[int] = set()
        self.answers = itertools.count()

    def read(self, name: str) -> bytes:
        content, number = super().read(name), next(self.answers)
        changed = name == "manifest.json" and number in self.garbled
        return content.replace(b'"summary": {', b'"summary": {"%d": 1' % number) if changed else content


@pytest.mark.parametrize("garbled", [{0}, {1}, {0, 1}, {0, 1, 2}, {0, 2}])
def test_a_manifest_that_arrives_as_another_one_is_read_again(old: Path, garbled: set[int], tmp_path: Path) -> None:
    """Its JSON is still whole, so nothing else would show it."""
    store = Garbling()
    transfer.publish(old, store)
    store.answers, store.garbled = itertools.count(), garbled
    found = transfer.find(store, "request")
    assert found == artifacts.read_manifest(old)
    store.answers = itertools.count()
    assert content(store, tmp_path / "fetched") == files_of(old)


def test_a_manifest_that_is_another_one_each_time_is_refused(old: Path, tmp_path: Path) -> None:
    store = Garbling()
    transfer.publish(old, store)
    store.garbled = set(range(1000))
    with pytest.raises(UserError, match=r"manifest\.json is another one each time it is read; check the store"):
        transfer.fetch(store, tmp_path / "fetched")
