"""A store in a local folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from components.catlib.artifacts import PARTIAL, fsync, remove_abandoned, replacing
from components.catlib.disk import writing_to
from components.catlib.errors import UserError
from components.catlib.storage.store import Entry, NotThere

NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderStore:
    """Keeps named files in a local folder, which is made when the first file is written.

    Several processes may use one folder. A file that is being written has a name of its own, `.NAME.XXXXXXXX.partial`,
    which only its writer removes; if the writer is killed, a later one does, after a day.

    Attributes:
        address: The folder.
        server: This machine.
    """

    server = "this machine"

    def __init__(self, address: str) -> None:
        """Remembers the folder; nothing is made, changed or removed yet.

        Raises:
            UserError: The address names something else than a folder.
        """
        self.address = address
        self._folder = Path(address)
        self._is_swept = False
        if self._folder.exists() and not self._folder.is_dir():
            raise UserError(f"Folder {address} cannot be made: there is a file of that name.")

    def entries(self) -> list[Entry]:
        """Returns all files; one that vanishes meanwhile may be missing."""
        paths = [Path(parent, name) for parent, _, names in os.walk(self._folder) for name in names]
        names = sorted(path.relative_to(self._folder).as_posix() for path in paths if not _is_partial(path.name))
        found = (self.entry(name) for name in names)
        return [entry for entry in found if entry is not None]

    def entry(self, name: str) -> Entry | None:
        """Returns a file's size and time, the latter with its inode also as its version; None if there is none."""
        path = self._path(name)
        try:
            facts = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not path.is_file():
            return None
        return Entry(name, facts.st_size, f"{facts.st_mtime_ns}-{facts.st_ino}", facts.st_mtime // 1)

    def read(self, name: str) -> bytes:
        """Returns a file's content."""
        with self._opened(name) as file:
            return file.read()

    def read_part(self, name: str, path: Path, start: int, length: int) -> None:
        """Copies a range of bytes to the same place of a local file."""
        with self._opened(name) as source, path.open("r+b") as target:
            source.seek(start)
            target.seek(start)
            target.write(source.read(length))

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Gives the file's own path."""
        path = self._path(name)
        if not path.is_file():
            raise NotThere(f"There is no file {path}.")
        yield path

    def write(self, name: str, source: bytes | Path) -> None:
        """Writes a file under another name beside its place, then renames it."""
        with self.writing(name) as path:
            if isinstance(source, bytes):
                path.write_bytes(source)
            else:
                shutil.copyfile(source, path)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Gives a path beside the file, which takes its name once every byte is on the disk."""
        with replacing(self._place(name)) as partial:
            yield partial

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file beside its place and links it under its name, which fails if the name is taken.

        Where there are no hard links, the file is made under its own name at once; if the machine stops just then, it
        is there but may be empty.
        """
        path = self._place(name)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        with writing_to(path, partial=partial):
            try:
                partial.write_bytes(content)
                fsync(partial)
                _link(partial, path)
            except FileExistsError:
                with contextlib.suppress(NotThere):
                    return self.read(name) == content
                return False
            finally:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
            fsync(path.parent)
        return True

    def remove(self, name: str) -> None:
        """Removes a file if it exists."""
        with writing_to(path := self._path(name)):
            path.unlink(missing_ok=True)

    def lock(self, name: str) -> IO[bytes] | None:
        """Locks a file with `flock`."""
        file = self._place(name).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            file.close()
            raise
        return file

    def is_locked(self, name: str) -> bool:
        """Tries to share the lock of a file for a moment."""
        with self._path(name).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _opened(self, name: str) -> IO[bytes]:
        path = self._path(name)
        try:
            return path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotThere(f"There is no file {path}.") from error

    def _place(self, name: str) -> Path:
        """Returns the path of a file that will be written; its folder is there then."""
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Folder {path.parent} cannot be made: {error.strerror}.") from error
        if not self._is_swept:
            self._is_swept = True
            remove_abandoned(path for path in self._folder.glob(f".*{PARTIAL}") if path.is_file())
        return path

    def _path(self, name: str) -> Path:
        path = self._folder / name
        assert path.resolve().is_relative_to(self._folder.resolve()), f"{name} lies outside {self._folder}"
        return path


def _link(source: Path, path: Path) -> None:
    """Gives a file a second name, or copies it where there are no hard links; fails if the name is taken."""
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        with path.open("xb") as file:
            file.write(source.read_bytes())
        fsync(path)


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(PARTIAL)
