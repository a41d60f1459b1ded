"""A store in a local folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from components.catlib.artifacts import PARTIAL, fsync, replacing
from components.catlib.errors import UserError
from components.catlib.storage.store import Entry, NotThere


class FolderStore:
    """Keeps named files in a local folder.

    Attributes:
        address: The folder.
        server: This machine.
    """

    server = "this machine"

    def __init__(self, address: str) -> None:
        """Makes the folder and removes files that an earlier process left half-written.

        Raises:
            UserError: No folder can be made there.
        """
        self.address = address
        self._folder = Path(address)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Folder {address} cannot be made: {error.strerror}.") from error
        for leftover in self._folder.glob(f".*{PARTIAL}"):
            if leftover.is_file():
                leftover.unlink()

    def entries(self) -> list[Entry]:
        """Returns all files."""
        names = (path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file())
        found = (self.entry(name) for name in sorted(names) if not _is_partial(name))
        return [entry for entry in found if entry is not None]

    def entry(self, name: str) -> Entry | None:
        """Returns a file's size and time, the latter with its inode also as its version; None if there is none."""
        path = self._path(name)
        if not path.is_file():
            return None
        facts = path.stat()
        return Entry(name, facts.st_size, f"{facts.st_mtime_ns}-{facts.st_ino}", facts.st_mtime // 1)

    def read(self, name: str) -> bytes:
        """Returns a file's content."""
        with self.reading(name) as path:
            return path.read_bytes()

    def read_part(self, name: str, path: Path, start: int, length: int) -> None:
        """Copies a range of bytes to the same place of a local file."""
        with self.reading(name) as own, own.open("rb") as source, path.open("r+b") as target:
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
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            yield partial

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file beside its place and links it under its name, which fails if the name is taken."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        try:
            partial.write_bytes(content)
            fsync(partial)
            os.link(partial, path)
        except FileExistsError:
            return path.is_file() and path.read_bytes() == content
        finally:
            partial.unlink(missing_ok=True)
        fsync(path.parent)
        return True

    def remove(self, name: str) -> None:
        """Removes a file if it exists."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        path = self._folder / name
        assert path.resolve().is_relative_to(self._folder.resolve()), f"{name} lies outside {self._folder}"
        return path


def _is_partial(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(PARTIAL)
