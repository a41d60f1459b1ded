"""Packing: decodes every image of a collection once, resizes it and writes the arrays that [packed][] describes."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from components.catlib.config import DatasetConfig
from components.catlib.data.packed import (
    NAMES,
    SPLITS,
    PackedSummary,
    Role,
    SkippedFile,
    SplitName,
    array_file,
    array_layout,
)
from components.catlib.data.resizing import resize
from components.catlib.data.samples import Collection, Sample, SampleList, UnreadableImageError
from components.catlib.errors import UserError

logger = logging.getLogger(__name__)

_DECODED_AT_ONCE = 64
"""Bounds memory: this many samples are decoded before they are written."""

_FILES_NAMED = 5
"""How many unreadable files an error message names."""


def pack(collection: Collection, config: DatasetConfig, folder: Path) -> PackedSummary:
    """Writes a collection as arrays and names.

    Args:
        collection: The images.
        config: Sizes, and what to do with unreadable images.
        folder: An existing folder for the files.

    Returns:
        The facts for the artifact's manifest.

    Raises:
        UserError: Unreadable images (all of them are counted, the first ones named), nothing left to pack, or too
            little space on the disk; also whatever the samples raise.
    """
    summary = PackedSummary(
        pairing=collection.pairing,
        direction=config.direction,
        load_size=config.load_size,
        crop_size=config.crop_size,
        num_labels=collection.num_labels,
        dont_care_plane=collection.pairing == "labels" and config.dont_care_plane,
        has_instances=collection.has_instances,
        test_is_paired=collection.test_is_paired,
        images={},
        provenance=collection.provenance,
        skipped=[],
        metrics={},
    )
    lists: dict[SplitName, list[SampleList]] = {
        split: [SampleList(one.roles, one.samples[: config.max_images]) for one in given]
        for split, given in zip(SPLITS, (collection.train, collection.test), strict=True)
    }
    _check_space(lists, summary, folder)
    names: dict[SplitName, dict[Role, list[str]]] = {}
    for split in SPLITS:
        names[split] = {}
        for samples in lists[split]:
            packed, unreadable = _pack_list(samples, summary, split, folder)
            summary.skipped.extend(unreadable)
            names[split].update(dict.fromkeys((role for role in samples.roles if role != "instances"), packed))
        summary.images[split] = {"source": len(names[split]["source"]), "target": len(names[split]["target"])}
    total = sum(count for counts in summary.images.values() for count in counts.values())
    if summary.skipped and (config.on_error == "fail" or total == 0):
        raise UserError(_complaint(summary.skipped))
    for skipped in summary.skipped:
        logger.warning("skipped %s: %s", skipped.file, skipped.reason)
    for split in SPLITS:
        summary.metrics[f"{split}_images"] = max(summary.images[split].values())
    summary.metrics["skipped_images"] = len(summary.skipped)
    (folder / NAMES).write_text(json.dumps(names) + "\n", encoding="utf-8")
    return summary


def _check_space(lists: Mapping[SplitName, list[SampleList]], summary: PackedSummary, folder: Path) -> None:
    """Refuses to begin what cannot end: writing to a mapped file on a full disk kills the process."""
    needed = 0
    for split, given in lists.items():
        for samples in given:
            for role in samples.roles:
                dtype, shape = array_layout(summary, split, role)
                needed += len(samples.samples) * math.prod(shape) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The packed images need {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free in {folder.parent}; "
            "make room, or lower dataset.load_size or dataset.max_images."
        )


def _pack_list(
    samples: SampleList, summary: PackedSummary, split: SplitName, folder: Path
) -> tuple[list[str], list[SkippedFile]]:
    """Writes the arrays of one list, a few samples at a time; returns the names of its rows and what was unreadable."""
    chosen = samples.samples
    size = summary.load_size if split == "train" else summary.crop_size
    paths: dict[Role, Path] = {role: folder / array_file(split, role) for role in samples.roles}
    arrays: dict[Role, NDArray[Any]] = {}
    for role, path in paths.items():
        dtype, shape = array_layout(summary, split, role)
        arrays[role] = open_memmap(path, mode="w+", dtype=dtype, shape=(len(chosen), *shape))

    def prepare(sample: Sample) -> dict[Role, NDArray[Any]] | UnreadableImageError:
        try:
            images = sample.load()
        except UnreadableImageError as error:
            return error
        return {role: resize(image, size) for role, image in images.items()}

    names: list[str] = []
    unreadable: list[SkippedFile] = []
    # Pillow releases the interpreter lock while it decodes and resizes, so threads use every core.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(chosen), _DECODED_AT_ONCE):
            some = chosen[start : start + _DECODED_AT_ONCE]
            for sample, prepared in zip(some, pool.map(prepare, some), strict=True):
                if isinstance(prepared, UnreadableImageError):
                    unreadable.append(SkippedFile(file=prepared.file, reason=prepared.reason))
                    continue
                for role, array in prepared.items():
                    arrays[role][len(names)] = array
                names.append(sample.name)
    if unreadable:
        for role, path in paths.items():
            _shorten(arrays[role], path, len(names))
    return names, unreadable


def _shorten(array: NDArray[Any], path: Path, count: int) -> None:
    """Replaces an array file by one with only its first `count` rows."""
    shorter_path = path.with_suffix(".shorter")
    shorter = open_memmap(shorter_path, mode="w+", dtype=array.dtype, shape=(count, *array.shape[1:]))
    for start in range(0, count, _DECODED_AT_ONCE):
        stop = min(start + _DECODED_AT_ONCE, count)
        shorter[start:stop] = array[start:stop]
    shorter_path.replace(path)


def _complaint(unreadable: list[SkippedFile]) -> str:
    shown = ", ".join(f"{bad.file} ({bad.reason})" for bad in unreadable[:_FILES_NAMED])
    more = f" and {len(unreadable) - _FILES_NAMED} more" if len(unreadable) > _FILES_NAMED else ""
    noun = "image" if len(unreadable) == 1 else "images"
    return (
        f"{len(unreadable)} {noun} cannot be read: {shown}{more}; repair or remove them, "
        "or set dataset.on_error: skip to leave them out."
    )
