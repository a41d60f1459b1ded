"""Artifacts in an object store: `s3://bucket/prefix` to a local folder and back; and single files of the web.

Nothing else touches the network.

Any S3-compatible store will do (`minio://` is read as `s3://`). An artifact is published in an order that makes it
appear whole or not at all: the manifest of what was there before is deleted, the objects are written, and the new
manifest, which names every object with its SHA-256, is written last. Readers begin with the manifest.

Every function takes local paths as well, so that a caller need not care where an artifact lies. Requests that fail for
a passing reason (no connection, 5xx) are repeated with growing pauses until the store has been silent for
[PATIENCE_SECONDS][]. Endpoint and credentials come from the environment, read in [StoreSettings][] and nowhere else.

Files that others publish (data, weights) are downloaded once and kept by their content below `~/.cache/cat-pipeline`,
or `$XDG_CACHE_HOME/cat-pipeline`:

    content/SHA256            a file, named after its digest
    addresses/KEY.json        which content an address had, and its version (ETag) then
    partial/KEY/…             what has arrived of a download that is under way, or broke off
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import io
import json
import logging
import mimetypes
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from components.catlib.artifacts import MANIFEST, Manifest, file_sha256, parse_manifest, read_manifest
from components.catlib.errors import UserError

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import BaseHTTPResponse, PoolManager

logger = logging.getLogger(__name__)

SCHEMES = ("s3://", "minio://")
WEB_SCHEMES = ("https://", "http://")
PART_BYTES = 64 * 2**20
"""Larger objects are moved in parts of this size, several at a time."""
PARALLEL = 8
"""Requests that are under way at once."""
PATIENCE_SECONDS = 120.0
"""How long a store may be out of reach before the stage gives up."""
LONGEST_PAUSE_SECONDS = 10.0

Result = TypeVar("Result")


def is_remote(address: str | Path) -> bool:
    """Tells whether an address names something in an object store rather than on this machine."""
    return str(address).startswith(SCHEMES)


def is_web(address: str) -> bool:
    """Tells whether an address names a file of the web."""
    return address.startswith(WEB_SCHEMES)


def shown(address: str) -> str:
    """Returns an address as messages and manifests may show it: without passwords and signatures."""
    if not is_web(address):
        return address
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UserError(f"{address.partition('?')[0]} is no web address ({error}).") from error
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True)
class Location:
    """A place in an object store.

    Attributes:
        bucket: The bucket.
        prefix: Key of an object, or of the folder that objects lie in; empty for the whole bucket.
    """

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, address: str) -> Location:
        """Reads `s3://bucket/prefix`.

        Raises:
            UserError: There is no bucket in it, or the prefix has empty or relative parts.
        """
        bucket, _, prefix = address.partition("://")[2].partition("/")
        prefix = prefix.strip("/")
        if not bucket or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
            raise UserError(f"{address!r} is not an object-store address of the form s3://BUCKET/FOLDER.")
        return cls(bucket, prefix)

    def key(self, name: str) -> str:
        """Returns the object key of a file in this folder."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class StoredObject(NamedTuple):
    """An object as a listing shows it."""

    key: str
    bytes: int
    version: str


@dataclass(frozen=True)
class StoreSettings:
    """How to reach the object store.

    Attributes:
        host: Host name, with the port unless it is the usual one.
        secure: Use TLS.
        access_key: Who we are.
        secret_key: The proof.
        session_token: Further proof, with temporary credentials.
        region: The store's region.
        ca_file: Certificates to trust instead of the usual ones.
    """

    host: str
    secure: bool
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    ca_file: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> StoreSettings:
        """Reads S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, when set, the optional variables.

        Those are AWS_SESSION_TOKEN, AWS_REGION (or AWS_DEFAULT_REGION) and AWS_CA_BUNDLE. Instead of a variable NAME
        there may be NAME_FILE, the path of a file with its value, which is how secrets are mounted into containers.

        Raises:
            UserError: Names the variable that is missing or not of its form.
        """
        endpoint = _required(
            environment, "S3_ENDPOINT", "the address of the object store, such as http://localhost:9000"
        )
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or "@" in parts.netloc:
            raise UserError(
                "S3_ENDPOINT must be of the form http://HOST:PORT or https://HOST, without path or password."
            )
        return cls(
            host=parts.netloc,
            secure=parts.scheme == "https",
            access_key=_required(environment, "AWS_ACCESS_KEY_ID", "the access key of the object store"),
            secret_key=_required(environment, "AWS_SECRET_ACCESS_KEY", "the secret key of the object store"),
            session_token=_variable(environment, "AWS_SESSION_TOKEN"),
            region=_variable(environment, "AWS_REGION") or _variable(environment, "AWS_DEFAULT_REGION") or cls.region,
            ca_file=_variable(environment, "AWS_CA_BUNDLE"),
        )


def _variable(environment: Mapping[str, str], name: str) -> str | None:
    if environment.get(name):
        return environment[name]
    file = environment.get(f"{name}_FILE")
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"{name}_FILE names {file}, which cannot be read ({error.strerror}).") from error


def _required(environment: Mapping[str, str], name: str, meaning: str) -> str:
    value = _variable(environment, name)
    if not value:
        raise UserError(f"s3:// addresses need the environment variable {name} (or {name}_FILE): {meaning}.")
    return value


class Storage:
    """Reads and writes artifacts here and in the object store; connects when the first `s3://` address comes by."""

    def __init__(self, environment: Mapping[str, str] = os.environ, *, patience: float = PATIENCE_SECONDS) -> None:
        """Remembers where settings come from.

        Args:
            environment: Variables that [StoreSettings][] reads.
            patience: Seconds for which failing requests are repeated.
        """
        self._environment = environment
        self._patience = patience
        self._stopping = threading.Event()
        self._last_complaint = -float("inf")

    @functools.cached_property
    def _settings(self) -> StoreSettings:
        return StoreSettings.from_environment(self._environment)

    def _connections(self, ca_file: str | None) -> PoolManager:
        import certifi
        import urllib3

        return urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=10, read=60),
            maxsize=4 * PARALLEL,
            retries=False,  # repeating is done here, where there is a time limit and a log line
            cert_reqs="CERT_REQUIRED",
            ca_certs=ca_file or self._environment.get("SSL_CERT_FILE") or certifi.where(),
        )

    @functools.cached_property
    def _web(self) -> PoolManager:
        return self._connections(_variable(self._environment, "AWS_CA_BUNDLE"))

    @functools.cached_property
    def _client(self) -> Minio:
        from minio import Minio

        settings = self._settings
        return Minio(
            settings.host,
            settings.access_key,
            settings.secret_key,
            session_token=settings.session_token,
            secure=settings.secure,
            region=settings.region,
            http_client=self._connections(settings.ca_file),
        )

    # ------------------------------------------------------------------------------------------------------- artifacts

    def manifest(self, address: str, kind: str | None = None) -> Manifest:
        """Reads the manifest of an artifact.

        Args:
            address: A folder, or `s3://bucket/prefix`.
            kind: The kind that is expected; several may be given as "teacher|distill".

        Raises:
            UserError: There is no such artifact, it is of another kind, or the store refuses.
        """
        if not is_remote(address):
            return read_manifest(Path(address), kind)
        return parse_manifest(self._read_manifest(Location.parse(address)), where=address, kind=kind)

    def fetch(self, address: str, folder: Path, kind: str | None = None) -> Path:
        """Makes an artifact available as a local folder.

        Args:
            address: A folder, which is used where it is, or `s3://bucket/prefix`, which is downloaded and verified.
            folder: Where to put a download; must not exist.
            kind: The kind that is expected.

        Returns:
            The local folder.

        Raises:
            UserError: No such artifact, another kind, or an object that is missing or does not match its checksum.
        """
        if not is_remote(address):
            read_manifest(Path(address), kind)
            return Path(address)
        location, began = Location.parse(address), time.monotonic()
        content = self._read_manifest(location)
        manifest = parse_manifest(content, where=address, kind=kind)
        self._download({name: record.bytes for name, record in manifest.files.items()}, location, folder)
        self._in_parallel(
            functools.partial(_verify, folder / name, record.sha256, f"{address}/{name}")
            for name, record in manifest.files.items()
        )
        (folder / MANIFEST).write_bytes(content)
        size = sum(record.bytes for record in manifest.files.values())
        logger.info("fetched %s: %.1f MB in %.1f s", location, size / 1e6, time.monotonic() - began)
        return folder

    def find(self, address: str, request: str) -> Manifest | None:
        """Looks for a complete artifact that was made for the same request.

        Args:
            address: A folder, or `s3://bucket/prefix`.
            request: Digest of all that determines the artifact, as in `Manifest.request`.

        Returns:
            Its manifest; None when there is none, it answers another request, or a file is missing or cut short.
        """
        if not is_remote(address):
            try:
                manifest = read_manifest(Path(address))
            except UserError:
                return None
            return manifest if manifest.request == request else None
        location = Location.parse(address)
        content = self._read_manifest_object(location)
        if content is None:
            return None
        try:
            manifest = parse_manifest(content, where=address)
        except UserError as error:
            logger.warning("%s", error)
            return None
        if manifest.request != request:
            return None
        present = {found.key: found.bytes for found in self._objects(location)}
        if any(present.get(location.key(name)) != record.bytes for name, record in manifest.files.items()):
            logger.warning("%s is not complete and is made anew", address)
            return None
        return manifest

    def publish(self, folder: Path, address: str) -> None:
        """Uploads an artifact: the objects first, then the manifest that names them.

        Objects of an earlier artifact at this place that the new one does not have are deleted; any other object is
        left alone.

        Args:
            folder: A complete artifact folder.
            address: `s3://bucket/prefix`.

        Raises:
            UserError: The store refuses, or there is no such bucket.
        """
        location, began = Location.parse(address), time.monotonic()
        manifest = read_manifest(folder)
        earlier = self._withdraw(location)
        self._in_parallel(functools.partial(self._upload, folder / name, location, name) for name in manifest.files)
        for name in earlier - manifest.files.keys():
            self._patiently(f"deleting {location}/{name}", self._remove, location, name)
        self._upload(folder / MANIFEST, location, MANIFEST)
        size = sum(record.bytes for record in manifest.files.values())
        logger.info("published %s: %.1f MB in %.1f s", location, size / 1e6, time.monotonic() - began)

    # ----------------------------------------------------------------------------------------- other files and buckets

    def fetch_files(self, address: str, folder: Path) -> Path:
        """Downloads an object, or everything below a prefix.

        Args:
            address: `s3://bucket/key` or `s3://bucket/prefix`.
            folder: Where to put it; must not exist.

        Returns:
            The downloaded file in `folder`, or `folder` with the tree below the prefix.

        Raises:
            UserError: There is nothing.
        """
        location = Location.parse(address)
        sizes = {found.key: found.bytes for found in self._objects(location)}
        if not sizes:
            raise UserError(f"There is nothing at {address} in the object store at {self._settings.host}.")
        if location.prefix in sizes:
            name = PurePosixPath(location.prefix).name
            parent = Location(location.bucket, location.prefix.removesuffix(name).rstrip("/"))
            self._download({name: sizes[location.prefix]}, parent, folder)
            return folder / name
        start = len(location.key(""))
        self._download({key[start:]: size for key, size in sizes.items()}, location, folder)
        return folder

    def upload_file(self, path: Path, address: str) -> None:
        """Writes a file to `s3://bucket/key`, whole or not at all; what was there is replaced.

        Raises:
            UserError: The store refuses, or there is no such bucket.
        """
        location = Location.parse(address)
        name = PurePosixPath(location.prefix).name
        self._upload(path, Location(location.bucket, location.prefix.removesuffix(name).rstrip("/")), name)

    def remove(self, address: str) -> None:
        """Deletes a folder, or all objects below `s3://bucket/prefix`, if there are any."""
        if is_remote(address):
            self._in_parallel(
                functools.partial(self.remove_file, f"{address}/{name}") for name in self.file_names(address)
            )
        elif Path(address).exists():
            shutil.rmtree(address)

    def remove_file(self, address: str) -> None:
        """Deletes the object at `s3://bucket/key`, if it is there."""
        location = Location.parse(address)
        self._patiently(f"deleting {location}", self._client.remove_object, location.bucket, location.prefix)

    def file_names(self, address: str) -> list[str]:
        """Returns the names, relative to it, of all objects below `s3://bucket/prefix`."""
        location = Location.parse(address)
        start = len(location.key(""))
        return [found.key[start:] for found in self._objects(location)]

    def fingerprint(self, address: str) -> list[list[str | int]]:
        """Returns name, size and version of every file at or below an address: what tells one state from another.

        A file of the web counts as unchanged while its server cannot be reached.
        """
        if is_web(address):
            return [[shown(address), self._last_version(address)]]
        if is_remote(address):
            return sorted([*found] for found in self._objects(Location.parse(address)))
        root = Path(address)
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        return [[path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files]

    def is_file(self, address: str) -> bool:
        """Tells whether `s3://bucket/key` names an object rather than a folder of objects."""
        return bool(self._version(address))

    def make_bucket(self, address: str) -> bool:
        """Creates the bucket of `s3://bucket` and returns True, or False when it is there already."""
        bucket = Location.parse(address).bucket

        def make() -> bool:
            if self._client.bucket_exists(bucket):
                return False
            self._client.make_bucket(bucket)
            return True

        return self._patiently(f"creating bucket {bucket}", make)

    def link(self, address: str, *, lifetime: timedelta) -> str:
        """Returns a web address under which an object can be read without credentials for a time (7 days at most)."""
        location = Location.parse(address)
        return self._client.presigned_get_object(location.bucket, location.prefix, expires=lifetime)

    # ---------------------------------------------------------------------------------------------- files of others

    def cached(self, address: str, sha256: str | None = None) -> Path:
        """Returns a file of the web or of the object store from the cache, where it is put first if need be.

        With a digest, a file of that content is taken wherever it once came from. Without, the file is taken that was
        downloaded from this address before, as long as the server names the same version of it (or cannot be reached).

        Args:
            address: https://…, http://… or `s3://bucket/key`.
            sha256: Expected digest.

        Raises:
            UserError: There is nothing, it cannot be reached, or it has another digest.
        """
        cache, key = self._cache_folder(), _address_key(address)
        record, partial = self._record(address), cache / "partial" / key
        with _locked(cache / "partial" / f"{key}.lock"):
            if sha256 is not None:
                kept = cache / "content" / sha256
                if kept.is_file() and file_sha256(kept) == sha256:
                    return kept
            elif kept := self._kept(cache, _read_record(record), address):
                return kept
            path = partial / "file"
            fetch = self.download if is_web(address) else self._download_object
            version = fetch(address, path, sha256)
            digest = sha256 or file_sha256(path)
            (cache / "content").mkdir(exist_ok=True)
            path.replace(cache / "content" / digest)
            record.parent.mkdir(exist_ok=True)
            written = record.with_suffix(".partial")
            written.write_text(json.dumps({"address": shown(address), "version": version, "sha256": digest}) + "\n")
            written.replace(record)
            shutil.rmtree(partial)
        logger.info("the SHA-256 of %s is %s", shown(address), digest)
        return cache / "content" / digest

    def _kept(self, cache: Path, record: Mapping[str, str] | None, address: str) -> Path | None:
        """Returns the content that an address had before, if it still has it and nothing happened to the copy."""
        if record is None:
            return None
        kept = cache / "content" / record["sha256"]
        if not kept.is_file() or file_sha256(kept) != record["sha256"]:
            return None
        try:
            version = self._version(address)
        except UserError as error:
            logger.warning("%s Taking the copy of %s that was downloaded before", error, shown(address))
            return kept
        return kept if version and version == record["version"] else None

    def _last_version(self, url: str) -> str:
        """Returns the version of a file of the web that its server names, or else named when it was downloaded."""
        from urllib3.exceptions import HTTPError

        try:
            response = self._ask("HEAD", url, {})
        except (UserError, HTTPError, OSError):
            return (_read_record(self._record(url)) or {"version": ""})["version"]
        response.close()
        return _web_version(response)

    def _record(self, address: str) -> Path:
        """Where it is noted which content an address had."""
        return self._cache_folder() / "addresses" / f"{_address_key(address)}.json"

    def _version(self, address: str) -> str:
        """Returns what tells one content of a file from another, without reading it; "" when there is nothing."""
        if is_web(address):
            what = f"asking for {shown(address)}"
            response = self._patiently(what, self._ask, "HEAD", address, {}, server=_server(address))
            response.close()
            return _web_version(response)
        location = Location.parse(address)
        return {found.key: found.version for found in self._objects(location)}.get(location.prefix, "")

    def _download_object(self, address: str, path: Path, sha256: str | None) -> str:
        """Downloads an object, going on with the parts that an earlier attempt, even of another process, did not get.

        What has arrived lies in `path` with `.partial` added; beside it is noted which parts of which version those
        are.

        Returns:
            The object's version.

        Raises:
            UserError: There is nothing, the store cannot be reached, or the object has another digest.
        """
        location, began = Location.parse(address), time.monotonic()
        found = next((item for item in self._objects(location) if item.key == location.prefix), None)
        if found is None:
            raise UserError(f"There is nothing at {address} in the object store at {self._settings.host}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, name = path.with_name(f"{path.name}.partial"), PurePosixPath(location.prefix).name
        parent = Location(location.bucket, location.prefix.removesuffix(name).rstrip("/"))
        notes, version = _version_file(partial), f"{found.version} {found.bytes}"
        known, *arrived = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else [""]
        if known != version or not partial.is_file():
            notes.write_text(f"{version}\n", encoding="utf-8")
            with partial.open("wb") as file:
                file.truncate(found.bytes)
            arrived = []
        noting = threading.Lock()

        def fetch(start: int) -> None:
            length = min(PART_BYTES, found.bytes - start)
            self._patiently(f"reading {address}", self._fetch_range, parent, name, partial, start, length)
            with noting, notes.open("a", encoding="utf-8") as file:
                file.write(f"{start}\n")

        starts = [start for start in range(0, found.bytes, PART_BYTES) if str(start) not in arrived]
        self._in_parallel(functools.partial(fetch, start) for start in starts)
        notes.unlink()
        if self._version(address) != found.version:
            partial.unlink()
            raise UserError(f"{address} changed while it was downloaded; run this again.")
        partial.replace(path)
        if sha256 is not None and (digest := file_sha256(path)) != sha256:
            path.unlink()
            raise UserError(f"{address} has the SHA-256 {digest}, expected is {sha256}; is it another file now?")
        logger.info("%s: %.1f MB in %.1f s", address, found.bytes / 1e6, time.monotonic() - began)
        return found.version

    def download(self, url: str, path: Path, sha256: str | None = None) -> str:
        """Downloads a file of the web, going on where an earlier attempt, even of another process, broke off.

        What has arrived lies in `path` with `.partial` added until it is complete and its digest is right.

        Args:
            url: https:// or http:// address.
            path: Where the file goes; its folder is made.
            sha256: Expected digest.

        Returns:
            What the server calls this version of the file; may be empty.

        Raises:
            UserError: There is nothing, the server cannot be reached or is silent for too long, the disk is full, or
                the file has another digest.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, began = path.with_name(f"{path.name}.partial"), time.monotonic()
        if sha256 is None and url.startswith("http://"):
            logger.warning("neither TLS nor a digest protects %s", shown(url))
        attempt = functools.partial(self._download_rest, url, partial, verified=sha256 is not None)
        while not self._patiently(f"downloading {shown(url)}", attempt, server=_server(url)):
            logger.warning("downloading %s broke off after %.1f MB; going on", shown(url), partial.stat().st_size / 1e6)
        if sha256 is not None and (found := file_sha256(partial)) != sha256:
            partial.unlink()
            _version_file(partial).unlink()
            raise UserError(f"{shown(url)} has the SHA-256 {found}, expected is {sha256}; is it another file now?")
        partial.replace(path)
        logger.info("%s: %.1f MB in %.1f s", shown(url), path.stat().st_size / 1e6, time.monotonic() - began)
        version = _version_file(partial).read_text(encoding="utf-8")
        _version_file(partial).unlink()
        return version

    def _download_rest(self, url: str, partial: Path, *, verified: bool) -> bool:
        """Downloads what is missing of a file.

        Args:
            url: Its address.
            partial: What has arrived so far; may be missing.
            verified: Whether a digest will tell that all is there, should the server not say how much that is.

        Returns:
            Whether it is complete; False when the answer broke off after more had arrived than ever before.
        """
        from urllib3.exceptions import HTTPError

        have = partial.stat().st_size if partial.is_file() else 0
        known = _version_file(partial).read_text(encoding="utf-8") if have and _version_file(partial).is_file() else ""
        response = self._ask("GET", url, {"Range": f"bytes={have}-", "If-Range": known} if known else {})
        try:
            given = response.headers.get("Content-Range", "")
            if response.status == 416 and given == f"bytes */{have}":
                return True
            if response.status != 200 and not given.startswith(f"bytes {have}-"):
                partial.unlink()
                raise ConnectionError("the file changed while it was downloaded")
            _check_answer(response, url, partial.parent, verified=verified)
            if response.status == 200:
                _version_file(partial).write_text(_web_version(response), encoding="utf-8")
            with partial.open("wb" if response.status == 200 else "ab") as file:
                try:
                    for block in response.stream(2**20, decode_content=False):
                        file.write(block)
                except HTTPError:
                    if file.tell() <= have:
                        raise
                    return False
        finally:
            response.close()
        return True

    def _ask(self, method: str, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Sends a request to a server of the web; the answer's body is not read yet.

        Raises:
            UserError: The server is unknown, refuses, has no such file, or leads from https to http.
            ConnectionError: It cannot answer now.
        """
        import urllib3
        from urllib3.exceptions import LocationValueError, MaxRetryError, NameResolutionError, ResponseError

        redirects_only = urllib3.Retry(
            redirect=5, connect=0, read=0, other=0, status=0, raise_on_status=False, respect_retry_after_header=False
        )
        try:
            response = self._web.request(
                method,
                url,
                headers={"Accept-Encoding": "identity", **headers},
                preload_content=False,
                retries=redirects_only,
            )
        except LocationValueError as error:
            raise UserError(f"{shown(url)} is no web address; expected https://HOST/FILE.") from error
        except MaxRetryError as error:
            match error.reason:
                case NameResolutionError():
                    raise UserError(f"{_server(url)} cannot be found; is this machine online?") from error
                case ResponseError():
                    raise UserError(f"{shown(url)} leads from one address to the next without end.") from error
                case reason:
                    raise reason or error from error
        if url.startswith("https://") and (response.geturl() or url).startswith("http://"):
            raise UserError(f"{shown(url)} leads to an address without TLS; give that address if you trust it.")
        if response.status >= 500 or response.status in (408, 429):
            raise ConnectionError(f"answer {response.status}")
        if response.status not in (200, 206, 416):
            meanings = {401: "needs a password", 403: "may not be read", 404: "is not there"}
            meaning = meanings.get(response.status, "fails")
            raise UserError(f"{shown(url)} {meaning} (answer {response.status}); check the address.")
        return response

    def _cache_folder(self) -> Path:
        base = self._environment.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "cat-pipeline"
        try:
            (folder / "partial").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Downloads cannot be kept in {folder} ({error.strerror}); set XDG_CACHE_HOME to a folder for them."
            ) from error
        return folder

    # --------------------------------------------------------------------------------------------------------- requests

    def _read_manifest(self, location: Location) -> bytes:
        content = self._read_manifest_object(location)
        if content is None:
            raise UserError(
                f"{location} is not an artifact: it has no {MANIFEST}; was the stage that writes it interrupted?"
            )
        return content

    def _read_manifest_object(self, location: Location) -> bytes | None:
        """Returns the content of the manifest that is there, None when there is none."""
        from minio.error import S3Error

        def read() -> bytes | None:
            try:
                response = self._client.get_object(location.bucket, location.key(MANIFEST))
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        return self._patiently(f"reading {location}/{MANIFEST}", read)

    def _withdraw(self, location: Location) -> frozenset[str]:
        """Deletes the manifest that is there, if any, and returns the names of the files that it listed."""
        content = self._read_manifest_object(location)
        if content is None:
            return frozenset()
        self._patiently(f"deleting {location}/{MANIFEST}", self._remove, location, MANIFEST)
        try:
            return frozenset(parse_manifest(content, where=str(location)).files)
        except UserError:
            logger.warning("%s had a manifest that cannot be read; its objects are left where they are", location)
            return frozenset()

    def _remove(self, location: Location, name: str) -> None:
        self._client.remove_object(location.bucket, location.key(name))

    def _objects(self, location: Location) -> list[StoredObject]:
        """Lists the object at a location, or those below it."""

        def list_objects() -> list[StoredObject]:
            found = [
                StoredObject(item.object_name or "", item.size or 0, item.etag or "")
                for item in self._client.list_objects(location.bucket, location.prefix, recursive=True)
            ]
            below = location.key("")
            return [
                item
                for item in found
                if item.key == location.prefix or (item.key.startswith(below) and not item.key.endswith("/"))
            ]

        return self._patiently(f"listing {location}", list_objects)

    def _upload(self, path: Path, location: Location, name: str) -> None:
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"

        def upload() -> None:
            if path.stat().st_size == 0:
                self._client.put_object(location.bucket, location.key(name), io.BytesIO(), 0, media_type)
            else:
                self._client.fput_object(
                    location.bucket, location.key(name), str(path), media_type, part_size=PART_BYTES
                )

        self._patiently(f"writing {location}/{name}", upload)

    def _download(self, sizes: Mapping[str, int], location: Location, folder: Path) -> None:
        """Downloads objects, by name and size, into a folder."""
        tasks: list[Callable[[], None]] = []
        folder.mkdir(parents=True)
        for name, size in sizes.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{location} holds the object {name!r}, which has no place inside a folder.")
            path.parent.mkdir(parents=True, exist_ok=True)
            tasks += self._ranges(location, name, size, path)
        self._in_parallel(tasks)

    def _ranges(self, location: Location, name: str, size: int, path: Path) -> list[Callable[[], None]]:
        """Makes an empty file of the right size and returns the downloads that fill it."""
        with path.open("wb") as file:
            file.truncate(size)
        starts = range(0, size, PART_BYTES)
        return [
            functools.partial(
                self._patiently,
                f"reading {location}/{name}",
                self._fetch_range,
                location,
                name,
                path,
                start,
                min(PART_BYTES, size - start),
            )
            for start in starts
        ]

    def _fetch_range(self, location: Location, name: str, path: Path, start: int, length: int) -> None:
        response = self._client.get_object(location.bucket, location.key(name), offset=start, length=length)
        try:
            with path.open("r+b") as file:
                file.seek(start)
                shutil.copyfileobj(response, file, 2**20)
                if file.tell() != start + length:
                    raise ConnectionError(f"the answer ended after {file.tell() - start} of {length} bytes")
        finally:
            response.close()
            response.release_conn()

    def _in_parallel(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Runs tasks in threads; the first failure ends the others, which then no longer wait for the store."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stopping.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _patiently(
        self, what: str, action: Callable[..., Result], *arguments: object, server: str | None = None
    ) -> Result:
        """Runs a request, and again while it fails for reasons that pass.

        Args:
            what: What the request does, for messages: "reading s3://…".
            action: The request; safe to repeat.
            arguments: Its arguments.
            server: Who is asked, for messages; default: the object store.

        Raises:
            UserError: It failed for good, or for too long; the cause is the last error.
        """
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        began, pause = time.monotonic(), 0.25
        while True:
            try:
                return action(*arguments)
            except (MinioException, HTTPError, OSError) as error:
                elapsed = time.monotonic() - began
                if not _passes(error) or elapsed + pause > self._patience or self._stopping.is_set():
                    raise UserError(self._explain(what, error, elapsed, server)) from error
                if time.monotonic() - self._last_complaint > LONGEST_PAUSE_SECONDS / 2:
                    self._last_complaint = time.monotonic()
                    logger.warning("%s failed (%s); trying again", what, _reason(error))
            # Threads that failed together should not come back together.
            self._stopping.wait(pause * random.SystemRandom().uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _explain(self, what: str, error: Exception, elapsed: float, server: str | None) -> str:
        """Returns the sentence for a request that failed for good."""
        from minio.error import S3Error
        from urllib3.exceptions import SSLError

        host = server or f"The object store at {self._settings.host}"
        if isinstance(error, S3Error):
            if error.code == "NoSuchBucket":
                return f"{host} has no bucket {error.bucket_name!r} ({what}); create it first."
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return f"There is no object {error.object_name!r} in bucket {error.bucket_name!r} ({what})."
            if error.response.status == 403:
                return (
                    f"{host} refuses the credentials or the right ({what}: {error.code}); "
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what this user may do."
                )
        if isinstance(error, SSLError):
            return f"{host} is not trusted, or speaks no TLS ({_reason(error)}); check its address and AWS_CA_BUNDLE."
        if _passes(error):
            return f"{host} did not answer for {elapsed:.0f} s ({what}: {_reason(error)}); is it up?"
        return f"{host} refused ({what}: {_reason(error)})."


def _passes(error: Exception) -> bool:
    """Tells whether a request that failed so may succeed later."""
    from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
    from urllib3.exceptions import HTTPError, LocationValueError, SSLError

    match error:
        case S3Error():
            return error.response.status >= 500 or error.code in ("SlowDown", "RequestTimeout")
        case ServerError():
            return error.status_code >= 500
        case InvalidResponseError():
            return error._code >= 500  # not S3's XML: a proxy in between, or another kind of server
        case MinioException() | SSLError() | LocationValueError():
            return False
        case HTTPError() | ConnectionError() | TimeoutError():
            return True
        case _:
            return False


def _reason(error: Exception) -> str:
    from minio.error import S3Error

    if isinstance(error, S3Error):
        return f"{error.code}: {error.message}".rstrip(".")
    text = str(error).split("\n", 1)[0]
    return text if len(text) < 200 else f"{text[:200]}…"


def _verify(path: Path, sha256: str, address: str) -> None:
    if file_sha256(path) != sha256:
        raise UserError(f"{address} does not match its checksum; it is damaged or another file, make it anew.")


def _address_key(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:32]


def _read_record(path: Path) -> dict[str, str] | None:
    """Reads which content an address had; None when nothing is known."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {key: str(record[key]) for key in ("version", "sha256")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _server(url: str) -> str:
    return f"The server {urlsplit(url).hostname}"


def _version_file(partial: Path) -> Path:
    """Where the version of a half-downloaded file is noted."""
    return partial.with_name(f"{partial.name}.version")


def _web_version(response: BaseHTTPResponse) -> str:
    """Returns a strong validator of an answer's content: what may stand in If-Range."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _check_answer(response: BaseHTTPResponse, url: str, folder: Path, *, verified: bool) -> None:
    """Refuses an answer that the disk cannot take, or whose end nobody could tell from its breaking off."""
    length = response.headers.get("Content-Length")
    if length is None and "chunked" not in response.headers.get("Transfer-Encoding", "") and not verified:
        raise UserError(f"{shown(url)} comes without its length; give its digest (sha256) to know when all is there.")
    needed, free = int(length or 0) / 1e9, shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise UserError(f"{shown(url)} needs {needed:.1f} GB, only {free:.1f} GB are free in {folder}.")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time pass."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def local_copy(address: str) -> Path:
    """Makes a file or folder that a recipe names available on this machine.

    Args:
        address: A path, which is returned as it is; an https:// address, whose file is kept in the cache; or
            `s3://bucket/key`, downloaded once in a process and removed when the process ends.

    Raises:
        UserError: There is nothing at the address, or it cannot be reached.
    """
    if is_web(address):
        return Storage().cached(address)
    if not is_remote(address):
        return Path(address)
    return Storage().fetch_files(address, Path(_downloads().name) / hashlib.sha256(address.encode()).hexdigest()[:16])


@functools.cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="downloads-")
