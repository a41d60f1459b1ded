"""What every store must do; a store's own tests are a subclass with a fixture."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.catlib.storage import NotThere, Store


class StoreTests:
    """Tests of a store; subclasses give the fixture `store`, an empty one."""

    def test_a_new_store_is_empty(self, store: Store) -> None:
        assert store.entries() == []
        assert store.entry("a") is None

    @pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 1000], ids=["empty", "small", "larger"])
    def test_what_was_written_is_read(self, store: Store, content: bytes, tmp_path: Path) -> None:
        began = time.time()
        store.write("from memory", content)
        (tmp_path / "source").write_bytes(content)
        store.write("from-file.json", tmp_path / "source")
        for name in ("from memory", "from-file.json"):
            assert store.read(name) == content
            with store.reading(name) as path:
                assert path.read_bytes() == content
            found = store.entry(name)
            assert found is not None
            assert (found.name, found.bytes) == (name, len(content))
            assert found.modified == math.inf or began - 2 < found.modified < time.time() + 2
        assert (tmp_path / "source").read_bytes() == content

    def test_all_files_are_listed_with_the_folders_that_they_lie_in(self, store: Store) -> None:
        for name in ("b", "a/1.png", "a/c/2.png", "ab"):
            store.write(name, name.encode())
        assert {entry.name: entry.bytes for entry in store.entries()} == {"b": 1, "a/1.png": 7, "a/c/2.png": 9, "ab": 2}
        assert sorted(store.entries()) == sorted(filter(None, (store.entry(name) for name, *_ in store.entries())))
        assert store.entry("a") is None

    def test_writing_replaces_and_changes_the_version(self, store: Store) -> None:
        store.write("a", b"first")
        first = store.entry("a")
        assert first is not None
        store.write("a", b"other")
        assert store.read("a") == b"other"
        assert store.entry("a") != first
        assert [entry.name for entry in store.entries()] == ["a"]

    def test_parts_are_read_in_any_order(self, store: Store, tmp_path: Path) -> None:
        content = bytes(range(250)) * 40
        store.write("a", content)
        (tmp_path / "copy").write_bytes(bytes(len(content)))
        for start, length in ((6000, 4000), (0, 2500), (2500, 3500)):
            store.read_part("a", tmp_path / "copy", start, length)
        assert (tmp_path / "copy").read_bytes() == content

    def test_a_file_is_filled_in_place(self, store: Store) -> None:
        with store.writing("folder/a") as path:
            path.write_bytes(b"half")
            assert store.entry("folder/a") is None
            assert store.entries() == []
            path.write_bytes(b"whole")
        assert store.read("folder/a") == b"whole"

    def test_what_could_not_be_filled_leaves_what_was_there(self, store: Store) -> None:
        def die() -> None:
            with store.writing("a") as path:
                path.write_bytes(b"half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            die()
        assert store.entries() == []
        store.write("a", b"old")
        with pytest.raises(KeyboardInterrupt):
            die()
        assert store.read("a") == b"old"
        assert [entry.name for entry in store.entries()] == ["a"]

    def test_a_file_is_created_once(self, store: Store) -> None:
        assert store.create("lease", b"mine")
        assert store.create("lease", b"mine"), "asked again after a lost answer"
        assert not store.create("lease", b"yours")
        assert store.read("lease") == b"mine"
        assert [entry.name for entry in store.entries()] == ["lease"]
        store.remove("lease")
        assert store.create("lease", b"yours")
        store.write("lease", b"mine")
        assert not store.create("lease", b"yours")

    def test_one_of_many_creators_wins(self, store: Store) -> None:
        owners = [str(number).encode() for number in range(8)]
        with ThreadPoolExecutor(len(owners)) as pool:
            won = list(pool.map(lambda owner: store.create("folder/lease", owner), owners))
        assert won.count(True) == 1
        assert store.read("folder/lease") == owners[won.index(True)]

    def test_what_is_removed_is_gone_and_may_be_removed_again(self, store: Store) -> None:
        store.write("a", b"1")
        store.write("folder/b", b"2")
        for _ in range(2):
            store.remove("a")
        assert [entry.name for entry in store.entries()] == ["folder/b"]

    def test_what_is_not_there_is_said(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "copy").write_bytes(b"0")
        with pytest.raises(NotThere):
            store.read("a")
        with pytest.raises(NotThere):
            store.read_part("a", tmp_path / "copy", 0, 1)
        with pytest.raises(NotThere), store.reading("a"):
            pass
