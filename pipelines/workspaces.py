"""What a workspace of local runs and the cache of downloads hold, to measure and to collect it.

    artifacts/RUN/[LOOP/]TASK/OUTPUT/   what tasks made, one folder per run
    cache/KEY.json                      the tasks that need no second run, and where their outputs lie
    checkpoints/…/                      the states of trainings
    logs/NAME.*                         request, output and answer of each run
    RECIPE/                             results: the report and students of the newest run of a recipe

A run holds a shared lock of the workspace. Without the exclusive one, nothing is removed that a run may use.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from components.catlib.artifacts import MANIFEST, PARTIAL, Manifest
from components.catlib.errors import UserError
from pipelines.collectable import BUSY_SECONDS, CHECKPOINT_FILE, InUse, Made, Thing, last_uses, outermost, stays

LOCK = ".in-use"
_RUN = re.compile(r".+-\d{4}(-\d\d){5}-\d+")
"""A run's folder as Kubeflow names it: PIPELINE-2026-11-26-18-49-32-209337."""


@contextlib.contextmanager
def in_use(workspace: Path) -> Iterator[None]:
    """Marks a workspace, which exists, as that of a run; waits while things are being removed from it."""
    with _locked(workspace / LOCK, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def out_of_use(workspace: Path) -> Iterator[bool]:
    """Keeps runs from starting in a workspace; gives False if one is running."""
    try:
        with _locked(workspace / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield True
    except BlockingIOError:
        yield False


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"Workspace {path.parent} cannot be written ({error.strerror}); choose another one.") from error
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def things_in_workspace(workspace: Path, before: float) -> list[Thing]:
    """Measures a workspace.

    Args:
        workspace: Its folder; may be missing.
        before: Unix time; a run of which everything was last used earlier counts as one thing.
    """
    if not workspace.is_dir():
        return []
    results = {path.parent: made for path in workspace.glob(f"[!.]*/{MANIFEST}") if (made := _made(path, math.inf))}
    things = [
        Thing("results", str(folder), _size(folder), _newest(folder), stays, "you keep them") for folder in results
    ]
    things += _artifacts(workspace, [*results.values(), *_answered(workspace)], before)
    things += _checkpoints(workspace / "checkpoints")
    things += _logs(workspace / "logs")
    things += _leftovers(workspace)
    rest = _size(workspace) - sum(thing.bytes for thing in outermost(things))
    if rest > 0:
        things.append(Thing("other", str(workspace / "*"), rest, _newest(workspace), stays, "gc does not know them"))
    return things


# ----------------------------------------------------------------------------------------------------------- artifacts


def _artifacts(workspace: Path, users: list[Made], before: float) -> list[Thing]:
    """Measures what tasks made, and the cache's entries."""
    runs = [path for path in _folders(workspace / "artifacts") if _RUN.fullmatch(path.name)]
    tasks = {run: _tasks(run) for run in runs}
    uses = last_uses([*users, *(made for found in tasks.values() for each in found.values() for made in each)])
    entries = _Entries(workspace / "cache")
    things = entries.things()
    for run, found in tasks.items():
        used = {task: max(uses[made.digest] for made in each) for task, each in found.items()}
        in_run = [*used.values(), _newest(run)]
        if max(in_run) < before or not used:
            used = {run: max(in_run)}
        for folder, when in used.items():
            remove = functools.partial(entries.remove_artifact, folder, _remover(folder, run))
            kept = "results come from them" if math.isinf(when) else ""
            when = _newest(folder) if kept else when
            things.append(Thing("artifacts", str(folder), _size(folder), when, remove, kept))
    return things


def _tasks(run: Path) -> dict[Path, list[Made]]:
    """Returns the folders of a run's tasks, each with the artifacts that the task made."""
    tasks: dict[Path, list[Made]] = {}
    for path in sorted(run.rglob(MANIFEST)):
        is_whole = not any(part.startswith(".") for part in path.relative_to(run).parts)
        if is_whole and len(path.relative_to(run).parts) > 2 and (made := _made(path, _newest(path.parents[1]))):
            tasks.setdefault(path.parents[1], []).append(made)
    return tasks


def _answered(workspace: Path) -> Iterator[Made]:
    """Yields the reports of runs as used when the run ended, also if they came from the cache."""
    for answer in (workspace / "logs").glob("*.answer.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            report = Path(json.loads(answer.read_text(encoding="utf-8"))["report"])
            if made := _made(report / MANIFEST, answer.stat().st_mtime):
                yield made


def _made(path: Path, used: float) -> Made | None:
    """Reads a manifest; None if it is none."""
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return Made(manifest.digest(), frozenset(manifest.inputs.values()), used)


class _Entries:
    """The entries of Kubeflow's local cache. They are removed with their artifacts, just before."""

    def __init__(self, folder: Path) -> None:
        """Reads all entries."""
        self._places: dict[Path, list[Path]] = {}
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                self._places[path] = [Path(uri) for uri in _uris(json.loads(path.read_text(encoding="utf-8")))]

    def things(self) -> list[Thing]:
        """Returns the entries, those with artifacts as kept: they go with their artifacts."""
        found = []
        for path, places in self._places.items():
            size, when = _facts(path)
            kept = "their artifacts exist" if places and all(map(Path.exists, places)) else ""
            found.append(Thing("cache", str(path), size, when, functools.partial(path.unlink, missing_ok=True), kept))
        return found

    def remove_artifact(self, folder: Path, remove: Callable[[], None]) -> None:
        """Removes the entries that point into a folder, then the folder."""
        for path, places in self._places.items():
            if any(place.is_relative_to(folder) for place in places):
                path.unlink(missing_ok=True)
        remove()


def _uris(value: Any) -> Iterator[str]:
    """Yields where the artifacts of a cache entry lie on this machine."""
    if isinstance(value, dict):
        uri = value.get("uri")
        if value.get("__kfp_artifact__") and isinstance(uri, str) and "://" not in uri:
            yield uri
        for nested in value.values():
            yield from _uris(nested)
    elif isinstance(value, list):
        for nested in value:
            yield from _uris(nested)


# ---------------------------------------------------------------------------------------- checkpoints, logs, leftovers


def _checkpoints(root: Path) -> Iterator[Thing]:
    """Yields the places of trainings: folders that hold checkpoints and nothing else."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())] if root.is_dir() else []:
        files = [path for path in folder.iterdir() if not path.is_dir() and not _is_partial(path)]
        if files and all(CHECKPOINT_FILE.fullmatch(path.name) for path in files):
            kept = "a training owns them" if any(_is_locked(path) for path in folder.glob("owner-*")) else ""
            yield Thing("checkpoints", str(folder), _size(folder), _newest(folder), _remover(folder, root), kept)


def _logs(folder: Path) -> Iterator[Thing]:
    """Yields the files of each run, together."""
    runs: dict[str, list[Path]] = {}
    for path in folder.glob("*"):
        name = re.sub(r"(\.request\.json|\.answer\.json|\.log)$", "", path.name)
        if name != path.name and re.search(r"-\d{8}-\d{6}-\d+$", name):
            runs.setdefault(name, []).append(path)
    for name, files in runs.items():
        facts = [_facts(path) for path in files]
        remove = functools.partial(_unlink, files)
        yield Thing("logs", str(folder / name), sum(size for size, _ in facts), max(when for _, when in facts), remove)


def _unlink(files: list[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


def _leftovers(workspace: Path) -> Iterator[Thing]:
    """Yields what killed processes left half-written."""
    partial = [*workspace.glob(f".*{PARTIAL}"), *(workspace / "artifacts").rglob(f".*{PARTIAL}")]
    for path in [*partial, *(workspace / "cache").glob(".kfp_cache_*.tmp")]:
        kept = "a process writes there" if _is_locked(path) else ""
        yield Thing("leftovers", str(path), _size(path), _newest(path), _remover(path, path), kept)


def _is_locked(path: Path) -> bool:
    """Returns whether a process holds a lock of a file or folder, as owners and writers do."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


# ----------------------------------------------------------------------------------------------------------- downloads


def things_in_downloads(folder: Path) -> Iterator[Thing]:
    """Yields the files that `storage.cache` keeps, as old as their last use, and unfinished downloads."""
    notes: dict[str, list[Path]] = {}
    for note in (folder / "addresses").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            notes.setdefault(json.loads(note.read_text(encoding="utf-8"))["sha256"], []).append(note)
    for path in (folder / "content").glob("*"):
        size, when = _facts(path)
        when = max(when, path.stat().st_atime)
        remove = functools.partial(_remove_download, path, notes.get(path.name, []))
        yield Thing("downloads", str(path), size, when, remove)
    for path in _folders(folder / "partial"):
        lock = path.with_name(f"{path.name}.lock")
        yield Thing(
            "leftovers", str(path), _size(path), _newest(path), functools.partial(_remove_unfinished, path, lock)
        )


def _remove_download(path: Path, notes: list[Path]) -> None:
    if max(path.stat().st_atime, path.stat().st_mtime) > time.time() - BUSY_SECONDS:
        raise InUse("a process has just read it")
    _unlink([path, *notes])


def _remove_unfinished(path: Path, lock: Path) -> None:
    try:
        with filelock.FileLock(lock, timeout=0):
            shutil.rmtree(path)
    except filelock.Timeout:
        raise InUse("a process is downloading it") from None


# --------------------------------------------------------------------------------------------------------------- files


def _remover(path: Path, root: Path) -> Callable[[], None]:
    """Returns what removes a folder or file at once, and the folders above it, up to `root`, that are then empty."""
    measured = _newest(path)

    def remove() -> None:
        if _newest(path) != measured:
            raise InUse("it has changed since it was measured")
        aside = path.with_name(f".{path.name.lstrip('.')}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        path.rename(aside)  # nobody ever sees half of it
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        for folder in path.parents:
            if not folder.is_relative_to(root) or any(folder.iterdir()):
                return
            folder.rmdir()

    return remove


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def _facts(path: Path) -> tuple[int, float]:
    """Returns size and time of a file; zeros if it is gone."""
    try:
        facts = path.stat(follow_symlinks=False)
    except OSError:
        return 0, 0.0
    return facts.st_size, facts.st_mtime


def _files(path: Path) -> list[Path]:
    return [path] if not path.is_dir() or path.is_symlink() else [each for each in path.rglob("*") if not each.is_dir()]


def _size(path: Path) -> int:
    return sum(_facts(each)[0] for each in _files(path))


def _newest(path: Path) -> float:
    return max((_facts(each)[1] for each in _files(path)), default=_facts(path)[1])


def check_workspace(workspace: Path) -> None:
    """Refuses a folder that is something else than a workspace.

    Raises:
        UserError: It is a file, or has none of a workspace's folders.
    """
    if workspace.exists() and not any((workspace / name).is_dir() for name in ("artifacts", "logs", "checkpoints")):
        raise UserError(f"{workspace} is not a workspace: it has no folder artifacts, logs or checkpoints.")
