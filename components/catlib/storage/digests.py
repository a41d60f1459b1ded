"""The content of local files as digests, remembered while a file stays untouched.

A large dataset takes seconds to minutes to read. So the digests of one are kept beside the downloads, in
`digests/KEY.json` of the user's cache folder. A digest serves again while size, times and inode of its file are the
same; only the content counts, so a file that was merely touched is read again and has the digest that it had.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.catlib.artifacts import file_sha256
from components.catlib.disk import walk
from components.catlib.errors import UserError

REMEMBERED_BYTES = 2**26
"""Digests are remembered when it took reading this much to find them."""

SETTLED_SECONDS = 2.0
"""A file that changed more recently is not remembered: a second change could leave it the same times."""

Facts = list[int]
"""Size, inode, and the times of the last change of content and of anything, in ns since 1970."""


def content_digests(root: Path, memory: Path) -> list[tuple[str, int, str]]:
    """Returns the content of a file, or of all files below a folder, in the order of their names.

    Links are followed. Files and folders whose names begin with a dot do not count, because nothing reads them.

    Args:
        root: A file or a folder.
        memory: The folder where digests are remembered.

    Returns:
        Path below the root ("." for the root itself), size and SHA-256 of every file; nothing if there is no root.

    Raises:
        UserError: A file cannot be read.
    """
    note = memory / f"{hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:32]}.json"
    remembered = _read(note)
    try:
        facts = {name: _facts(path) for name, path in _files(root)}
        unknown = [name for name in facts if name not in remembered or remembered[name][0] != facts[name]]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = dict(zip(unknown, pool.map(lambda name: file_sha256(root / name), unknown), strict=True))
    except OSError as error:
        raise UserError(f"{error.filename or root} cannot be read ({error.strerror}).") from error
    digests = {name: found.get(name) or remembered[name][1] for name in facts}
    if sum(facts[name][0] for name in unknown) >= REMEMBERED_BYTES:
        settled = time.time_ns() - round(SETTLED_SECONDS * 1e9)
        _write(
            note, {name: [facts[name], digest] for name, digest in digests.items() if max(facts[name][2:]) < settled}
        )
    return [(name, facts[name][0], digests[name]) for name in sorted(digests)]


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        yield ".", root
        return
    for path in walk(root):
        if path.is_file() and not path.name.startswith("."):
            yield path.relative_to(root).as_posix(), path


def _facts(path: Path) -> Facts:
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _read(note: Path) -> dict[str, tuple[Facts, str]]:
    """Returns what is remembered; nothing if that cannot be read."""
    try:
        return {name: (list(facts), str(digest)) for name, (facts, digest) in json.loads(note.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(note: Path, digests: dict[str, list[object]]) -> None:
    """Remembers digests; where that is not possible, the files are read again next time."""
    partial = note.with_name(f".{note.name}.{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(digests), encoding="utf-8")
        partial.replace(note)
