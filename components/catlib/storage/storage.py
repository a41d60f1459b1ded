"""Artifacts and files by address, wherever they lie."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from components.catlib.artifacts import Manifest, check_replaceable, read_manifest, verify_checksums
from components.catlib.credentials import refuse_credentials
from components.catlib.disk import TEMPORARY_ADVICE, check_plain, temporary_place, writing_to
from components.catlib.distributed.ending import joined
from components.catlib.errors import UserError
from components.catlib.storage import published, transfer
from components.catlib.storage.addresses import Location, is_web, shown, split
from components.catlib.storage.cache import Cache, user_folder
from components.catlib.storage.digests import content_digests
from components.catlib.storage.parallel import in_parallel
from components.catlib.storage.places import Places, is_remote
from components.catlib.storage.retrying import PATIENCE_SECONDS
from components.catlib.storage.transfer import StoredFile
from components.catlib.storage.web import Web, WebFile


class Storage:
    """Reads and writes artifacts on this machine and elsewhere; connects at the first remote address."""

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        *,
        patience: float = PATIENCE_SECONDS,
        cache: Path | None = None,
    ) -> None:
        """Stores where settings come from.

        Args:
            environment: Variables that `StoreSettings` reads.
            patience: Seconds for which failing requests are repeated.
            cache: Folder for downloaded files; None: the user's cache folder.
        """
        self._places = Places(environment, patience=patience)
        self._web = Web(environment, patience=patience)
        self._cache_folder = cache

    # ------------------------------------------------------------------------------------------------------- artifacts

    def manifest(self, address: str, kind: str | None = None) -> Manifest:
        """Reads the manifest of an artifact.

        Args:
            address: A folder, or `s3://bucket/prefix`.
            kind: The expected kind; several may be given as "teacher|distill".

        Raises:
            UserError: There is no such artifact, it is of another kind, or the store refuses.
        """
        if not is_remote(address):
            return read_manifest(Path(address), kind)
        return transfer.manifest(self._places.open(address), kind)

    def fetch(self, address: str, folder: Path, kind: str | None = None) -> Path:
        """Makes an artifact available as a local folder.

        Args:
            address: A folder, which is used where it is, or `s3://bucket/prefix`, which is downloaded and verified.
            folder: Where to put a download; must not exist.
            kind: The expected kind.

        Returns:
            The local folder.

        Raises:
            UserError: There is no such artifact, it is of another kind, or a file is missing or does not match its
                checksum.
        """
        if not is_remote(address):
            read_manifest(Path(address), kind)
            return Path(address)
        return transfer.fetch(self._places.open(address), folder, kind)

    def find(self, address: str, request: str) -> Manifest | None:
        """Looks for a complete artifact that was made for the same request.

        Args:
            address: A folder, or `s3://bucket/prefix`.
            request: Digest of everything that determines the artifact, as in `Manifest.request`.

        Returns:
            Its manifest; None if there is none, it was made for another request, or a file is missing or incomplete.
        """
        if is_remote(address):
            return transfer.find(self._places.open(address), request)
        try:
            found = read_manifest(Path(address))
        except UserError:
            return None
        return found if found.request == request else None

    def check_replaceable(self, address: str, kind: str) -> None:
        """Checks that nothing is lost when an artifact is written to an address.

        Args:
            address: A folder, or `s3://bucket/prefix`.
            kind: Kind of the artifact that is to be written there.

        Raises:
            UserError: There is something else than an artifact of this kind.
        """
        if is_remote(address):
            published.check_replaceable(self._places.open(address), kind)
        else:
            check_replaceable(Path(address), kind)

    def publish(self, folder: Path, address: str) -> None:
        """Uploads an artifact to `s3://bucket/prefix`; see `transfer.publish`."""
        transfer.publish(folder, self._places.open(address))

    # --------------------------------------------------------------------------------------------------- other files

    def fetch_files(self, address: str, folder: Path) -> Path:
        """Downloads a file, or everything below a prefix.

        Args:
            address: `s3://bucket/key` or `s3://bucket/prefix`.
            folder: Where to put it; must not exist.

        Returns:
            The downloaded file in `folder`, or `folder` with the tree below the prefix.

        Raises:
            UserError: There is nothing at the address.
        """
        file = self._file(address)
        if file is not None and (found := file.store.entry(file.name)):
            transfer.download(file.store, {file.name: found.bytes}, folder)
            return folder / file.name
        store = self._places.open(address)
        sizes = {entry.name: entry.bytes for entry in store.entries()}
        if not sizes:
            raise transfer.nothing_at(address, store)
        transfer.download(store, sizes, folder)
        return folder

    def upload_file(self, path: Path, address: str) -> None:
        """Writes a file to `s3://bucket/key`, whole or not at all; an earlier file is replaced.

        Raises:
            UserError: The store refuses, or there is no such bucket.
        """
        folder, name = split(address)
        self._places.open(folder).write(name, path)

    def remove(self, address: str) -> None:
        """Deletes a folder, or all files below `s3://bucket/prefix`, if there are any."""
        if is_remote(address):
            store = self._places.open(address)
            in_parallel(functools.partial(store.remove, entry.name) for entry in store.entries())
        elif Path(address).exists():
            shutil.rmtree(address)

    def file_names(self, address: str) -> list[str]:
        """Returns the names, relative to it, of all files below `s3://bucket/prefix`."""
        return [entry.name for entry in self._places.open(address).entries()]

    def is_file(self, address: str) -> bool:
        """Returns whether `s3://bucket/key` names a file rather than a folder of files."""
        file = self._file(address)
        return file is not None and file.store.entry(file.name) is not None

    def fingerprint(self, address: str) -> list[list[str | int]]:
        """Returns name, size and version of every file at or below an address; they differ when the content differs.

        Names count from the address, so the same files elsewhere have the same fingerprint; for a file of the web the
        address counts too. The version is a SHA-256 here, and what the server states elsewhere (its ETag, for a file of
        the web else the time of its last change). A file of the web counts as unchanged while its server cannot be
        reached; its version is "" if it is unknown.
        """
        if is_web(address):
            refuse_credentials(address, "An address")
            version = WebFile(self._web, address).version_now()
            return [[shown(address), self._cache.known_version(address) if version is None else version]]
        if not is_remote(address):
            memory = (self._cache_folder or user_folder()) / "digests"
            return [list(each) for each in content_digests(Path(address), memory)]
        file = self._file(address)
        if file is not None and (found := file.store.entry(file.name)):
            return [[".", found.bytes, found.version]]
        return sorted([entry.name, entry.bytes, entry.version] for entry in self._places.open(address).entries())

    def cached(self, address: str, sha256: str | None = None) -> Path:
        """Returns the cached copy of a file of the web or of a store, after a download if needed; see `Cache.get`.

        Args:
            address: https://…, http://… or `s3://bucket/key`.
            sha256: Expected digest.

        Raises:
            UserError: There is nothing at the address, it cannot be reached, or the file has another digest.
        """
        refuse_credentials(address, "An address")
        source = WebFile(self._web, address) if is_web(address) else self._file(address)
        if source is None:
            raise UserError(f"{address} is a whole bucket; give the address of a file in it.")
        return self._cache.get(address, source, sha256)

    # ------------------------------------------------------------------------------------------------ the object store

    def make_bucket(self, address: str) -> bool:
        """Creates the bucket of `s3://bucket` and returns True, or False if it exists."""
        bucket = Location.parse(address).bucket
        return self._places.objects.make_bucket(bucket)

    def link(self, address: str, *, lifetime: timedelta, endpoint: str | None = None) -> str:
        """Returns a web address at which an object can be read without credentials for a time.

        Args:
            address: The object.
            lifetime: The time, at most 7 days.
            endpoint: The store's address where the link is opened; None: it is the same there as here.

        Raises:
            UserError: The store cannot be asked, or `endpoint` is no address of a server.
        """
        file = self._file(address)
        location = Location.parse(file.address if file else address)
        return self._places.objects.link(location, lifetime=lifetime, endpoint=endpoint)

    @functools.cached_property
    def _cache(self) -> Cache:
        return Cache(self._cache_folder)

    def _file(self, address: str) -> StoredFile | None:
        """Returns what an address names if it is a file; None for a whole bucket.

        A file of an artifact that was replaced lies elsewhere than its name says.
        """
        folder, name = split(address)
        if not name:
            return None
        around, inner = folder, name
        while True:
            store = self._places.open(around)
            if found := published.find_file(store, inner):
                return StoredFile(store, found)
            around, part = split(around)
            if not part:
                return StoredFile(self._places.open(folder), name)
            inner = f"{part}/{inner}"


@functools.cache
def local_copy(address: str) -> Path:
    """Makes a file or folder that a recipe names available on this machine.

    Args:
        address: A path, which is returned as it is; an https:// address, whose file is kept in the cache; or
            `s3://bucket/key`, downloaded once by a process, or once per machine by several that train together, and
        removed when the process ends.

    Raises:
        UserError: There is nothing at the address, or it cannot be reached.
    """
    if is_web(address):
        return Storage().cached(address)
    if not is_remote(address):
        check_plain(Path(address))
        return Path(address)
    return _downloaded(address, Storage().fetch_files)


@functools.cache
def local_artifact(address: str, kind: str) -> Path:
    """Makes an artifact that a recipe names available on this machine; the content is checked against its manifest.

    Args:
        address: A folder, which is returned as it is; or `s3://bucket/prefix`, downloaded as in `local_copy`.
        kind: The expected kind.

    Raises:
        UserError: There is no such artifact, it is of another kind, or a file does not match its checksum.
    """
    if is_web(address):
        raise UserError(f"{shown(address)} is no artifact: those have no https:// address; give a folder or s3://….")
    if is_remote(address):
        return _downloaded(address, functools.partial(Storage().fetch, kind=kind))
    folder = Path(address)
    verify_checksums(folder, read_manifest(folder, kind))
    return folder


def _downloaded(address: str, fetch: Callable[[str, Path], Path]) -> Path:
    """Fetches once per process, or once per machine where several processes train together."""
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]

    def download() -> str:
        with writing_to(temporary_place(), advice=TEMPORARY_ADVICE):
            return str(fetch(address, Path(_downloads().name) / digest))

    others = joined()
    return Path(others.once(f"copy {digest} of weights", download, per_machine=True) if others else download())


@functools.cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="downloads-")
