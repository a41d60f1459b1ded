"""The protocol of stores, which artifacts and checkpoints share."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, NamedTuple, Protocol, runtime_checkable

from components.catlib.errors import UserError


class NotThere(UserError):
    """A store has no file of that name."""


class Entry(NamedTuple):
    """A file as a store lists it.

    Attributes:
        name: Its path below the store's address, with slashes.
        bytes: Its size.
        version: A text that differs when the content differs, as far as the store knows without reading it.
    """

    name: str
    bytes: int
    version: str


class Store(Protocol):
    """A place for named files, each whole or absent.

    Operations may be repeated, and may run in several threads. A store that is out of reach is waited for here, not
    by the caller.

    Attributes:
        address: Where the files lie: a folder or `s3://bucket/prefix`.
        server: The server that keeps them, for messages.
    """

    address: str
    server: str

    def entries(self) -> list[Entry]:
        """Returns all files, those in folders below included."""
        ...

    def entry(self, name: str) -> Entry | None:
        """Returns one file's size and version; None if there is none."""
        ...

    def read(self, name: str) -> bytes:
        """Returns the content of a small file.

        Raises:
            NotThere: There is no such file.
        """
        ...

    def read_part(self, name: str, path: Path, start: int, length: int) -> None:
        """Copies a range of bytes to the same place of a local file, which exists.

        Raises:
            NotThere: There is no such file.
        """
        ...

    def reading(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Gives a local path of a file, to be read and not changed, for as long as the context lasts.

        Raises:
            NotThere: There is no such file.
        """
        ...

    def write(self, name: str, source: bytes | Path) -> None:
        """Writes a whole file, from memory or from a local file; an earlier file is replaced at once."""
        ...

    def writing(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Gives a local path to fill; when the context ends, the file appears whole under its name.

        If the body raises, nothing appears and an earlier file stays.
        """
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Writes a small file unless there is one.

        Returns:
            Whether the file holds this content now. Two owners that write different contents never both get
            True, and a repeated call after a lost answer returns the same.
        """
        ...

    def remove(self, name: str) -> None:
        """Removes a file if it exists."""
        ...


@runtime_checkable
class Locks(Protocol):
    """What a store may offer besides: locks between the processes of one machine, which end with their process."""

    def lock(self, name: str) -> IO[bytes] | None:
        """Locks a file, which is made if there is none, until the returned handle is closed or this process ends.

        Returns:
            The handle; None if another one holds the lock.

        Raises:
            OSError: There are no locks here, or the file cannot be made.
        """
        ...

    def is_locked(self, name: str) -> bool:
        """Returns whether anybody holds the lock of a file.

        Raises:
            OSError: There are no locks here, or there is no such file.
        """
        ...
