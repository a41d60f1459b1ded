"""The content of an artifact folder, and how the folder appears whole or not at all.

Every stage writes one folder. Its `manifest.json` is written last and names every other file with size and SHA-256, so
a folder without a manifest is no artifact. A reader names a kind ("dataset", "teacher", …) and gets the manifest, or
one sentence that names the folder's fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.catlib.code_digest import code_digest
from components.catlib.disk import writing_to
from components.catlib.errors import Incomplete, UserError

SCHEMA_VERSION = 1
LONGEST_NAME = 255
"""Largest number of bytes in the name of a file or folder."""

_PLAIN = re.compile(r"(?!\.{1,2}$)[^/\0]+")
MANIFEST = "manifest.json"
TEACHER_FILE = "teacher.onnx"
"""The teacher beside a student's exported files, to be timed with them."""
TRY_PAGE = "try.html"
"""A page that is made of a report's students and lies beside it; nothing is lost with it."""
PARTIAL = ".partial"
"""Ending of the names of half-written files and folders; these names also begin with a dot."""
OLD = ".old"
"""Ending of the name of a folder while another one takes its place; the name also begins with a dot."""
ABANDONED_SECONDS = 86400.0
"""A half-written file or folder that is not locked and has not changed for this long is abandoned."""


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(extra="forbid")

    bytes: int = Field(ge=0, description="size")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the content")


class Manifest(BaseModel):
    """What an artifact is, where it came from, and its files."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = Field(default=SCHEMA_VERSION, description="layout version of artifact folders")
    kind: str = Field(description="the stage that wrote it")
    code_digest: str = Field(description="digest of the code of the stage that wrote it")
    config: dict[str, Any] = Field(description="the stage's section of the recipe")
    inputs: dict[str, str] = Field(description="digest of the manifest of every input artifact")
    summary: dict[str, Any] = Field(description="facts about the content, by kind of artifact")
    files: dict[str, FileRecord] = Field(description="relative path -> record")
    request: str = Field(default="", description="digest of the whole request of a command line; see `stamp`")

    def digest(self) -> str:
        """Returns a digest of the whole artifact: content, configuration and origin."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Returns once a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replaces a file at once: gives a path beside it to write to, syncs that file to the disk, then renames it.

    The path is that of an empty file, which no other writer has. When the body raises, the old file stays.

    Raises:
        UserError: The disk is full, or nothing can be written there.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    with writing_to(path, partial=partial), partial.open("x+b") as own:
        _lock(own.fileno())
        try:
            with writing_to(path, partial=partial):
                yield partial
                fsync(partial)
                partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        fsync(path.parent)


@contextlib.contextmanager
def replacing_folder(target: Path, *, what: str = "", check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Replaces a folder at once: gives an empty folder beside it to fill, syncs it, then puts it in the other's place.

    When the body raises, the old folder stays. A process that is killed loses no finished folder: where the system
    cannot exchange two folders in one step, the old one is renamed `.NAME.XXXXXXXX.old` for a moment, and the next
    reader or writer of this path completes what was begun (`complete_replacing`).

    Args:
        target: The folder to make; whatever is there is replaced. A symbolic link is followed.
        what: What messages call it; "": its path.
        check: Called when the new folder is finished; raises UserError if the old one must not be replaced.

    Raises:
        UserError: The disk is full, nothing can be written there, or the old folder must not be replaced. If the new
            folder is finished by then, it stays beside the old one.
    """
    target = Path(os.path.realpath(target))
    if os.path.ismount(target):
        raise UserError(f"{what or target} is a mount point, which cannot be replaced; give a folder in it.")
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        with writing_to(target, what=what, partial=staging):
            target.parent.mkdir(parents=True, exist_ok=True)
            complete_replacing(target)
            _clear_away(target)
            staging.mkdir()
            with contextlib.ExitStack() as stack:
                descriptor = os.open(staging, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                _lock(descriptor)
                yield staging
                for path in [*staging.rglob("*"), staging]:
                    fsync(path)
                try:
                    check()
                    _put_in_place(staging, target)
                except (UserError, OSError) as error:
                    kept = staging.rename(target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}"))
                    raise UserError(f"{str(error).rstrip('.')}. What was finished lies in {kept}.") from error
                fsync(target.parent)
    finally:
        complete_replacing(target)
        shutil.rmtree(staging, ignore_errors=True)
        _discard(_aside(staging))


def complete_replacing(target: Path) -> None:
    """Completes a replacement of a folder whose process was killed between its two renames.

    Both folders are finished then: the new one takes the place, or the old one if there is no other.

    Raises:
        UserError: This user may not rename them.
    """
    target = Path(os.path.realpath(target))
    with writing_to(target):
        if target.exists():
            return
        for old in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}{OLD}"):
            if _renamed(old.with_suffix(PARTIAL), target) or _renamed(old, target):
                return


def _renamed(new: Path, target: Path) -> bool:
    """Renames a folder unless there is another one; returns False if there is, and if `new` is gone."""
    try:
        new.rename(target)  # replaces an empty folder
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _put_in_place(new: Path, target: Path) -> None:
    """Renames a finished folder to its target; what is there ends as `new` or as `_aside(new)`.

    Others may do the same at the same time: readers complete what looks broken off, writers put their own folder there.
    """
    old = _aside(new)
    while new.exists() and not _renamed(new, target) and not _exchange(new, target):
        _discard(old)
        with contextlib.suppress(FileNotFoundError):
            target.rename(old)


def _discard(old: Path) -> None:
    """Removes a folder that was set aside, under a name at which nobody who completes a replacement looks."""
    with contextlib.suppress(OSError):  # gone: another process has put it in its place, or discards it
        doomed = old.rename(old.with_name(f"{old.stem.rpartition('.')[0]}.{uuid.uuid4().hex[:8]}{PARTIAL}"))
        shutil.rmtree(doomed, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges the names of two folders in one step; returns False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # of Linux
    at_working_folder, exchange = -100, 2
    names = os.fsencode(first), os.fsencode(second)
    return renameat2 is not None and renameat2(at_working_folder, names[0], at_working_folder, names[1], exchange) == 0


def _aside(staging: Path) -> Path:
    return staging.with_suffix(OLD)


def _clear_away(target: Path) -> None:
    """Removes what processes that were killed while they replaced a folder left beside it."""
    pattern = f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}"
    superseded = list(target.parent.glob(f"{pattern}{OLD}"))
    if target.exists():
        for old in superseded:
            _discard(old)
    remove_abandoned(target.parent.glob(f"{pattern}{PARTIAL}"))


def remove_abandoned(partials: Iterable[Path]) -> None:
    """Removes those half-written files and folders whose writers were killed.

    A living process locks what it writes, a moment after it has made it.
    """
    for partial in partials:
        # An error means: locked, or no locks here (a process may write there), or gone (a process has just finished).
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            descriptor = os.open(partial, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def _lock(descriptor: int) -> None:
    """Marks a half-written file or folder as one that a living process writes to."""
    with contextlib.suppress(OSError):  # some network file systems have no locks; there, what is abandoned stays
        fcntl.flock(descriptor, fcntl.LOCK_SH)


class ArtifactWriter:
    """What a stage writes to: a folder, and the summary that goes into the manifest.

    Attributes:
        folder: The folder for the stage's files.
        summary: JSON values, which the stage fills in.
    """

    def __init__(self, folder: Path) -> None:
        """Wraps an existing, empty folder."""
        self.folder = folder
        self.summary: dict[str, Any] = {}

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file; NaN and infinity are refused (ValueError)."""
        (self.folder / name).write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def writing(
    output: Path,
    *,
    kind: str,
    config: BaseModel,
    inputs: Mapping[str, Manifest | str] | None = None,
    stage: str | None = None,
) -> Iterator[ArtifactWriter]:
    """Writes an artifact: files beside the output folder, then the manifest; then the folder takes its place.

    When the body raises, `output` stays as it was.

    Args:
        output: The folder to make. An existing artifact of the same kind, or an empty folder, is replaced.
        kind: Kind of the artifact.
        config: The stage's configuration.
        inputs: Manifests of the artifacts that this one is made from, by name; of a file its SHA-256.
        stage: The stage that writes it, by its name in `code_digest.STAGES`; None: the one named as the kind.

    Raises:
        UserError: `output` holds something else than an artifact of this kind, or cannot be written.
    """
    check = functools.partial(check_replaceable, output, kind)
    check()
    code = code_digest(stage or kind)  # now: during a long training, the files may change
    with replacing_folder(output, what=f"Output {output}", check=check) as folder:
        writer = ArtifactWriter(folder)
        yield writer
        manifest = Manifest(
            kind=kind,
            config=config.model_dump(mode="json"),
            inputs={
                name: given if isinstance(given, str) else given.digest() for name, given in (inputs or {}).items()
            },
            summary=json.loads(json.dumps(writer.summary, allow_nan=False)),
            code_digest=code,
            files={
                path.relative_to(folder).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
        )
        writer.write_json(MANIFEST, manifest.model_dump(mode="json"))


def check_replaceable(output: Path, kind: str) -> None:
    """Checks that nothing is lost when an artifact is written to a path.

    Args:
        output: A folder to make, or to replace.
        kind: Kind of the artifact that is to be written there.

    Raises:
        UserError: There is a file, a folder of something else, an artifact of another kind, or a file among an
            artifact's own that no stage wrote; a page made of an artifact (`try.html`) goes with it.
    """
    complete_replacing(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    remedy = "choose another path or remove it"
    if not (output / MANIFEST).is_file():
        raise UserError(f"Output {output} exists and holds something else: it is not an artifact folder; {remedy}.")
    try:
        found = json.loads((output / MANIFEST).read_bytes())
        there, files = str(found["kind"]), set(found["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"Output {output} has a {MANIFEST} that is damaged or not an artifact's; {remedy}.") from error
    if there != kind:
        raise another_kind(str(output), there, kind)
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if not path.is_dir() and name not in {MANIFEST, TRY_PAGE, *files} and not path.name.startswith("."):
            raise UserError(f"Output {output} holds {name}, which no stage wrote; move it away or choose another path.")


def another_kind(output: str, there: str, kind: str) -> UserError:
    """Returns the error for an output where an artifact of another kind lies."""
    return UserError(
        f"Output {output} is {_wanted(there)}, not replaced by {_wanted(kind)}; choose another path or remove it."
    )


def read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    """Reads and checks the manifest of an artifact folder: its kind, its version, the sizes of its files.

    Args:
        folder: An artifact folder.
        kind: The expected kind; "teacher|distill" accepts either, None any.

    Raises:
        Incomplete: There is no folder, or files of it are missing or truncated.
        UserError: The folder is an artifact of another kind or version.
    """
    wanted = _wanted(kind)
    complete_replacing(folder)
    if not folder.is_dir():
        raise Incomplete(folder, f"There is no folder {folder}; expected {wanted}, the output of an earlier stage.")
    path = folder / MANIFEST
    if not path.is_file():
        raise Incomplete(
            folder, f"{folder} is not {wanted}: it has no {MANIFEST}; was the stage that writes it interrupted?"
        )
    manifest = parse_manifest(path.read_bytes(), where=str(folder), kind=kind)
    for name, record in manifest.files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != record.bytes:
            raise Incomplete(
                folder, f"{file} is missing or has the wrong size; the artifact is damaged, run its stage again."
            )
    return manifest


def parse_manifest(content: bytes, *, where: str, kind: str | None = None) -> Manifest:
    """Reads and checks the content of a `manifest.json`.

    Args:
        content: JSON text.
        where: The artifact's folder or address, for messages.
        kind: The expected kind; "teacher|distill" accepts either, None any.

    Raises:
        UserError: The content is not a manifest, has another kind or version, or names files outside its folder.
    """
    path = f"{where}/{MANIFEST}"
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{path} is damaged ({reason}); run the stage that wrote it again.") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has layout version {manifest.schema_version}, this release reads {SCHEMA_VERSION}; "
            "run the stage again."
        )
    if kind is not None and manifest.kind not in kind.split("|"):
        raise UserError(f"{where} is {_wanted(manifest.kind)}, expected {_wanted(kind)}.")
    for name in manifest.files:
        if not all(_PLAIN.fullmatch(part) and len(part.encode()) <= LONGEST_NAME for part in name.split("/")):
            raise UserError(f"{path} names the file {name!r}, a place outside its folder; do not trust this artifact.")
    return manifest


def _wanted(kind: str | None) -> str:
    if not kind:
        return "an artifact"
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind.replace('|', ' or ')} artifact"


def stamp(folder: Path, request: str) -> None:
    """Records a request in an artifact's manifest, so that the same request finds the artifact again.

    Args:
        folder: A complete artifact.
        request: Digest of the stage, its settings, its inputs and its options.
    """
    manifest = read_manifest(folder).model_copy(update={"request": request})
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def copy(artifact: Path, folder: Path) -> None:
    """Copies the files of an artifact, and no others, into an existing folder.

    Raises:
        UserError: It is no artifact.
    """
    for name in (*read_manifest(artifact).files, MANIFEST):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact / name, folder / name)


def verify_checksums(folder: Path, manifest: Manifest) -> None:
    """Reads every file of an artifact and compares its digest with the manifest.

    Raises:
        UserError: A file was changed; the message names the first one.
    """
    for name, record in manifest.files.items():
        if file_sha256(folder / name) != record.sha256:
            raise UserError(f"{folder / name} was changed after it was written; run the stage that wrote it again.")
