"""Runs one stage on addresses: fetches its inputs, runs it, publishes its output.

Inputs and the output are folders or `s3://BUCKET/PREFIX`. A stage whose output already exists, made from the same
inputs with the same settings by the same code, does not run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.catlib import storage
from components.catlib.artifacts import Manifest, code_digest, read_manifest, stamp
from components.catlib.data.locating import local_copies
from components.catlib.disk import temporary_folder
from components.catlib.errors import UserError
from components.catlib.recipes import named_files
from components.kubeflow import checkpoint_place
from components.stages import CHECKPOINT, Input, Stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A stage's output.

    Attributes:
        manifest: The output's manifest.
        reused: Whether the output existed before.
    """

    manifest: Manifest
    reused: bool


@dataclass(frozen=True)
class _Source:
    """One artifact that a stage reads: which input it serves, its number among several, its address."""

    input: Input
    number: int
    address: str


def run_stage(
    stage: Stage,
    config: BaseModel,
    *,
    inputs: Mapping[str, Sequence[str]],
    options: Mapping[str, str],
    output: str,
) -> Outcome | None:
    """Runs a stage between folders or an object store, unless its output exists already.

    Args:
        stage: The stage.
        config: Its section of the recipe.
        inputs: Addresses of the artifacts that it reads, by input.
        options: Its further arguments.
        output: Address of the artifact that it writes.

    Returns:
        The output; None in all but the first of the processes that `torchrun` starts, since only that one writes.

    Raises:
        UserError: An input, an option or the output's address is wrong, or the object store cannot be used.
    """
    _check_buckets([*(address for several in inputs.values() for address in several), *options.values()], config)
    store = storage.Storage()
    sources = [
        _Source(wanted, number, address)
        for wanted in stage.inputs
        for number, address in enumerate(inputs.get(wanted.name, ()))
    ]
    _check_output(output, sources, options)
    store = storage.Storage()
    manifests = [store.manifest(source.address, source.input.kinds) for source in sources]
    request = _request_digest(stage, config, sources, manifests, options, store)
    if found := store.find(output, request):
        logger.info("%s exists and was made from the same inputs and settings; nothing to do", output)
        return Outcome(found, reused=True)
    store.check_replaceable(output, stage.section)
    with temporary_folder(f"{stage.section}-") as scratch:
        folders = _fetch(sources, scratch, store)
        remote = storage.is_remote(output)
        made = scratch / "output" if remote else Path(output)
        state = _checkpoints(stage, request, options)
        stage.load()(config, output=made, **folders, **options, **state)
        if os.environ.get("RANK", "0") != "0":
            return None
        stamp(made, request)
        if remote:
            store.publish(made, output)
        return Outcome(read_manifest(made), reused=False)


def _check_output(address: str, sources: Sequence[_Source], options: Mapping[str, str]) -> None:
    """Refuses an output that is neither a path nor in an object store, or that would replace what the stage uses."""
    if not address.strip():
        raise UserError("--output is empty; give a folder or s3://BUCKET/PREFIX.")
    if "://" in address and not storage.is_remote(address):
        raise UserError(f"--output {address} cannot be written to; give a folder or s3://BUCKET/PREFIX.")
    if storage.is_remote(address):
        storage.open_store(address)
    used = [(source.input.flag, source.address) for source in sources]
    used += [(f"--{CHECKPOINT.name}", options[CHECKPOINT.name])] if CHECKPOINT.name in options else []
    for flag, other in used:
        here, there = _parts(address), _parts(other)
        shared = min(len(here), len(there))
        if here[:shared] == there[:shared]:
            how = "is" if here == there else "lies in" if len(here) > len(there) else "holds"
            raise UserError(f"--output {address} {how} {flag} {other}, which it would change; choose another path.")


def _parts(address: str) -> tuple[str, ...]:
    """Returns the names that lead to an address, from the outermost to the innermost; equal for equal places."""
    if storage.is_remote(address):
        return ("s3://", *str(storage.Location.parse(address)).removeprefix("s3://").split("/"))
    return Path(os.path.realpath(address)).parts


def _check_buckets(addresses: Sequence[str], config: BaseModel) -> None:
    """Refuses impossible addresses in stores before the first request is made."""
    for address in [*addresses, *named_files(config.model_dump(mode="json"))]:
        if storage.is_remote(address):
            storage.Location.parse(address)


def _fetch(sources: Sequence[_Source], scratch: Path, store: storage.Storage) -> dict[str, Path | list[Path]]:
    """Brings all inputs to this machine at the same time; returns the stage function's arguments."""
    with ThreadPoolExecutor() as pool:
        fetched = [
            pool.submit(
                store.fetch,
                source.address,
                scratch / f"{source.input.name}-{source.number}",
                source.input.kinds,
            )
            for source in sources
        ]
    folders: dict[str, Path | list[Path]] = {}
    for source, future in zip(sources, fetched, strict=True):
        if source.input.many:
            several = folders.setdefault(source.input.name, [])
            assert isinstance(several, list)
            several.append(future.result())
        else:
            folders[source.input.name] = future.result()
    return folders


def _checkpoints(stage: Stage, request: str, options: Mapping[str, str]) -> dict[str, str]:
    """Chooses where a training keeps its state, unless the command line names a place.

    It differs for every request, so that a run with other settings neither finds nor overwrites it.
    """
    if not stage.trains or CHECKPOINT.name in options:
        return {}
    place = checkpoint_place(stage.section, request)
    return {} if place is None else {CHECKPOINT.name: place}


def _request_digest(
    stage: Stage,
    config: BaseModel,
    sources: Sequence[_Source],
    manifests: Sequence[Manifest],
    options: Mapping[str, str],
    store: storage.Storage,
) -> str:
    """Returns a digest of everything that determines a stage's output.

    These are the code, the settings, the inputs, the options, and the state of the outside files that settings and
    options name. The place of checkpoints does not count, because it does not change the result.
    """
    settings = config.model_dump(mode="json")
    decisive: dict[str, Any] = {name: value for name, value in options.items() if name != CHECKPOINT.name}
    if "source" in decisive:
        settings.pop("source")
    facts = {
        "stage": stage.section,
        "code": code_digest(),
        "settings": settings,
        "options": decisive,
        "inputs": [
            [source.input.name, source.number, manifest.digest()]
            for source, manifest in zip(sources, manifests, strict=True)
        ],
        "outside": [
            [address, *(store.fingerprint(str(place)) for place in local_copies(address) or [address])]
            for address in [*named_files(settings), *named_files(decisive)]
        ],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
