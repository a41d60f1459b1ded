"""An artifact in a store: which object holds which file, and how it is replaced while others read or replace it.

The first artifact at an address has every file under its own name. A later one writes what differs under new names,
`.TIME-ID/NAME`. Then one write of the manifest replaces the artifact, and objects that it no longer names are removed.
Such a manifest also has the entry `store`, which local copies do not have:

    "store": {"folders": {"report.html": ".20270131T120000-0a1b2c3d"}, "left": ["report.html"]}

Readers begin with the manifest, and read it twice: it holds the digests of all other files, but nothing holds its own.
They begin again if an object is gone and the manifest has changed.

Several processes may publish at the same address; the last one that writes its manifest wins. Each keeps an object
`.TIME-ID/publishing` from before it reads the earlier manifest until it is done. While another one has such an object,
nobody removes anything and nobody writes under plain names, because the other may rely on the old objects or write the
same names. A process that was killed leaves its object behind; it counts for a day.
"""

from __future__ import annotations

import calendar
import contextlib
import functools
import json
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.catlib.artifacts import (
    ABANDONED_SECONDS,
    MANIFEST,
    Manifest,
    another_kind,
    parse_manifest,
    read_manifest,
)
from components.catlib.errors import Unavailable, UserError
from components.catlib.storage.parallel import in_parallel
from components.catlib.storage.store import Entry, NotThere, Store

logger = logging.getLogger(__name__)

MARK = "publishing"
MOST_READS = 10
"""A manifest that differs each time it is read, so often, comes from a store that does not work."""
_TIME = "%Y%m%dT%H%M%S"
_NEW_FOLDER = r"\.(\d{8}T\d{6})-[0-9a-f]{8}"


class _Places(BaseModel):
    """The entry `store` of a manifest in a store."""

    model_config = ConfigDict(extra="forbid")

    folders: dict[str, str] = Field(default={}, description="folder of each file that does not lie under its own name")
    left: list[str] = Field(default=[], description="objects of earlier artifacts that may still be there")


@dataclass(frozen=True)
class Published:
    """An artifact in a store.

    Attributes:
        manifest: Its manifest, as a local copy has it.
        content: The text of that.
        stored: The text of the manifest in the store.
        objects: The object of every file, by the file's name.
        left: Objects of earlier artifacts that may still be there.
    """

    manifest: Manifest
    content: bytes
    stored: bytes
    objects: Mapping[str, str]
    left: Sequence[str]


def read(store: Store, kind: str | None = None) -> Published:
    """Reads the manifest of the artifact in a store.

    Args:
        store: Where the artifact lies.
        kind: The expected kind; several may be given as "teacher|distill".

    Raises:
        NotThere: There is no artifact.
        UserError: It is of another kind or damaged, or the store refuses or returns other bytes each time.
    """
    try:
        stored = _read_twice(store)
    except NotThere as error:
        raise NotThere(
            f"{store.address} is not an artifact: it has no {MANIFEST}; was the stage that writes it interrupted?"
        ) from error
    return _parsed(store, stored, kind)


def _read_twice(store: Store) -> bytes:
    """Returns the text of a manifest as two reads in a row return it."""
    stored = store.read(MANIFEST)
    for _ in range(MOST_READS):
        before, stored = stored, store.read(MANIFEST)
        if stored == before:
            return stored
    raise UserError(f"{store.address}/{MANIFEST} is another one each time it is read; check the store.")


def _parsed(store: Store, stored: bytes, kind: str | None = None) -> Published:
    places, content = _Places(), stored
    try:
        fields = json.loads(stored)
    except ValueError:
        fields = None  # `parse_manifest` complains
    if isinstance(fields, dict) and "store" in fields:
        places, content = _places(fields.pop("store"), store), _text(fields)
    manifest = parse_manifest(content, where=store.address, kind=kind)
    objects = {name: _object(places.folders.get(name, ""), name) for name in manifest.files}
    return Published(manifest, content, stored, objects, places.left)


def has_changed(store: Store, seen: Published) -> bool:
    """Returns whether the artifact that was read from a store has been replaced or removed since."""
    try:
        return store.read(MANIFEST) != seen.stored
    except NotThere:
        return True


def check_replaceable(store: Store, kind: str) -> None:
    """Checks that the artifact in a store, if there is one, has the kind of the one that is to replace it.

    Raises:
        UserError: It is of another kind, or the store refuses.
    """
    _check_kind(store, _earlier(store), kind)


def publish(folder: Path, store: Store) -> None:
    """Uploads an artifact: the files that differ from the earlier artifact's first, then the manifest.

    Objects that no artifact of this address named are left alone.

    Args:
        folder: A complete artifact folder.
        store: Where it goes.

    Raises:
        UserError: There is an artifact of another kind, the store refuses, or there is no such bucket.
    """
    began, manifest = time.monotonic(), read_manifest(folder)
    own = f".{time.strftime(_TIME, time.gmtime())}-{uuid.uuid4().hex[:8]}"
    with _marked(store, own):
        entries, earlier = store.entries(), _earlier(store)
        _check_kind(store, earlier, manifest.kind)
        sizes = {entry.name: entry.bytes for entry in entries}
        objects = {
            name: earlier.objects[name]
            for name, record in manifest.files.items()
            if earlier
            and earlier.manifest.files.get(name) == record
            and sizes.get(earlier.objects[name]) == record.bytes
        }
        new = manifest.files.keys() - objects.keys()
        first = MANIFEST not in sizes and earlier is None and not _others(entries, own)
        objects |= {name: _object("" if first else own, name) for name in new}
        in_parallel(functools.partial(store.write, objects[name], folder / name) for name in sorted(new))
        plain = {name for name in [*earlier.objects.values(), *earlier.left] if not _is_new(name)} if earlier else set()
        left = sorted(plain & sizes.keys() - {*objects.values()})
        content = _with_places(folder, objects, left)
        store.write(MANIFEST, content)
        _collect(store, own, content, {*objects.values()}, left, entries)
    size = sum(manifest.files[name].bytes for name in new)
    logger.info("published %s: %.1f MB in %.1f s", store.address, size / 1e6, time.monotonic() - began)


def find_file(store: Store, name: str) -> str | None:
    """Returns the object of a file if it belongs to an artifact in a store; else None.

    A store that refuses to say whether there is an artifact has none.
    """
    try:
        return read(store).objects.get(name)
    except Unavailable:
        raise
    except UserError:
        return None


@contextlib.contextmanager
def _marked(store: Store, own: str) -> Iterator[None]:
    """Shows other processes, for the time of the body, that this one publishes."""
    mark = f"{own}/{MARK}"
    store.write(mark, b"in progress\n")
    try:
        yield
    except Unavailable:
        raise  # the store is away, so the object stays
    except BaseException:
        with contextlib.suppress(UserError):
            store.remove(mark)
        raise
    try:
        store.remove(mark)
    except UserError as error:
        logger.warning("%s is published, but %s stays there: %s", store.address, mark, error)


def _others(entries: Sequence[Entry], own: str) -> bool:
    """Returns whether another living process publishes here."""
    for entry in entries:
        found = re.fullmatch(f"{_NEW_FOLDER}/{MARK}", entry.name)
        if found and not entry.name.startswith(own):
            began = calendar.timegm(time.strptime(found[1], _TIME))
            if abs(time.time() - began) < ABANDONED_SECONDS:
                return True
    return False


def _collect(
    store: Store, own: str, content: bytes, needed: set[str], left: Sequence[str], entries: Sequence[Entry]
) -> None:
    """Removes the objects of earlier artifacts, and those of processes that were killed while they published.

    Whoever publishes after this listing relies on the manifest that is there now, or on a later one.
    """

    def garbage(listed: Sequence[Entry]) -> list[str]:
        names = (entry.name for entry in listed if entry.name not in needed and not entry.name.startswith(own))
        return [name for name in names if _is_new(name) or name in left]

    try:
        if garbage(entries):
            entries = store.entries()
            if not _others(entries, own) and store.read(MANIFEST) == content:
                in_parallel(functools.partial(store.remove, name) for name in garbage(entries))
    except UserError as error:
        logger.warning("%s is published, but objects of an earlier artifact stay there: %s", store.address, error)


def _check_kind(store: Store, earlier: Published | None, kind: str) -> None:
    if earlier is not None and earlier.manifest.kind != kind:
        raise another_kind(store.address, earlier.manifest.kind, kind)


def _earlier(store: Store) -> Published | None:
    """Returns the artifact in a store; None if there is none, or a damaged one.

    Raises:
        UserError: The store refuses.
    """
    try:
        stored = store.read(MANIFEST)
    except NotThere:
        return None
    try:
        return _parsed(store, stored)
    except UserError as error:
        logger.warning("%s", error)
        return None


def _places(value: object, store: Store) -> _Places:
    try:
        places = _Places.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{store.address}/{MANIFEST} is damaged (store: {error.errors()[0]['msg']}).") from error
    for folder in places.folders.values():
        if not re.fullmatch(_NEW_FOLDER, folder):
            raise UserError(f"{store.address}/{MANIFEST} names the folder {folder!r}; do not trust this artifact.")
    return places


def _with_places(folder: Path, objects: Mapping[str, str], left: Sequence[str]) -> bytes:
    """Returns the manifest of a folder for the store."""
    content = (folder / MANIFEST).read_bytes()
    folders = {name: key.partition("/")[0] for name, key in objects.items() if key != name}
    if not folders and not left:
        return content
    return _text({**json.loads(content), "store": {"folders": folders, "left": list(left)}})


def _text(fields: Mapping[str, object]) -> bytes:
    """Returns a manifest as text, as artifacts have it."""
    return (json.dumps(fields, indent=1) + "\n").encode()


def _object(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_new(name: str) -> bool:
    """Returns whether an object lies in a folder that a later publication made."""
    return re.match(f"{_NEW_FOLDER}/", name) is not None
