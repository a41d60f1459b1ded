"""An object store over its S3 interface, and the places in it."""

from __future__ import annotations

import contextlib
import functools
import io
import mimetypes
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TypeVar

from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, SSLError

from components.catlib.disk import temporary_folder
from components.catlib.errors import UserError
from components.catlib.storage import retrying, transfer
from components.catlib.storage.addresses import Location
from components.catlib.storage.connecting import connections
from components.catlib.storage.parallel import in_parallel
from components.catlib.storage.settings import StoreSettings
from components.catlib.storage.store import Entry, NotThere

Result = TypeVar("Result")


class Objects:
    """A connection to an object store; nothing is sent before the first request.

    Attributes:
        server: Name of the store, for messages.
        patiently: Sends requests and repeats each while the store is out of reach.
    """

    def __init__(self, settings: StoreSettings, *, patience: float = retrying.PATIENCE_SECONDS) -> None:
        """Stores the settings.

        Args:
            settings: How to reach it.
            patience: Seconds for which failing requests are repeated.
        """
        self.server = f"The object store at {settings.host}"
        self._settings = settings
        self.patiently = retrying.Retrying(
            patience,
            # Errors of local files are no errors of the store: urllib3 wraps those of its connections.
            errors=(MinioException, HTTPError, ConnectionError, TimeoutError),
            passes=_passes,
            explain=self._explain,
            reason=_reason,
        )

    @functools.cached_property
    def client(self) -> Minio:
        """The SDK's client."""
        settings = self._settings
        return Minio(
            settings.host,
            settings.access_key,
            settings.secret_key,
            session_token=settings.session_token,
            secure=settings.secure,
            region=settings.region,
            http_client=connections(settings.ca_file),
        )

    def make_bucket(self, bucket: str) -> bool:
        """Creates a bucket and returns True, or False if it exists."""

        def make() -> bool:
            if self.client.bucket_exists(bucket):
                return False
            self.client.make_bucket(bucket)
            return True

        return self.patiently(f"creating bucket {bucket}", make)

    def link(self, location: Location, *, lifetime: timedelta) -> str:
        """Returns a web address at which an object can be read without credentials for a time, at most 7 days."""
        return self.client.presigned_get_object(location.bucket, location.prefix, expires=lifetime)

    def _explain(self, what: str, error: Exception, seconds: float) -> UserError:
        if isinstance(error, S3Error):
            if error.code == "NoSuchBucket":
                return UserError(f"{self.server} has no bucket {error.bucket_name!r} ({what}); create it first.")
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return NotThere(f"There is no object {error.object_name!r} in bucket {error.bucket_name!r} ({what}).")
            if error.response.status == 403:
                return UserError(
                    f"{self.server} refuses the credentials or the action ({what}: {error.code}); "
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights of this user."
                )
        if isinstance(error, SSLError):
            return retrying.untrusted(self.server, error)
        if _passes(error):
            return retrying.silent(self.server, what, _reason(error), seconds)
        return UserError(f"{self.server} refused ({what}: {_reason(error)}).")


class S3Store:
    """Keeps named files as objects below a prefix; an object appears once it is whole.

    Attributes:
        address: `s3://bucket/prefix`.
        server: The object store.
    """

    def __init__(self, objects: Objects, location: Location) -> None:
        """Stores the place; nothing is sent yet."""
        self.address = str(location)
        self.server = objects.server
        self._objects = objects
        self._location = location

    def entries(self) -> list[Entry]:
        """Lists all objects below the prefix."""
        below = self._location.key("")

        def list_objects(client: Minio) -> list[Entry]:
            return [
                Entry((found.object_name or "")[len(below) :], found.size or 0, found.etag or "")
                for found in client.list_objects(self._location.bucket, below, recursive=True)
                if not (found.object_name or "").endswith("/")
            ]

        return self._ask(f"listing {self.address}", list_objects)

    def entry(self, name: str) -> Entry | None:
        """Returns one object's size and ETag; None if there is none."""

        def stat(client: Minio) -> Entry:
            found = client.stat_object(self._location.bucket, self._location.key(name))
            return Entry(name, found.size or 0, found.etag or "")

        try:
            return self._ask(f"looking up {self.address}/{name}", stat)
        except NotThere:
            return None

    def read(self, name: str) -> bytes:
        """Downloads a small object into memory."""

        def get(client: Minio) -> bytes:
            response = client.get_object(self._location.bucket, self._location.key(name))
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        return self._ask(f"reading {self.address}/{name}", get)

    def read_part(self, name: str, path: Path, start: int, length: int) -> None:
        """Downloads a range of bytes to the same place of a local file."""

        def get(client: Minio) -> None:
            response = client.get_object(self._location.bucket, self._location.key(name), offset=start, length=length)
            try:
                with path.open("r+b") as file:
                    file.seek(start)
                    shutil.copyfileobj(response, file, 2**20)
                    if file.tell() != start + length:
                        raise ConnectionError(f"the answer ended after {file.tell() - start} of {length} bytes")
            finally:
                response.close()
                response.release_conn()

        self._ask(f"reading {self.address}/{name}", get)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Downloads the object for as long as it is read."""
        found = self.entry(name)
        if found is None:
            raise NotThere(f"There is nothing at {self.address}/{name} ({self.server}).")
        with temporary_folder("download-") as folder:
            path = folder / PurePosixPath(name).name
            transfer.make_room(path, found.bytes)
            in_parallel(functools.partial(self.read_part, name, path, *part) for part in transfer.parts(found.bytes))
            yield path

    def write(self, name: str, source: bytes | Path) -> None:
        """Uploads an object, a large file in parts."""
        bucket, key = self._location.bucket, self._location.key(name)
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"

        def put(client: Minio) -> None:
            if isinstance(source, bytes):
                client.put_object(bucket, key, io.BytesIO(source), len(source), media_type)
            elif source.stat().st_size == 0:
                client.put_object(bucket, key, io.BytesIO(), 0, media_type)
            else:
                client.fput_object(bucket, key, str(source), media_type, part_size=transfer.PART_BYTES)

        self._ask(f"writing {self.address}/{name}", put)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Gives a temporary file, which is uploaded when the context ends."""
        with temporary_folder("upload-") as folder:
            path = folder / PurePosixPath(name).name
            yield path
            self.write(name, path)

    def create(self, name: str, content: bytes) -> bool:
        """Uploads an object unless there is one."""
        bucket, key = self._location.bucket, self._location.key(name)

        def put(client: Minio) -> bool:
            try:
                # The SDK's public calls cannot send this header.
                client._put_object(bucket, key, content, headers={"If-None-Match": "*"})
            except S3Error as error:
                if error.response.status == 412:
                    return False
                raise
            return True

        if self._ask(f"creating {self.address}/{name}", put):
            return True
        # The object is somebody else's, or ours from an attempt whose answer was lost.
        with contextlib.suppress(NotThere):
            return self.read(name) == content
        return False

    def remove(self, name: str) -> None:
        """Deletes an object if it exists."""
        self._ask(
            f"deleting {self.address}/{name}",
            lambda client: client.remove_object(self._location.bucket, self._location.key(name)),
        )

    def _ask(self, what: str, request: Callable[[Minio], Result]) -> Result:
        return self._objects.patiently(what, lambda: request(self._objects.client))


def _passes(error: Exception) -> bool:
    """Returns whether a request that failed with this error may succeed later."""
    match error:
        case S3Error():
            return error.response.status >= 500 or error.code in (
                "SlowDown",
                "RequestTimeout",
                "ConditionalRequestConflict",
            )
        case ServerError():
            return error.status_code >= 500
        case InvalidResponseError():
            return error._code >= 500  # not S3's XML: a proxy in between, or another kind of server
        case MinioException():
            return False
        case _:
            return retrying.passes(error)


def _reason(error: Exception) -> str:
    if isinstance(error, S3Error):
        return f"{error.code}: {error.message}".rstrip(".")
    return retrying.first_line(error)
