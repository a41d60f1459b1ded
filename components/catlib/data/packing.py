"""Packs a collection: decodes every image once, resizes it, and writes the files that `packed.py` describes."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from components.catlib.config import DatasetConfig, ValuesConfig
from components.catlib.data.ground_truth import GROUND_TRUTH, GroundTruthWriter, encoded
from components.catlib.data.inspection import REPORT, SAMPLES, SAMPLES_QUALITY, ImageFacts, Inspection, sample_picture
from components.catlib.data.packed import (
    NAMES,
    SPLITS,
    ImageRole,
    LeftOut,
    PackedSummary,
    SplitName,
    array_file,
    array_layout,
    has_references,
    reference_file,
)
from components.catlib.data.resizing import as_image, resize
from components.catlib.data.samples import Collection, Raster, Sample, SampleList, UnusableImageError
from components.catlib.errors import UserError

logger = logging.getLogger(__name__)

_UNDER_WAY = 64
"""Limits memory: at most this many samples are being decoded or wait to be written."""

_MOST_THREADS = 8
"""Also limits memory: each thread may hold the images of one sample at their original size."""

_FILES_NAMED = 5
"""An error message names this many unusable files; the log names all."""

Given = TypeVar("Given")
Made = TypeVar("Made")


def pack(collection: Collection, config: DatasetConfig, folder: Path) -> PackedSummary:
    """Writes a collection as arrays and names, with a report that describes the images.

    Args:
        collection: The images.
        config: The sizes to pack to, and what to do with unusable images.
        folder: An existing folder, which receives the files.

    Returns:
        The facts for the artifact's manifest.

    Raises:
        UserError: Images are unusable (all are counted and logged, the first ones are named), no image is left, or the
            disk has too little space. Other exceptions of the samples pass through.
    """
    summary = PackedSummary(
        pairing=collection.pairing,
        direction=config.direction,
        load_size=config.load_size,
        crop_size=config.crop_size,
        values={
            role: each for role, each in config.values.items() if (role, collection.pairing) != ("source", "labels")
        },
        num_labels=collection.num_labels,
        dont_care_plane=collection.pairing == "labels" and config.dont_care_plane,
        has_instances=collection.has_instances,
        has_ground_truth=any("ground_truth" in samples.roles for samples in collection.test),
        test_is_paired=collection.test_is_paired,
        images={},
        provenance=collection.provenance,
        skipped=list(collection.without_partner),
        metrics={},
    )
    lists: dict[SplitName, list[SampleList]] = {
        split: [SampleList(one.roles, one.samples[: config.max_images]) for one in given]
        for split, given in zip(SPLITS, (collection.train, collection.test), strict=True)
    }
    _check_space(lists, summary, folder)
    inspection = Inspection(
        collection.num_labels,
        pairing=collection.pairing,
        halves=collection.provenance.get("layout") == "combined",
        values=summary.values,
    )
    names: dict[SplitName, dict[ImageRole, list[str]]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        for samples in lists[split]:
            packed, unusable = _pack_list(samples, summary, split, folder, inspection, config.prepared_size)
            summary.skipped.extend(unusable)
            names[split].update(dict.fromkeys((role for role in samples.roles if role in ("source", "target")), packed))
        summary.images[split] = {"source": len(names[split]["source"]), "target": len(names[split]["target"])}
    _judge(summary, config)
    duplicates = inspection.duplicates(names)
    warnings = inspection.warnings()
    for warning in warnings:
        logger.warning("%s", warning)
    for split in SPLITS:
        summary.metrics[f"{split}_images"] = max(summary.images[split].values())
    summary.metrics |= {"skipped_images": len(summary.skipped), "duplicate_images": len(duplicates)}
    _write_json(folder / NAMES, names)
    _write_json(folder / REPORT, inspection.report(duplicates, summary.skipped, warnings))
    _write_samples(folder, summary)
    return summary


def _check_space(lists: Mapping[SplitName, list[SampleList]], summary: PackedSummary, folder: Path) -> None:
    """Rejects a collection that is too large for the disk, before packing starts."""
    needed = 0
    for split, given in lists.items():
        for samples in given:
            for role in _array_roles(samples):
                dtype, shape = array_layout(summary, split, role)
                pixels = math.prod(shape)
                if split == "train" and has_references(summary):
                    pixels += math.prod(array_layout(summary, "test", role)[1])
                needed += len(samples.samples) * pixels * np.dtype(dtype).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The packed images need {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free in {folder.parent}; "
            "make room there, or lower dataset.load_size or dataset.max_images."
        )


def _judge(summary: PackedSummary, config: DatasetConfig) -> None:
    """Logs every unusable image. Fails if there are any, unless they are to be skipped and other images are left."""
    total = sum(count for counts in summary.images.values() for count in counts.values())
    verb = "skipped" if config.on_error == "skip" and total else "unusable"
    for one in summary.skipped:
        logger.warning("%s %s: %s", verb, one.file, one.reason)
    if summary.skipped and verb == "unusable":
        raise UserError(_complaint(summary.skipped))


def _complaint(unusable: list[LeftOut]) -> str:
    shown = ", ".join(f"{bad.file} ({bad.reason})" for bad in unusable[:_FILES_NAMED])
    more = f" and {len(unusable) - _FILES_NAMED} more, all in the log" if len(unusable) > _FILES_NAMED else ""
    noun = "image" if len(unusable) == 1 else "images"
    advice = next((bad.advice for bad in unusable if bad.advice), "repair or remove them")
    return (
        f"{len(unusable)} {noun} cannot be used: {shown}{more}; {advice}, "
        "or set dataset.on_error: skip to leave them out."
    )


# --------------------------------------------------------------------------------------------------------------- arrays


@dataclass(frozen=True)
class _Prepared:
    """A sample ready to be written."""

    name: str
    arrays: dict[ImageRole, NDArray[Any]]
    references: dict[ImageRole, NDArray[Any]]
    facts: dict[ImageRole, ImageFacts]
    ground_truth: bytes | None


def _prepare(
    sample: Sample,
    size: tuple[int, int],
    prepared_size: tuple[int, int] | None,
    values: Mapping[Any, ValuesConfig],
    reference_size: tuple[int, int] | None,
) -> _Prepared | UnusableImageError:
    try:
        images = dict(sample.load())
    except UnusableImageError as error:
        return error
    classes = images.pop("ground_truth", None)
    arrays: dict[ImageRole, NDArray[Any]] = {}
    references: dict[ImageRole, NDArray[Any]] = {}
    facts: dict[ImageRole, ImageFacts] = {}
    for role, image in images.items():
        original = image
        if prepared_size is not None and role in values:
            image = as_image(resize(image, prepared_size))
        arrays[role] = resize(image, size)
        if reference_size is not None:
            references[role] = resize(image, reference_size)
        if role != "instances":
            facts[role] = ImageFacts.of(arrays[role], original, values.get(role))
    assert not isinstance(classes, Raster)
    return _Prepared(sample.name, arrays, references, facts, None if classes is None else encoded(classes))


def _pack_list(
    samples: SampleList,
    summary: PackedSummary,
    split: SplitName,
    folder: Path,
    inspection: Inspection,
    prepared_size: tuple[int, int] | None,
) -> tuple[list[str], list[LeftOut]]:
    """Writes the arrays of one list; returns the names of its rows and the unusable images."""
    size = summary.load_size if split == "train" else summary.crop_size
    names: list[str] = []
    unusable: list[LeftOut] = []
    with contextlib.ExitStack() as stack:
        writers: dict[ImageRole, _ArrayWriter] = {
            role: stack.enter_context(
                _ArrayWriter(folder / array_file(split, role), *array_layout(summary, split, role))
            )
            for role in _array_roles(samples)
        }
        reference_size = summary.crop_size if split == "train" and has_references(summary) else None
        references = {
            role: stack.enter_context(_ArrayWriter(folder / reference_file(role), *array_layout(summary, "test", role)))
            for role in (writers if reference_size is not None else ())
        }
        with_ground_truth = "ground_truth" in samples.roles
        ground_truth = stack.enter_context(GroundTruthWriter(folder / GROUND_TRUTH)) if with_ground_truth else None
        prepare = partial(
            _prepare,
            size=size,
            prepared_size=prepared_size,
            values=summary.values,
            reference_size=reference_size,
        )
        for prepared in _in_threads(prepare, samples.samples):
            if isinstance(prepared, UnusableImageError):
                unusable.append(LeftOut(file=prepared.file, reason=prepared.reason, advice=prepared.advice))
                continue
            for role, array in prepared.arrays.items():
                writers[role].append(array)
            for role, array in prepared.references.items():
                references[role].append(array)
            if ground_truth is not None and prepared.ground_truth is not None:
                ground_truth.append(prepared.ground_truth)
            inspection.add(split, prepared.name, prepared.facts)
            names.append(prepared.name)
    return names, unusable


def _in_threads(make: Callable[[Given], Made], given: Iterable[Given]) -> Iterator[Made]:
    """Applies a function in threads and yields the results in order; at most `_UNDER_WAY` are pending at a time.

    Pillow releases the interpreter lock while it decodes and resizes, so threads use every core.
    """
    waiting: collections.deque[Future[Made]] = collections.deque()
    remaining = iter(given)
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        try:
            waiting.extend(pool.submit(make, one) for one in itertools.islice(remaining, _UNDER_WAY))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(make, one) for one in itertools.islice(remaining, 1))
        finally:
            pool.shutdown(cancel_futures=True)


class _ArrayWriter:
    """Writes an `.npy` file row by row. It is a context manager; leaving it puts the length into the header.

    The file is not mapped into memory, because mapped pages count as memory of the process.
    """

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        self._dtype, self._shape, self._rows = np.dtype(dtype), shape, 0
        self._write_header()

    def __enter__(self) -> _ArrayWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def append(self, row: NDArray[Any]) -> None:
        assert (row.dtype, row.shape) == (self._dtype, self._shape)
        self._file.write(np.ascontiguousarray(row).data)
        self._rows += 1

    def _write_header(self) -> None:
        """Writes the header. NumPy reserves room for a longer length, so the final header fits over the first one."""
        header = {
            "descr": npy.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._shape),
        }
        npy.write_array_header_1_0(self._file, header)


def _array_roles(samples: SampleList) -> list[ImageRole]:
    """Returns the roles that are stored as arrays."""
    return [role for role in samples.roles if role != "ground_truth"]


# ---------------------------------------------------------------------------------------------------------------- facts


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _write_samples(folder: Path, summary: PackedSummary) -> None:
    roles: tuple[ImageRole, ...] = ("source", "target")
    images: dict[tuple[SplitName, ImageRole], NDArray[Any]] = {
        (split, role): np.load(folder / array_file(split, role), mmap_mode="r") for split in SPLITS for role in roles
    }
    picture = sample_picture(images, summary.num_labels, summary.values)
    if picture is not None:
        picture.save(folder / SAMPLES, "WEBP", quality=SAMPLES_QUALITY)
