"""What the file system refuses while files are written, in one sentence: the place, the need, what is free, what to do.

`writing_to` goes around everything that writes files. It knows the errors of the libraries that write for us, too:
torch and NumPy report a full disk without its error number, safetensors in a text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from components.catlib.errors import UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk that takes no more."""
_ONLY_WHEN_WRITING = FULL | {errno.EROFS}
"""Errors that reading does not have; they need no file name to be known for errors of writing."""
_NOT_ABOUT_A_PLACE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
_UNNUMBERED = 0
"""Stands for the number of a write that failed without one although the disk is not full."""
_ALMOST_NOTHING = 2**20
"""Bytes. With less than this, a write that failed without a number failed because the disk is full."""

_BROKEN_OFF = re.compile(
    r"inline_container\.cc(?!.*Reader)|PytorchStreamWriter|basic_ios::clear|iostream error"  # torch
    r"|\d+ requested and \d+ written|Not enough free space to write"  # NumPy
)
_NUMBERED = re.compile(r"(?:\bos error |\[Errno )(\d+)")

TEMPORARY_ADVICE = "set TMPDIR to another folder"


def check_plain(path: Path, *, what: str = "") -> None:
    """Refuses what is there but neither a file nor a folder, before it is opened: reading a pipe may never end.

    Args:
        path: A path that a user gave; nothing need be there.
        what: What the message calls it; "": its path.

    Raises:
        UserError: It is a named pipe, a device or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it reports these
        return
    if kind := next((name for test, name in _NOT_PLAIN if test(mode)), None):
        raise UserError(f"{what or path} is {kind}, which is not read; give a plain file.")


_NOT_PLAIN = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def walk(folder: Path) -> Iterator[Path]:
    """Yields all files below a folder, without hidden folders; links are followed, and each folder is visited once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in names)


@contextlib.contextmanager
def writing_to(
    place: Path, *, what: str = "", partial: Path | None = None, need: int = 0, advice: str = "choose another path"
) -> Iterator[None]:
    """Turns the errors of the file system, while the body writes files, into one sentence.

    Errors about other files than those at or around the place pass, unless the disk is full.

    Args:
        place: The file or folder that is made.
        what: What the message calls it; "": its path.
        partial: Where it is made until it is finished; what lies there counts as free, because it is removed.
        need: Size in bytes of what is written; 0 if it is unknown.
        advice: What to do if nothing can be written there.

    Raises:
        UserError: Nothing, or not everything, can be written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number, names = _number(error, place), _names(error)
        if number is None or number in _NOT_ABOUT_A_PLACE:
            raise
        known = number in (_UNNUMBERED, *_ONLY_WHEN_WRITING)
        need = error.need if isinstance(error, NoRoom) else need
        if not known and not any(_related(name, place, partial) for name in names):
            raise
        if number == errno.ENOENT and (partial or place.parent).exists():
            raise  # a mistake in our own code: the folder is there
        if number == errno.ENOSPC and not names and _free(place) > _ALMOST_NOTHING >= _free(temporary_place()):
            raise UserError(sentence(number, temporary_place(), advice=TEMPORARY_ADVICE)) from error
        raise UserError(sentence(number, place, what=what, partial=partial, need=need, advice=advice)) from error


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Makes a folder for the time of the body, where the environment keeps temporary files.

    Args:
        prefix: Beginning of its name.

    Raises:
        UserError: Nothing can be written there, or the disk is full.
    """
    place = temporary_place()
    with contextlib.ExitStack() as stack:
        with writing_to(place, advice=TEMPORARY_ADVICE):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)))
        with writing_to(place, partial=folder, advice=TEMPORARY_ADVICE):
            yield folder


@contextlib.contextmanager
def temporary_file() -> Iterator[IO[bytes]]:
    """Opens a file without a name for the time of the body, where the environment keeps temporary files.

    Raises:
        UserError: Nothing can be written there, or the disk is full.
    """
    place = temporary_place()
    with writing_to(place, advice=TEMPORARY_ADVICE), tempfile.TemporaryFile() as file:
        yield file


class NoRoom(OSError):
    """A disk has less room than is needed, which was noticed before writing; `writing_to` explains it.

    Attributes:
        need: Size in bytes of what was to be written.
    """

    def __init__(self, need: int) -> None:
        """Stores the size."""
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.need = need


def check_room(place: Path, need: int) -> None:
    """Checks, before anything is written, that a disk has room.

    Args:
        place: The file or folder that is to be made.
        need: Size in bytes.

    Raises:
        NoRoom: It has not.
    """
    if need > _free(place):
        raise NoRoom(need)


def sentence(
    number: int,
    place: Path,
    *,
    what: str = "",
    partial: Path | None = None,
    need: int = 0,
    advice: str = "choose another path",
) -> str:
    """Returns what an error number of the file system means for a place that is written to.

    Args:
        number: As in `errno`.
        place: The file or folder.
        what: What the sentence calls it; "": its path.
        partial: Where it is made until it is finished; what lies there counts as free.
        need: Size in bytes of what is written; 0 if it is unknown.
        advice: What to do if nothing can be written there.
    """
    needed = f"{_size(need)} are needed, " if need else ""
    free = f"{needed}{_size(_free(place) + _bytes_in(partial))} are free"
    match number:
        case errno.ENOSPC if _no_files_left(place):
            reason, remedy = (
                "the disk has no inodes left for more files",
                f"remove files there, or {advice}",
            )
        case errno.ENOSPC:
            reason, remedy = f"the disk is full: {free}", f"make room there, or {advice}"
        case errno.EDQUOT:
            reason, remedy = f"your quota is used up{needed and f': {needed[:-2]}'}", f"remove files there, or {advice}"
        case errno.EFBIG:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            allowed = "of the file system" if limit == resource.RLIM_INFINITY else f"ulimit -f, {_size(limit)}"
            reason, remedy = f"a file exceeds the limit {allowed}", f"raise the limit, or {advice}"
        case errno.EROFS:
            reason, remedy = "the file system is read-only", advice
        case errno.EACCES | errno.EPERM:
            reason, remedy = f"user {os.geteuid()} has no permission", f"change the rights there, or {advice}"
        case errno.ENAMETOOLONG:
            reason, remedy = "the name is too long", advice
        case errno.EEXIST | errno.ENOTDIR:
            reason, remedy = "something that is no folder is in the way", advice
        case 0:
            reason, remedy = f"the disk takes no more, though {free}; is there a quota?", advice
        case _:
            reason, remedy = os.strerror(number), advice
    return f"{what or place} cannot be written ({reason}); {remedy}."


def number_in(text: str) -> int | None:
    """Returns the error number that a message mentions if it is one of failed writes; None without one."""
    if found := _NUMBERED.search(text):
        return int(found[1]) if int(found[1]) in _ONLY_WHEN_WRITING else None
    return next((number for number in sorted(_ONLY_WHEN_WRITING) if os.strerror(number) in text), None)


def _number(error: BaseException, place: Path) -> int | None:
    """Returns the error number of a failed write; None for other errors."""
    if isinstance(error, OSError) and error.errno is not None:
        return None if isinstance(error, ConnectionError | TimeoutError) else error.errno
    for earlier in _chain(error):
        if isinstance(earlier, OSError) and earlier.errno in _ONLY_WHEN_WRITING:
            return earlier.errno
    if isinstance(error, shutil.Error):
        return number_in(str(error))
    if isinstance(error, OSError | RuntimeError) and _BROKEN_OFF.search(str(error)):
        return number_in(str(error)) or _likely_number(place)
    return number_in(str(error)) if type(error).__name__ == "SafetensorError" else None


def _likely_number(place: Path) -> int:
    """Returns the likely error number of a write that failed without one."""
    if _free(place) < _ALMOST_NOTHING or _no_files_left(place):
        return errno.ENOSPC
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    return _UNNUMBERED if unlimited else errno.EFBIG


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that it follows from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _names(error: BaseException) -> list[str]:
    """Returns the files that an error, or one that it follows from, is about."""
    return [
        os.fsdecode(name)
        for earlier in _chain(error)
        if isinstance(earlier, OSError)
        for name in (earlier.filename, earlier.filename2)
        if isinstance(name, str | bytes)
    ]


def _related(name: str, place: Path, partial: Path | None) -> bool:
    """Returns whether a file lies where files are written for a place, or is the place or a folder around it."""
    path, written = Path(name).absolute(), (partial or place).absolute()
    return written in (path, *path.parents) or any(path in (end, *end.parents) for end in (place.absolute(), written))


def temporary_place() -> Path:
    """Returns the folder where the environment keeps temporary files.

    Raises:
        UserError: There is none that can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(
            f"There is no folder for temporary files ({error.strerror}); set TMPDIR to one that can be written."
        ) from error


def _existing(place: Path) -> Path:
    """Returns a place, or the nearest folder around it that exists."""
    return next(path for path in (place.absolute(), *place.absolute().parents) if os.path.exists(path))  # noqa: PTH110


def _free(place: Path) -> int:
    """Returns how many bytes are free to this user where a place lies."""
    return shutil.disk_usage(_existing(place)).free


def _no_files_left(place: Path) -> bool:
    facts = os.statvfs(_existing(place))
    return facts.f_files > 0 and facts.f_favail == 0 and facts.f_bavail > 0


def _bytes_in(partial: Path | None) -> int:
    if partial is None or not os.path.exists(partial):  # noqa: PTH110, since names may be too long for `Path.exists`
        return 0
    files = [partial] if partial.is_file() else [path for path in partial.rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files)


def _size(count: int) -> str:
    """Returns a number of bytes for people: "12.3 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
