"""The form of addresses: `s3://bucket/prefix`, `https://host/file`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from components.catlib.errors import UserError

WEB_SCHEMES = ("https://", "http://")

_BUCKET = re.compile(
    r"(?!.*(\.\.|\.-|-\.))(?!([0-9]+\.){3}[0-9]+$)(?!xn--|sthree-|amzn-s3-demo-)"
    r"(?!.*(-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
)
"""The rules of S3 for new buckets. Names with capitals or underscores, which it once took, are mistakes nowadays:
neither MinIO nor SeaweedFS takes them, and nobody can make such a bucket any more."""


def is_web(address: str) -> bool:
    """Returns whether an address names a file of the web."""
    return address.startswith(WEB_SCHEMES)


def shown(address: str) -> str:
    """Returns an address without passwords and signatures, for messages and manifests."""
    if not is_web(address):
        return address
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise UserError(f"{address.partition('?')[0]} is not a web address ({error}).") from error
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def split(address: str) -> tuple[str, str]:
    """Returns the address of the folder that a file lies in, and the file's name: ("s3://bucket/a", "b").

    Both `s3://bucket` and `s3://bucket/` are folders, not files: the name is then "".
    """
    scheme, separator, path = address.partition("://")
    folder, slash, name = path.rstrip("/").rpartition("/")
    return (f"{scheme}{separator}{folder}", name) if slash else (address, "")


@dataclass(frozen=True)
class Location:
    """A place in an object store.

    Attributes:
        bucket: The bucket.
        prefix: Key of the folder that objects lie in; empty for the whole bucket.
    """

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, address: str) -> Location:
        """Reads `s3://bucket/prefix`.

        Raises:
            UserError: The bucket is missing or has an impossible name, or the prefix has empty or relative parts.
        """
        bucket, _, prefix = address.partition("://")[2].partition("/")
        prefix = prefix.strip("/")
        if not bucket or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
            raise UserError(f"{address!r} is not an object-store address of the form s3://BUCKET/FOLDER.")
        if not _BUCKET.fullmatch(bucket):
            raise UserError(
                f"{address!r} names the bucket {bucket!r}, but buckets have 3 to 63 letters (a to z, no capitals), "
                "digits, dots and hyphens, begin and end with a letter or digit, and look neither like an IP address "
                "nor like a name that S3 reserves (xn--…, …--x-s3); check the address."
            )
        return cls(bucket, prefix)

    def key(self, name: str) -> str:
        """Returns the object key of a file in this folder."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")
