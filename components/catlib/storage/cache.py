"""Keeps files that others publish (data, weights) by their content, so that each is downloaded once.

They lie in the user's cache folder: `~/.cache/cat-pipeline`, or `$XDG_CACHE_HOME/cat-pipeline`.

    content/SHA256            a file, named after its digest
    addresses/KEY.json        the content that an address had, and its version (ETag) then
    digests/KEY.json          the content of local files; see `digests.py`
    partial/KEY/…             the part of an unfinished download that has arrived
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import filelock
import platformdirs

from components.catlib.artifacts import file_sha256, replacing
from components.catlib.disk import writing_to
from components.catlib.errors import UserError
from components.catlib.storage.addresses import shown

logger = logging.getLogger(__name__)


class Source(Protocol):
    """A file elsewhere: `web.WebFile` or `transfer.StoredFile`."""

    def version(self) -> str:
        """Returns a text that differs when the file's content differs; "" if none is known."""
        ...

    def download(self, path: Path, sha256: str | None = None) -> str:
        """Puts the whole file at a path and returns its version."""
        ...


def user_folder() -> Path:
    """Returns the user's cache folder, which may be missing."""
    return platformdirs.user_cache_path("cat-pipeline", appauthor=False)


class Cache:
    """Keeps downloaded files in a folder that the processes of a user share."""

    def __init__(self, folder: Path | None = None) -> None:
        """Makes the folder.

        Args:
            folder: Folder for the files; None: the user's cache folder.

        Raises:
            UserError: The folder cannot be written.
        """
        self._folder = folder or user_folder()
        with self._writing():
            (self._folder / "partial").mkdir(parents=True, exist_ok=True)

    def get(self, address: str, source: Source, sha256: str | None = None) -> Path:
        """Returns a file from the cache, after a download if needed.

        With a digest, any cached file of that content serves. Without one, an earlier download from this address serves
        while the server names the same version of it (or cannot be reached).

        Args:
            address: Address of the file; another spelling counts as another file.
            source: The file.
            sha256: Expected digest.

        Raises:
            UserError: There is nothing at the address, it cannot be reached, the file has another digest, or the disk
                is full.
        """
        content, partial = self._folder / "content", self._folder / "partial" / _key(address)
        with self._writing(), filelock.FileLock(partial.with_name(f"{partial.name}.lock")):
            if sha256 is not None:
                kept = content / sha256
                if _is_used(kept) and file_sha256(kept) == sha256:
                    return kept
            elif kept := self._kept(address, source):
                return kept
            path = partial / "file"
            try:
                version = source.download(path, sha256)
            except OSError:  # of this disk, which needs the room
                shutil.rmtree(partial, ignore_errors=True)
                raise
            digest = sha256 or file_sha256(path)
            content.mkdir(exist_ok=True)
            path.replace(content / digest)
            self._note(address, {"address": shown(address), "version": version, "sha256": digest})
            shutil.rmtree(partial)
        logger.info("the SHA-256 of %s is %s", shown(address), digest)
        return content / digest

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing_to(
            self._folder, what=f"The cache in {self._folder}", advice="set XDG_CACHE_HOME to another folder"
        )

    def known_version(self, address: str) -> str:
        """Returns the version that a file had when it was downloaded; "" if it never was."""
        return (self._noted(address) or {"version": ""})["version"]

    def _kept(self, address: str, source: Source) -> Path | None:
        """Returns the earlier content of an address, if it is still current and the copy is intact."""
        noted = self._noted(address)
        if noted is None:
            return None
        kept = self._folder / "content" / noted["sha256"]
        if not _is_used(kept) or file_sha256(kept) != noted["sha256"]:
            return None
        try:
            version = source.version()
        except UserError as error:
            logger.warning("%s Using the copy of %s that was downloaded earlier", error, shown(address))
            return kept
        return kept if version and version == noted["version"] else None

    def _note(self, address: str, record: Mapping[str, str]) -> None:
        path = self._note_path(address)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(record) + "\n", encoding="utf-8")

    def _noted(self, address: str) -> dict[str, str] | None:
        """Returns version and digest of the content that an address had; None if nothing is known."""
        try:
            record = json.loads(self._note_path(address).read_text(encoding="utf-8"))
            noted = {key: str(record[key]) for key in ("version", "sha256")}
            return noted if re.fullmatch("[0-9a-f]{64}", noted["sha256"]) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _note_path(self, address: str) -> Path:
        return self._folder / "addresses" / f"{_key(address)}.json"


def _is_used(kept: Path) -> bool:
    """Returns whether a file is there, and notes this use as its time of access: `pipelines gc` removes unused ones."""
    with contextlib.suppress(FileNotFoundError):
        with contextlib.suppress(PermissionError):  # another user's cache, which can only be read
            os.utime(kept, ns=(time.time_ns(), kept.stat().st_mtime_ns))
        return kept.is_file()
    return False


def _key(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:32]
