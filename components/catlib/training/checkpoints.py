"""Checkpoints: the whole state of a training, kept so that a killed run continues as if nothing had happened.

A checkpoint of step 1200 is two files. They are written in this order, and each appears whole or not at all:

- `step-000001200.pt`    tensors in plain containers (`torch.save`, read with `weights_only=True`);
- `step-000001200.json`  the training (stage, configuration, inputs), and the size and SHA-256 of the first file.

So a kill at any moment leaves a whole checkpoint or one that is recognised as incomplete. The files lie in a `Store`: a
folder or an object store. `Checkpoints` writes them in the background, while training goes on.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from components.catlib.artifacts import FileRecord, file_sha256
from components.catlib.errors import UserError
from components.catlib.networks.tensor_files import UnreadableError, load_tensors
from components.catlib.storage import Store, open_store

logger = logging.getLogger(__name__)

LAYOUT_VERSION = 1
STORE_PATIENCE_SECONDS = 1800.0
"""Training goes on for this long while its object store is out of reach. Then it ends with an error, because everything
that it computes could be lost."""


def open_checkpoints(address: str) -> Store:
    """Returns the store where a training keeps its state; an object store may be out of reach for a while.

    Args:
        address: A folder or `s3://bucket/prefix`.

    Raises:
        UserError: The address is neither a folder nor of the form `s3://bucket/prefix`, or the folder cannot be made.
    """
    return open_store(address, patience=STORE_PATIENCE_SECONDS)


class _Facts(BaseModel):
    """The JSON file of a checkpoint."""

    model_config = ConfigDict(extra="forbid")

    layout_version: int = Field(description="version of the layout of both files")
    step: int = Field(ge=0, description="optimisation steps done")
    score: float | None = Field(description="score of an evaluation just before, lower is better; none without one")
    tensors: FileRecord = Field(description="size and digest of the tensor file")
    origin: dict[str, Any] = Field(description="stage, configuration and inputs of the training")


class _Job(NamedTuple):
    """A checkpoint that waits to be written."""

    step: int
    state: dict[str, Any]
    score: float | None


class Checkpoints:
    """The checkpoints of one training: writes them in the background, finds the newest whole one.

    The newest few are kept, and the one with the best score. As a context it waits at the end until all is written.
    """

    def __init__(
        self,
        store: Store,
        *,
        origin: Mapping[str, Any],
        keep: int = 2,
        read_origin: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        """Remembers the store of the checkpoints and the training that they must belong to.

        Args:
            store: The store that holds the files.
            origin: JSON values in which a checkpoint must agree to be continued: stage, configuration, inputs.
            keep: Number of newest checkpoints that are kept.
            read_origin: Converts the origin of a checkpoint to today's form.
        """
        self._store = store
        self._origin = dict(origin)
        self._read_origin = read_origin
        self._keep = keep
        self._scores: dict[int, float | None] = {}
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._lock = threading.Lock()
        self._next: _Job | None = None
        self._tasks: list[Future[None]] = []
        self._saved = time.monotonic()

    def due(self, seconds: float) -> bool:
        """Returns whether the last checkpoint is at least this many seconds old and none is being written.

        Raises:
            UserError: Writing has failed.
        """
        self._drop_finished()
        return not self._tasks and time.monotonic() - self._saved >= seconds

    def save(self, step: int, state: Mapping[str, Any], *, score: float | None = None) -> None:
        """Begins to write a checkpoint and to remove those no longer wanted.

        Training does not wait for a slow store: while one checkpoint is being written, another one may wait. The next
        checkpoint replaces a waiting one.

        Args:
            step: Optimisation steps done.
            state: Tensors, numbers and texts in dicts, lists and tuples; copied to the CPU before this returns.
            score: Score of an evaluation just before, lower is better; None without one.

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
        with self._store.writing(tensors_name) as path:
            torch.save(state, path)
            record = _record(path)
        facts = _Facts(layout_version=LAYOUT_VERSION, step=step, score=score, tensors=record, origin=self._origin)
        self._store.write(facts_name, (facts.model_dump_json(indent=1) + "\n").encode())
        self._scores[step] = score
        kept = {name for wanted in self._wanted() for name in _file_names(wanted)}
        for entry in self._store.entries():
            if _step_of(entry.name) is not None and entry.name not in kept:
                self._store.remove(entry.name)
        self._scores = {wanted: self._scores[wanted] for wanted in self._wanted()}

    def _wanted(self) -> set[int]:
        """Returns the steps of the newest checkpoints and of the best one."""
        scored = {step: score for step, score in self._scores.items() if score is not None}
        best = [min(scored, key=lambda step: (scored[step], step))] if scored else []
        return {*sorted(self._scores)[-self._keep :], *best}

    def load_newest(self) -> dict[str, Any] | None:
        """Returns the state of the newest whole checkpoint, its tensors on the CPU; None when there is none.

        A damaged checkpoint is skipped with a warning.

        Raises:
            UserError: The checkpoint belongs to another training; the message names the first difference.
        """
        names = {entry.name for entry in self._store.entries()}
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
        content = self._store.read(_file_names(step)[1])
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
            return self._read(path, step) if _record(path) == facts.tensors else None

    def _read(self, path: Path, step: int) -> dict[str, Any]:
        try:
            return load_tensors(path)
        except UnreadableError as error:
            raise UserError(
                f"The checkpoint of step {step} in {self._store.address} cannot be read ({error}), though its checksum "
                "is right; use the version of PyTorch that wrote it, or give another checkpoint folder."
            ) from error

    def _check_origin(self, facts: _Facts) -> None:
        where = f"The checkpoint of step {facts.step} in {self._store.address}"
        advice = "give another checkpoint folder, or the settings it was made with"
        if facts.layout_version != LAYOUT_VERSION:
            raise UserError(f"{where} has layout version {facts.layout_version}, not {LAYOUT_VERSION}; {advice}.")
        here, there = dict(_leaves(self._origin)), dict(_leaves(self._read_origin(facts.origin)))
        for key in [*here, *there]:
            if key not in here or key not in there or here[key] != there[key]:
                raise UserError(
                    f"{where} belongs to another training: {key} is {_shown(there, key)} there and "
                    f"{_shown(here, key)} here; {advice}."
                )


def on_cpu(value: Any) -> Any:
    """Returns a copy of nested dicts, lists and tuples in which all tensors are copies on the CPU."""
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
