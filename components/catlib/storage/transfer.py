"""Moves artifacts and files between a store and this machine, several parts at once."""

from __future__ import annotations

import functools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.catlib.artifacts import MANIFEST, Manifest, file_sha256
from components.catlib.disk import check_room
from components.catlib.errors import Unavailable, UserError
from components.catlib.storage import published
from components.catlib.storage.parallel import in_parallel, move_parts
from components.catlib.storage.published import Published
from components.catlib.storage.published import publish as publish
from components.catlib.storage.store import NotThere, Store

logger = logging.getLogger(__name__)

PART_BYTES = 16 * 2**20
"""Larger files are moved in parts of this size. A process moves `parallel.PARALLEL` of them at the same time, so that
all its transfers together take 128 MiB of memory."""


def manifest(store: Store, kind: str | None = None) -> Manifest:
    """Reads the manifest of the artifact in a store.

    Args:
        store: Where the artifact lies.
        kind: The expected kind; several may be given as "teacher|distill".

    Raises:
        UserError: There is no artifact, it is of another kind, or the store refuses.
    """
    return published.read(store, kind).manifest


def fetch(store: Store, folder: Path, kind: str | None = None) -> Path:
    """Downloads an artifact and verifies it; begins again if it is replaced meanwhile.

    Args:
        store: Where the artifact lies.
        folder: Where to put it; must not exist, or be empty.
        kind: The expected kind.

    Returns:
        The folder.

    Raises:
        UserError: There is no artifact, it is of another kind, or a file is missing or does not match its checksum.
        OSError: The disk is full, or nothing can be written there.
    """
    began = time.monotonic()
    while True:
        found = published.read(store, kind)
        try:
            _fetch(store, found, folder)
            break
        except Unavailable:
            raise
        except UserError:
            if not published.has_changed(store, found):
                raise
            logger.info("%s was replaced while it was fetched; beginning again", store.address)
            shutil.rmtree(folder)
    size = sum(record.bytes for record in found.manifest.files.values())
    logger.info("fetched %s: %.1f MB in %.1f s", store.address, size / 1e6, time.monotonic() - began)
    return folder


def _fetch(store: Store, found: Published, folder: Path) -> None:
    files = found.manifest.files
    download(store, {name: record.bytes for name, record in files.items()}, folder, objects=found.objects)
    in_parallel(
        functools.partial(_verify, folder / name, record.sha256, f"{store.address}/{found.objects[name]}")
        for name, record in files.items()
    )
    (folder / MANIFEST).write_bytes(found.content)


def find(store: Store, request: str) -> Manifest | None:
    """Looks for a complete artifact that was made for the same request.

    Args:
        store: Where to look.
        request: Digest of everything that determines the artifact, as in `Manifest.request`.

    Returns:
        Its manifest; None if there is none, it was made for another request, or a file is missing or incomplete.
    """
    while True:
        try:
            found = published.read(store)
        except NotThere:
            return None
        except Unavailable:
            raise
        except UserError as error:
            logger.warning("%s", error)
            return None
        if found.manifest.request != request:
            return None
        present = {entry.name: entry.bytes for entry in store.entries()}
        if all(present.get(found.objects[name]) == record.bytes for name, record in found.manifest.files.items()):
            return found.manifest
        if not published.has_changed(store, found):
            logger.warning("%s is incomplete and is made again", store.address)
            return None


def download(store: Store, sizes: Mapping[str, int], folder: Path, *, objects: Mapping[str, str] | None = None) -> None:
    """Downloads files into a folder.

    Args:
        store: Where they lie.
        sizes: Their names and sizes in bytes.
        folder: Where to put them; must not exist, or be empty.
        objects: Their names in the store where those differ.

    Raises:
        UserError: A file is missing, or its name leads out of the folder.
        OSError: The disk is full, or nothing can be written there.
    """
    tasks: list[Callable[[], None]] = []
    folder.mkdir(parents=True, exist_ok=True)
    check_room(folder, sum(sizes.values()))
    for name, size in sizes.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{store.address} holds the object {name!r}, whose name leads out of the folder; remove it."
            )
        make_room(path, size)
        key = (objects or {}).get(name, name)
        tasks += [functools.partial(store.read_part, key, path, *part) for part in parts(size)]
    move_parts(tasks)


def make_room(path: Path, size: int) -> None:
    """Makes a file of `size` bytes, to be filled in any order, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def parts(size: int, length: int = 0) -> Iterator[tuple[int, int]]:
    """Yields start and length of the parts that a file of `size` bytes is moved in; `length` 0 is `PART_BYTES`."""
    length = length or PART_BYTES
    for start in range(0, size, length):
        yield start, min(length, size - start)


@dataclass(frozen=True)
class StoredFile:
    """A file in a store, which others may replace.

    Attributes:
        store: The store.
        name: The file's name in it.
    """

    store: Store
    name: str

    @property
    def address(self) -> str:
        """Its address."""
        return f"{self.store.address}/{self.name}"

    def version(self) -> str:
        """Returns a text that differs when the content differs; "" if there is no file."""
        found = self.store.entry(self.name)
        return found.version if found else ""

    def download(self, path: Path, sha256: str | None = None) -> str:
        """Downloads the parts of the file that an earlier attempt, even of another process, did not get.

        The parts that have arrived lie in `path` with `.partial` added; a file beside it lists them and the version.

        Args:
            path: Where the file goes; its folder is made.
            sha256: Expected digest.

        Returns:
            The file's version.

        Raises:
            UserError: There is no such file, the store cannot be reached, or the file has another digest or changes.
        """
        began, found = time.monotonic(), self.store.entry(self.name)
        if found is None:
            raise nothing_at(self.address, self.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        notes, version = partial.with_name(f"{partial.name}.version"), f"{found.version} {found.bytes}"
        known, *arrived = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else [""]
        if known != version or not partial.is_file():
            notes.write_text(f"{version}\n", encoding="utf-8")
            check_room(partial, found.bytes)
            make_room(partial, found.bytes)
            arrived = []
        noting = threading.Lock()

        def fetch_part(start: int, length: int) -> None:
            self.store.read_part(self.name, partial, start, length)
            with noting, notes.open("a", encoding="utf-8") as file:
                file.write(f"{start}\n")

        missing = [part for part in parts(found.bytes) if str(part[0]) not in arrived]
        move_parts(functools.partial(fetch_part, *part) for part in missing)
        notes.unlink()
        if self.version() != found.version:
            partial.unlink()
            raise UserError(f"{self.address} changed while it was downloaded; run the command again.")
        partial.replace(path)
        if sha256 is not None and (digest := file_sha256(path)) != sha256:
            path.unlink()
            raise UserError(f"{self.address} has the SHA-256 {digest}, expected {sha256}; has the file changed?")
        logger.info("%s: %.1f MB in %.1f s", self.address, found.bytes / 1e6, time.monotonic() - began)
        return found.version


def nothing_at(address: str, store: Store) -> NotThere:
    """Returns the error for an address where there is neither a file nor a folder of files."""
    return NotThere(f"There is nothing at {address} in {store.server[:1].lower()}{store.server[1:]}.")


def _verify(path: Path, sha256: str, address: str) -> None:
    if file_sha256(path) != sha256:
        raise UserError(f"{address} does not match its checksum, so it is damaged or another file; make it again.")
