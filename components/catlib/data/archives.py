"""Reads zip, tar and gzipped tar archives in place, including archives nobody vouches for.

No file is ever written under a name taken from an archive. A damaged or suspicious archive is rejected as a whole, in
one sentence: paths that lead outside it, links, devices, encrypted members, an unpacked size out of all proportion, a
missing end. A gzipped tar is inflated once, into an unnamed temporary file.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from components.catlib.data.files import (
    IMAGE_SUFFIXES,
    TEXT_SUFFIXES,
    FileTree,
    SourceFile,
    as_text,
    is_image_path,
    is_text_path,
)
from components.catlib.disk import FULL, temporary_file
from components.catlib.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""How the names of archives end. The kind of an archive is read from its content, not from its name."""

MOST_MEMBERS = 500_000
MOST_INFLATION = 100
"""An archive may unpack to this many times its size. Pictures are already compressed and hardly shrink."""
FREE_INFLATION_BYTES = 2**30
"""An archive may always unpack to this many bytes, however small it is."""

LARGEST_DIRECTORY = 2**28
"""Largest accepted table of contents of a zip file, in bytes: about 500 per member."""

_BLOCK = 512
_COPIED_AT_ONCE = 2**20
_ZIP_ENTRY = b"PK\x01\x02"
_READ = (*IMAGE_SUFFIXES, *TEXT_SUFFIXES)
_ABSOLUTE = re.compile(r"/|[A-Za-z]:/")


@contextlib.contextmanager
def open_archive(path: Path, *, where: str) -> Iterator[FileTree]:
    """Opens an archive.

    Args:
        path: A .zip, .tar or .tar.gz file; its name may end differently.
        where: The archive's name in messages.

    Yields:
        The archive's image files. Several threads may read them until the context ends.

    Raises:
        UserError: The file is no such archive, is damaged or cut short, or has content that is not accepted.
    """
    with path.open("rb") as file:
        beginning = file.read(_BLOCK)
    with contextlib.ExitStack() as stack:
        if beginning.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield _zip_tree(path, where, stack)
        elif beginning.startswith(b"\x1f\x8b"):
            yield _tar_tree(stack.enter_context(_inflated(path, where)), where)
        elif beginning[257:262] == b"ustar":
            yield _tar_tree(stack.enter_context(path.open("rb")), where)
        else:
            kind = (
                "a web page"
                if b"<html" in beginning.lower() or b"<!doctype" in beginning.lower()
                else "a file of another kind"
            )
            raise UserError(f"{where} is not an archive (.zip, .tar, .tar.gz) but {kind}; check dataset.source.")


# ------------------------------------------------------------------------------------------------------------------ zip


class _Directory(io.FileIO):
    """The zip file as `zipfile` reads it; limits the table of contents.

    `zipfile` builds a costly object for every entry, so a table that is too large is rejected before that.

    Attributes:
        listing: Whether `zipfile` is reading the table of contents; reads are limited only then.
    """

    listing = True

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.listing:
            return super().read(size)
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"a table of contents of {size} bytes")
        content = super().read(size)
        if content.count(_ZIP_ENTRY) > MOST_MEMBERS:
            raise _TooManyMembersError
        return content


class _TooManyMembersError(Exception):
    """The table of contents has more than `MOST_MEMBERS` entries."""


def _zip_tree(path: Path, where: str, stack: contextlib.ExitStack) -> FileTree:
    try:
        file = stack.enter_context(_Directory(path))
        archive = stack.enter_context(zipfile.ZipFile(file))
        file.listing = False
    except _TooManyMembersError as error:
        raise _too_many(where) from error
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(where, error) from error
    members = archive.infolist()
    listing = _Listing(where, packed_bytes=path.stat().st_size)
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            listing.refuse(member.filename, "a link" if kind == stat.S_IFLNK else "not a plain file")
        if member.flag_bits & 0x1:
            listing.refuse(member.filename, "encrypted")
        # Not `is_dir()`, which fails for a name that begins with a zero byte.
        is_file = not member.filename.endswith("/")
        listing.add(member.filename, member.file_size, partial(_read_zipped, archive, member), is_file=is_file)
    return listing.tree()


def _read_zipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as stream:
        # The size limits how much is inflated, whatever the data hold; reading the last byte checks the CRC.
        content = stream.read(member.file_size)
    if len(content) != member.file_size:
        raise ValueError(f"holds {len(content)} of {member.file_size} bytes")
    return content


# ------------------------------------------------------------------------------------------------------------------ tar


class _Headers(io.RawIOBase):
    """The tar file as `tarfile` reads its headers; rejects a header large enough to fill the memory."""

    LONGEST = 2**20

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.LONGEST:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _tar_tree(file: IO[bytes], where: str) -> FileTree:
    """Lists a tar file. The file must stay open while its members are read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    listing = _Listing(where, packed_bytes=size)
    end = 0
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:
            while member := archive.next():
                if not (member.isreg() or member.isdir()) or member.issparse():
                    listing.refuse(member.name, "a link" if member.issym() or member.islnk() else "not a plain file")
                if member.size < 0 or member.offset_data < end or member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} does not fit into the file")
                read = partial(_read_range, file.fileno(), member.offset_data, member.size)
                listing.add(member.name, member.size, read, is_file=member.isreg())
                end = archive.offset
                vars(archive)["members"].clear()  # otherwise tarfile keeps every header in memory
    except UserError:
        raise
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise _damaged(where, error) from error
    # tarfile treats anything it cannot read as the end of the archive.
    if size % _BLOCK or os.pread(file.fileno(), _BLOCK, end) != bytes(_BLOCK):
        raise _damaged(where, "its end is missing")
    return listing.tree()


def _read_range(descriptor: int, offset: int, size: int) -> bytes:
    content = os.pread(descriptor, size, offset)
    if len(content) != size:
        raise ValueError(f"holds {len(content)} of {size} bytes")
    return content


@contextlib.contextmanager
def _inflated(path: Path, where: str) -> Iterator[IO[bytes]]:
    """Inflates a whole gzip file into a temporary file, which also verifies its checksum."""
    limit = _most_bytes(path.stat().st_size)
    with temporary_file() as inflated:
        try:
            with gzip.open(path) as stream:
                while block := stream.read(_COPIED_AT_ONCE):
                    if inflated.tell() + len(block) > limit:
                        raise _bomb(where, limit)
                    inflated.write(block)
            inflated.flush()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _damaged(where, error) from error
        except OSError as error:
            if error.errno in FULL:
                raise
            raise _damaged(where, error) from error
        yield inflated


# -------------------------------------------------------------------------------------------------------------- hygiene


class _Listing:
    """Collects an archive's members and rejects the archive if a member or their total is not acceptable."""

    def __init__(self, where: str, *, packed_bytes: int) -> None:
        self._where = where
        self._limit = _most_bytes(packed_bytes)
        self._members = 0
        self._bytes = 0
        self._files: dict[PurePosixPath, SourceFile] = {}
        self._texts: dict[PurePosixPath, SourceFile] = {}

    def refuse(self, name: str, what: str) -> None:
        raise UserError(
            f"Archive {self._where} is refused: its member {name!r} is {what}; make a new archive from plain files."
        )

    def add(self, name: str, size: int, read: Callable[[], bytes], *, is_file: bool) -> None:
        """Checks a member, and keeps it if it is an image or may say what the images are."""
        plain = name.replace("\\", "/")
        if _ABSOLUTE.match(plain) or "\0" in name or ".." in plain.split("/"):
            self.refuse(name, "outside the archive")
        self._members += 1
        self._bytes += size
        if self._members > MOST_MEMBERS:
            raise _too_many(self._where)
        if self._bytes > self._limit:
            raise _bomb(self._where, self._limit)
        if not (is_file and plain.lower().endswith(_READ)):
            return
        path = PurePosixPath(as_text(plain))
        if is_text_path(path):
            self._texts[path] = SourceFile(f"{self._where}/{path}", size, read)
        if is_image_path(path):
            if path in self._files:
                self.refuse(name, "listed twice")
            self._files[path] = SourceFile(f"{self._where}/{path}", size, read)

    def tree(self) -> FileTree:
        return FileTree(self._where, dict(sorted(self._files.items())), dict(sorted(self._texts.items())))


def _most_bytes(packed_bytes: int) -> int:
    return max(FREE_INFLATION_BYTES, MOST_INFLATION * packed_bytes)


def _too_many(where: str) -> UserError:
    return UserError(
        f"Archive {where} is refused: it has more than {MOST_MEMBERS} members; split it into several archives."
    )


def _bomb(where: str, limit: int) -> UserError:
    return UserError(
        f"Archive {where} is refused: it unpacks to more than {limit / 1e9:.1f} GB, the limit for its size; "
        "if you trust it, unpack it yourself and give the folder as dataset.source."
    )


def _damaged(where: str, reason: Exception | str) -> UserError:
    text = " ".join(str(reason).split()) or type(reason).__name__
    return UserError(f"Archive {where} is damaged or cut short ({text}); fetch it again.")
