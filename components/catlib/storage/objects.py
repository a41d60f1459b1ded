"""An object store over its S3 interface, and the places in it."""

from __future__ import annotations

import contextlib
import functools
import math
import mimetypes
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TypeVar
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.error import MinioException, S3Error
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, SSLError

from components.catlib.credentials import without_credentials
from components.catlib.disk import temporary_folder
from components.catlib.errors import UserError
from components.catlib.storage import connecting, retrying, sdk, transfer
from components.catlib.storage.addresses import Location
from components.catlib.storage.parallel import move_parts
from components.catlib.storage.settings import StoreSettings
from components.catlib.storage.store import Entry, NotThere
from components.catlib.storage.uploads import UploadLost, put_in_parts

Result = TypeVar("Result")

_PASSING = frozenset(
    {
        *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),  # damaged on the way
        *("ConditionalRequestConflict", "OperationAborted", "PriorRequestNotComplete"),  # another request was faster
        *("BandwidthLimitExceeded", "RequestLimitExceeded", "RequestThrottled", "ServerBusy", "ServiceUnavailable"),
        *("SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "TooManyRequests"),
        *("InternalError", "RequestTimeTooSkewed", "RequestTimeout"),  # the next attempt is signed anew
    }
)
"""Codes of errors that pass, whatever their HTTP status."""
_FULL = frozenset(
    {"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"}
)
_FULL_IN_WORDS = re.compile(
    r"no space left|(disk|storage|bucket) (is )?full|quota|insufficient (storage|space)|no (free|writable) volumes|"
    r"read.?only volume",
    re.IGNORECASE,
)
"""What servers say that have no code for it. (SeaweedFS says no more than InternalError.)"""


class _WrongPart(ConnectionError):
    """An answer does not begin at the byte that was asked for."""


_NO_XML = (ParseError, UnicodeDecodeError)
"""What the SDK raises on answers that are not of S3's form."""


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
        # Errors of local files are no errors of the store: urllib3 wraps those of its connections.
        self.patiently = retrying.Retrying(
            patience,
            errors=(MinioException, HTTPError, ConnectionError, TimeoutError, *_NO_XML),
            passes=_passes,
            explain=self._explain,
            reason=_reason,
            pause=_pause,
            expected=self._is_expected,
        )

    @functools.cached_property
    def client(self) -> Minio:
        """The SDK's client.

        Raises:
            UserError: The settings name no server.
        """
        settings = self._settings
        try:
            return Minio(
                settings.host,
                settings.access_key,
                settings.secret_key,
                session_token=settings.session_token,
                secure=settings.secure,
                region=settings.region,
                http_client=connecting.connections(settings.ca_file, waits=settings.waits, service=settings.url),
            )
        except ValueError as error:
            raise UserError(f"S3_ENDPOINT {settings.url} is no address of a server ({error}); correct it.") from error

    def make_bucket(self, bucket: str) -> bool:
        """Creates a bucket and returns True, or False if it exists."""

        def make() -> bool:
            if self.client.bucket_exists(bucket):
                return False
            self.client.make_bucket(bucket)
            return True

        return self.patiently(f"creating bucket {bucket}", make)

    def link(self, location: Location, *, lifetime: timedelta, endpoint: str | None = None) -> str:
        """Signs a web address; see `Storage.link`."""
        reader = Objects(self._settings.seen_from(endpoint)) if endpoint else self
        return reader.client.presigned_get_object(location.bucket, location.prefix, expires=lifetime)

    def _is_expected(self) -> bool:
        return self._settings.waits or connecting.has_answered(self._settings.url)

    def _explain(self, what: str, error: Exception, seconds: float) -> UserError:
        if _is_full(error):
            return UserError(
                f"{self.server} is full, or a quota of it is used up ({what}: {_reason(error)}); make room there, then "
                "run the command again."
            )
        if isinstance(error, S3Error) and (known := self._explain_code(what, error)):
            return known
        if isinstance(error, _NO_XML):
            return UserError(f"{self.server} answers, but not in XML ({what}); check that S3_ENDPOINT is an S3 server.")
        if isinstance(error, SSLError):
            return retrying.untrusted(self.server, error)
        if not _passes(error):
            return UserError(f"{self.server} refused ({what}: {_reason(error)}).")
        if not self._is_expected():
            advice = "check S3_ENDPOINT, and that the store is up"
            return retrying.never_reached(self.server, what, error, seconds, advice=advice)
        if isinstance(error, MinioException | retrying.Busy):
            return retrying.busy(self.server, what, _reason(error), seconds)
        return retrying.silent(self.server, what, _reason(error), seconds)

    def _explain_code(self, what: str, error: S3Error) -> UserError | None:
        match error.code:
            case "NoSuchUpload":
                return UploadLost(f"{self.server} has lost the parts of an upload ({what}); run the command again.")
            case "NoSuchBucket":
                return UserError(f"{self.server} has no bucket {error.bucket_name!r} ({what}); create it first.")
            case "NoSuchKey" | "NoSuchObject":
                return NotThere(f"There is no object {error.object_name!r} in bucket {error.bucket_name!r} ({what}).")
            case "RequestTimeTooSkewed":
                return UserError(f"{self.server} and this machine disagree on the time ({what}); set the clocks.")
            case code if error.response.status == 403:
                return UserError(
                    f"{self.server} refuses the credentials or the action ({what}: {code}); "
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights of this user."
                )
        return None


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
        self.location = location

    def entries(self) -> list[Entry]:
        """Lists all objects below the prefix."""
        below = self.location.key("")

        def list_objects(client: Minio) -> list[Entry]:
            return [
                Entry(
                    (found.object_name or "")[len(below) :],
                    found.size or 0,
                    found.etag or "",
                    _time(found.last_modified),
                )
                for found in client.list_objects(self.location.bucket, below, recursive=True)
                if not (found.object_name or "").endswith("/")
            ]

        return self.ask(f"listing {self.address}", list_objects)

    def entry(self, name: str) -> Entry | None:
        """Returns one object's size, ETag and time; None if there is none."""

        def stat(client: Minio) -> Entry:
            found = client.stat_object(self.location.bucket, self.location.key(name))
            return Entry(name, found.size or 0, found.etag or "", _time(found.last_modified))

        try:
            return self.ask(f"looking up {self.address}/{name}", stat)
        except NotThere:
            return None

    def read(self, name: str) -> bytes:
        """Downloads a small object into memory."""

        def get(client: Minio) -> bytes:
            response = client.get_object(self.location.bucket, self.location.key(name))
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        return self.ask(f"reading {self.address}/{name}", get)

    def read_part(self, name: str, path: Path, start: int, length: int) -> None:
        """Downloads a range of bytes to the same place of a local file; goes on where an answer breaks off."""
        have, furthest, version = 0, 0, ""

        def get_rest(client: Minio) -> bool:
            """Returns whether the part is complete; False if the answer broke off, but came further than before."""
            nonlocal have, furthest, version
            response = client.get_object(
                self.location.bucket,
                self.location.key(name),
                offset=start + have,
                length=length - have,
                request_headers={"If-Match": version} if have and version else None,
            )
            try:
                self._check_range(response, start + have, resumed=have > 0)
                version = response.headers.get("ETag", "").removeprefix("W/")
                with path.open("r+b") as file:
                    file.seek(start + have)
                    while have < length and (block := response.read(min(2**20, length - have), decode_content=False)):
                        file.write(block)
                        have += len(block)
                if have < length:
                    raise ConnectionError(f"the answer ended after {have} of {length} bytes")
            except (HTTPError, ConnectionError):
                if have <= furthest:
                    raise
                furthest = have
                return False
            finally:
                response.close()
                response.release_conn()
            return True

        def get(client: Minio) -> bool:
            nonlocal have
            try:
                return get_rest(client)
            except S3Error as error:
                if error.response.status != 412:
                    raise
                have = 0
                raise ConnectionError("the object was replaced while it was read") from error
            except _WrongPart:
                have = 0
                raise

        while not self.ask(f"reading {self.address}/{name}", get):
            pass

    def _check_range(self, response: BaseHTTPResponse, start: int, *, resumed: bool) -> None:
        """Refuses an answer that does not begin at the right byte.

        Raises:
            UserError: It is the whole object.
            _WrongPart: It is, or may be, another part.
        """
        if response.status == 200 and start > 0:
            raise UserError(f"{self.server} answers with whole objects instead of parts; is a proxy in between?")
        given = response.headers.get("Content-Range", "")
        if not given.startswith(f"bytes {start}-") and (given or resumed):
            raise _WrongPart(f"the answer should begin at byte {start}, but its range is {given or 'not given'}")

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Downloads the object for as long as it is read."""
        found = self.entry(name)
        if found is None:
            raise NotThere(f"There is nothing at {self.address}/{name} ({self.server}).")
        with temporary_folder("download-") as folder:
            path = folder / PurePosixPath(name).name
            transfer.make_room(path, found.bytes)
            move_parts(functools.partial(self.read_part, name, path, *part) for part in transfer.parts(found.bytes))
            yield path

    def write(self, name: str, source: bytes | Path) -> None:
        """Uploads an object, a large one in parts; it appears once all of them are there."""
        if isinstance(source, Path) and source.stat().st_size <= transfer.PART_BYTES:
            move_parts([lambda: self._put(name, source)])
        elif isinstance(source, bytes) and len(source) <= transfer.PART_BYTES:
            self._put(name, source)
        else:
            put_in_parts(self, name, source, _headers(name))

    def _put(self, name: str, source: bytes | Path) -> None:
        bucket, key = self.location.bucket, self.location.key(name)

        def put(client: Minio) -> None:
            content = source if isinstance(source, bytes) else source.read_bytes()
            sdk.put(client, bucket, key, content, _headers(name))

        self.ask(f"writing {self.address}/{name}", put)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Gives a temporary file, which is uploaded when the context ends."""
        with temporary_folder("upload-") as folder:
            path = folder / PurePosixPath(name).name
            yield path
            self.write(name, path)

    def create(self, name: str, content: bytes) -> bool:
        """Uploads an object unless there is one."""
        bucket, key = self.location.bucket, self.location.key(name)

        def put(client: Minio) -> bool:
            try:
                sdk.put(client, bucket, key, content, {"If-None-Match": "*"})
            except S3Error as error:
                if error.response.status == 412:
                    return False
                raise
            return True

        if self.ask(f"creating {self.address}/{name}", put):
            return True
        # The object is somebody else's, or ours from an attempt whose answer was lost.
        with contextlib.suppress(NotThere):
            return self.read(name) == content
        return False

    def remove(self, name: str) -> None:
        """Deletes an object if it exists."""
        self.ask(
            f"deleting {self.address}/{name}",
            lambda client: client.remove_object(self.location.bucket, self.location.key(name)),
        )

    def unfinished_uploads(self) -> list[Entry]:
        """Returns the uploads in parts that were begun below the prefix and not ended; their id is the version.

        They take space until they are ended or aborted, but no listing of objects shows them. Their size is not known.
        """
        below = self.location.key("")
        return [
            Entry((upload.object_name or "")[len(below) :], 0, upload.upload_id or "", _time(upload.initiated_time))
            for upload in self.ask(
                f"listing unfinished uploads in {self.address}",
                lambda client: sdk.unfinished_uploads(client, self.location.bucket, below),
            )
        ]

    def abort_upload(self, upload: Entry) -> None:
        """Ends an upload in parts and deletes its parts."""
        bucket, key = self.location.bucket, self.location.key(upload.name)
        self.ask(
            f"aborting the upload of {self.address}/{upload.name}",
            lambda client: sdk.abandon_upload(client, bucket, key, upload.version),
        )

    def ask(self, what: str, request: Callable[[Minio], Result]) -> Result:
        """Makes a request, patiently.

        Args:
            what: The request in words, for messages.
            request: The request; safe to repeat.
        """
        return self._objects.patiently(what, lambda: request(self._objects.client))


def _headers(name: str) -> dict[str, str]:
    return {"Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream"}


def _time(moment: datetime | None) -> float:
    return math.inf if moment is None else moment.timestamp() // 1


def _is_full(error: Exception) -> bool:
    if sdk.status(error) in (429, 503):
        return False  # too many requests at a time
    if isinstance(error, S3Error) and (error.code in _FULL or _FULL_IN_WORDS.search(error.message or "")):
        return True
    return sdk.status(error) == 507


def _passes(error: Exception) -> bool:
    """Returns whether a request that failed with this error may succeed later."""
    if isinstance(error, MinioException):
        code = error.code if isinstance(error, S3Error) else None
        return not _is_full(error) and (code in _PASSING or retrying.passing(sdk.status(error)))
    return retrying.passes(error)


def _pause(error: Exception) -> float | None:
    """Returns the seconds after which the store wants to be asked again; None if it does not say."""
    if isinstance(error, S3Error):
        return retrying.asked_pause(error.response.headers)
    return error.pause if isinstance(error, retrying.Busy) else None


def _reason(error: Exception) -> str:
    if isinstance(error, S3Error):
        return without_credentials(f"{error.code}: {error.message}").rstrip(".")
    return retrying.first_line(error)
