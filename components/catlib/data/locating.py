"""Turns `dataset.source` into a tree of image files: a path, an address of the web or object store, or a known name.

A folder may hold images, or archives that belong together (Cityscapes comes as two). Archives are read in place. Those
from the web or the object store are downloaded once into the cache, which identifies them by content.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from components.catlib.artifacts import file_sha256
from components.catlib.credentials import refuse_credentials
from components.catlib.data import archives
from components.catlib.data.files import FileTree, folder_tree, is_image_path, is_text_path, merged
from components.catlib.data.known_datasets import KNOWN, Dataset
from components.catlib.disk import check_plain, temporary_folder
from components.catlib.errors import UserError
from components.catlib.storage import Storage, is_in_object_store, is_remote, is_web, shown
from components.catlib.storage.settings import store_out_of_sight

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_source(location: str, *, sha256: str | None = None) -> Iterator[tuple[FileTree, dict[str, Any]]]:
    """Finds the images of a source.

    Args:
        location: A folder or archive; an https://, s3:// or minio:// address; or a name in `known_datasets.KNOWN`. A
            file or folder in the current folder hides a known dataset of the same name.
        sha256: Expected SHA-256 of the archive; None accepts any.

    Yields:
        The image files, readable until the context ends, and facts for the manifest: source, terms, digest.

    Raises:
        UserError: The source does not exist, cannot be reached, has another digest, or is neither a folder nor an
            archive.
    """
    _check(location)
    name = shown(location)
    facts: dict[str, Any] = {"source": name}
    with contextlib.ExitStack() as stack:
        if location in KNOWN and not Path(location).exists():
            known = KNOWN[location]
            facts |= {"homepage": known.homepage, "terms": known.terms}
            path = _known_dataset(known, sha256)
        elif is_web(location):
            path = Storage().cached(location, sha256)
        elif is_remote(location):
            path = _stored(location, sha256, stack)
        else:
            path = Path(location)
        if path.is_file():
            facts["sha256"] = _checked_digest(path, name, sha256)
        elif path.is_dir() and sha256 is not None:
            raise _no_digest(name)
        yield _tree(path, name, stack), facts


def content_of(location: str, sha256: str | None, setting: str, *, here: bool = True) -> list[Any]:
    """Returns facts that differ when the content of a source differs, for cache keys.

    The same files at another path give the same facts, so that people share results. A source whose content cannot be
    looked up counts as unchanged, with a warning.

    Args:
        location: As for `open_source`, or the address of weights or of an artifact.
        sha256: Its expected digest. Nothing else counts then, because no other content is accepted.
        setting: Name of the setting or parameter that tells this content from another, for the warning.
        here: Whether this machine will read it; False: a pod, which has no local copies of known datasets.

    Raises:
        UserError: A file cannot be read, or the object store refuses.
    """
    if sha256 is not None:
        return [sha256]
    known = KNOWN.get(location)
    if known is not None and not here:
        return [known.name, known.sha256]
    if known is not None and not Path(location).exists():
        location = str(_local_copy(known) or known.url or location)
    if is_in_object_store(location) and not here and (out_of_sight := store_out_of_sight()):
        facts, reason = [], out_of_sight
    elif is_web(location):
        facts, reason = Storage().fingerprint(location), "its server does not state a version or does not answer"
        facts = facts if facts[0][1] else []
    elif is_remote(location):
        facts, reason = Storage().fingerprint(location), "there is nothing at this address"
    else:
        facts, reason = Storage().fingerprint(location), "there is no such file on this machine"
    if facts:
        return facts
    logger.warning(
        "the content of %s counts as unchanged since earlier runs, because %s; if it changes, give %s another value",
        shown(location),
        reason,
        setting,
    )
    return [location]


def _check(location: str) -> None:
    """Rejects a location that is neither a path nor a supported address."""
    refuse_credentials(location, "dataset.source")
    if not location.strip():
        raise UserError("dataset.source is empty; give a folder, an archive, an address or the name of a dataset.")
    scheme, colon, _ = location.partition("://")
    if colon and not is_web(location) and not is_remote(location):
        raise UserError(
            f"dataset.source {location} begins with {scheme}://, which cannot be read; give an address that begins "
            "with https://, http://, s3:// or minio:// (in lower case), or a plain path."
        )
    if not colon:
        try:
            Path(location).exists()
        except OSError as error:  # the name is too long, or a folder on the way may not be entered
            raise UserError(f"dataset.source {location} cannot be read ({error.strerror}); correct it.") from error


def _stored(location: str, sha256: str | None, stack: contextlib.ExitStack) -> Path:
    """Fetches an object, or all objects below a prefix, and returns the local path; archives stay in the cache."""
    store = Storage()
    if store.is_file(location):
        return store.cached(location, sha256)
    if sha256 is not None:
        raise _no_digest(location)
    folder = stack.enter_context(temporary_folder("images-")) / "images"
    names = store.file_names(location)
    packed = [name for name in names if "/" not in name and name.endswith(archives.SUFFIXES)]
    if not packed or any(is_image_path(PurePosixPath(name)) for name in names):
        return store.fetch_files(location, folder)
    folder.mkdir()
    for name in [*packed, *(name for name in names if "/" not in name and is_text_path(PurePosixPath(name)))]:
        (folder / name).symlink_to(store.cached(f"{location.rstrip('/')}/{name}"))
    return folder


def _no_digest(name: str) -> UserError:
    return UserError(
        f"dataset.sha256 is the digest of a single archive, but {name} is a folder; remove dataset.sha256."
    )


def _known_dataset(known: Dataset, sha256: str | None) -> Path:
    """Returns the local copy of a known dataset; downloads it if there is none and it is public."""
    place = _local_copy(known)
    if place is not None:
        return place
    if known.url is None:
        raise UserError(
            f"Dataset {known.name} is not in {known.places[0]}/ and needs a registration: register, "
            f"{known.instructions}."
        )
    try:
        return Storage().cached(known.url, sha256 or known.sha256)
    except UserError as error:
        raise type(error)(
            f"Dataset {known.name} could not be downloaded ({str(error).rstrip('.')}): {known.instructions}."
        ) from error


def _local_copy(known: Dataset) -> Path | None:
    return next((place for place in known.places if place.exists()), None)


def _checked_digest(path: Path, name: str, expected: str | None) -> str:
    found = file_sha256(path)
    if expected not in (None, found):
        raise UserError(
            f"{name} has the SHA-256 {found}, expected is {expected}; fetch it again or correct dataset.sha256."
        )
    return found


def _tree(path: Path, name: str, stack: contextlib.ExitStack) -> FileTree:
    if path.is_file():
        return stack.enter_context(archives.open_archive(path, where=name))
    check_plain(path, what=f"dataset.source {name}")
    if not path.is_dir():
        known = f", or name a known dataset: {', '.join(KNOWN)}" if "/" not in name else ""
        raise UserError(f"dataset.source {name} is neither a folder nor an archive; correct it{known}.")
    tree = folder_tree(path, where=name)
    packed = [file for file in sorted(path.iterdir()) if file.is_file() and file.name.endswith(archives.SUFFIXES)]
    if tree.files or not packed:
        return tree
    opened = [stack.enter_context(archives.open_archive(file, where=f"{name}/{file.name}")) for file in packed]
    return merged([tree, *opened], where=name)
