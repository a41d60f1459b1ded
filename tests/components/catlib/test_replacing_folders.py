"""A folder is replaced without losing the old one: interrupted at every line, killed at every call of the system."""

import errno
import itertools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from components.catlib import artifacts
from components.catlib.config import PruneConfig
from components.catlib.errors import UserError

CALLS = ("rename", "replace", "mkdir", "rmdir", "unlink", "fsync", "open", "close", "scandir")
TRACED = {artifacts.__file__, shutil.__file__}


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["exchanging", "renaming"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """With and without the call of Linux that exchanges two folders in one step."""
    if request.param == "renaming":
        monkeypatch.setattr(artifacts, "_exchange", lambda first, second: False)
    elif not exchanges(tmp_path):
        pytest.skip("this file system cannot exchange two folders")
    return request.param


def exchanges(folder: Path) -> bool:
    for name in ("x", "y"):
        (folder / name).mkdir()
    able = artifacts._exchange(folder / "x", folder / "y")
    for name in ("x", "y"):
        (folder / name).rmdir()
    return able


def write(folder: Path, text: str) -> None:
    with artifacts.writing(folder, kind="prune", config=PruneConfig()) as writer:
        (writer.folder / "file.txt").write_text(text)
        (writer.folder / "nested").mkdir()
        (writer.folder / "nested" / "file.txt").write_text(text)


def text_in(folder: Path) -> str:
    """Reads an artifact as stages do, and checks that it is whole."""
    artifacts.verify_checksums(folder, artifacts.read_manifest(folder, "prune"))
    first, second = ((folder / name).read_text() for name in ("file.txt", "nested/file.txt"))
    assert first == second
    return first


def check_the_next_writer(folder: Path) -> None:
    """Writes once more, and finds everything cleared away a day later."""
    write(folder, "next")
    assert text_in(folder) == "next"
    for path in folder.parent.iterdir():
        os.utime(path, (0, 0))
    write(folder, "last")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def interrupting(line: int, seen: Iterator[int]) -> Callable[[FrameType, str, Any], Any]:
    """Returns a trace function that raises KeyboardInterrupt before a line of the code that replaces folders."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line" and next(seen) == line:
            raise KeyboardInterrupt
        return trace

    return trace


def test_ctrl_c_at_any_line_loses_nothing(system: str, tmp_path: Path) -> None:
    texts = []
    for line in itertools.count():
        folder = tmp_path / f"{line}" / "a"
        write(folder, "old")
        seen = itertools.count()
        try:
            sys.settrace(interrupting(line, seen))
            write(folder, "new")
            interrupted = False
        except (KeyboardInterrupt, OSError):  # `shutil.rmtree` closes a file twice if interrupted just then
            interrupted = True
        finally:
            sys.settrace(None)
        if not interrupted:
            break
        if system == "exchanging":
            assert folder.is_dir(), line
        texts.append(text_in(folder))
        write(folder, "next")
        assert text_in(folder) == "next"
        shutil.rmtree(folder.parent)
    assert texts == sorted(texts, reverse=True), "first the old one, from some line on the new one"
    assert min(texts.count("old"), texts.count("new")) > 5


def test_a_kill_before_any_call_of_the_system_loses_nothing(system: str, tmp_path: Path) -> None:
    """What lies on the disk after a call is what lies there before the next."""
    texts = []
    for call in itertools.count():
        folder = tmp_path / f"{call}" / "a"
        write(folder, "old")
        child = os.fork()
        if child == 0:
            _die_before(call)
            write(folder, "new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            break
        assert os.waitstatus_to_exitcode(status) == 9
        if system == "exchanging":
            assert folder.is_dir(), call
        texts.append(text_in(folder))
        check_the_next_writer(folder)
    assert texts == sorted(texts, reverse=True), "first the old one, from some call on the new one"
    assert set(texts) == {"old", "new"}


def _die_before(number: int) -> None:
    """Makes this process end without a word before a call of the system, in the functions that change folders."""
    count = itertools.count()

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if next(count) == number:
                os._exit(9)
            return function(*given, **named)

        return call

    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))
    artifacts._exchange = dying(artifacts._exchange)


def test_a_reader_never_misses_a_folder_that_is_exchanged(tmp_path: Path) -> None:
    if not exchanges(tmp_path):
        pytest.skip("this file system cannot exchange two folders")
    folder = tmp_path / "a"
    write(folder, "0")
    missing, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            if not (folder / "manifest.json").exists():
                missing.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for i in range(20):
        write(folder, f"{i}")
    done.set()
    reader.join()
    assert missing == []


def test_writers_at_once_leave_one_whole_folder(system: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write(folder, "0")
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for i in range(10):
                write(tmp_path / f"{name}-{i}", name)
                with artifacts.replacing_folder(folder) as new:
                    shutil.copytree(tmp_path / f"{name}-{i}", new, dirs_exist_ok=True)
                shutil.rmtree(tmp_path / f"{name}-{i}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[f"{i}"]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert text_in(folder) in {f"{i}" for i in range(4)}
    check_the_next_writer(folder)


def test_what_is_being_removed_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process completes a replacement just while this one removes the folder that it had set aside."""
    folder = tmp_path / "a"
    removed = []
    remove = shutil.rmtree

    def removing(path: Path, ignore_errors: bool = False) -> None:
        if Path(path).exists():
            removed.append((Path(path) / "file.txt").exists())
            kept = folder.rename(tmp_path / "kept") if folder.exists() else None
            artifacts.complete_replacing(folder)
            assert not folder.exists(), f"{path} is in the place of the folder, and about to be removed"
            if kept is not None:
                kept.rename(folder)
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(artifacts, "_exchange", lambda first, second: False)
    write(folder, "old")
    monkeypatch.setattr(shutil, "rmtree", removing)
    write(folder, "new")
    assert text_in(folder) == "new"
    assert removed == [True], "the old one"


@pytest.mark.parametrize("look", range(8))
def test_a_folder_may_vanish_between_two_looks(look: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process sets the folder aside just after this one has looked at it, and is killed."""
    folder = tmp_path / "place" / "a"
    write(folder, "old")
    write(tmp_path / "b", "new")
    looks = itertools.count()

    def losing(function: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def looking(path: Any, **named: Any) -> os.stat_result:
            found = function(path, **named)
            if isinstance(path, (str, Path)) and f"{path}" == f"{folder}" and next(looks) == look:
                folder.rename(folder.with_name(".a.0123abcd.old"))
            return found

        return looking

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, losing(getattr(os, name)))
    with artifacts.replacing_folder(folder) as new:
        shutil.copytree(tmp_path / "b", new, dirs_exist_ok=True)
    monkeypatch.undo()
    assert next(looks) > look, "it vanished"
    assert text_in(folder) == "new"
    check_the_next_writer(folder)


@pytest.mark.parametrize("finished", ["new", "old"])
def test_a_replacement_that_was_broken_off_is_completed(finished: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    if finished == "new":
        write(folder, "new")
        folder.rename(tmp_path / ".a.0123abcd.partial")
    write(folder, "old")
    folder.rename(tmp_path / ".a.0123abcd.old")
    assert text_in(folder) == finished
    check_the_next_writer(folder)


def test_a_half_written_folder_is_never_taken_for_a_finished_one(tmp_path: Path) -> None:
    (tmp_path / ".a.0123abcd.partial").mkdir()
    (tmp_path / ".b.0123abcd.old").mkdir()
    with pytest.raises(UserError, match="There is no folder"):
        artifacts.read_manifest(tmp_path / "a")


def test_a_link_is_followed(system: str, tmp_path: Path) -> None:
    write(tmp_path / "disk" / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert text_in(tmp_path / "disk" / "a") == "new"
    assert [path.name for path in tmp_path.rglob("*") if path.name.startswith(".")] == []


def test_a_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "a")
    with pytest.raises(UserError, match=r"a is a mount point, which cannot be replaced; give a folder in it"):
        write(tmp_path / "a", "new")


@pytest.mark.parametrize("obstacle", ["another kind", "a file of the user", "a broken disk"])
def test_what_was_finished_stays_when_it_cannot_take_its_place(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    write(folder, "old")

    def fail(new: Path, target: Path) -> None:
        raise OSError(errno.EIO, "the disk is broken", str(target))

    def write_and_meet_the_obstacle() -> None:
        with artifacts.writing(folder, kind="prune", config=PruneConfig()) as writer:
            for name in ("file.txt", "nested/file.txt"):
                (writer.folder / name).parent.mkdir(exist_ok=True)
                (writer.folder / name).write_text("new")
            if obstacle == "another kind":
                manifest = (folder / "manifest.json").read_text()
                (folder / "manifest.json").write_text(manifest.replace('"prune"', '"teacher"'))
            elif obstacle == "a file of the user":
                (folder / "notes.txt").write_text("mine")
            else:
                monkeypatch.setattr(artifacts, "_put_in_place", fail)

    with pytest.raises(UserError, match=r"What was finished lies in .*/a-[0-9a-f]{8}") as refused:
        write_and_meet_the_obstacle()
    assert (folder / "file.txt").read_text() == "old"
    assert text_in(Path(str(refused.value).rpartition("lies in ")[2].rstrip("."))) == "new"
