"""Files of the web: their versions, and downloads that resume where they stopped."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from components.catlib.artifacts import file_sha256
from components.catlib.errors import UserError
from components.catlib.storage import connecting, retrying
from components.catlib.storage.addresses import shown
from components.catlib.storage.settings import ca_file, waits_for_servers, web_authorization
from components.catlib.storage.store import NotThere

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

logger = logging.getLogger(__name__)

_MEANINGS = {401: "needs a password", 403: "may not be read", 404: "does not exist"}
_CREDENTIALS = (
    "check the address, and CAT_WEB_HOST with CAT_WEB_TOKEN or with CAT_WEB_USER and CAT_WEB_PASSWORD, or the entry in "
    "~/.netrc"
)


class Web:
    """Connections to the servers of the web."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, *, patience: float = retrying.PATIENCE_SECONDS
    ) -> None:
        """Stores which certificates to trust.

        Args:
            environment: Variables that `ca_file`, `waits_for_servers` and `web_authorization` of `settings` read.
            patience: Seconds for which failing requests are repeated.
        """
        self._environment = environment
        self.patience = patience
        self.waits = waits_for_servers(environment)

    @functools.cached_property
    def connections(self) -> PoolManager:
        """Open connections."""
        return connecting.connections(ca_file(self._environment), waits=self.waits)

    def authorization(self, url: str) -> str | None:
        """Returns the Authorization header of an address; see `settings.web_authorization`."""
        return web_authorization(url, self._environment)


@dataclass(frozen=True)
class WebFile:
    """A file that others publish.

    Attributes:
        web: Connections to use.
        url: https:// or http:// address.
    """

    web: Web
    url: str

    @property
    def address(self) -> str:
        """Its address without passwords and signatures, for messages."""
        return shown(self.url)

    def version(self) -> str:
        """Returns the server's name for the file's present version; may be empty.

        Raises:
            UserError: There is no such file, or the server cannot be reached.
        """
        return self._patiently()(f"looking up {self.address}", self._head)

    def version_now(self) -> str | None:
        """Returns the same after one attempt; None when the server cannot be reached or has no such file."""
        from urllib3.exceptions import HTTPError

        try:
            return self._head()
        except (UserError, HTTPError, OSError):
            return None

    def download(self, path: Path, sha256: str | None = None) -> str:
        """Downloads the file and resumes where an earlier attempt, even of another process, stopped.

        The part that has arrived lies in `path` with `.partial` added, until it is complete and its digest is right.

        Args:
            path: Where the file goes; its folder is made.
            sha256: Expected digest.

        Returns:
            The server's name for this version of the file; may be empty.

        Raises:
            UserError: There is no such file, the server cannot be reached or is silent for too long, the disk is full,
                or the file has another digest.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, began = path.with_name(f"{path.name}.partial"), time.monotonic()
        if sha256 is None and self.url.startswith("http://"):
            logger.warning("neither TLS nor a digest protects %s", self.address)
        attempt = functools.partial(self._download_rest, partial, verified=sha256 is not None)
        patiently = self._patiently()
        while not patiently(f"downloading {self.address}", attempt):
            logger.warning("downloading %s stopped after %.1f MB; resuming", self.address, _size(partial) / 1e6)
        if sha256 is not None and (found := file_sha256(partial)) != sha256:
            partial.unlink()
            _version_file(partial).unlink()
            raise UserError(f"{self.address} has the SHA-256 {found}, expected {sha256}; has the file changed?")
        partial.replace(path)
        logger.info("%s: %.1f MB in %.1f s", self.address, _size(path) / 1e6, time.monotonic() - began)
        version = _version_file(partial).read_text(encoding="utf-8")
        _version_file(partial).unlink()
        return version

    def _download_rest(self, partial: Path, *, verified: bool) -> bool:
        """Downloads the missing part of a file.

        Args:
            partial: The part that has arrived; may be missing.
            verified: Whether a digest will be checked; else the server must state the length.

        Returns:
            Whether it is complete; False if the answer stopped early but the part has grown.
        """
        from urllib3.exceptions import HTTPError

        have = _size(partial)
        known = _version_file(partial).read_text(encoding="utf-8") if have and _version_file(partial).is_file() else ""
        response = self._ask("GET", {"Range": f"bytes={have}-", "If-Range": known} if known else {})
        try:
            given = response.headers.get("Content-Range", "")
            if response.status == 416 and given == f"bytes */{have}":
                return True
            if response.status != 200 and not given.startswith(f"bytes {have}-"):
                partial.unlink()
                raise ConnectionError("the file changed while it was downloaded")
            _check_answer(response, self.address, partial.parent, verified=verified)
            if response.status == 200:
                _version_file(partial).write_text(_version(response), encoding="utf-8")
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

    def _head(self) -> str:
        response = self._ask("HEAD", {})
        response.close()
        return _version(response)

    def _ask(self, method: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Sends a request; the answer's body is not read yet.

        Raises:
            UserError: The server refuses, has no such file, or redirects from https to http.
            Busy: It cannot serve the request now.
        """
        import urllib3
        from urllib3.exceptions import LocationValueError, MaxRetryError, ResponseError

        redirects_only = urllib3.Retry(
            redirect=5, connect=0, read=0, other=0, status=0, raise_on_status=False, respect_retry_after_header=False
        )
        try:
            authorization = self.web.authorization(self.url)
            # urllib3 leaves this header out when a redirect leads to another server.
            secret = {"Authorization": authorization} if authorization else {}
            if secret and method == "GET" and self.url.startswith("http://"):
                logger.warning("the password for %s travels without TLS; give its https:// address", self.address)
            response = self.web.connections.request(
                method,
                self.url,
                headers={"Accept-Encoding": "identity", **headers, **secret},
                preload_content=False,
                retries=redirects_only,
            )
        except LocationValueError as error:
            raise UserError(f"{self.address} is not a web address; expected https://HOST/FILE.") from error
        except MaxRetryError as error:
            match error.reason:
                case ResponseError():
                    raise UserError(f"{self.address} redirects without end; check the address.") from error
                case reason:
                    raise reason or error from error
        if self.url.startswith("https://") and (response.geturl() or self.url).startswith("http://"):
            raise UserError(f"{self.address} redirects to an address without TLS; give that address if you trust it.")
        if retrying.passing(response.status):
            raise retrying.Busy(response.status, response.headers)
        if response.status not in (200, 206, 416):
            meaning = _MEANINGS.get(response.status, "fails")
            advice = _CREDENTIALS if response.status in (401, 403) else "check the address"
            kind = NotThere if response.status == 404 else UserError
            raise kind(f"{self.address} {meaning} (HTTP status {response.status}); {advice}.")
        return response

    def _patiently(self) -> retrying.Retrying:
        from urllib3.exceptions import HTTPError

        return retrying.Retrying(
            self.web.patience,
            errors=(HTTPError, ConnectionError, TimeoutError),  # errors of local files are no errors of the server
            passes=retrying.passes,
            explain=self._explain,
            reason=retrying.first_line,
            expected=self._is_expected,
        )

    def _is_expected(self) -> bool:
        return self.web.waits or connecting.has_answered(self.url)

    def _explain(self, what: str, error: Exception, seconds: float) -> UserError:
        from urllib3.exceptions import NameResolutionError, SSLError

        if isinstance(error, SSLError):
            return retrying.untrusted(self._server(), error)
        reason = retrying.first_line(error)
        if not retrying.passes(error):
            return UserError(f"{self._server()} refused ({what}: {reason}).")
        if not self._is_expected():
            if isinstance(error, NameResolutionError):
                return UserError(f"{self._server()} cannot be found; is this machine online?")
            advice = "check the address, and that this machine may reach it"
            return retrying.never_reached(self._server(), what, error, seconds, advice=advice)
        if isinstance(error, retrying.Busy):
            return retrying.busy(self._server(), what, reason, seconds)
        return retrying.silent(self._server(), what, reason, seconds)

    def _server(self) -> str:
        return f"The server {urlsplit(self.url).hostname}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _version_file(partial: Path) -> Path:
    """Returns the path of the file that holds the version of a half-downloaded file."""
    return partial.with_name(f"{partial.name}.version")


def _version(response: BaseHTTPResponse) -> str:
    """Returns a strong validator of an answer's content, as If-Range takes it."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _check_answer(response: BaseHTTPResponse, address: str, folder: Path, *, verified: bool) -> None:
    """Refuses an answer that the disk cannot take, or whose truncation cannot be detected."""
    length = response.headers.get("Content-Length")
    if length is None and "chunked" not in response.headers.get("Transfer-Encoding", "") and not verified:
        raise UserError(
            f"{address} comes without its length; give its digest (sha256), so that truncation is detected."
        )
    needed, free = int(length or 0) / 1e9, shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise UserError(
            f"{address} needs {needed:.1f} GB, but only {free:.1f} GB are free in {folder}; make room there."
        )
