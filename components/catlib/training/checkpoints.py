"""Checkpoints: the whole state of a training, kept so that a killed run continues as if nothing had happened.

A checkpoint of step 1200 is two files. They are written in this order, and each appears whole or not at all:

- `step-000001200.000003-1a2b3c4d.pt`    tensors in plain containers (`torch.save`, read with `weights_only=True`);
- `step-000001200.000003-1a2b3c4d.json`  the training (stage, configuration, inputs), and the size and SHA-256 of the
  first file.

So a kill at any moment leaves a whole checkpoint or one that is recognised as incomplete. The files lie in a `Store`: a
folder or an object store. `Checkpoints` writes them in the background, while training goes on.

One process at a time owns the place (see `Lease`). Names hold the owner's generation (3) and attempt (1a2b3c4d), so two
processes never write the same file, even if the earlier one does not know yet that it has been replaced. An owner
removes files of its own and of earlier owners. Files of layout version 1, `step-000001200.pt`, count as generation 0.

Nothing removes the checkpoints of a finished training: another run finds the last one and only writes the result again.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from components.catlib.artifacts import FileRecord, file_sha256
from components.catlib.config.dotted import leaves
from components.catlib.errors import EndedElsewhere, UserError
from components.catlib.networks.tensor_files import UnreadableError, load_tensors
from components.catlib.storage import NotThere, Store, open_store
from components.catlib.storage.leases import Lease
from components.catlib.storage.retrying import until

logger = logging.getLogger(__name__)

LAYOUT_VERSION = 2
READABLE_VERSIONS = (1, LAYOUT_VERSION)
"""Version 1 had neither generations nor attempts in its names."""
LENGTH = "length"
"""The part of an origin in which checkpoints in one place may differ; those of another length are left alone."""
STORE_PATIENCE_SECONDS = 1800.0
"""Training goes on for this long while its object store is out of reach. Then it ends with an error, because everything
that it computes could be lost."""


def open_checkpoints(address: str) -> Store:
    """Returns the store where a training keeps its state; an object store may be out of reach for a while.

    Args:
        address: A folder or `s3://bucket/prefix`.

    Raises:
        UserError: The address is neither a folder nor of the form `s3://bucket/prefix`.
    """
    return open_store(address, patience=STORE_PATIENCE_SECONDS)


class _Name(NamedTuple):
    """Names a checkpoint. The newest one has the highest step and, of those, the highest generation."""

    step: int
    generation: int
    attempt: str

    @classmethod
    def of(cls, file: str) -> _Name | None:
        """Returns the checkpoint that a file belongs to; None for other files."""
        match = re.fullmatch(r"step-(\d{9,})(?:\.(\d{6,})-([\w-]+))?\.(?:pt|json)", file)
        return cls(int(match[1]), int(match[2] or 0), match[3] or "") if match else None

    @property
    def files(self) -> tuple[str, str]:
        """The names of the tensor file and of the JSON file."""
        owner = f".{self.generation:06d}-{self.attempt}" if self.generation else ""
        return f"step-{self.step:09d}{owner}.pt", f"step-{self.step:09d}{owner}.json"


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

    The newest few are kept, and the one with the best score. `resume` takes the place, so that no other process writes
    there. As a context this waits at the end until all is written, and gives the place back.
    """

    def __init__(
        self,
        store: Store,
        *,
        origin: Mapping[str, Any],
        keep: int = 2,
        read_origin: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        lease: Lease | None = None,
    ) -> None:
        """Remembers the store of the checkpoints and the training that they must belong to; nothing is asked yet.

        Args:
            store: The store that holds the files.
            origin: JSON values in which a checkpoint must agree to be continued: stage, configuration, inputs.
            keep: Number of newest checkpoints that are kept.
            read_origin: Converts the origin of a checkpoint to today's form.
            lease: The claim to the store; None: a new one.
        """
        self._store = store
        self._lease = lease or Lease(store)
        self._origin = dict(origin)
        self._read_origin = read_origin
        self._keep = keep
        self._scores: dict[_Name, float | None] = {}
        self._of_other_lengths: dict[_Name, Any] = {}
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._next: _Job | None = None
        self._tasks: list[Future[None]] = []
        self._saved = time.monotonic()

    def due(self, seconds: float) -> bool:
        """Returns whether the last checkpoint is at least this many seconds old and none is being written.

        Raises:
            LeaseLost: Another process has taken the place over.
            UserError: Writing has failed.
        """
        self._lease.check_what_is_known()
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
            Unavailable: Another process owns the place.
            UserError: Writing an earlier one has failed.
        """
        self._drop_finished()
        self._own_the_place()
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the writer; not for a store that is away when it has failed before, or when the process hurries."""
        hurries = kind is not None and issubclass(kind, UserError | EndedElsewhere | KeyboardInterrupt)
        try:
            if hurries:
                self._stopping.set()
            self._writer.shutdown(wait=kind is not KeyboardInterrupt, cancel_futures=hurries)
            if not hurries:
                self.wait()
        finally:
            if kind is not KeyboardInterrupt:  # then the writer may not have ended
                self.give_back()

    @property
    def newest_step(self) -> int | None:
        """The step of the newest checkpoint that is written; None without one."""
        return max((name.step for name in tuple(self._scores)), default=None)

    def _own_the_place(self) -> None:
        if not self._lease.generation:
            self._lease.acquire(above=max((name.generation for name, _ in self._files()), default=0))

    def _write_next(self) -> None:
        with self._lock:
            job, self._next = self._next, None
        if job is not None and all(name.step != job.step for name in self._scores):
            until(self._stopping, partial(self._write, job.step, job.state, job.score))

    def _write(self, step: int, state: dict[str, Any], score: float | None) -> None:
        name = _Name(step, self._lease.generation, self._lease.attempt)
        tensors_file, facts_file = name.files
        self._lease.check()
        with self._store.writing(tensors_file) as path:
            torch.save(state, path)
            record = _record(path)
        facts = _Facts(layout_version=LAYOUT_VERSION, step=step, score=score, tensors=record, origin=self._origin)
        self._store.write(facts_file, (facts.model_dump_json(indent=1) + "\n").encode())
        self._scores[name] = score
        self._lease.check()
        self._scores = {wanted: self._scores[wanted] for wanted in self._wanted()}
        try:
            self._remove_unwanted()
        except (UserError, OSError) as error:
            logger.warning("older checkpoints in %s are not removed: %s", self._store.address, error)

    def _remove_unwanted(self) -> None:
        """Removes the files of checkpoints that are no longer wanted, but none that another living owner may write."""
        own = self._lease.generation, self._lease.attempt
        for name, file in self._files():
            wanted = name in self._scores or name in self._of_other_lengths
            if not wanted and (name.generation < own[0] or (name.generation, name.attempt) == own):
                self._store.remove(file)

    def _wanted(self) -> set[_Name]:
        """Returns the newest checkpoints and the best one."""
        scored = {name: score for name, score in self._scores.items() if score is not None}
        best = [min(scored, key=lambda name: (scored[name], name))] if scored else []
        return {*sorted(self._scores)[-self._keep :], *best}

    def resume(self) -> dict[str, Any] | None:
        """Takes the place for this process and returns the newest state, as `load_newest` does.

        Raises:
            Unavailable: Another process owns the place and lives.
            UserError: The checkpoint belongs to another training; the message names the first difference.
        """
        self._own_the_place()
        try:
            return self.load_newest()
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Gives the place back, if this process owns it."""
        self._lease.release()

    def load_newest(self) -> dict[str, Any] | None:
        """Returns the state of the newest whole checkpoint, its tensors on the CPU; None when there is none.

        A damaged checkpoint is skipped with a warning. One of a training that differs in length alone is skipped and
        never removed, because a training may go on from it. The place may belong to another process, which writes and
        removes checkpoints meanwhile.

        Raises:
            UserError: The checkpoint belongs to another training; the message names the first difference.
        """
        skipped: set[_Name] = set()
        while True:
            names = {name for name, _ in self._files()} - skipped
            found = {name: facts for name in sorted(names, reverse=True) if (facts := self._facts(name)) is not None}
            lengths = {name: self._length(facts) for name, facts in found.items()}
            own = self._origin.get(LENGTH)
            self._of_other_lengths = {name: length for name, length in lengths.items() if length != own}
            names -= self._of_other_lengths.keys()
            if not names:
                break
            newest = max(names)
            state = self._state(newest, found.get(newest))
            if state is not None:
                self._scores = {name: found[name].score for name in names & found.keys()}
                return state
            logger.warning("checkpoint of step %d is incomplete or damaged, looking for the one before", newest.step)
            skipped.add(newest)
        if skipped:
            logger.warning("no checkpoint in %s is whole, training starts from the beginning", self._store.address)
        return None

    def other_lengths(self) -> dict[int, Any]:
        """Returns the steps of checkpoints that `load_newest` has skipped, each with its origin's `LENGTH`."""
        return {name.step: length for name, length in self._of_other_lengths.items()}

    def _files(self) -> list[tuple[_Name, str]]:
        """Lists the files of checkpoints with the checkpoints that they belong to."""
        found = [(_Name.of(entry.name), entry.name) for entry in self._store.entries()]
        return sorted((name, file) for name, file in found if name is not None)

    def _facts(self, name: _Name) -> _Facts | None:
        """Returns the content of a checkpoint's JSON file; None if the checkpoint is incomplete or damaged."""
        try:
            facts = _Facts.model_validate_json(self._store.read(name.files[1]))
        except (NotThere, ValidationError):
            return None
        return facts if facts.step == name.step and self._store.entry(name.files[0]) else None

    def _state(self, name: _Name, facts: _Facts | None) -> dict[str, Any] | None:
        """Returns the state of a checkpoint of this training; None if it is incomplete or damaged."""
        if facts is None:
            return None
        try:
            with self._store.reading(name.files[0]) as path:
                return self._read(path, name.step) if _record(path) == facts.tensors else None
        except (NotThere, FileNotFoundError):
            return None

    def _read(self, path: Path, step: int) -> dict[str, Any]:
        try:
            return load_tensors(path)
        except UnreadableError as error:
            raise UserError(
                f"The checkpoint of step {step} in {self._store.address} cannot be read ({error}), though its checksum "
                "is right; use the version of PyTorch that wrote it, or give another checkpoint folder."
            ) from error

    def _length(self, facts: _Facts) -> Any:
        """Returns the length in the origin of a checkpoint, which agrees with this training in everything else.

        Raises:
            UserError: It does not; the message names the first difference.
        """
        where = f"The checkpoint of step {facts.step} in {self._store.address}"
        advice = "give another checkpoint folder, or the settings it was made with"
        if facts.layout_version not in READABLE_VERSIONS:
            raise UserError(f"{where} has layout version {facts.layout_version}, not {LAYOUT_VERSION}; {advice}.")
        ours, theirs = dict(self._origin), dict(self._read_origin(facts.origin))
        ours.pop(LENGTH, None)
        length = theirs.pop(LENGTH, None)
        here, there = dict(leaves(ours)), dict(leaves(theirs))
        for key in [*here, *there]:
            if key not in here or key not in there or here[key] != there[key]:
                raise UserError(
                    f"{where} belongs to another training: {key} is {_shown(there, key)} there and "
                    f"{_shown(here, key)} here; {advice}."
                )
        return length


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


def _shown(leaves: dict[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "absent"
