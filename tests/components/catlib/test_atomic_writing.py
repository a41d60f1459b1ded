"""What is synced and locked, in which order, while files and folders are replaced; and what is left behind."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from components.catlib import artifacts
from components.catlib.config import PruneConfig
from components.catlib.errors import UserError

OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is synced and renamed, in this order; random parts of names are `*`."""
    done: list[str] = []

    def name(path: Path) -> str:
        relative = path.relative_to(tmp_path).as_posix()
        return ".".join("*" if len(part) == 8 else part for part in relative.split("."))

    def noting(function: Any, verb: str) -> Any:
        def call(first: Path, *others: Any) -> Any:
            done.append(f"{verb} {name(first)}")
            return function(first, *others)

        return call

    fsync = os.fsync

    def sync(descriptor: int) -> None:
        done.append(f"sync {name((OPEN_FILES / str(descriptor)).readlink())}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", noting(Path.replace, "rename"))
    monkeypatch.setattr(artifacts, "_put_in_place", noting(artifacts._put_in_place, "put in place"))
    return done


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Files that stay open keep locks, and there is a limit to their number."""
    before = len(list(OPEN_FILES.iterdir()))
    yield
    assert len(list(OPEN_FILES.iterdir())) == before


def replace(path: Path, text: str) -> None:
    with artifacts.replacing(path) as partial:
        partial.write_text(text)


def is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# --------------------------------------------------------------------------------------------------------------- files


def test_a_file_is_on_the_disk_before_it_has_its_name(steps: list[str], tmp_path: Path) -> None:
    replace(tmp_path / "a", "new")
    assert steps == ["sync .a.*.partial", "rename .a.*.partial", "sync ."]
    assert (tmp_path / "a").read_text() == "new"


def test_a_file_is_locked_while_it_is_written(tmp_path: Path) -> None:
    with artifacts.replacing(tmp_path / "a") as partial:
        assert partial.read_bytes() == b""
        assert is_locked(partial)
        partial.write_text("new")
    assert not is_locked(tmp_path / "a")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_file_that_is_not_finished_leaves_the_old_one(error: type[BaseException], tmp_path: Path) -> None:
    replace(tmp_path / "a", "old")

    def fail() -> None:
        with artifacts.replacing(tmp_path / "a") as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


# -------------------------------------------------------------------------------------------------------------- folders


def fill(folder: Path, text: str) -> None:
    (folder / "nested").mkdir()
    (folder / "nested" / "file").write_text(text)


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(steps: list[str], tmp_path: Path) -> None:
    with artifacts.replacing_folder(tmp_path / "a") as folder:
        fill(folder, "new")
        assert is_locked(folder)
    staging = ".a.*.partial"
    assert sorted(steps[:3]) == [f"sync {staging}", f"sync {staging}/nested", f"sync {staging}/nested/file"]
    assert steps[3:] == [f"put in place {staging}", "sync ."]


def test_folders_around_an_output_are_made(tmp_path: Path) -> None:
    with artifacts.replacing_folder(tmp_path / "b" / "c" / "a") as folder:
        fill(folder, "new")
    assert (tmp_path / "b/c/a/nested/file").read_text() == "new"
    assert [path.name for path in (tmp_path / "b" / "c").iterdir()] == ["a"]


def test_what_was_broken_off_is_completed_before_the_next_one_is_written(tmp_path: Path) -> None:
    fill_as_old(tmp_path)
    with artifacts.replacing_folder(tmp_path / "a") as folder:
        assert (tmp_path / "a/nested/file").read_text() == "old"
        fill(folder, "new")
    assert (tmp_path / "a/nested/file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_was_broken_off_is_completed_before_anybody_asks_what_is_there(tmp_path: Path) -> None:
    fill_as_old(tmp_path)
    with pytest.raises(UserError, match="it is not an artifact folder"):
        artifacts.check_replaceable(tmp_path / "a", "prune")
    assert (tmp_path / "a/nested/file").read_text() == "old"


def fill_as_old(parent: Path) -> None:
    old = parent / ".a.0123abcd.old"
    old.mkdir()
    fill(old, "old")


def test_a_folder_that_a_second_writer_moved_aside_comes_back_if_the_first_one_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with artifacts.replacing_folder(tmp_path / "a") as folder:
            fill(folder, "half")
            fill_as_old(tmp_path)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a/nested/file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("gone", [1, 2])
def test_what_another_process_takes_away_meanwhile_is_not_needed(
    gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replacements were broken off; the folders of the first one vanish while they are looked at."""
    for name in ("0123abcd", "1123abcd"):
        for ending in (".old", ".partial"):
            (tmp_path / f".a.{name}{ending}").mkdir()
            (tmp_path / f".a.{name}{ending}" / "file").write_text(ending)
    renamed, tried = artifacts._renamed, []

    def racing(new: Path, target: Path) -> bool:
        tried.append(new)
        if len(tried) <= gone:
            return False
        return renamed(new, target)

    monkeypatch.setattr(artifacts, "_renamed", racing)
    artifacts.complete_replacing(tmp_path / "a")
    assert (tmp_path / "a" / "file").read_text() == (".old" if gone == 1 else ".partial")
    assert len(tried) == gone + 1


def test_two_folders_change_names_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        Path(name).mkdir()
        Path(name, "file").write_text(name)
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    if call is None or call(-100, b"x", -100, b"y", 2) != 0:
        pytest.skip("this file system cannot exchange two folders")
    assert [Path(name, "file").read_text() for name in ("x", "y")] == ["y", "x"]
    assert artifacts._exchange(Path("x"), Path("y"))
    assert [Path(name, "file").read_text() for name in ("x", "y")] == ["x", "y"]
    assert not artifacts._exchange(Path("x"), Path("z"))


def test_a_folder_that_may_not_be_renamed_is_not_taken_for_one_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(first: Path, second: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(first))

    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("new")
    assert not artifacts._renamed(tmp_path / "gone", tmp_path / "a")
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        artifacts._renamed(tmp_path / "new", tmp_path / "a")


@pytest.mark.parametrize("others", [1, 2, 3])
def test_others_who_put_their_folder_there_in_between_are_replaced(
    others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed, came = artifacts._renamed, []

    def after_another_writer(new: Path, target: Path) -> bool:
        if len(came) < others:
            came.append(target)
            target.mkdir()
            fill(target, "another")
        return renamed(new, target)

    with artifacts.replacing_folder(tmp_path / "a") as folder:
        fill(folder, "new")
        monkeypatch.setattr(artifacts, "_exchange", lambda first, second: False)
        monkeypatch.setattr(artifacts, "_renamed", after_another_writer)
    assert len(came) == others
    assert (tmp_path / "a/nested/file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_mount_point_is_called_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "a")
    with pytest.raises(UserError) as refused, artifacts.replacing_folder(tmp_path / "a"):
        pytest.fail("it began")
    assert str(refused.value).startswith(f"{tmp_path}/a is a mount point")


def test_abandoned_files_are_removed_like_folders(tmp_path: Path) -> None:
    (tmp_path / ".a.0123abcd.partial").write_text("half")
    (tmp_path / ".b.0123abcd.partial").mkdir()
    (tmp_path / ".b.0123abcd.partial" / "file").write_text("half")
    (tmp_path / ".c.0123abcd.partial").write_text("half")
    for name in ("a", "b"):
        os.utime(tmp_path / f".{name}.0123abcd.partial", (0, 0))
    artifacts.remove_abandoned(tmp_path.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == [".c.0123abcd.partial"]


def test_what_cannot_be_cleared_away_costs_nothing(tmp_path: Path) -> None:
    with artifacts.replacing_folder(tmp_path / "a") as folder:
        fill(folder, "old")
    (tmp_path / ".a.0123abcd.old").write_text("a file, which no program of ours makes")
    with artifacts.replacing_folder(tmp_path / "a") as folder:
        fill(folder, "new")
    assert (tmp_path / "a/nested/file").read_text() == "new"


# ------------------------------------------------------------------------------------------------ whether to replace it


@pytest.mark.parametrize("name", [".DS_Store", "nested/.nfs000001", ".hidden", "try.html"])
def test_files_that_are_hidden_in_an_artifact_or_made_of_it_do_not_matter(name: str, tmp_path: Path) -> None:
    for text in ("old", "new"):
        with artifacts.writing(tmp_path / "a", kind="prune", config=PruneConfig()) as writer:
            fill(writer.folder, text)
        (tmp_path / "a" / name).write_text("x")
        artifacts.check_replaceable(tmp_path / "a", "prune")
    assert (tmp_path / "a/nested/file").read_text() == "new"


def test_a_file_in_the_place_of_an_output_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match=r"a exists and holds something else: it is not an artifact folder"):
        artifacts.check_replaceable(tmp_path / "a", "prune")
    assert (tmp_path / "a").read_text() == "mine"


def test_nothing_and_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    artifacts.check_replaceable(tmp_path / "a", "prune")
    (tmp_path / "a").mkdir()
    artifacts.check_replaceable(tmp_path / "a", "prune")
    assert list((tmp_path / "a").iterdir()) == []
