"""What the file system refuses is one sentence, whichever library writes, and nothing half-written stays."""

import errno
import os
import resource
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from PIL import Image

from components.catlib import artifacts, disk
from components.catlib.config import PruneConfig
from components.catlib.errors import UserError
from components.catlib.training.log import open_log
from tests.small_disks import mounted

LIMIT = 2**19
"""Bytes that a full disk, or one with a limit, still takes."""
NUMBERS = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", NUMBERS.tobytes())


def _onnx(path: Path) -> None:
    initial = onnx.numpy_helper.from_array(NUMBERS, "w")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [initial])), path)


def _in_torchs_own_stream(path: Path) -> None:
    with path.open("wb") as file:
        torch.save(torch.from_numpy(NUMBERS), file)


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(NUMBERS.tobytes()),
    "text": lambda path: path.write_text("x" * NUMBERS.size),
    "torch": lambda path: torch.save(torch.from_numpy(NUMBERS), path),
    "torch, a stream": _in_torchs_own_stream,
    "safetensors of torch": lambda path: safetensors.torch.save_file({"a": torch.from_numpy(NUMBERS)}, path),
    "safetensors of numpy": lambda path: safetensors.numpy.save_file({"a": NUMBERS}, path),
    "npy": lambda path: np.save(path.open("wb"), NUMBERS),
    "npz": lambda path: np.savez(path.open("wb"), a=NUMBERS),
    "onnx": _onnx,
    "zip": _zip,
    "png": lambda path: Image.fromarray(NUMBERS).save(path, "PNG"),
    "webp": lambda path: Image.fromarray(NUMBERS).save(path, "WEBP", lossless=True),
}


@pytest.fixture(params=["a full disk", "a limit"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that takes only `LIMIT` bytes, and the words for that."""
    folder = tmp_path / "disk"
    if request.param == "a full disk":
        with mounted(folder, f"size={LIMIT}"):
            yield folder, r"\(the disk is full: 5\d\d.\d kB are free\); make room there"
        return
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield folder, r"\(a file exceeds the limit ulimit -f, 524.3 kB\); raise the limit"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_does_not_fit_is_a_sentence_and_leaves_the_old_one(
    writer: str, small_disk: tuple[Path, str]
) -> None:
    folder, words = small_disk
    (folder / "file").write_bytes(b"old")
    with (
        pytest.raises(UserError, match=f"{folder}/file cannot be written {words}, or choose another path"),
        artifacts.replacing(folder / "file") as partial,
    ):
        WRITERS[writer](partial)
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == b"old"


@pytest.mark.parametrize("writer", WRITERS)
def test_an_artifact_that_does_not_fit_is_a_sentence_and_leaves_nothing(
    writer: str, small_disk: tuple[Path, str]
) -> None:
    folder, words = small_disk
    with (
        pytest.raises(UserError, match=f"Output {folder}/a cannot be written {words}, or choose another path"),
        artifacts.writing(folder / "a", kind="prune", config=PruneConfig()) as artifact,
    ):
        WRITERS[writer](artifact.folder / "file")
    assert list(folder.iterdir()) == []


def test_a_log_that_does_not_fit_is_a_sentence_without_a_traceback_of_tensorboards_thread(
    small_disk: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = small_disk

    def train() -> None:
        with (
            artifacts.replacing_folder(folder / "a") as made,
            open_log(made, total_steps=10**6, batch_size=1, line_seconds=0) as log,
        ):
            for step in range(1, 10**5):
                log.steps(step, epoch=0, seconds=1, learning_rate=1, losses=[{"a": 1.0, "b": 2.0}])

    with pytest.raises(UserError, match=words):
        train()
    assert "Traceback" not in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_read_only_place_is_a_sentence(tmp_path: Path) -> None:
    words = r"cannot be written \(the file system is read-only\); choose another path"
    with mounted(tmp_path / "disk", "ro"):
        for writing in (
            artifacts.writing(tmp_path / "disk/a", kind="prune", config=PruneConfig()),
            artifacts.replacing(tmp_path / "disk/file"),
            artifacts.replacing_folder(tmp_path / "disk/a/b"),
        ):
            with pytest.raises(UserError, match=words), writing:
                pytest.fail("it began")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"the disk is full: .* are free\); make room there"),
        (errno.EDQUOT, r"your quota is used up\); remove files there"),
        (errno.EFBIG, r"a file exceeds the limit of the file system\); raise the limit"),
        (errno.EROFS, r"the file system is read-only\); choose another path"),
        (errno.EACCES, r"user \d+ has no permission\); change the rights there"),
        (errno.EPERM, r"user \d+ has no permission\); change the rights there"),
        (errno.ENAMETOOLONG, r"the name is too long\); choose another path"),
        (errno.ENOTDIR, r"something that is no folder is in the way\); choose another path"),
        (errno.EIO, r"Input/output error\); choose another path"),
        (errno.ESTALE, r"Stale file handle\); choose another path"),
    ],
)
def test_every_refusal_names_place_and_remedy(number: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}/a cannot be written \\({words}"), disk.writing_to(tmp_path / "a"):
        raise OSError(number, os.strerror(number), str(tmp_path / "a"))


def test_what_is_needed_is_named_when_it_is_known(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"the disk is full: 1000000.0 GB are needed, .* GB are free"),
        disk.writing_to(tmp_path / "a"),
    ):
        disk.check_room(tmp_path / "a", 10**15)


@pytest.mark.parametrize("place", ["name too long", "in a file"])
def test_impossible_places_are_a_sentence(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / ("n" * 255) if place == "name too long" else tmp_path / "file" / "a"
    with pytest.raises(UserError, match="cannot be written"), artifacts.replacing_folder(path):
        pytest.fail("it began")
    with pytest.raises(UserError, match="cannot be written"), artifacts.replacing(path):
        pytest.fail("it began")
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "reset"),
        BrokenPipeError(errno.EPIPE, "broken"),
        OSError(errno.EMFILE, "too many", "{}/a/file"),
        PermissionError(errno.EACCES, "no", "/elsewhere/images"),
        FileNotFoundError(errno.ENOENT, "no such file", "{}/a/file"),
        RuntimeError("[enforce fail at inline_container.cc:145] . PytorchStreamReader failed reading zip archive"),
        ValueError("a loss is not finite"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.format(tmp_path)
    with pytest.raises(type(error)) as raised, artifacts.replacing_folder(tmp_path / "a"):
        raise error
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_temporary_files_is_named_when_that_is_full(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", f"size={LIMIT}"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
        advice = f"{tmp_path}/disk cannot be written .*make room there, or set TMPDIR to another folder"
        with pytest.raises(UserError, match=advice), disk.temporary_folder("x-") as folder:
            (folder / "file").write_bytes(NUMBERS.tobytes())
        with pytest.raises(UserError, match=advice), disk.temporary_file() as file:
            file.write(NUMBERS.tobytes())
            file.flush()
        (tmp_path / "disk/fill").write_bytes(bytes(LIMIT))
        with (
            pytest.raises(UserError, match=advice),
            disk.writing_to(tmp_path / "elsewhere"),
            tempfile.TemporaryFile() as file,
        ):
            file.write(NUMBERS.tobytes())


def test_without_any_folder_for_temporary_files_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(UserError, match="set TMPDIR to one that can be written"), disk.temporary_folder("x-"):
        pytest.fail("it began")


def test_log_lines_name_the_error_of_a_full_disk() -> None:
    assert disk.number_in("OSError: [Errno 28] No space left on device") == errno.ENOSPC
    assert disk.number_in("SafetensorError: I/O error: File too large (os error 27)") == errno.EFBIG
    assert disk.number_in("RuntimeError: open file failed with strerror: Read-only file system") == errno.EROFS
    assert disk.number_in("OSError: [Errno 2] No such file or directory") is None
    assert disk.number_in("ValueError: 28") is None
