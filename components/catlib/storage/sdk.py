"""Requests that the S3 SDK can send, but keeps to itself; nothing private of it is used elsewhere.

Its public `put_object` cannot send a condition, uploads the parts of a file in threads of its own, three parts of every
file in memory, and has to be repeated as a whole when one part fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minio import Minio
from minio.datatypes import Part
from minio.error import InvalidResponseError, S3Error, ServerError


def put(client: Minio, bucket: str, key: str, content: bytes | memoryview, headers: Mapping[str, str]) -> None:
    """Writes an object."""
    client._put_object(bucket, key, content, dict(headers))  # type: ignore[arg-type]


def begin_upload(client: Minio, bucket: str, key: str, headers: Mapping[str, str]) -> str:
    """Begins an object that comes in parts, and returns the upload's id."""
    return client._create_multipart_upload(bucket, key, dict(headers))


def put_part(client: Minio, bucket: str, key: str, content: bytes | memoryview, upload: str, number: int) -> str:
    """Uploads a part, 1 being the first, and returns its ETag."""
    return client._upload_part(bucket, key, content, None, upload, number)  # type: ignore[arg-type]


def finish_upload(client: Minio, bucket: str, key: str, upload: str, etags: Sequence[str]) -> None:
    """Puts the parts together to the object.

    Raises:
        ConnectionError: The store began to answer that all is well, and then could not do it.
    """
    parts = [Part(number, etag) for number, etag in enumerate(etags, start=1)]
    if not client._complete_multipart_upload(bucket, key, upload, parts).etag:
        raise ConnectionError("the store did not put the parts together")


def abandon_upload(client: Minio, bucket: str, key: str, upload: str) -> None:
    """Removes the parts of an upload."""
    client._abort_multipart_upload(bucket, key, upload)


def status(error: Exception) -> int:
    """Returns the HTTP status of the answer that an error reports; 0 if there was no answer."""
    match error:
        case S3Error():
            return error.response.status
        case ServerError():
            return error.status_code
        case InvalidResponseError():
            return error._code  # not S3's XML: a proxy in between, or another kind of server
        case _:
            return 0
