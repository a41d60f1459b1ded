"""Checkpoints: the whole state of a training, kept so that a killed run continues as if nothing had happened.

A checkpoint of step 1200 is two files, written in this order, each of which appears whole or not at all:

- `step-000001200.pt`    tensors in plain containers (`torch.save`, read with `weights_only=True`);
- `step-000001200.json`  what they belong to (stage, configuration, inputs), and the size and SHA-256 of the first file.

So a kill at any moment leaves a whole checkpoint or one that is recognised as incomplete. Where the files lie is the
business of a store: a folder ([FolderStore][]) or an object store ([ObjectStore][]). [Checkpoints][] writes them in the
background, while training goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from components.catlib.artifacts import FileRecord, file_sha256
from components.catlib.errors import UserError
from components.catlib.storage import Location, Storage, is_remote

logger = logging.getLogger(__name__)

LAYOUT_VERSION = 1
PARTIAL = ".partial"
STORE_PATIENCE_SECONDS = 1800.0
"""How long an object store may be out of reach while training goes on; then training ends with an error, since all that
it computes could be lost."""


class Store(Protocol):
    """A place for named files."""

    address: str

    def names(self) -> list[str]:
        """Returns the names of all files."""
        ...

    def put(self, name: str, write: Callable[[Path], object]) -> FileRecord:
        """Lets `write` fill a file, which then appears whole under its name; returns its size and digest."""
        ...

    def reading(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Gives a local path of a file that is there."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        ...


class FolderStore:
    """Keeps named files in a local folder.

    Attributes:
        address: The folder.
    """

    def __init__(self, address: str) -> None:
        """Makes the folder and clears away what an earlier process left half-written.

        Raises:
            UserError: No folder can be made there.
        """
        self.address = address
        self._folder = Path(address)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Checkpoint folder {address} cannot be made: {error.strerror}.") from error
        for leftover in self._folder.glob(f".step-*{PARTIAL}"):
            leftover.unlink()

    def names(self) -> list[str]:
        """Returns the names of all files."""
        return [path.name for path in self._folder.iterdir() if path.is_file()]

    def put(self, name: str, write: Callable[[Path], object]) -> FileRecord:
        """Lets `write` fill a file and gives it its name once every byte is on the disk."""
        partial = self._folder / f".{name}{PARTIAL}"
        write(partial)
        _fsync(partial)
        record = _record(partial)
        partial.replace(self._folder / name)
        _fsync(self._folder)
        return record

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Gives the file's path."""
        yield self._folder / name

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self._folder / name).unlink(missing_ok=True)


class ObjectStore:
    """Keeps named files as objects below `s3://bucket/prefix`; requests are repeated while the store is down.

    Attributes:
        address: Where they lie.
    """

    def __init__(self, address: str, storage: Storage | None = None) -> None:
        """Remembers the place; nothing is asked of the store yet.

        Args:
            address: `s3://bucket/prefix`.
            storage: The connection; by default one of its own that is patient.

        Raises:
            UserError: The address is not of this form.
        """
        self.address = str(Location.parse(address))
        self._storage = storage or Storage(patience=STORE_PATIENCE_SECONDS)

    def names(self) -> list[str]:
        """Returns the names of all files."""
        return self._storage.file_names(self.address)

    def put(self, name: str, write: Callable[[Path], object]) -> FileRecord:
        """Lets `write` fill a temporary file and uploads it; an object appears once it is whole."""
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            path = Path(folder) / name
            write(path)
            self._storage.upload_file(path, f"{self.address}/{name}")
            return _record(path)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Downloads the file for as long as it is read."""
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            yield self._storage.fetch_files(f"{self.address}/{name}", Path(folder) / "download")

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        self._storage.remove_file(f"{self.address}/{name}")


def open_store(address: str) -> Store:
    """Returns the store at an address: a local folder or `s3://bucket/prefix`.

    Raises:
        UserError: It is neither, or the folder cannot be made.
    """
    if is_remote(address):
        return ObjectStore(address)
    if "://" in address:
        raise UserError(f"Checkpoint {address!r} is neither a folder nor of the form s3://BUCKET/FOLDER.")
    return FolderStore(address)


class _Facts(BaseModel):
    """The JSON file of a checkpoint."""

    model_config = ConfigDict(extra="forbid")

    layout_version: int = Field(description="version of the layout of both files")
    step: int = Field(ge=0, description="optimisation steps done")
    score: float | None = Field(description="of an evaluation right before, lower is better")
    tensors: FileRecord = Field(description="size and digest of the tensor file")
    origin: dict[str, Any] = Field(description="stage, configuration and inputs of the training")


class _Job(NamedTuple):
    """A checkpoint to be written."""

    step: int
    state: dict[str, Any]
    score: float | None


class Checkpoints:
    """The checkpoints of one training: writes them in the background, finds the newest whole one.

    The newest few are kept, and the one with the best score. As a context it waits in the end for what is being
    written.
    """

    def __init__(self, store: Store, *, origin: Mapping[str, Any], keep: int = 2) -> None:
        """Remembers where checkpoints lie and to what training they must belong.

        Args:
            store: Where the files lie.
            origin: JSON values that must be equal for a checkpoint to be continued: stage, configuration, inputs.
            keep: How many of the newest are kept.
        """
        self._store = store
        self._origin = dict(origin)
        self._keep = keep
        self._scores: dict[int, float | None] = {}
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._lock = threading.Lock()
        self._next: _Job | None = None
        self._tasks: list[Future[None]] = []
        self._saved = time.monotonic()

    def due(self, seconds: float) -> bool:
        """Tells whether the last one is so many seconds old and nothing is being written.

        Raises:
            UserError: Writing has failed.
        """
        self._drop_finished()
        return not self._tasks and time.monotonic() - self._saved >= seconds

    def save(self, step: int, state: Mapping[str, Any], *, score: float | None = None) -> None:
        """Begins to write a checkpoint and to remove those no longer wanted.

        Training does not wait for a slow store: while one checkpoint is being written another one may wait, which the
        next one replaces.

        Args:
            step: Optimisation steps done.
            state: Tensors, numbers and texts in dicts, lists and tuples; copied to the CPU before this returns.
            score: Of an evaluation right before; lower is better.

        Raises:
            UserError: Writing an earlier one has failed.
        """
        self._drop_finished()
        job = _Job(step, on_cpu(state), score)
        with self._lock:
            if self._next is not None:
                logger.warning("checkpoint of step %d is left out, the store is slow", self._next.step)
            self._next = job
        self._tasks.append(self._writer.submit(self._write_next))
        self._saved = time.monotonic()

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: Writing has failed.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result()

    def _drop_finished(self) -> None:
        while self._tasks and self._tasks[0].done():
            self._tasks.pop(0).result()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()
        self.wait()

    def _write_next(self) -> None:
        with self._lock:
            job, self._next = self._next, None
        if job is not None and job.step not in self._scores:
            self._write(job.step, job.state, job.score)

    def _write(self, step: int, state: dict[str, Any], score: float | None) -> None:
        tensors_name, facts_name = _file_names(step)
        record = self._store.put(tensors_name, lambda path: torch.save(state, path))
        facts = _Facts(layout_version=LAYOUT_VERSION, step=step, score=score, tensors=record, origin=self._origin)
        text = facts.model_dump_json(indent=1) + "\n"
        self._store.put(facts_name, lambda path: path.write_text(text, encoding="utf-8"))
        self._scores[step] = score
        kept = {name for wanted in self._wanted() for name in _file_names(wanted)}
        for name in self._store.names():
            if _step_of(name) is not None and name not in kept:
                self._store.remove(name)
        self._scores = {wanted: self._scores[wanted] for wanted in self._wanted()}

    def _wanted(self) -> set[int]:
        """Returns the steps of the newest checkpoints and of the best one."""
        scored = {step: score for step, score in self._scores.items() if score is not None}
        best = [min(scored, key=lambda step: (scored[step], step))] if scored else []
        return {*sorted(self._scores)[-self._keep :], *best}

    def load_newest(self) -> dict[str, Any] | None:
        """Returns the state of the newest whole checkpoint, its tensors on the CPU; None when there is none.

        A damaged checkpoint is passed over with a warning.

        Raises:
            UserError: The checkpoint belongs to another training; the first difference is named.
        """
        names = set(self._store.names())
        steps = {step for name in names if (step := _step_of(name)) is not None}
        facts = {step: self._facts(step) for step in steps if names.issuperset(_file_names(step))}
        for step in sorted(steps, reverse=True):
            state = self._state(step, facts.get(step))
            if state is None:
                logger.warning("checkpoint of step %d is incomplete or damaged, looking for the one before", step)
                continue
            self._scores = {
                earlier: found.score for earlier, found in facts.items() if found is not None and earlier <= step
            }
            return state
        if steps:
            logger.warning("no checkpoint in %s is whole, training starts from the beginning", self._store.address)
        return None

    def _facts(self, step: int) -> _Facts | None:
        with self._store.reading(_file_names(step)[1]) as path:
            content = path.read_bytes()
        try:
            return _Facts.model_validate_json(content)
        except ValidationError:
            return None

    def _state(self, step: int, facts: _Facts | None) -> dict[str, Any] | None:
        """Returns the state of a checkpoint of this training; None when it is damaged."""
        if facts is None:
            return None
        self._check_origin(facts)
        with self._store.reading(_file_names(step)[0]) as path:
            return torch.load(path, map_location="cpu", weights_only=True) if _record(path) == facts.tensors else None

    def _check_origin(self, facts: _Facts) -> None:
        where = f"The checkpoint of step {facts.step} in {self._store.address}"
        advice = "give another checkpoint folder, or the settings it was made with"
        if facts.layout_version != LAYOUT_VERSION:
            raise UserError(f"{where} has layout version {facts.layout_version}, not {LAYOUT_VERSION}; {advice}.")
        here, there = dict(_leaves(self._origin)), dict(_leaves(facts.origin))
        for key in [*here, *there]:
            if key not in here or key not in there or here[key] != there[key]:
                raise UserError(
                    f"{where} belongs to another training: {key} is {_shown(there, key)} there and "
                    f"{_shown(here, key)} here; {advice}."
                )


def on_cpu(value: Any) -> Any:
    """Returns a copy of nested dicts, lists and tuples, all tensors copied to the CPU."""
    match value:
        case Tensor():
            return value.detach().to("cpu", copy=True)
        case Mapping():
            return {key: on_cpu(nested) for key, nested in value.items()}
        case list() | tuple():
            return type(value)(on_cpu(nested) for nested in value)
        case _:
            return value


def _record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))


def _file_names(step: int) -> tuple[str, str]:
    return f"step-{step:09d}.pt", f"step-{step:09d}.json"


def _step_of(name: str) -> int | None:
    match = re.fullmatch(r"step-(\d{9,})\.(pt|json)", name)
    return int(match[1]) if match else None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("a.b", 1) for {"a": {"b": 1}}; lists are leaves."""
    if isinstance(value, dict) and value:
        for key, nested in value.items():
            yield from _leaves(nested, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _shown(leaves: dict[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "absent"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
