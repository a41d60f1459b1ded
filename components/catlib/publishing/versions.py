"""Versions of a model, each written once: a version is a name for one content, from its first byte on.

    s3://models/NAME/VERSION/manifest.json    written last; has the size and the SHA-256 of every other file
    s3://models/NAME/VERSION/.publishing      there while the files are written; has the digest of the content

So a reader who begins with the manifest never sees half a version. An upload that was interrupted is repeated with the
same content. Other content under the same version is refused, also while the first is half written.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path

from components.catlib.artifacts import MANIFEST, Manifest, read_manifest
from components.catlib.errors import UserError
from components.catlib.storage import NotThere, Store
from components.catlib.storage.parallel import in_parallel
from components.catlib.storage.published import read

logger = logging.getLogger(__name__)

CLAIM = ".publishing"
DIGITS = 12
"""Number of digits of a digest that serve as a version."""


def content_digest(manifest: Manifest) -> str:
    """Returns the SHA-256 over names and content of an artifact's files, 64 hex digits."""
    lines = (f"{name} {record.sha256}\n" for name, record in sorted(manifest.files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def add_version(folder: Path, store: Store) -> bool:
    """Writes an artifact to a place of its own, unless it is there.

    Args:
        folder: A complete artifact folder.
        store: The version's place.

    Returns:
        Whether it was written; False if the same content is there.

    Raises:
        UserError: Other content has this version or is being written there, or something else lies there.
        Unavailable: The store is away; the same call completes the version.
    """
    manifest = read_manifest(folder)
    content = content_digest(manifest)
    there = {entry.name for entry in store.entries()}
    if MANIFEST not in there:
        if there and CLAIM not in there:
            raise UserError(f"{store.address} holds something else than a version of a model; choose another version.")
        if not store.create(CLAIM, content.encode()):
            raise UserError(
                f"Other content is being written to {store.address}, or was and broke off; choose another version, or "
                "remove what is there."
            )
    if _is_there(store, manifest):  # also if another process has just finished
        store.remove(CLAIM)
        return False
    in_parallel(functools.partial(store.write, name, folder / name) for name in sorted(manifest.files))
    store.write(MANIFEST, (folder / MANIFEST).read_bytes())
    store.remove(CLAIM)
    return True


def _is_there(store: Store, manifest: Manifest) -> bool:
    try:
        there = read(store).manifest
    except NotThere:
        return False
    if there.kind == manifest.kind and there.files == manifest.files:
        return True
    if content_digest(manifest) == _claimed(store):
        store.remove(CLAIM)
    raise UserError(
        f"{store.address} exists and has other content, and a version never changes; choose another version."
    )


def _claimed(store: Store) -> str:
    try:
        return store.read(CLAIM).decode()
    except NotThere:
        return ""
