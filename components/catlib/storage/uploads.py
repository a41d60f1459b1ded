"""Uploads of large objects in parts: several at the same time, each repeated by itself when it fails."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minio import Minio

from components.catlib.errors import UserError
from components.catlib.storage import retrying, sdk, transfer
from components.catlib.storage.parallel import move_parts

if TYPE_CHECKING:
    from components.catlib.storage.objects import S3Store

logger = logging.getLogger(__name__)

_MOST_PARTS = 10_000
_ATTEMPTS = 3
"""How often an upload is begun that the store loses."""


class UploadLost(UserError):
    """The store does not know an upload: it has lost the parts, or has put them together without an answer."""


def put_in_parts(store: S3Store, name: str, source: bytes | Path, headers: Mapping[str, str]) -> None:
    """Uploads an object in parts.

    Args:
        store: Where it goes.
        name: Its name there.
        source: Its content.
        headers: Headers of the object.

    Raises:
        UserError: The store refuses, or the file changes meanwhile. No parts are left in the store, if it can be
            reached.
    """
    parts = cut(len(source) if isinstance(source, bytes) else source.stat().st_size)
    for attempt in range(1, _ATTEMPTS + 1):
        etags = [""] * len(parts)
        try:
            _upload(store, name, source, headers, parts, etags)
        except UploadLost as error:
            found = store.entry(name)
            if found is not None and found.version == _joined(etags):
                return
            if attempt == _ATTEMPTS:
                raise
            logger.warning("%s Sending them again.", error)
        else:
            return


def cut(size: int) -> list[tuple[int, int]]:
    """Returns start and length of the parts of an object: `transfer.PART_BYTES`, or a 10,000th of it above 156 GiB."""
    return list(transfer.parts(size, max(transfer.PART_BYTES, math.ceil(size / _MOST_PARTS))))


def _upload(
    store: S3Store,
    name: str,
    source: bytes | Path,
    headers: Mapping[str, str],
    parts: Sequence[tuple[int, int]],
    etags: list[str],
) -> None:
    """Makes one attempt; the ETags of the parts go into `etags`."""
    bucket, key, what = store.location.bucket, store.location.key(name), f"writing {store.address}/{name}"
    upload = store.ask(what, lambda client: sdk.begin_upload(client, bucket, key, headers))

    def send(index: int) -> None:
        def put(client: Minio) -> str:
            return sdk.put_part(client, bucket, key, _part(source, *parts[index]), upload, index + 1)

        etags[index] = store.ask(what, put)

    try:
        move_parts(functools.partial(send, index) for index in range(len(parts)))
        store.ask(what, lambda client: sdk.finish_upload(client, bucket, key, upload, etags))
    except BaseException:
        with contextlib.suppress(UserError):
            retrying.once(lambda: store.ask(what, lambda client: sdk.abandon_upload(client, bucket, key, upload)))
        raise


def _part(source: bytes | Path, start: int, length: int) -> bytes | memoryview:
    if isinstance(source, bytes):
        return memoryview(source)[start : start + length]
    with source.open("rb") as file:
        file.seek(start)
        content = file.read(length)
    if len(content) != length:
        raise UserError(f"{source} changed while it was uploaded; run the command again.")
    return content


def _joined(etags: Sequence[str]) -> str:
    """Returns the ETag of an object that was put together from parts; "" if those of the parts are no MD5 digests."""
    try:
        digests = b"".join(bytes.fromhex(etag) for etag in etags)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"
