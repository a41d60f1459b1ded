"""Checkpoints: the whole state of a training, kept so that a killed run continues as if nothing had happened.

A checkpoint of step 1200 is two files, written in this order, each beside its final name and then renamed:

- `step-000001200.pt`    tensors in plain containers (`torch.save`, read with `weights_only=True`);
- `step-000001200.json`  what they belong to (stage, configuration, inputs), and the size and SHA-256 of the first file.

So a kill at any moment leaves a whole checkpoint or one that is recognised as damaged. [Checkpoints][] keeps two; where
they lie is the business of a store, of which [FolderStore][] is the local one.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.catlib.artifacts import file_sha256
from components.catlib.errors import UserError

logger = logging.getLogger(__name__)

LAYOUT_VERSION = 1
PARTIAL = ".partial"


class FolderStore:
    """Keeps named files in a local folder; a file appears whole or not at all."""

    def __init__(self, address: str) -> None:
        """Makes the folder and clears away what an earlier process left half-written.

        Raises:
            UserError: The address is not a local path, or no folder can be made there.
        """
        if "://" in address:
            raise UserError(
                f"Checkpoint {address!r} is not a local folder; give the path of a folder that survives a kill."
            )
        self.folder = Path(address)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Checkpoint folder {address} cannot be made: {error.strerror}.") from error
        for leftover in self.folder.glob(f".step-*{PARTIAL}"):
            leftover.unlink()

    def names(self) -> list[str]:
        """Returns the names of all files."""
        return [path.name for path in self.folder.iterdir() if path.is_file()]

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Lets `write` fill a file and gives it its name once every byte is on the disk."""
        partial = self.folder / f".{name}{PARTIAL}"
        write(partial)
        _fsync(partial)
        partial.replace(self.folder / name)
        _fsync(self.folder)

    def get(self, name: str) -> Path:
        """Returns a local path where the file can be read.

        Raises:
            FileNotFoundError: There is no such file.
        """
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(path)
        return path

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)


class _Facts(BaseModel):
    """The JSON file of a checkpoint."""

    model_config = ConfigDict(extra="forbid")

    layout_version: int = Field(description="version of the layout of both files")
    step: int = Field(ge=0, description="optimisation steps done")
    bytes: int = Field(ge=0, description="size of the tensor file")
    sha256: str = Field(description="digest of the tensor file")
    origin: dict[str, Any] = Field(description="stage, configuration and inputs of the training")


class Checkpoints:
    """The checkpoints of one training: saves the newest, finds the newest whole one, keeps two."""

    def __init__(self, store: FolderStore, *, origin: Mapping[str, Any]) -> None:
        """Remembers where checkpoints lie and to what training they must belong.

        Args:
            store: Where the files lie.
            origin: JSON values that must be equal for a checkpoint to be continued: stage, configuration, inputs.
        """
        self._store = store
        self._origin = dict(origin)
        self._previous: int | None = None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint and removes all but this one and the one before.

        Args:
            step: Optimisation steps done.
            state: Tensors, numbers and texts in dicts, lists and tuples.
        """
        if step == self._previous:
            return
        tensors, facts = _file_names(step)

        def write_facts(path: Path) -> None:
            written = self._store.get(tensors)
            content = _Facts(
                layout_version=LAYOUT_VERSION,
                step=step,
                bytes=written.stat().st_size,
                sha256=file_sha256(written),
                origin=self._origin,
            )
            path.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")

        self._store.put(tensors, lambda path: torch.save(dict(state), path))
        self._store.put(facts, write_facts)
        kept = {
            name for kept_step in (step, self._previous) if kept_step is not None for name in _file_names(kept_step)
        }
        for name in self._store.names():
            if _step_of(name) is not None and name not in kept:
                self._store.remove(name)
        self._previous = step

    def load_newest(self) -> dict[str, Any] | None:
        """Returns the state of the newest whole checkpoint, its tensors on the CPU; None when there is none.

        A damaged checkpoint is passed over with a warning.

        Raises:
            UserError: The checkpoint belongs to another training; the first difference is named.
        """
        steps = {step for name in self._store.names() if (step := _step_of(name)) is not None}
        for step in sorted(steps, reverse=True):
            facts = self._whole(step)
            if facts is None:
                logger.warning("checkpoint of step %d is incomplete or damaged, looking for the one before", step)
                continue
            self._check_origin(facts)
            self._previous = step
            return torch.load(self._store.get(_file_names(step)[0]), map_location="cpu", weights_only=True)
        if steps:
            logger.warning("no checkpoint in %s is whole, training starts from the beginning", self._store.folder)
        return None

    def _whole(self, step: int) -> _Facts | None:
        """Returns the facts of a checkpoint whose two files are there and match, else None."""
        tensors_name, facts_name = _file_names(step)
        try:
            facts = _Facts.model_validate_json(self._store.get(facts_name).read_bytes())
            tensors = self._store.get(tensors_name)
        except (FileNotFoundError, ValidationError):
            return None
        return facts if tensors.stat().st_size == facts.bytes and file_sha256(tensors) == facts.sha256 else None

    def _check_origin(self, facts: _Facts) -> None:
        where = f"The checkpoint of step {facts.step} in {self._store.folder}"
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
