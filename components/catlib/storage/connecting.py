"""Connections to servers, with time limits and trusted certificates, which remember the servers that ever answered."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import urllib3
from urllib3.exceptions import ConnectTimeoutError
from urllib3.util import parse_url

from components.catlib.storage.parallel import PARALLEL
from components.catlib.storage.retrying import Busy, passing

USUAL_TIMES = urllib3.Timeout(connect=10, read=60)
"""Seconds for a connection or the sending of a block, and for the next bytes of an answer."""
CONNECT_SECONDS = 2.0
"""Time for the first connection to a server, its name's look-up and all its addresses included."""
ANSWER_SECONDS = 3.5
"""Time for its first answer to begin."""
_BLOCK_BYTES = 256 * 2**10
"""Sent at once. A time limit holds for the sending of a block, not of the whole body, which may take any time."""

_answered: set[str] = set()


def has_answered(url: str) -> bool:
    """Returns whether the server of an address has answered a request of this process, in whatever way."""
    return _server(url) in _answered


def connections(ca_file: str | None, *, waits: bool, service: str | None = None) -> urllib3.PoolManager:
    """Returns a pool of connections with time limits, which repeats nothing.

    An answer that the server cannot serve the request now raises `retrying.Busy`, unless it is XML, in which a store
    explains its errors.

    Args:
        ca_file: Certificates to trust instead of the usual ones.
        waits: Whether servers that have never answered get the usual time; else they get a few seconds.
        service: Address that stands for all servers reached through the pool, because the SDK gives every bucket of
            Amazon's its own host; None: every server stands for itself.
    """
    import certifi

    return _Connections(
        waits=waits,
        service=service,
        timeout=USUAL_TIMES,
        maxsize=4 * PARALLEL,
        retries=False,  # `retrying` repeats requests, with a time limit and a log line
        cert_reqs="CERT_REQUIRED",
        ca_certs=ca_file or certifi.where(),
    )


class _Connections(urllib3.PoolManager):
    def __init__(self, *, waits: bool, service: str | None, **named: Any) -> None:
        super().__init__(**named)
        self._waits = waits
        self._service = service

    def urlopen(self, method: str, url: str, redirect: bool = True, **named: Any) -> urllib3.BaseHTTPResponse:
        service = self._service or url
        if not self._waits and not has_answered(service):
            _try_to_connect(url)
            named["timeout"] = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
        if body := named.get("body"):
            named["body"] = _blocks(body)
        response = super().urlopen(method, url, redirect, **named)
        _answered.add(_server(service))
        explained = "xml" in response.headers.get("Content-Type", "") and response.headers.get("Content-Length") != "0"
        if passing(response.status) and (method == "HEAD" or not explained):
            response.drain_conn()
            response.release_conn()
            raise Busy(response.status, response.headers)
        return response


def _server(url: str) -> str:
    parts = parse_url(url)
    return f"{parts.scheme}://{parts.host}:{parts.port}"


def _blocks(body: bytes | memoryview) -> Iterator[memoryview]:
    whole = memoryview(body)
    for start in range(0, len(whole), _BLOCK_BYTES):
        yield whole[start : start + _BLOCK_BYTES]


def _try_to_connect(url: str) -> None:
    """Opens and closes a connection, to limit what urllib3 does not: looking up a name, and trying all its addresses.

    Any error but the lack of time is left to the request that follows.

    Raises:
        ConnectTimeoutError: There is no connection within `CONNECT_SECONDS`.
    """
    parts = parse_url(url)
    address, ended = ((parts.host or "").strip("[]"), parts.port or parts.scheme), threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            socket.create_connection(address, timeout=CONNECT_SECONDS).close()
        ended.set()

    threading.Thread(target=connect, name="first contact", daemon=True).start()
    if not ended.wait(CONNECT_SECONDS):
        raise ConnectTimeoutError(f"no connection within {CONNECT_SECONDS} s")
