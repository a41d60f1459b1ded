"""Runs one stage on addresses: fetches its inputs, runs it, publishes its output.

Inputs and the output are folders or `s3://BUCKET/PREFIX`. A stage whose output already exists, made from the same
inputs with the same settings by the same code, does not run again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.catlib import storage
from components.catlib.artifacts import Manifest, read_manifest, stamp
from components.catlib.code_digest import code_and_library_digest
from components.catlib.credentials import refuse_credentials
from components.catlib.data.locating import content_of
from components.catlib.disk import temporary_folder
from components.catlib.distributed.ending import joined
from components.catlib.errors import UserError
from components.catlib.recipes import named_files, with_files
from components.catlib.storage.parallel import in_parallel
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
    check: Callable[[Path], None] | None = None,
) -> Outcome | None:
    """Runs a stage between folders or an object store, unless its output exists already.

    Args:
        stage: The stage.
        config: Its section of the recipe.
        inputs: Addresses of the artifacts that it reads, by input.
        options: Its further arguments.
        output: Address of the artifact that it writes.
        check: Takes the dataset that it reads or has made, and refuses what later stages could not use: before the
            stage begins, or once the dataset is made.

    Returns:
        The output; None in all but the first of the processes that `torchrun` starts, since only that one writes.

    Raises:
        UserError: An input, an option or the output's address is wrong, or the object store cannot be used.
    """
    sources = _checked_sources(stage, config, inputs, options, output)
    store = storage.Storage()
    found: Manifest | None = None

    def look() -> str:
        """Returns the request's digest, or "" when its output exists."""
        nonlocal found
        manifests = [store.manifest(source.address, source.input.kinds) for source in sources]
        request = _request_digest(stage, config, sources, manifests, options)
        found = store.find(output, request)
        if found is None:
            store.check_replaceable(output, stage.section)
        return "" if found else request

    others = joined()
    request = others.once("request", look) if others else look()
    if not request:
        if found is None:
            return None
        logger.info("%s exists and was made from the same inputs and settings; nothing to do", output)
        return Outcome(found, reused=True)
    with temporary_folder(f"{stage.section}-") as scratch:
        folders = _fetch(sources, scratch, store)
        remote = storage.is_remote(output)
        made = scratch / "output" if remote else Path(output)
        if check is not None and isinstance(dataset := folders.get("dataset"), Path):
            check(dataset)
        stage.load()(config, output=made, **folders, **options)
        if os.environ.get("RANK", "0") != "0":
            return None
        stamp(made, request)
        if check is not None and stage.section == "dataset":
            check(made)
        if remote:
            store.publish(made, output)
        return Outcome(read_manifest(made), reused=False)


def add_versions(
    stage: Stage,
    config: BaseModel,
    *,
    inputs: Mapping[str, Sequence[str]],
    options: Mapping[str, str],
    output: str,
) -> list[Any]:
    """Runs a stage that adds versions below its output; the arguments are those of `run_stage`.

    Returns:
        The versions, as the stage returns them.

    Raises:
        UserError: As `run_stage`.
    """
    sources = _checked_sources(stage, config, inputs, options, output)
    with temporary_folder(f"{stage.section}-") as scratch:
        folders = _fetch(sources, scratch, storage.Storage())
        return stage.load()(config, output=output, **folders, **options)


def _checked_sources(
    stage: Stage, config: BaseModel, inputs: Mapping[str, Sequence[str]], options: Mapping[str, str], output: str
) -> list[_Source]:
    """Returns what a stage reads, once no address is wrong."""
    refuse_credentials({**inputs, **options, "output": output}, "")
    sources = [
        _Source(wanted, number, address)
        for wanted in stage.inputs
        for number, address in enumerate(inputs.get(wanted.name, ()))
    ]
    _check_buckets([*(address for several in inputs.values() for address in several), *options.values()], config)
    _check_output(output, config, sources, options)
    return sources


def _check_output(address: str, config: BaseModel, sources: Sequence[_Source], options: Mapping[str, str]) -> None:
    """Refuses an output that is neither a path nor in an object store, or that would replace what the stage uses."""
    if not address.strip():
        raise UserError("--output is empty; give a folder or s3://BUCKET/PREFIX.")
    if "://" in address and not storage.is_remote(address):
        raise UserError(f"--output {address} cannot be written to; give a folder or s3://BUCKET/PREFIX.")
    if storage.is_remote(address):
        storage.open_store(address)
    for source in sources:
        if not source.address.strip():
            raise UserError(f"{source.input.flag} is empty; give a folder or s3://BUCKET/PREFIX.")
    used = [(f"{source.input.flag} ", source.address) for source in sources]
    used += [(f"--{CHECKPOINT.name} ", options[CHECKPOINT.name])] if CHECKPOINT.name in options else []
    files = {*named_files(config.model_dump(mode="json")), *named_files(dict(options))}
    used += [("", file) for file in sorted(files) if storage.is_remote(file) or Path(file).exists()]
    for flag, other in used:
        here, there = _parts(address), _parts(other)
        shared = min(len(here), len(there))
        # An output may lie in a folder of images.
        if here[:shared] == there[:shared] and (flag or len(here) <= len(there)):
            how = "is" if here == there else "lies in" if len(here) > len(there) else "holds"
            raise UserError(f"--output {address} {how} {flag}{other}, which it would change; choose another path.")


def _parts(address: str) -> tuple[str, ...]:
    """Returns the names that lead to an address, from the outermost to the innermost; equal for equal places."""
    if storage.is_remote(address):
        scheme, _, path = address.partition("://")
        kind = "s3" if storage.is_in_object_store(address) else scheme
        return (kind, *filter(None, path.split("/")))
    return Path(os.path.realpath(address)).parts


def _check_buckets(addresses: Sequence[str], config: BaseModel) -> None:
    """Refuses impossible addresses in the object store before the first request is made."""
    for address in [*addresses, *named_files(config.model_dump(mode="json"))]:
        if storage.is_in_object_store(address):
            storage.Location.parse(address)


def _fetch(sources: Sequence[_Source], scratch: Path, store: storage.Storage) -> dict[str, Path | list[Path]]:
    """Brings all inputs to this machine; returns the stage function's arguments.

    Of several processes of a training, the first one on each machine downloads, and the others use its copies.
    """

    def download() -> str:
        in_parallel(
            functools.partial(store.fetch, source.address, _place(source, scratch), source.input.kinds)
            for source in sources
        )
        return str(scratch)

    others = joined()
    copies = Path(others.once("copies of the inputs", download, per_machine=True) if others else download())
    folders: dict[str, Path | list[Path]] = {}
    for source in sources:
        place = _place(source, copies) if storage.is_remote(source.address) else Path(source.address)
        if source.input.many:
            several = folders.setdefault(source.input.name, [])
            assert isinstance(several, list)
            several.append(place)
        else:
            folders[source.input.name] = place
    return folders


def _place(source: _Source, folder: Path) -> Path:
    return folder / f"{source.input.name}-{source.number}"


def _request_digest(
    stage: Stage,
    config: BaseModel,
    sources: Sequence[_Source],
    manifests: Sequence[Manifest],
    options: Mapping[str, str],
) -> str:
    """Returns a digest of everything that determines a stage's output.

    These are the code, the libraries, the settings, the inputs, the options, and the content of the outside files that
    settings and options name, wherever they lie. The place of checkpoints does not count, because it does not change
    the result.
    """
    settings = config.model_dump(mode="json")
    decisive: dict[str, Any] = {name: value for name, value in options.items() if name != CHECKPOINT.name}
    if "source" in decisive:
        settings["source"] = decisive.pop("source")
    facts = {
        "stage": stage.section,
        "code": code_and_library_digest(stage.section),
        "settings": with_files(settings, _with_content, path=stage.section),
        "options": decisive,
        "inputs": [
            [source.input.name, source.number, manifest.digest()]
            for source, manifest in zip(sources, manifests, strict=True)
        ],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _with_content(settings: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    return settings | {key: content_of(settings[key], settings.get("sha256"), f"{path}.sha256")}
