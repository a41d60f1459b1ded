"""Opens the store that an address names; only this module knows all kinds of stores."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.catlib.errors import UserError
from components.catlib.storage.addresses import Location
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.retrying import PATIENCE_SECONDS
from components.catlib.storage.settings import StoreSettings
from components.catlib.storage.store import Store

if TYPE_CHECKING:
    from components.catlib.storage.objects import Objects


class Places:
    """Opens stores; those of one server share their connections."""

    def __init__(self, environment: Mapping[str, str] = os.environ, *, patience: float = PATIENCE_SECONDS) -> None:
        """Stores where settings come from.

        Args:
            environment: Variables that `StoreSettings` reads.
            patience: Seconds for which failing requests are repeated.
        """
        self._environment = environment
        self._patience = patience

    def open(self, address: str) -> Store:
        """Returns the store at an address: a local folder, made once it is needed, or `s3://bucket/prefix`.

        Raises:
            UserError: It is neither, it is a file, or settings of the store are missing.
        """
        scheme, separator, _ = address.partition("://")
        if not separator:
            return FolderStore(address)
        if scheme not in REMOTE:
            raise UserError(f"{address!r} is neither a folder nor of the form s3://BUCKET/FOLDER.")
        return REMOTE[scheme](self, address)

    @functools.cached_property
    def objects(self) -> Objects:
        """The object store that the environment names."""
        from components.catlib.storage.objects import Objects

        return Objects(StoreSettings.from_environment(self._environment), patience=self._patience)

    def _in_object_store(self, address: str) -> Store:
        from components.catlib.storage.objects import S3Store

        location = Location.parse(address)
        return S3Store(self.objects, location)


REMOTE: dict[str, Callable[[Places, str], Store]] = {
    "s3": Places._in_object_store,
    "minio": Places._in_object_store,
}
"""The function that opens a store, by the scheme of its address."""


def is_remote(address: str | Path) -> bool:
    """Returns whether an address names something in a store elsewhere rather than on this machine."""
    scheme, separator, _ = str(address).partition("://")
    return bool(separator) and scheme in REMOTE


def is_in_object_store(address: str) -> bool:
    """Tells whether an address names something in an object store, which is reached with settings."""
    return REMOTE.get(address.partition("://")[0]) is Places._in_object_store


def open_store(address: str, *, patience: float = PATIENCE_SECONDS) -> Store:
    """Returns the store at an address, reached with settings from the environment.

    Args:
        address: A local folder, made once it is needed, or `s3://bucket/prefix`.
        patience: Seconds for which failing requests are repeated.

    Raises:
        UserError: It is neither, it is a file, or settings of the store are missing.
    """
    return Places(patience=patience).open(address)
